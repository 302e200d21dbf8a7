// The kernels, for the instruction set PRUNUS_ISA (portable, avx2 or avx512).
//
// Dense and sparse layers give the same results bit for bit: every sum runs in the same order, and a weight that is
// not there would have added zero. So which of the two is used is a question of speed alone.
//
// This file is compiled three times, and the three objects are linked together. Two rules follow:
// - everything but the one exported function lives in the namespace prunus::PRUNUS_ISA, or is static: two functions
//   of one name would be merged by the linker, and the portable one could get AVX-512 code. For the same reason
//   nothing of the standard library's templates is used.
// - no object with a constructor at file scope: it would run, with this file's instructions, on every CPU.
#include "table.hpp"
#include "vector.hpp"

#define PRUNUS_JOIN_(a, b) a##b
#define PRUNUS_JOIN(a, b) PRUNUS_JOIN_(a, b)
#define PRUNUS_TEXT_(a) #a
#define PRUNUS_TEXT(a) PRUNUS_TEXT_(a)

namespace prunus {
namespace PRUNUS_ISA {
namespace {

constexpr int CACHED = 4096;  // floats of activations that stay in the first-level cache while they are used again

inline int lesser(int a, int b) { return a < b ? a : b; }
inline int between(int a, int low, int high) { return a < low ? low : lesser(a, high); }
inline void fill(float* p, int64_t count, float a) {
    for (int64_t i = 0; i < count; i += W) store(p + i, all(a));
}

// ---- products: y[r] += sum over p of weight(r, p) * x[p] -----------------------------------------------------------

// R rows of N registers each; weight(r, p) = w[r * row + p * step].
template <int R, int N>
inline void tile(const float* w, int64_t row, int64_t step, int n, const float* x, int64_t ld, float* y) {
    Vec a[R][N];
    for (int r = 0; r < R; r++)
        for (int i = 0; i < N; i++) a[r][i] = load(y + r * ld + i * W);
    for (int p = 0; p < n; p++, w += step, x += ld) {
        Vec b[N];
        for (int i = 0; i < N; i++) b[i] = load(x + i * W);
        for (int r = 0; r < R; r++) {
            const Vec c = all(w[r * row]);
            for (int i = 0; i < N; i++) a[r][i] = fma(c, b[i], a[r][i]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int i = 0; i < N; i++) store(y + r * ld + i * W, a[r][i]);
}

template <int N>
void dense_columns(const float* w, int64_t row, int64_t step, int rows, int n, const float* x, int64_t ld, float* y) {
    constexpr int R = W == 16 ? 5 : W == 8 ? 3 : 2;  // as many as the registers hold
    int r = 0;
    for (; r + R <= rows; r += R) tile<R, N>(w + r * row, row, step, n, x, ld, y + r * ld);
    for (; r < rows; r++) tile<1, N>(w + r * row, row, step, n, x, ld, y + r * ld);
}

// In blocks of x that stay cached.
void dense_product(const float* w, int64_t row, int64_t step, int rows, int terms, const float* x, int batch, float* y) {
    constexpr int N = 64 / W < 4 ? 64 / W : 4;
    constexpr int block = 2 * CACHED / (N * W);
    for (int p = 0; p < terms; p += block) {
        const int n = lesser(block, terms - p);
        const float* from = x + int64_t{p} * batch;
        int c = 0;
        for (; c + N * W <= batch; c += N * W)
            dense_columns<N>(w + p * step, row, step, rows, n, from + c, batch, y + c);
        for (; c < batch; c += LANE)
            dense_columns<LANE / W>(w + p * step, row, step, rows, n, from + c, batch, y + c);
    }
}

// One sparse row, N registers wide: weight(p) = w[place(p)].
template <int N, class Place>
inline void sparse_row(float first, Place place, const int32_t* column, int n, const float* w, const float* x,
                       int64_t ld, float* y) {
    Vec a[N];
    for (int i = 0; i < N; i++) a[i] = all(first);
    for (int p = 0; p < n; p++) {
        const Vec c = all(w[place(p)]);
        const float* b = x + column[p] * ld;
        for (int i = 0; i < N; i++) a[i] = fma(c, load(b + i * W), a[i]);
    }
    for (int i = 0; i < N; i++) store(y + i * W, a[i]);
}

// Two rows at once, where one has too few sums under way to keep the machine busy.
template <int N>
inline void sparse_rows(const Layer& l, int o, const float* x, int64_t ld, float* y) {
    Vec a[2][N];
    for (int r = 0; r < 2; r++)
        for (int i = 0; i < N; i++) a[r][i] = all(l.bias ? l.bias[o + r] : 0.0f);
    const auto term = [&](int r, int p) {
        const int32_t place = l.start[o + r] + p;
        const Vec c = all(l.weight[place]);
        const float* b = x + l.column[place] * ld;
        for (int i = 0; i < N; i++) a[r][i] = fma(c, load(b + i * W), a[r][i]);
    };
    const int both = lesser(l.count[o], l.count[o + 1]);
    for (int p = 0; p < both; p++) term(0, p), term(1, p);
    for (int r = 0; r < 2; r++) {
        for (int p = both; p < l.count[o + r]; p++) term(r, p);
        for (int i = 0; i < N; i++) store(y + (o + r) * ld + i * W, a[r][i]);
    }
}

template <int N>
void sparse_forward(const Layer& l, const float* x, int64_t ld, float* y) {
    int o = 0;
    if (N < 8)
        for (; o + 2 <= l.outputs; o += 2) sparse_rows<N>(l, o, x, ld, y);
    for (; o < l.outputs; o++) {
        const int32_t at = l.start[o];
        const auto place = [](int p) { return p; };
        sparse_row<N>(l.bias ? l.bias[o] : 0.0f, place, l.column + at, l.count[o], l.weight + at, x, ld, y + o * ld);
    }
}

template <int N>
void sparse_input_gradient(const Layer& l, const float* dy, int64_t ld, float* dx) {
    for (int k = 0; k < l.inputs; k++) {
        const int32_t at = l.t_start[k], n = l.t_start[k + 1] - at;
        const auto place = [places = l.t_place + at](int p) { return places[p]; };
        sparse_row<N>(0.0f, place, l.t_row + at, n, l.weight, dy, ld, dx + k * ld);
    }
}

void forward(const Layer& l, const float* x, float* y, int batch, bool relu) {
    if (l.sparse()) {
        int c = 0;
        for (; c + 64 <= batch; c += 64) sparse_forward<64 / W>(l, x + c, batch, y + c);
        for (; c < batch; c += LANE) sparse_forward<LANE / W>(l, x + c, batch, y + c);
    } else {
        for (int o = 0; o < l.outputs; o++) fill(y + int64_t{o} * batch, batch, l.bias ? l.bias[o] : 0.0f);
        dense_product(l.weight, l.stride, 1, l.outputs, l.inputs, x, batch, y);
    }
    if (!relu) return;
    const int64_t count = int64_t{l.outputs} * batch;
    for (int64_t i = 0; i < count; i += W) store(y + i, max(zero(), load(y + i)));
}

void input_gradient(const Layer& l, const float* dy, float* dx, int batch) {
    if (l.sparse()) {
        int c = 0;
        for (; c + 64 <= batch; c += 64) sparse_input_gradient<64 / W>(l, dy + c, batch, dx + c);
        for (; c < batch; c += LANE) sparse_input_gradient<LANE / W>(l, dy + c, batch, dx + c);
    } else {
        fill(dx, int64_t{l.inputs} * batch, 0.0f);
        dense_product(l.weight, 1, l.stride, l.inputs, l.outputs, dy, batch, dx);
    }
}

// ---- weight gradients ----------------------------------------------------------------------------------------------

// The W products d . x[i] over a batch. Example b goes to partial sum b mod 16; the 16 are then added by halves.
inline Vec dots(const float* d, const float* const (&x)[W], int batch) {
    constexpr int P = LANE / W;            // registers that hold the 16 partial sums of one product
    constexpr int T = P == 1 ? W : 8 / P;  // products at a time
    Vec r[W];
    for (int t = 0; t < W; t += T) {
        Vec a[T][P];
        for (int i = 0; i < T; i++)
            for (int p = 0; p < P; p++) a[i][p] = zero();
        for (int b = 0; b < batch; b += LANE)
            for (int p = 0; p < P; p++) {
                const Vec e = load(d + b + p * W);
                for (int i = 0; i < T; i++) a[i][p] = fma(e, load(x[t + i] + b + p * W), a[i][p]);
            }
        for (int i = 0; i < T; i++) {
            if constexpr (P == 1) r[t + i] = a[i][0];
            if constexpr (P == 2) r[t + i] = add(a[i][0], a[i][1]);
            if constexpr (P == 4) r[t + i] = add(add(a[i][0], a[i][2]), add(a[i][1], a[i][3]));
        }
    }
    return sums(r);
}

// `take(place, gradients)` for each group of W weights, with the place of the first.
template <class Take>
inline void each_gradient(const Layer& l, const float* x, const float* dy, int batch, Take take) {
    const int64_t ld = batch;
    const float* rows[W];
    if (l.sparse()) {
        for (int o = 0; o < l.outputs; o++)
            for (int g = 0; g < l.count[o]; g += W) {
                const int64_t place = l.start[o] + g;
                for (int i = 0; i < W; i++) rows[i] = x + l.column[place + i] * ld;
                take(place, dots(dy + o * ld, rows, batch));
            }
        return;
    }
    const int stride = static_cast<int>(l.stride), fits = CACHED / batch / LANE * LANE;
    const int block = fits < LANE ? LANE : fits;
    for (int k = 0; k < stride; k += block) {
        const int end = lesser(k + block, stride);
        for (int o = 0; o < l.outputs; o++)
            for (int g = k; g < end; g += W) {
                // the padding of a row has no inputs of its own: the row of zeros stands for them
                for (int i = 0; i < W; i++) rows[i] = x + lesser(g + i, l.inputs) * ld;
                const int64_t place = o * l.stride + g;
                const Vec gradients = dots(dy + o * ld, rows, batch);
                take(place, l.bits ? where_bit(l.bits[place / LANE] >> (place % LANE), gradients) : gradients);
            }
    }
}

void weight_gradient(const Layer& l, const float* x, const float* dy, int batch, float* out) {
    each_gradient(l, x, dy, batch, [=](int64_t place, Vec g) { store(out + place, g); });
}

// In the same order as `dots`.
inline float row_sum(const float* d, int batch) {
    float part[LANE] = {};
    for (int b = 0; b < batch; b += LANE)
        for (int i = 0; i < LANE; i++) part[i] += d[b + i];
    for (int half = LANE / 2; half; half /= 2)
        for (int i = 0; i < half; i++) part[i] += part[i + half];
    return part[0];
}

// ---- optimizers ----------------------------------------------------------------------------------------------------

struct Adam {
    Vec rate, root_scale, epsilon, rest1, beta2, rest2, decay;
    bool decoupled;

    explicit Adam(const Update& u)
        : rate(all(-u.rate)), root_scale(all(u.root_scale)), epsilon(all(u.epsilon)), rest1(all(1 - u.beta1)),
          beta2(all(u.beta2)), rest2(all(1 - u.beta2)), decay(all(u.decay)), decoupled(u.rule == Rule::adamw) {}

    void operator()(float* weight, float* first, float* second, Vec g) const {
        Vec w = load(weight), m = load(first), v = load(second);
        if (decoupled)
            w = mul(w, decay);
        else
            g = fma(decay, w, g);
        m = fma(rest1, sub(g, m), m);
        v = fma(mul(rest2, g), g, mul(beta2, v));
        w = fma(rate, div(m, fma(root(v), root_scale, epsilon)), w);
        store(weight, w), store(first, m), store(second, v);
    }
};

struct Sgd {
    Vec rate, decay, momentum;
    bool moving, nesterov;

    explicit Sgd(const Update& u)
        : rate(all(-u.rate)), decay(all(u.decay)), momentum(all(u.momentum)), moving(u.momentum != 0),
          nesterov(u.nesterov) {}

    void operator()(float* weight, float* first, float*, Vec g) const {
        const Vec w = load(weight);
        g = fma(decay, w, g);
        if (moving) {
            const Vec m = fma(momentum, load(first), g);
            store(first, m);
            g = nesterov ? fma(momentum, m, g) : m;
        }
        store(weight, fma(rate, g, w));
    }
};

template <class Step>
void update_with(const Step& step, const Layer& l, const float* x, const float* dy, int batch) {
    each_gradient(l, x, dy, batch, [&](int64_t place, Vec g) {
        step(l.weight + place, l.first + place, l.second + place, g);
    });
    if (!l.bias) return;
    for (int o = 0; o < l.outputs; o += W) {
        alignas(64) float g[W] = {};
        for (int i = 0; i < W && o + i < l.outputs; i++) g[i] = row_sum(dy + int64_t{o + i} * batch, batch);
        step(l.bias + o, l.bias_first + o, l.bias_second + o, load(g));
    }
}

void update(const Layer& l, const float* x, const float* dy, int batch, const Update& u) {
    if (u.rule == Rule::sgd)
        update_with(Sgd(u), l, x, dy, batch);
    else
        update_with(Adam(u), l, x, dy, batch);
}

// ---- the two ends of a network ---------------------------------------------------------------------------------------

void rectify_gradient(const float* h, float* d, int64_t count) {
    for (int64_t i = 0; i < count; i += W) store(d + i, where_positive(load(h + i), load(d + i)));
}

// Of W examples: the exponentials of z - highest, and their totals.
inline void exponentials(const float* z, int classes, int64_t ld, float* out, float* highest, float* total) {
    Vec top = load(z);
    for (int c = 1; c < classes; c++) top = max(load(z + c * ld), top);
    Vec sum = zero();
    for (int c = 0; c < classes; c++) {
        const Vec e = exponential(sub(load(z + c * ld), top));
        sum = add(sum, e);
        if (out) store(out + c * ld, e);
    }
    store(highest, top), store(total, sum);
}

void cross_entropy(const float* z, const int64_t* labels, int classes, int examples, int batch, float* dz,
                   double* sums) {
    const float share = 1.0f / static_cast<float>(examples);
    const int64_t ld = batch;
    alignas(64) float top[W], total[W];
    for (int b = 0; b < batch; b += W) {
        const int there = between(examples - b, 0, W);
        exponentials(z + b, classes, ld, dz ? dz + b : nullptr, top, total);
        for (int i = 0; i < there; i++) {
            const float* column = z + b + i;
            const int64_t label = labels[b + i];
            sums[0] += std::log(static_cast<double>(total[i])) - (static_cast<double>(column[label * ld]) - top[i]);
            int64_t first = 0;  // the first of the highest is the prediction
            while (first < label && column[first * ld] != top[i]) first++;
            sums[1] += first == label && column[label * ld] == top[i];
        }
        if (!dz) continue;
        for (int i = 0; i < W; i++) total[i] = i < there ? share / total[i] : 0.0f;
        for (int c = 0; c < classes; c++) store(dz + c * ld + b, mul(load(dz + c * ld + b), load(total)));
        for (int i = 0; i < there; i++) dz[labels[b + i] * ld + b + i] -= share;
    }
}

void gather(const uint8_t* images, const int64_t* rows, int examples, int64_t inputs, const float* scale,
            const float* shift, float* x, int batch) {
    constexpr int SIDE = 64;  // a square of bytes at a time is turned in the cache
    alignas(64) uint8_t turned[SIDE * SIDE] = {};
    for (int c = 0; c < batch; c += SIDE) {
        const int wide = lesser(SIDE, batch - c), there = between(examples - c, 0, wide);
        for (int64_t k = 0; k < inputs; k += SIDE) {
            const int tall = inputs - k < SIDE ? static_cast<int>(inputs - k) : SIDE;
            for (int b = 0; b < there; b++) {
                const uint8_t* from = images + rows[c + b] * inputs + k;
                for (int j = 0; j < tall; j++) turned[j * SIDE + b] = from[j];
            }
            for (int j = 0; j < tall; j++) {
                const Vec s = all(scale[k + j]), t = all(shift[k + j]);
                for (int b = 0; b < wide; b += W)
                    store(x + (k + j) * batch + c + b, add(mul(from_bytes(turned + j * SIDE + b), s), t));
            }
        }
    }
}

void turn(const float* from, int64_t rows, int64_t columns, float* to, int64_t padded) {
    constexpr int64_t SIDE = 16;
    for (int64_t r = 0; r < padded; r += SIDE)
        for (int64_t c = 0; c < columns; c++)
            for (int64_t i = r; i < r + SIDE; i++) to[c * padded + i] = i < rows ? from[i * columns + c] : 0.0f;
}

}  // namespace
}  // namespace PRUNUS_ISA

const Kernels* PRUNUS_JOIN(kernels_, PRUNUS_ISA)() {
    static const Kernels table = {
        PRUNUS_TEXT(PRUNUS_ISA),         PRUNUS_ISA::forward,       PRUNUS_ISA::input_gradient,
        PRUNUS_ISA::weight_gradient,     PRUNUS_ISA::update,        PRUNUS_ISA::rectify_gradient,
        PRUNUS_ISA::cross_entropy,       PRUNUS_ISA::gather,        PRUNUS_ISA::turn,
    };
    return &table;
}

}  // namespace prunus
