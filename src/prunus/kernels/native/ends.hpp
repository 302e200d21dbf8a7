// The two ends of a network: from images to a panel of activations, and from the last layer to the loss and its gradient.
#pragma once

#include "table.hpp"
#include "vector.hpp"

namespace prunus::PRUNUS_ISA {

// ---- the loss ------------------------------------------------------------------------------------------------------

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

// Whether `label` is the prediction: the first of the highest.
inline bool predicted(const float* column, int64_t ld, int64_t label, float highest) {
    if (!(column[label * ld] == highest)) return false;
    int64_t first = 0;
    while (first < label && column[first * ld] != highest) first++;
    return first == label;
}

static void cross_entropy(const float* z, const int64_t* labels, int classes, int examples, int width, float share,
                          float* dz, double* sums) {
    const int64_t ld = width;
    alignas(64) float top[W], total[W];
    for (int b = 0; b < width; b += W) {
        const int left = examples - b, there = left < 0 ? 0 : left < W ? left : W;
        exponentials(z + b, classes, ld, dz ? dz + b : nullptr, top, total);
        for (int i = 0; i < there; i++) {
            const float* column = z + b + i;
            const int64_t label = labels[b + i];
            sums[0] += std::log(static_cast<double>(total[i])) - (static_cast<double>(column[label * ld]) - top[i]);
            sums[1] += predicted(column, ld, label, top[i]);
        }
        if (!dz) continue;
        for (int i = 0; i < W; i++) total[i] = i < there ? share / total[i] : 0.0f;
        for (int c = 0; c < classes; c++) store(dz + c * ld + b, mul(load(dz + c * ld + b), load(total)));
        for (int i = 0; i < there; i++) dz[labels[b + i] * ld + b + i] -= share;
    }
}

// ---- images --------------------------------------------------------------------------------------------------------

// 16 bytes of each of 16 examples, input by input.
#if defined(__SSE2__)
inline void turn_bytes(const uint8_t* const (&from)[LANE], uint8_t* to) {
    __m128i r[LANE], s[LANE];
    for (int i = 0; i < LANE; i++) r[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from[i]));
    // Each round moves bit 3 of the row's number in behind the place within the row, and bit 3 of the place behind the
    // number of the row. After four rounds the two have changed places.
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < LANE / 2; i++) {
            s[2 * i] = _mm_unpacklo_epi8(r[i], r[i + LANE / 2]);
            s[2 * i + 1] = _mm_unpackhi_epi8(r[i], r[i + LANE / 2]);
        }
        for (int i = 0; i < LANE; i++) r[i] = s[i];
    }
    for (int i = 0; i < LANE; i++) _mm_store_si128(reinterpret_cast<__m128i*>(to + i * LANE), r[i]);
}
#else
inline void turn_bytes(const uint8_t* const (&from)[LANE], uint8_t* to) {
    for (int i = 0; i < LANE; i++)
        for (int j = 0; j < LANE; j++) to[j * LANE + i] = from[i][j];
}
#endif

// The inputs k to k + 16 of 16 examples, of which `there` are; the others get zeros.
inline void turn_images(const Images& images, const int64_t* rows, int there, int64_t k, uint8_t* to) {
    alignas(64) uint8_t copies[LANE * LANE] = {};
    const uint8_t* from[LANE];
    const int64_t tall = images.inputs - k < LANE ? images.inputs - k : LANE;
    for (int b = 0; b < LANE; b++) {
        from[b] = b < there ? images.bytes + rows[b] * images.inputs + k : copies + b * LANE;
        if (b >= there || tall == LANE) continue;
        for (int64_t j = 0; j < tall; j++) copies[b * LANE + j] = from[b][j];  // nothing past the end is read
        from[b] = copies + b * LANE;
    }
    turn_bytes(from, to);
}

static void gather(const Images& images, const int32_t* used, int count, const int64_t* rows, const int64_t* next,
                   int examples, float* x, int width) {
    alignas(64) uint8_t bytes[LANE * LANE];
    for (int i = 0, end; i < count; i = end) {
        const int32_t k = used[i] / LANE * LANE;
        for (end = i + 1; end < count && used[end] < k + LANE;) end++;
        for (int c = 0; c < width; c += LANE) {
            const int left = examples - c, there = left < 0 ? 0 : left < LANE ? left : LANE;
            turn_images(images, rows + c, there, k, bytes);
            for (int j = i; j < end; j++) {
                const Vec scale = all(images.scale[used[j]]), shift = all(images.shift[used[j]]);
                float* row = x + int64_t{used[j]} * width + c;
                for (int b = 0; b < LANE; b += W)
                    store(row + b, add(mul(from_bytes(bytes + (used[j] - k) * LANE + b), scale), shift));
            }
            for (int b = 0; next && b < there; b++) fetch(images.bytes + next[c + b] * images.inputs + k);
        }
    }
}

// ---- floats --------------------------------------------------------------------------------------------------------

static void turn(const float* from, int64_t units, int examples, float* to, int width, Range part) {
    for (int e = 0; e < width; e += W) {
        const int left = examples - e, there = left < 0 ? 0 : left < W ? left : W;
        int u = part.from;
        for (; u + W <= part.to; u += W) {
            Vec r[W];
            for (int i = 0; i < W; i++) r[i] = i < there ? load_anywhere(from + (e + i) * units + u) : zero();
            turn_over(r);
            for (int i = 0; i < W; i++) store(to + int64_t{u + i} * width + e, r[i]);
        }
        for (; u < part.to; u++)
            for (int i = 0; i < W; i++) to[int64_t{u} * width + e + i] = i < there ? from[(e + i) * units + u] : 0.0f;
    }
}

static void turn_back(const float* from, int64_t units, int examples, float* to, int width, Range part) {
    for (int e = 0; e < examples; e += W) {
        const int left = examples - e, there = left < W ? left : W;
        int u = part.from;
        for (; u + W <= part.to; u += W) {
            Vec r[W];
            for (int i = 0; i < W; i++) r[i] = load(from + int64_t{u + i} * width + e);
            turn_over(r);
            for (int i = 0; i < there; i++) store_anywhere(to + (e + i) * units + u, r[i]);
        }
        for (; u < part.to; u++)
            for (int i = 0; i < there; i++) to[(e + i) * units + u] = from[int64_t{u} * width + e + i];
    }
}

}  // namespace prunus::PRUNUS_ISA
