// The cut: the key of the `keep`-th largest of many scores.
#pragma once

#include <cstdint>
#include <vector>

#include "ranked.hpp"

namespace prunus {

constexpr int64_t BLOCK = 1 << 13;  // scores that are looked at together
constexpr int64_t SHARE = 1 << 16;  // scores that are worth a thread
constexpr int TEAM = 256;           // threads at most

// Floats in several places, taken as one sequence.
class Scores {
   public:
    Scores(std::vector<const float*> parts, const std::vector<int64_t>& sizes);
    int64_t size() const { return ends_.empty() ? 0 : ends_.back(); }
    const float* part(size_t i) const { return parts_[i]; }

    // `work(i, from, to, before)` for the entries of part i that lie between two places of the sequence, part by part;
    // `before` is the place where the part begins.
    template <class Work>
    void each(int64_t from, int64_t to, Work work) const {
        for (size_t i = 0; i < parts_.size() && from < to; i++) {
            if (from >= ends_[i]) continue;
            const int64_t begin = i ? ends_[i - 1] : 0, end = to < ends_[i] ? to : ends_[i];
            work(i, from - begin, end - begin, begin);
            from = end;
        }
    }

   private:
    std::vector<const float*> parts_;
    std::vector<int64_t> ends_;
};

struct Cut {
    int32_t key;
    int64_t ties, wanted;  // scores with this key, and how many of them are kept
    bool strange = false;  // there is a NaN, and the rest means nothing
};

// The table of the instruction set in use.
const Ranked& ranked();

// `keep` is at least 1 and at most all. See search.cpp.
Cut find_cut(const Scores& scores, Kind kind, int64_t keep, int threads);

// Before which place of the sequence the first `wanted` scores with this key lie.
int64_t end_of_ties(const Scores& scores, Kind kind, int32_t key, int64_t wanted);

// Whether there is a NaN.
bool strange(const Scores& scores, Kind kind);

// How many threads to use for so many scores, from 1 to TEAM.
int team(int64_t size, int threads);

}  // namespace prunus
