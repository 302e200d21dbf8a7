// The AVX-512 operations that the prototype uses, by two AVX registers each, for machines that lack AVX-512.
#pragma once

#include <immintrin.h>

struct Halves {
    __m256 low, high;
};

static inline Halves halves_set1(float a) { return {_mm256_set1_ps(a), _mm256_set1_ps(a)}; }
static inline Halves halves_setzero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
static inline Halves halves_load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
static inline void halves_store(float* p, Halves a) { _mm256_storeu_ps(p, a.low), _mm256_storeu_ps(p + 8, a.high); }
static inline Halves halves_add(Halves a, Halves b) {
    return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
static inline Halves halves_mul(Halves a, Halves b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
static inline Halves halves_max(Halves a, Halves b) {
    return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
static inline Halves halves_fma(Halves a, Halves b, Halves c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
static inline float halves_sum(Halves a) {
    const __m256 s = _mm256_add_ps(a.low, a.high);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}

#define __m512 Halves
#define _mm512_set1_ps halves_set1
#define _mm512_setzero_ps halves_setzero
#define _mm512_loadu_ps halves_load
#define _mm512_storeu_ps halves_store
#define _mm512_add_ps halves_add
#define _mm512_mul_ps halves_mul
#define _mm512_max_ps halves_max
#define _mm512_fmadd_ps halves_fma
#define _mm512_reduce_add_ps halves_sum
