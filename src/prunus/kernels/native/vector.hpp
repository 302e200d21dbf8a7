// A register of floats, W wide, and the few operations that the kernels are written in.
//
// Sums are the same bit for bit on every instruction set: each product is fused into its sum (one rounding), and the
// order of every sum is fixed by the kernels, not by W. Hence no contraction by the compiler (-ffp-contract=off), and
// fused multiply-adds spelled out.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

// Inlined whatever the compiler's budget says: a call in an inner loop empties all registers.
#define PRUNUS_INLINE inline __attribute__((always_inline))

namespace prunus::PRUNUS_ISA {

#if defined(__AVX512F__)

constexpr int W = 16;
using Vec = __m512;
inline Vec load(const float* p) { return _mm512_load_ps(p); }
inline Vec load_anywhere(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Vec a) { _mm512_store_ps(p, a); }
inline void store_anywhere(float* p, Vec a) { _mm512_storeu_ps(p, a); }
inline Vec all(float a) { return _mm512_set1_ps(a); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
inline Vec root(Vec a) { return _mm512_sqrt_ps(a); }
inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec nearest(Vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/// a where c > 0, else 0.
inline Vec where_positive(Vec c, Vec a) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(c, _mm512_setzero_ps(), _CMP_GT_OQ), a);
}
/// a where the bit of its place is set, else 0.
inline Vec where_bit(uint16_t bits, Vec a) { return _mm512_maskz_mov_ps(bits, a); }
/// 2^a of whole numbers a in [-126, 127].
inline Vec power_of_two(Vec a) {
    const __m512i n = _mm512_add_epi32(_mm512_cvtps_epi32(a), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(n, 23));
}
inline Vec from_bytes(const uint8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}

#elif defined(__AVX2__)

constexpr int W = 8;
using Vec = __m256;
inline Vec load(const float* p) { return _mm256_load_ps(p); }
inline Vec load_anywhere(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, Vec a) { _mm256_store_ps(p, a); }
inline void store_anywhere(float* p, Vec a) { _mm256_storeu_ps(p, a); }
inline Vec all(float a) { return _mm256_set1_ps(a); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
inline Vec root(Vec a) { return _mm256_sqrt_ps(a); }
inline Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec nearest(Vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec where_positive(Vec c, Vec a) {
    return _mm256_and_ps(a, _mm256_cmp_ps(c, _mm256_setzero_ps(), _CMP_GT_OQ));
}
inline Vec where_bit(uint16_t bits, Vec a) {
    const __m256i places = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i set = _mm256_and_si256(_mm256_set1_epi32(bits), places);
    return _mm256_and_ps(a, _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, places)));
}
inline Vec power_of_two(Vec a) {
    const __m256i n = _mm256_add_epi32(_mm256_cvtps_epi32(a), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(n, 23));
}
inline Vec from_bytes(const uint8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}

#else

// Four floats, which a compiler turns into the vectors of its machine. Without a fused multiply-add in hardware this
// is slow, but right.
constexpr int W = 4;
struct Vec {
    float at[W];
};
template <class F>
inline Vec each(F f) {
    Vec r;
    for (int i = 0; i < W; i++) r.at[i] = f(i);
    return r;
}
inline Vec load(const float* p) {
    Vec r;
    std::memcpy(r.at, p, sizeof r.at);
    return r;
}
inline void store(float* p, Vec a) { std::memcpy(p, a.at, sizeof a.at); }
inline Vec load_anywhere(const float* p) { return load(p); }
inline void store_anywhere(float* p, Vec a) { store(p, a); }
inline Vec all(float a) {
    return each([=](int) { return a; });
}
inline Vec fma(Vec a, Vec b, Vec c) {
    return each([&](int i) { return std::fma(a.at[i], b.at[i], c.at[i]); });
}
inline Vec add(Vec a, Vec b) {
    return each([&](int i) { return a.at[i] + b.at[i]; });
}
inline Vec sub(Vec a, Vec b) {
    return each([&](int i) { return a.at[i] - b.at[i]; });
}
inline Vec mul(Vec a, Vec b) {
    return each([&](int i) { return a.at[i] * b.at[i]; });
}
inline Vec div(Vec a, Vec b) {
    return each([&](int i) { return a.at[i] / b.at[i]; });
}
inline Vec root(Vec a) {
    return each([&](int i) { return std::sqrt(a.at[i]); });
}
// as the machine instructions have it: the second where either is not a number
inline Vec max(Vec a, Vec b) {
    return each([&](int i) { return a.at[i] > b.at[i] ? a.at[i] : b.at[i]; });
}
inline Vec nearest(Vec a) {
    return each([&](int i) { return std::nearbyint(a.at[i]); });
}
inline Vec where_positive(Vec c, Vec a) {
    return each([&](int i) { return c.at[i] > 0 ? a.at[i] : 0.0f; });
}
inline Vec where_bit(uint16_t bits, Vec a) {
    return each([&](int i) { return bits >> i & 1 ? a.at[i] : 0.0f; });
}
inline Vec power_of_two(Vec a) {
    return each([&](int i) {
        const int32_t n = a.at[i] == a.at[i] ? static_cast<int32_t>(a.at[i]) : 0;
        const uint32_t bits = static_cast<uint32_t>(n + 127) << 23;
        float r;
        std::memcpy(&r, &bits, 4);
        return r;
    });
}
inline Vec from_bytes(const uint8_t* p) {
    return each([&](int i) { return static_cast<float>(p[i]); });
}

#endif

/// Ask for the cache line at p, which is read or written soon. It need not exist.
inline void fetch(const void* p) { __builtin_prefetch(p); }

inline Vec zero() { return all(0.0f); }

/// Sum the entries of each of W registers: entry i of the result is the sum of r[i].
/// Halves are added: first entry j to entry j + 8, then j to j + 4, j + 2 and j + 1.
PRUNUS_INLINE Vec sums(Vec (&r)[W]) {
#if defined(__AVX512F__)
    const auto halves = [](Vec a, Vec b) {
        return add(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
    };
    const auto quarters = [](Vec a, Vec b) {
        return add(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
    };
    const auto pairs = [](Vec a, Vec b) { return add(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xEE)); };
    const auto ones = [](Vec a, Vec b) { return add(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xDD)); };
    Vec s[4];
    for (int j = 0; j < 4; j++) s[j] = quarters(halves(r[j], r[j + 4]), halves(r[j + 8], r[j + 12]));
    return ones(pairs(s[0], s[1]), pairs(s[2], s[3]));
#elif defined(__AVX2__)
    const auto halves = [](Vec a, Vec b) {
        return add(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
    };
    const auto pairs = [](Vec a, Vec b) { return add(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xEE)); };
    const auto ones = [](Vec a, Vec b) { return add(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xDD)); };
    Vec s[4];
    for (int j = 0; j < 4; j++) s[j] = halves(r[j], r[j + 4]);
    return ones(pairs(s[0], s[1]), pairs(s[2], s[3]));
#else
    return each([&](int i) { return (r[i].at[0] + r[i].at[2]) + (r[i].at[1] + r[i].at[3]); });
#endif
}

/// Turn W registers, a square, over: entry j of r[i] becomes entry i of r[j].
PRUNUS_INLINE void turn_over(Vec (&r)[W]) {
#if defined(__AVX512F__)
    Vec s[W], t[W];
    for (int i = 0; i < W; i += 2) {
        s[i] = _mm512_unpacklo_ps(r[i], r[i + 1]), s[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < W; i += 4)
        for (int j = 0; j < 2; j++) {
            t[i + 2 * j] = _mm512_shuffle_ps(s[i + j], s[i + j + 2], 0x44);
            t[i + 2 * j + 1] = _mm512_shuffle_ps(s[i + j], s[i + j + 2], 0xEE);
        }
    // each quarter q of t[4 g + c] now holds entries 4 q + c of the rows 4 g to 4 g + 3
    for (int c = 0; c < 4; c++)
        for (int half = 0; half < 2; half++) {
            const auto halves = [=](Vec a, Vec b) {
                return half ? _mm512_shuffle_f32x4(a, b, 0xEE) : _mm512_shuffle_f32x4(a, b, 0x44);
            };
            const Vec a = halves(t[c], t[4 + c]), b = halves(t[8 + c], t[12 + c]);
            r[8 * half + c] = _mm512_shuffle_f32x4(a, b, 0x88), r[8 * half + 4 + c] = _mm512_shuffle_f32x4(a, b, 0xDD);
        }
#elif defined(__AVX2__)
    Vec s[W], t[W];
    for (int i = 0; i < W; i += 2) s[i] = _mm256_unpacklo_ps(r[i], r[i + 1]), s[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    for (int i = 0; i < W; i += 4)
        for (int j = 0; j < 2; j++) {
            t[i + 2 * j] = _mm256_shuffle_ps(s[i + j], s[i + j + 2], 0x44);
            t[i + 2 * j + 1] = _mm256_shuffle_ps(s[i + j], s[i + j + 2], 0xEE);
        }
    for (int c = 0; c < 4; c++) {
        r[c] = _mm256_permute2f128_ps(t[c], t[4 + c], 0x20), r[4 + c] = _mm256_permute2f128_ps(t[c], t[4 + c], 0x31);
    }
#else
    for (int i = 0; i < W; i++)
        for (int j = 0; j < i; j++) {
            const float above = r[j].at[i];
            r[j].at[i] = r[i].at[j], r[i].at[j] = above;
        }
#endif
}

/// e^a for a <= 0, to 2 units in the last place; 0 below -87.
inline Vec exponential(Vec a) {
    a = max(all(-87.0f), a);  // the second where it is not a number, so NaN stays NaN
    const Vec n = nearest(mul(a, all(1.44269504f)));
    Vec r = fma(n, all(-0.693359375f), a);  // ln 2 in two parts
    r = fma(n, all(2.12194440e-4f), r);
    Vec p = all(1.0f / 5040);
    for (const float c : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) p = fma(p, r, all(c));
    return mul(p, power_of_two(n));
}

}  // namespace prunus::PRUNUS_ISA
