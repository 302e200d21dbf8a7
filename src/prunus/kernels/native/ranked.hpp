// What selecting the largest scores needs, and the table of it: filled once for each instruction set by ranked.cpp.
//
// Scores are compared as integers, their keys, which are in the order of the numbers: the bits of a float, without the
// sign where magnitudes are compared, and negated where the number is negative. Both zeros have the key 0; every key of
// a number is between -INFINITE and INFINITE, and a NaN has one beyond.
#pragma once

#include <cstdint>
#include <cstring>

namespace prunus {

constexpr int32_t INFINITE = 0x7f800000;   // the key of infinity
constexpr int32_t MAGNITUDE = 0x7fffffff;  // all bits of a float but its sign

// What is counted: floats by their magnitudes or by their values, or keys made of them before.
enum class Kind { magnitudes, values, keys };

// static, as all functions that the kernels share with other files: see kernels.cpp
static inline int32_t bits_at(const void* p) {
    int32_t bits;
    std::memcpy(&bits, p, sizeof bits);
    return bits;
}
static inline int32_t key_of(Kind kind, int32_t bits) {
    const int32_t magnitude = bits & MAGNITUDE, sign = bits >> 31;
    if (kind == Kind::keys) return bits;
    return kind == Kind::magnitudes ? magnitude : (magnitude ^ sign) - sign;
}

struct Tally {
    int64_t above = 0, inside = 0;  // keys above `hi`, and those from `lo` up to `hi`
    bool strange = false;           // among the floats there is a NaN
};

struct Ranked {
    const char* instruction_set;

    // Counts, and, where `to` is not null, writes the keys inside one after the other, in their order. There must be
    // room for 16 more than are inside; `to` may be `from` where that holds keys.
    void (*tally)(Kind, const void* from, int64_t count, int32_t lo, int32_t hi, int32_t* to, Tally&);
    // out = weight where the key of the score is at least `least`, else +0.
    void (*write)(Kind, const float* scores, const float* weights, float* out, int64_t count, int32_t least);
    // Writes base + i for each score i whose key is at least `least`, ascending; returns how many.
    int64_t (*place)(Kind, const float* scores, int64_t count, int32_t least, int64_t base, int64_t* to);
    // out = gradient * weight * sign(score), where the sign of both zeros is 0.
    void (*gradient)(const float* gradient, const float* weights, const float* scores, float* out, int64_t count);
};

const Ranked* ranked_portable();
#ifdef PRUNUS_X86
const Ranked* ranked_avx2();
const Ranked* ranked_avx512();
#endif

}  // namespace prunus
