// The passes over scores, for the instruction set PRUNUS_ISA: compiled three times, under the rules in kernels.cpp.
#include "ranked.hpp"

#include "keys.hpp"

#define PRUNUS_JOIN_(a, b) a##b
#define PRUNUS_JOIN(a, b) PRUNUS_JOIN_(a, b)
#define PRUNUS_TEXT_(a) #a
#define PRUNUS_TEXT(a) PRUNUS_TEXT_(a)

namespace prunus {

namespace PRUNUS_ISA {

template <Kind KIND, bool GATHER>
static void tally_of(const char* from, int64_t count, int32_t lo, int32_t hi, int32_t* to, Tally& tally) {
    const Keys lowest = all(lo), highest = all(hi);
    Keys seen[2] = {all(0), all(0)};  // the largest magnitude: two, since each waits for the one before
    int64_t upto = 0, inside = 0, i = 0;
    const auto step = [&](int64_t at, int which) __attribute__((always_inline)) {
        Keys key = load(from + 4 * at);
        if (KIND != Kind::keys) {
            const Keys magnitude = magnitudes(key);
            seen[which] = max(seen[which], magnitude);
            key = KIND == Kind::values ? negated_where(key, magnitude) : magnitude;
        }
        const uint32_t not_above = at_least(highest, key), within = not_above & at_least(key, lowest);
        if (GATHER) pack(to + inside, within, key);
        upto += ones(not_above), inside += ones(within);
    };
    for (; i + 2 * W <= count; i += 2 * W) step(i, 0), step(i + W, 1);
    int32_t magnitude[2 * W], largest = 0;
    std::memcpy(magnitude, seen, sizeof magnitude);
    for (const int32_t one : magnitude) largest = one > largest ? one : largest;
    for (; i < count; i++) {
        const int32_t bits = bits_at(from + 4 * i), key = key_of(KIND, bits);
        if (KIND != Kind::keys && (bits & MAGNITUDE) > largest) largest = bits & MAGNITUDE;
        if (GATHER) to[inside] = key;
        upto += key <= hi, inside += key >= lo && key <= hi;
    }
    tally.above += count - upto, tally.inside += inside;
    tally.strange |= largest > INFINITE;
}

template <Kind KIND>
static void tally_as(const void* from, int64_t count, int32_t lo, int32_t hi, int32_t* to, Tally& tally) {
    const char* bytes = static_cast<const char*>(from);
    to ? tally_of<KIND, true>(bytes, count, lo, hi, to, tally) : tally_of<KIND, false>(bytes, count, lo, hi, to, tally);
}

static void tally(Kind kind, const void* from, int64_t count, int32_t lo, int32_t hi, int32_t* to, Tally& tally) {
    if (kind == Kind::magnitudes) return tally_as<Kind::magnitudes>(from, count, lo, hi, to, tally);
    if (kind == Kind::values) return tally_as<Kind::values>(from, count, lo, hi, to, tally);
    tally_as<Kind::keys>(from, count, lo, hi, to, tally);
}

// These two are plain loops, which compilers turn into vectors.
template <Kind KIND>
static void write_as(const float* __restrict scores, const float* __restrict weights, float* __restrict out,
                     int64_t count, int32_t least) {
    for (int64_t i = 0; i < count; i++) {
        const int32_t kept = bits_at(weights + i) & -static_cast<int32_t>(key_of(KIND, bits_at(scores + i)) >= least);
        std::memcpy(out + i, &kept, sizeof kept);
    }
}

static void write(Kind kind, const float* scores, const float* weights, float* out, int64_t count, int32_t least) {
    if (kind == Kind::magnitudes) return write_as<Kind::magnitudes>(scores, weights, out, count, least);
    write_as<Kind::values>(scores, weights, out, count, least);
}

template <Kind KIND>
static int64_t place_of(const float* scores, int64_t count, int32_t least, int64_t base, int64_t* to) {
    const Keys lowest = all(least);
    int64_t found = 0, i = 0;
    for (; i + W <= count; i += W) {
        const Keys bits = load(scores + i), magnitude = magnitudes(bits);
        uint32_t set = at_least(KIND == Kind::values ? negated_where(bits, magnitude) : magnitude, lowest);
        for (; set; set &= set - 1) to[found++] = base + i + __builtin_ctz(set);
    }
    for (; i < count; i++)
        if (key_of(KIND, bits_at(scores + i)) >= least) to[found++] = base + i;
    return found;
}

static int64_t place(Kind kind, const float* scores, int64_t count, int32_t least, int64_t base, int64_t* to) {
    if (kind == Kind::magnitudes) return place_of<Kind::magnitudes>(scores, count, least, base, to);
    return place_of<Kind::values>(scores, count, least, base, to);
}

static void gradient(const float* __restrict gradient, const float* __restrict weights, const float* __restrict scores,
                     float* __restrict out, int64_t count) {
    constexpr int32_t ONE = 0x3f800000;  // the bits of 1
    for (int64_t i = 0; i < count; i++) {
        const int32_t bits = bits_at(scores + i), unit = bits & MAGNITUDE ? (bits & ~MAGNITUDE) | ONE : 0;
        float sign;
        std::memcpy(&sign, &unit, sizeof sign);
        out[i] = gradient[i] * weights[i] * sign;
    }
}

}  // namespace PRUNUS_ISA

const Ranked* PRUNUS_JOIN(ranked_, PRUNUS_ISA)() {
    using namespace PRUNUS_ISA;
    static const Ranked table = {PRUNUS_TEXT(PRUNUS_ISA), tally, write, place, gradient};
    return &table;
}

}  // namespace prunus
