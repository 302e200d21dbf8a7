// A register of W keys, and what is done with them. Comparisons give a bit for each key.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "ranked.hpp"

namespace prunus::PRUNUS_ISA {

#if defined(__AVX512F__)

constexpr int W = 16;
using Keys = __m512i;
inline Keys load(const void* p) { return _mm512_loadu_si512(p); }
inline Keys all(int32_t a) { return _mm512_set1_epi32(a); }
inline Keys magnitudes(Keys bits) { return _mm512_and_si512(bits, all(MAGNITUDE)); }
inline Keys negated_where(Keys bits, Keys a) {
    return _mm512_mask_sub_epi32(a, _mm512_movepi32_mask(bits), _mm512_setzero_si512(), a);
}
inline Keys max(Keys a, Keys b) { return _mm512_max_epi32(a, b); }
inline uint32_t at_least(Keys a, Keys b) { return _mm512_cmpge_epi32_mask(a, b); }
inline int ones(uint32_t set) { return __builtin_popcount(set); }
/// The keys whose bits are set, one after the other; what follows them up to `to` + W is overwritten.
inline void pack(int32_t* to, uint32_t set, Keys a) {
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(static_cast<__mmask16>(set), a));
}

#elif defined(__AVX2__)

constexpr int W = 8;
using Keys = __m256i;
inline Keys load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline Keys all(int32_t a) { return _mm256_set1_epi32(a); }
inline Keys magnitudes(Keys bits) { return _mm256_and_si256(bits, all(MAGNITUDE)); }
inline Keys negated_where(Keys bits, Keys a) {
    const __m256i sign = _mm256_srai_epi32(bits, 31);
    return _mm256_sub_epi32(_mm256_xor_si256(a, sign), sign);
}
inline Keys max(Keys a, Keys b) { return _mm256_max_epi32(a, b); }
inline uint32_t at_least(Keys a, Keys b) {
    return ~_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(b, a))) & 0xff;
}

// For each set of 8 bits the places of its ones, a byte each, ascending.
struct Places {
    uint64_t of[256];
    constexpr Places() : of() {
        for (int set = 0; set < 256; set++) {
            int next = 0;
            for (int place = 0; place < 8; place++)
                if (set >> place & 1) of[set] |= static_cast<uint64_t>(place) << 8 * next++;
        }
    }
};
static constexpr Places PLACES;

inline int ones(uint32_t set) { return __builtin_popcount(set); }
inline void pack(int32_t* to, uint32_t set, Keys a) {
    const __m256i places = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(PLACES.of[set])));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permutevar8x32_epi32(a, places));
}

#else

constexpr int W = 1;
using Keys = int32_t;
inline Keys load(const void* p) {
    Keys a;
    std::memcpy(&a, p, sizeof a);
    return a;
}
inline Keys all(int32_t a) { return a; }
inline Keys magnitudes(Keys bits) { return bits & MAGNITUDE; }
inline Keys negated_where(Keys bits, Keys a) { return bits < 0 ? -a : a; }
inline Keys max(Keys a, Keys b) { return a > b ? a : b; }
// Arithmetic, lest a compiler makes a jump of it, which a CPU would often guess wrongly.
inline uint32_t at_least(Keys a, Keys b) { return ~static_cast<uint64_t>(static_cast<int64_t>(a) - b) >> 63; }
inline int ones(uint32_t set) { return static_cast<int>(set); }
inline void pack(int32_t* to, uint32_t, Keys a) { *to = a; }  // overwritten by the next if its bit is not set

#endif

}  // namespace prunus::PRUNUS_ISA
