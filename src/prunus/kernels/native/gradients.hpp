// Gradients of weights: for each weight that is there, the product of its output's and its input's row over the batch.
//
// Example b goes to partial sum b mod 16, in ascending order; the 16 partial sums are then added by halves. So the bits
// depend neither on the width of registers nor on which other weights there are.
#pragma once

#include "products.hpp"

namespace prunus::PRUNUS_ISA {

constexpr int P = LANE / W;  // registers that hold the 16 partial sums of one product

// The panels of a batch: `full` of 64 examples, and a last one. The next panel of x, and of dy, lies `x` and `dy` behind.
struct Panels {
    int full;
    int64_t x, dy;

    Panels(const Layer& l, int batch)
        : full((batch - 1) / PANEL), x(rows_of(l.inputs) * PANEL), dy(rows_of(l.outputs) * PANEL) {}
};

// Rows of x: adjacent ones, or those of the inputs in a list.
struct Adjacent {
    int64_t first;
    template <int T, int LD>
    auto rows(const float* x, int t) const {
        return [from = x + (first + t) * LD](int i) { return from + i * LD; };
    }
};
struct Listed {
    const int32_t* column;
    template <int T>
    struct Rows {
        const float* at[T];
        const float* operator()(int i) const { return at[i]; }
    };
    template <int T, int LD>
    Rows<T> rows(const float* x, int t) const {
        Rows<T> rows;
        for (int i = 0; i < T; i++) rows.at[i] = x + int64_t{column[t + i]} * LD;
        return rows;
    }
};

// One row of a panel, in registers.
template <int B>
struct Row {
    Vec at[B * P];
    explicit Row(const float* d) {
        for (int i = 0; i < B * P; i++) at[i] = load(d + i * W);
    }
};

// a[i] += d . row(i), over one panel; a[i] = d . row(i) over the first.
template <bool FIRST, int B, int T, class D, class Rows>
PRUNUS_INLINE void accumulate(Vec (&a)[T][P], D d, Rows rows) {
#pragma GCC unroll 4
    for (int b = 0; b < B; b++)
        for (int p = 0; p < P; p++) {
            const Vec e = d(b * P + p);
            for (int i = 0; i < T; i++) {
                const Vec f = load(rows(i) + b * LANE + p * W);
                a[i][p] = FIRST && b == 0 ? mul(e, f) : fma(e, f, a[i][p]);
            }
        }
}

template <int T>
PRUNUS_INLINE Vec joined(const Vec (&a)[T][P], int i) {
    if constexpr (P == 1) return a[i][0];
    if constexpr (P == 2) return add(a[i][0], a[i][1]);
    if constexpr (P == 4) return add(add(a[i][0], a[i][2]), add(a[i][1], a[i][3]));
}

// The products of output o with W inputs, over one panel. Everything is unrolled: a loop of four trips, or fewer, costs
// more than what is in it. d stays in registers for a whole row of products, each of which then takes no more loads
// than it has multiply-adds.
template <int B, class Inputs>
PRUNUS_INLINE Vec dots(const float* x, const Row<B>& d, Inputs inputs) {
    constexpr int T = 4 / P;
    Vec r[W];
#pragma GCC unroll 16
    for (int t = 0; t < W; t += T) {
        Vec a[T][P];
        accumulate<true, B>(a, [&](int i) { return d.at[i]; }, inputs.template rows<T, Lanes<B>::width>(x, t));
        for (int i = 0; i < T; i++) r[t + i] = joined(a, i);
    }
    return sums(r);
}

// The same over several panels, of which the last is B lanes wide.
template <int B, class Inputs>
PRUNUS_INLINE Vec dots(const float* x, const float* dy, int o, const Panels& panels, Inputs inputs) {
    constexpr int T = P == 1 ? W : 8 / P, LD = Lanes<B>::width;
    Vec r[W];
#pragma GCC unroll 16
    for (int t = 0; t < W; t += T) {
        Vec a[T][P];
        for (int p = 0; p < panels.full; p++) {
            const float *d = dy + p * panels.dy + o * PANEL, *from = x + p * panels.x;
            const auto read = [=](int i) { return load(d + i * W); };
            if (p == 0)
                accumulate<true, PANEL / LANE>(a, read, inputs.template rows<T, PANEL>(from, t));
            else
                accumulate<false, PANEL / LANE>(a, read, inputs.template rows<T, PANEL>(from, t));
        }
        const float *d = dy + panels.full * panels.dy + o * LD, *from = x + panels.full * panels.x;
        accumulate<false, B>(a, [=](int i) { return load(d + i * W); }, inputs.template rows<T, LD>(from, t));
        for (int i = 0; i < T; i++) r[t + i] = joined(a, i);
    }
    return sums(r);
}

// ---- of a layer ----------------------------------------------------------------------------------------------------
//
// `take(place, gradients, count)` gets the gradients of weights that lie together, up to CHUNK of them. They pass through
// memory: with the optimizer's step right behind each product, root and division, which take long, fill the queue of
// instructions that wait, and the products behind them start late (measured: half as long again).

constexpr int CHUNK = 256;

template <int B, bool SEVERAL, class Take>
inline void sparse_gradients(const Layer& l, const float* x, const float* dy, int batch, Range outputs, Take take) {
    const Panels panels(l, batch);
    alignas(64) float found[CHUNK];
    for (int o = outputs.from; o < outputs.to; o++) {
        const Row<B> d(dy + o * Lanes<B>::width);
        for (int from = 0; from < l.count[o]; from += CHUNK) {
            const int64_t place = l.start[o] + from;
            const int count = lesser(CHUNK, l.count[o] - from);
            for (int g = 0; g < count; g += W) {
                const Listed inputs{l.column + place + g};
                store(found + g, SEVERAL ? dots<B>(x, dy, o, panels, inputs) : dots<B>(x, d, inputs));
            }
            take(place, found, count);
        }
    }
}

// In blocks of inputs that stay in the first-level cache.
template <int B, bool SEVERAL, bool MASKED, class Take>
inline void dense_gradients(const Layer& l, const float* x, const float* dy, int batch, Range outputs, Take take) {
    const Panels panels(l, batch);
    alignas(64) float found[CHUNK*8];
    const int stride = static_cast<int>(l.stride), fits = CACHED / batch / LANE * LANE;
    const int block = fits < LANE ? LANE : lesser(fits, CHUNK);
    for (int k = 0; k < stride; k += block) {
        const int count = lesser(block, stride - k);
        for (int o0 = outputs.from; o0 < outputs.to; o0 += 8) {
            const int o1 = lesser(o0 + 8, outputs.to);
            float* to = found;
            for (int o = o0; o < o1; o++) {
            const int64_t place = o * l.stride + k;
            const Row<B> d(dy + o * Lanes<B>::width);
            for (int g = 0; g < count; g += W, to += W) {
                const Adjacent inputs{k + g};
                const Vec r = SEVERAL ? dots<B>(x, dy, o, panels, inputs) : dots<B>(x, d, inputs);
                store(to, MASKED ? where_bit(l.bits[(place + g) / LANE] >> (g % LANE), r) : r);
            }
            }
            to = found;
            for (int o = o0; o < o1; o++, to += count) take(o * l.stride + k, to, count);
        }
    }
}

template <bool SEVERAL, class Take>
inline void each_gradient(const Layer& l, const float* x, const float* dy, int batch, Range outputs, Take take) {
    by_width(batch - (batch - 1) / PANEL * PANEL, [&](auto lanes) {
        constexpr int B = decltype(lanes)::count;
        if (l.sparse())
            sparse_gradients<B, SEVERAL>(l, x, dy, batch, outputs, take);
        else if (l.bits)
            dense_gradients<B, SEVERAL, true>(l, x, dy, batch, outputs, take);
        else
            dense_gradients<B, SEVERAL, false>(l, x, dy, batch, outputs, take);
    });
}

template <class Take>
inline void each_gradient(const Layer& l, const float* x, const float* dy, int batch, Range outputs, Take take) {
    if (batch > PANEL)
        each_gradient<true>(l, x, dy, batch, outputs, take);
    else
        each_gradient<false>(l, x, dy, batch, outputs, take);
}

static void weight_gradient(const Layer& l, const float* x, const float* dy, int batch, float* out, Range outputs) {
    each_gradient(l, x, dy, batch, outputs, [=](int64_t place, const float* found, int count) {
        std::memcpy(out + place, found, sizeof(float) * count);
    });
}

// The sums of W rows of dy over the batch, from row o on, in the same order as a product; 0 for those past the last.
inline Vec row_sums(const float* dy, int64_t units, int o, int batch) {
    Vec r[W];
    for (int i = 0; i < W; i++) {
        Vec a[1][P];
        for (int p = 0; p < P; p++) a[0][p] = zero();
        const float* panel = dy;
        for (int from = 0; o + i < units && from < batch; from += PANEL, panel += rows_of(units) * PANEL) {
            const int width = lesser(PANEL, batch - from);
            const float* d = panel + int64_t{o + i} * width;
            for (int b = 0; b < width; b += LANE)
                for (int p = 0; p < P; p++) a[0][p] = add(a[0][p], load(d + b + p * W));
        }
        r[i] = joined(a, 0);
    }
    return sums(r);
}

static void bias_gradient(const float* dy, int64_t units, int batch, float* out, Range outputs) {
    alignas(64) float found[W];
    for (int o = outputs.from; o < outputs.to; o += W) {
        store(found, row_sums(dy, units, o, batch));
        std::memcpy(out + o, found, sizeof(float) * lesser(W, outputs.to - o));
    }
}

}  // namespace prunus::PRUNUS_ISA
