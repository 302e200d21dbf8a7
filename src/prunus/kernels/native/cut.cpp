#include "cut.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "dispatch.hpp"

namespace prunus {

Scores::Scores(std::vector<const float*> parts, const std::vector<int64_t>& sizes) : parts_(std::move(parts)) {
    for (const int64_t size : sizes) ends_.push_back(this->size() + size);
}

const Ranked& ranked() {
#ifdef PRUNUS_X86
    const auto used = [](const Ranked* table) { return !std::strcmp(table->instruction_set, kernels().instruction_set); };
    for (const Ranked* (*table)() : {ranked_avx512, ranked_avx2})
        if (used(table())) return *table();
#endif
    return *ranked_portable();
}

int64_t end_of_ties(const Scores& scores, Kind kind, int32_t key, int64_t wanted) {
    int64_t place = 0;
    scores.each(0, scores.size(), [&](size_t i, int64_t begin, int64_t end, int64_t before) {
        for (; begin < end && wanted; begin += BLOCK) {
            const float* const from = scores.part(i) + begin;
            const int64_t count = std::min(BLOCK, end - begin);
            Tally ties;
            ranked().tally(kind, from, count, key, key, nullptr, ties);
            if (ties.inside < wanted) {
                wanted -= ties.inside;
                continue;
            }
            for (place = before + begin; wanted; place++)
                wanted -= key_of(kind, bits_at(from + (place - before - begin))) == key;
        }
    });
    return place;
}

bool strange(const Scores& scores, Kind kind) {
    Tally tally;
    scores.each(0, scores.size(), [&](size_t i, int64_t begin, int64_t end, int64_t) {
        ranked().tally(kind, scores.part(i) + begin, end - begin, 0, 0, nullptr, tally);
    });
    return tally.strange;
}

int team(int64_t size, int threads) {
    return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>({threads, TEAM, size / SHARE})));
}

}  // namespace prunus
