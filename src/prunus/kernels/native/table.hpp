// What the kernels work on, and the table of kernels: one pointer for each, filled once for each instruction set.
//
// kernels.cpp is compiled once for each instruction set (see CMakeLists.txt) and fills one table each time;
// dispatch.cpp chooses among the tables when the module is loaded.
//
// Activations lie unit by unit: row k of x holds unit k for every example of the batch, `batch` floats long (a multiple
// of 16; places past the last example may hold any finite number). Behind the last unit there is a row of zeros.
// All rows begin at 64-byte boundaries.
#pragma once

#include <cstdint>

namespace prunus {

constexpr int LANE = 16;  // rows of weights and of examples are padded to a multiple of this

// A linear layer [outputs, inputs], dense or sparse; the arrays belong to somebody else.
struct Layer {
    int32_t outputs = 0, inputs = 0;

    // Dense: row o begins at o * stride, a multiple of 16. `bits` says which weights are there, 16 to a word; null if
    // all are.
    int64_t stride = 0;
    const uint16_t* bits = nullptr;

    // Sparse (`start` is not null): the weights of row o lie from start[o] (a multiple of 16) on, count[o] of them, in
    // ascending order of their inputs `column`; the places up to the next row have the column `inputs`.
    const int32_t *start = nullptr, *count = nullptr, *column = nullptr;
    // The same by inputs: those of input k lie from t_start[k] to t_start[k + 1], in ascending order of outputs
    // `t_row`, each with its place among the weights.
    const int32_t *t_start = nullptr, *t_row = nullptr, *t_place = nullptr;

    // Weights and the optimizer's two moments; the bias (null: none) and its own, padded to a multiple of 16.
    float *weight = nullptr, *first = nullptr, *second = nullptr;
    float *bias = nullptr, *bias_first = nullptr, *bias_second = nullptr;

    bool sparse() const { return start != nullptr; }
};

enum class Rule : int32_t { adam, adamw, sgd };

// One step of an optimizer, its rates resolved for the iteration.
struct Update {
    Rule rule = Rule::adam;
    float rate = 0;        // Adam: lr / (1 - beta1^t); SGD: lr
    float root_scale = 1;  // Adam: 1 / sqrt(1 - beta2^t)
    float decay = 0;       // Adam, SGD: the weight decay; AdamW: 1 - lr * weight decay
    float beta1 = 0.9f, beta2 = 0.999f, epsilon = 1e-8f;
    float momentum = 0;
    bool nesterov = false;
};

struct Kernels {
    const char* instruction_set;  // "portable", "avx2" or "avx512"
    // y[o] = bias[o] + sum over k ascending of weight[o, k] * x[k]; then max(0, y) if `relu`.
    void (*forward)(const Layer&, const float* x, float* y, int batch, bool relu);
    // dx[k] = sum over o ascending of weight[o, k] * dy[o].
    void (*input_gradient)(const Layer&, const float* dy, float* dx, int batch);
    // out[place of (o, k)] = dy[o] . x[k] for the weights that are there, 0 at all other places.
    void (*weight_gradient)(const Layer&, const float* x, const float* dy, int batch, float* out);
    // The gradients of weights and bias, and at once the optimizer's step.
    void (*update)(const Layer&, const float* x, const float* dy, int batch, const Update&);
    // d = d where h > 0, else 0, over `count` floats.
    void (*rectify_gradient)(const float* h, float* d, int64_t count);
    // Adds to sums[0] the losses and to sums[1] the correct predictions of z [classes, batch], over the first `examples`
    // columns; dz (null: not wanted) becomes the gradient of the mean loss.
    void (*cross_entropy)(const float* z, const int64_t* labels, int classes, int examples, int batch, float* dz,
                          double* sums);
    // x[k, b] = scale[k] * images[rows[b], k] + shift[k].
    void (*gather)(const uint8_t* images, const int64_t* rows, int examples, int64_t inputs, const float* scale,
                   const float* shift, float* x, int batch);
    // to[c, r] = from[r, c] for r < rows, c < columns, and 0 for r up to `padded`: into the kernels' order of activations.
    void (*turn)(const float* from, int64_t rows, int64_t columns, float* to, int64_t padded);
};

const Kernels* kernels_portable();
#ifdef PRUNUS_X86
const Kernels* kernels_avx2();
const Kernels* kernels_avx512();
#endif

}  // namespace prunus
