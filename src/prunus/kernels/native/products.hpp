// Products of weights and activations over one panel: y[r] = begin[r] + sum over p ascending of weight(r, p) * x[p].
#pragma once

#include "table.hpp"
#include "vector.hpp"

namespace prunus::PRUNUS_ISA {

constexpr int CACHED = 4096;  // floats of activations that stay in the first-level cache while they are used again  // floats of activations that stay in the first-level cache while they are used again

constexpr int lesser(int a, int b) { return a < b ? a : b; }

// `use` gets the width of a panel, in lanes of 16, as a constant.
template <int B>
struct Lanes {
    static constexpr int count = B, width = B * LANE, registers = B * LANE / W;
};
template <class Use>
inline void by_width(int width, Use use) {
    switch (width / LANE) {
        case 1: return use(Lanes<1>{});
        case 2: return use(Lanes<2>{});
        case 3: return use(Lanes<3>{});
        default: return use(Lanes<4>{});
    }
}

// How a row of sums ends: max(0, y), or 0 where h is not above 0, or as it is.
struct End {
    bool relu;
    const float* h;
};
inline Vec finish(Vec a, const End& end, int64_t at) {
    if (end.relu) return max(zero(), a);
    return end.h ? where_positive(load(end.h + at), a) : a;
}

// ---- dense ---------------------------------------------------------------------------------------------------------

struct Dense {
    const float* weight;  // weight(r, p) = weight[r * row + p * step]
    int64_t row, step;
    const float* bias;  // what sums begin with; null: 0
    End end;
    const float* x;
    float* y;
    int from, to, terms;  // rows, and terms of each
};

// R rows of N registers at column c, terms p to p + n.
template <int B, int R, int N>
PRUNUS_INLINE void tile(const Dense& d, int r0, int p0, int n, int c) {
    constexpr int LD = Lanes<B>::width;
    const float* w = d.weight + r0 * d.row + p0 * d.step;
    const float* x = d.x + p0 * LD + c;
    const int64_t at = int64_t{r0} * LD + c;
    Vec a[R][N];
    if (p0) {
        for (int r = 0; r < R; r++)
            for (int i = 0; i < N; i++) a[r][i] = load(d.y + at + r * LD + i * W);
    } else {
        for (int r = 0; r < R; r++)
            for (int i = 0; i < N; i++) a[r][i] = d.bias ? all(d.bias[r0 + r]) : zero();
    }
    for (int p = 0; p < n; p++, w += d.step, x += LD) {
        Vec b[N];
        for (int i = 0; i < N; i++) b[i] = load(x + i * W);
        for (int r = 0; r < R; r++) {
            const Vec v = all(w[r * d.row]);
            for (int i = 0; i < N; i++) a[r][i] = fma(v, b[i], a[r][i]);
        }
    }
    const bool last = p0 + n == d.terms;
    for (int r = 0; r < R; r++)
        for (int i = 0; i < N; i++) {
            const int64_t place = at + r * LD + i * W;
            store(d.y + place, last ? finish(a[r][i], d.end, place) : a[r][i]);
        }
}

// Rows from r on, as many as there are in tiles of R, of R / 2, ... at a time.
template <int B, int R, int N>
inline void tiles(const Dense& d, int r, int p, int n) {
    for (; r + R <= d.to; r += R) {
        if (d.step == 1)  // the next tile's weights: each of its rows lies elsewhere, which the hardware does not foresee
            for (int i = 0; i < R; i++)
                for (int q = 0; q < n; q += LANE) fetch(d.weight + (r + R + i) * d.row + p + q);
        for (int c = 0; c < Lanes<B>::width; c += N * W) tile<B, R, N>(d, r, p, n, c);
    }
    if constexpr (R > 1) tiles<B, R / 2, N>(d, r, p, n);
}

// In blocks of x that stay in the first-level cache. Tiles are as large as the registers hold: 6 rows of 2 registers of
// the 16 that AVX2 has, 6 of 4 of the 32 of AVX-512.
template <int B>
void dense_product(const Dense& d) {
    constexpr int N = lesser(Lanes<B>::registers, W == 8 ? 2 : 4);
    constexpr int R = N < 4 && W == 16 ? 8 : 6;
    constexpr int block = CACHED / Lanes<B>::width;
    for (int p = 0; p < d.terms; p += block) tiles<B, R, N>(d, d.from, p, lesser(block, d.terms - p));
}

// ---- sparse --------------------------------------------------------------------------------------------------------

// One row: weight(p) = w[place(p)], of input column[p].
template <int B, class Place>
PRUNUS_INLINE void sparse_row(float begin, Place place, const int32_t* column, int n, const float* w, const float* x,
                       const End& end, float* y, int64_t at) {
    constexpr int LD = Lanes<B>::width, N = Lanes<B>::registers;
    Vec a[N];
    for (int i = 0; i < N; i++) a[i] = all(begin);
    for (int p = 0; p < n; p++) {
        const Vec v = all(w[place(p)]);
        const float* b = x + int64_t{column[p]} * LD;
        for (int i = 0; i < N; i++) a[i] = fma(v, load(b + i * W), a[i]);
    }
    for (int i = 0; i < N; i++) store(y + at + i * W, finish(a[i], end, at + i * W));
}

// Two rows at once, where one has too few sums under way to keep the machine busy.
template <int B>
PRUNUS_INLINE void sparse_rows(const Layer& l, int o, const float* x, const End& end, float* y) {
    constexpr int LD = Lanes<B>::width, N = Lanes<B>::registers;
    Vec a[2][N];
    for (int r = 0; r < 2; r++)
        for (int i = 0; i < N; i++) a[r][i] = all(l.bias ? l.bias[o + r] : 0.0f);
    const auto term = [&](int r, int p) {
        const int32_t place = l.start[o + r] + p;
        const Vec v = all(l.weight[place]);
        const float* b = x + int64_t{l.column[place]} * LD;
        for (int i = 0; i < N; i++) a[r][i] = fma(v, load(b + i * W), a[r][i]);
    };
    const int both = lesser(l.count[o], l.count[o + 1]);
    for (int p = 0; p < both; p++) term(0, p), term(1, p);
    for (int r = 0; r < 2; r++) {
        for (int p = both; p < l.count[o + r]; p++) term(r, p);
        const int64_t at = int64_t{o + r} * LD;
        for (int i = 0; i < N; i++) store(y + at + i * W, finish(a[r][i], end, at + i * W));
    }
}

template <int B>
void sparse_forward(const Layer& l, const float* x, const End& end, float* y, Range outputs) {
    int o = outputs.from;
    if constexpr (Lanes<B>::registers < 8)
        for (; o + 2 <= outputs.to; o += 2) sparse_rows<B>(l, o, x, end, y);
    for (; o < outputs.to; o++) {
        const int32_t at = l.start[o];
        const auto place = [](int p) { return p; };
        sparse_row<B>(l.bias ? l.bias[o] : 0.0f, place, l.column + at, l.count[o], l.weight + at, x, end, y,
                      int64_t{o} * Lanes<B>::width);
    }
}

template <int B>
void sparse_input_gradient(const Layer& l, const float* dy, const End& end, float* dx, Range inputs) {
    for (int k = inputs.from; k < inputs.to; k++) {
        const int32_t at = l.t_start[k], n = l.t_start[k + 1] - at;
        const auto place = [places = l.t_place + at](int p) { return places[p]; };
        sparse_row<B>(0.0f, place, l.t_row + at, n, l.weight, dy, end, dx, int64_t{k} * Lanes<B>::width);
    }
}

// ---- both ----------------------------------------------------------------------------------------------------------

static void forward(const Layer& l, const float* x, float* y, int width, bool relu, Range outputs) {
    const End end{relu, nullptr};
    by_width(width, [&](auto lanes) {
        constexpr int B = decltype(lanes)::count;
        if (l.sparse())
            sparse_forward<B>(l, x, end, y, outputs);
        else
            dense_product<B>({l.weight, l.stride, 1, l.bias, end, x, y, outputs.from, outputs.to, l.inputs});
    });
}

static void input_gradient(const Layer& l, const float* dy, const float* h, float* dx, int width, Range inputs) {
    const End end{false, h};
    by_width(width, [&](auto lanes) {
        constexpr int B = decltype(lanes)::count;
        if (l.sparse())
            sparse_input_gradient<B>(l, dy, end, dx, inputs);
        else
            dense_product<B>({l.weight, 1, l.stride, nullptr, end, dy, dx, inputs.from, inputs.to, l.outputs});
    });
}

}  // namespace prunus::PRUNUS_ISA
