// What the kernels work on, and the table of kernels: one pointer for each, filled once for each instruction set.
//
// kernels.cpp is compiled once for each instruction set (see CMakeLists.txt) and fills one table each time;
// dispatch.cpp chooses among the tables when the module is loaded.
//
// Activations lie unit by unit, in panels of 64 examples; the last panel holds what is left, padded to a multiple of 16
// (the places past the last example may hold any finite number). Row k of a panel holds unit k for its examples, and
// behind the last unit there are rows of zeros up to a multiple of 16, at least one. So the rows of a panel lie close
// together and its width is one of four, which the kernels are compiled for: their inner loops have fixed lengths.
// All rows begin at 64-byte boundaries.
#pragma once

#include <cstdint>

namespace prunus {

constexpr int LANE = 16;   // rows of weights and of examples are padded to a multiple of this
constexpr int PANEL = 64;  // examples in a panel

// static, as are all functions that the kernels share with other files: see kernels.cpp
static constexpr int64_t padded(int64_t count) { return (count + LANE - 1) / LANE * LANE; }
// Rows of a panel, those of zeros included.
static constexpr int64_t rows_of(int64_t units) { return padded(units + 1); }

// From the one to before the other; `from` is a multiple of 16. Each is computed alike whoever computes the others.
struct Range {
    int from, to;
};

// A linear layer [outputs, inputs], dense or sparse; the arrays belong to somebody else.
struct Layer {
    int32_t outputs = 0, inputs = 0;

    // Dense: row o begins at o * stride, a multiple of 16. `bits` says which weights are there, 16 to a word; null if
    // all are.
    int64_t stride = 0;
    const uint16_t* bits = nullptr;

    // Sparse (`start` is not null): the weights of row o lie from start[o] on, count[o] of them, in ascending order of
    // their inputs `column`. 16 more entries of `column`, each at most `inputs`, are behind the last. For `update` the
    // places up to a multiple of 16 belong to the row, too, and have the column `inputs`.
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
    double beta1 = 0.9, beta2 = 0.999;
    float epsilon = 1e-8f;
    float momentum = 0;
    bool nesterov = false;
};

// What examples are taken from: images [.., inputs] of bytes, of which scale * byte + shift are the inputs.
struct Images {
    const uint8_t* bytes;
    int64_t inputs;
    const float *scale, *shift;
};

struct Kernels {
    const char* instruction_set;  // "portable", "avx2" or "avx512"

    // These work on one panel of `width` examples.

    // y[o] = bias[o] + sum over k ascending of weight[o, k] * x[k]; then max(0, y) if `relu`.
    void (*forward)(const Layer&, const float* x, float* y, int width, bool relu, Range outputs);
    // dx[k] = sum over o ascending of weight[o, k] * dy[o]; with h (null: none), 0 where h[k] is not above 0.
    void (*input_gradient)(const Layer&, const float* dy, const float* h, float* dx, int width, Range inputs);
    // Adds to sums[0] the losses and to sums[1] the correct predictions of z [classes, width], over the first
    // `examples` columns; dz (null: not wanted) becomes the gradient of `share` times the loss.
    void (*cross_entropy)(const float* z, const int64_t* labels, int classes, int examples, int width, float share,
                          float* dz, double* sums);
    // x[k, b] = scale[k] * bytes[rows[b], k] + shift[k] for the inputs k in `used` (ascending), `count` of them.
    // The images next[b] (null: none) are asked for, to be there next time.
    void (*gather)(const Images&, const int32_t* used, int count, const int64_t* rows, const int64_t* next,
                   int examples, float* x, int width);
    // Between examples [examples, units] and a panel: to[u, e] = from[e, u], 0 past the last example; and back.
    void (*turn)(const float* from, int64_t units, int examples, float* to, int width, Range part);
    void (*turn_back)(const float* from, int64_t units, int examples, float* to, int width, Range part);

    // These sum over all panels of a batch, a multiple of 16.

    // out[place of (o, k)] = dy[o] . x[k] for the weights that are there, 0 at other places of a dense layer.
    void (*weight_gradient)(const Layer&, const float* x, const float* dy, int batch, float* out, Range outputs);
    // out[o] = the sum of dy[o].
    void (*bias_gradient)(const float* dy, int64_t units, int batch, float* out, Range outputs);
    // The gradients of weights and bias, and at once the optimizer's step.
    void (*update)(const Layer&, const float* x, const float* dy, int batch, const Update&, Range outputs);
};

const Kernels* kernels_portable();
#ifdef PRUNUS_X86
const Kernels* kernels_avx2();
const Kernels* kernels_avx512();
#endif

}  // namespace prunus
