// Selection by two pivots (Floyd and Rivest, "Expected time bounds for selection", 1975, CACM): quantiles of a small
// sample, to either side of the rank that is wanted. One pass counts what is above them and gathers what is between
// them, a tenth of the scores or less, in which the same is done again until few are left.
//
// The interval of keys that holds the cut shrinks in every round. Where what is between the pivots does not fit the
// scratch memory (many ties), the next round has one pivot, which leaves the interval with all its ties; after some
// rounds the interval is halved. So no scores take more than some fifty passes, and nearly all take one.
#include "cut.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>

namespace prunus {

namespace {

constexpr int64_t FEW = 512;        // so many are partitioned
constexpr int64_t SMALL = 1 << 14;  // so many fit the scratch memory, however they lie
constexpr int64_t DRAWN = 1 << 12;  // the largest sample
constexpr int64_t ROOM = 16;        // see Ranked::tally
constexpr int PATIENCE = 16;        // rounds before the interval is halved

// A number below `bound` that only has to be unlike the scores' layout (the mixing of splitmix64).
int64_t drawn_below(int64_t bound, uint64_t x) {
    x = (x + 1) * 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return static_cast<int64_t>((x >> 33) * static_cast<uint64_t>(bound) >> 31);
}

// The entry of rank n, counted from 0 and from the largest; those before it are no smaller, those behind no larger.
int32_t ranked_at(int32_t* begin, int32_t* end, int64_t n) {
    std::nth_element(begin, begin + n, end, std::greater<int32_t>());
    return begin[n];
}

class Search {
   public:
    Search(const Scores& scores, Kind kind, int64_t keep, int threads)
        : scores_(scores),
          kind_(kind),
          team_(team(scores.size(), threads)),
          room_((std::max(std::min(scores.size(), SMALL), scores.size() / 4) + team_ - 1) / team_ + ROOM),
          memory_(new int32_t[DRAWN + team_ * room_]),
          sample_(memory_.get()),
          scratch_(memory_.get() + DRAWN),
          lo_(kind == Kind::values ? -INFINITE : 0),
          size_(scores.size()),
          rank_(keep) {}

    Cut run() {
        for (int round = 0; lo_ < hi_; round++) {
            choose_pivots(round);
            Tally tally;
            gathered_ < 0 ? pass_over_scores(tally) : pass_over_gathered(tally);
            if (tally.strange) return {0, 0, 0, true};
            narrow(tally.above - (gathered_ < 0 ? above_ : 0), tally.inside);
            if (gathered_ >= 0 && size_ <= FEW) return among_few();
        }
        return {lo_, size_, rank_};
    }

   private:
    // Pivots in the interval that probably have the cut between them; one, where they could not be told apart.
    void choose_pivots(int round) {
        lower_ = lo_, upper_ = hi_;
        if (size_ <= FEW) return;
        const int64_t drawn = draw(round);
        if (!drawn || round >= PATIENCE) {
            lower_ = upper_ = static_cast<int32_t>((static_cast<int64_t>(lo_) + hi_) >> 1);
            return;
        }
        const double share = static_cast<double>(rank_) / static_cast<double>(size_);
        const double middle = share * static_cast<double>(drawn);
        const double margin = stuck_ ? 0 : 1 + 3 * std::sqrt(middle * (1 - share));
        const auto first = static_cast<int64_t>(std::floor(middle - margin));
        const auto last = static_cast<int64_t>(std::ceil(middle + margin));
        const int64_t split = std::min(std::max<int64_t>(first, 0), drawn - 1);
        if (stuck_ || first >= 0) upper_ = ranked_at(sample_, sample_ + drawn, split);
        if (stuck_) lower_ = upper_;
        if (!stuck_ && last < drawn) lower_ = ranked_at(sample_ + split, sample_ + drawn, last - split);
    }

    // Fills the sample with those keys inside the interval that lie at a random place in each of equal stretches.
    int64_t draw(int round) {
        const int64_t all = gathered_ < 0 ? scores_.size() : gathered_;
        const int64_t wanted = std::min(DRAWN, static_cast<int64_t>(2 * std::sqrt(static_cast<double>(all))));
        int64_t next = 0, found = 0;
        const auto take = [&](Kind kind, const void* from, int64_t before, int64_t end) {
            for (; next < wanted; next++) {
                const int64_t begin = next * all / wanted;
                const int64_t place = begin + drawn_below(all / wanted, static_cast<uint64_t>(round * DRAWN + next));
                if (place >= end) return;
                const int32_t key = key_of(kind, bits_at(static_cast<const int32_t*>(from) + (place - before)));
                sample_[found] = key;
                found += key >= lo_ && key <= hi_;
            }
        };
        if (gathered_ >= 0) {
            take(Kind::keys, scratch_, 0, all);
        } else {
            scores_.each(0, all, [&](size_t i, int64_t, int64_t end, int64_t before) {
                take(kind_, scores_.part(i), before, before + end);
            });
        }
        return found;
    }

    // Each thread has its stretch of the scores and its part of the scratch memory.
    void pass_over_scores(Tally& all) {
        whole_ = lower_ < upper_;
#pragma omp parallel for schedule(static, 1) num_threads(team_) if (team_ > 1)
        for (int thread = 0; thread < team_; thread++) {
            Tally tally;
            bool whole = lower_ < upper_;
            int32_t* const to = scratch_ + thread * room_;
            const int64_t from = scores_.size() * thread / team_, upto = scores_.size() * (thread + 1) / team_;
            scores_.each(from, upto, [&](size_t i, int64_t begin, int64_t end, int64_t) {
                for (; begin < end; begin += BLOCK) {
                    const int64_t count = std::min(BLOCK, end - begin);
                    whole = whole && tally.inside + count + ROOM <= room_;
                    ranked_.tally(kind_, scores_.part(i) + begin, count, lower_, upper_,
                                   whole ? to + tally.inside : nullptr, tally);
                }
            });
#pragma omp critical(prunus_cut)
            {
                all.above += tally.above, all.inside += tally.inside, all.strange |= tally.strange;
                whole_ = whole_ && whole;
                inside_[thread] = tally.inside;
            }
        }
        int64_t packed = 0;
        for (int thread = 0; whole_ && thread < team_; packed += inside_[thread++])
            std::memmove(scratch_ + packed, scratch_ + thread * room_, sizeof(int32_t) * inside_[thread]);
    }

    void pass_over_gathered(Tally& tally) {
        whole_ = true;
        ranked_.tally(Kind::keys, scratch_, gathered_, lower_, upper_, scratch_, tally);
    }

    // The interval that has the cut, of the three that the pivots make: `above` scores are over both, `inside` between.
    void narrow(int64_t above, int64_t inside) {
        gathered_ = -1, stuck_ = false;  // if the cut is not inside, the next pass is over the scores again
        if (rank_ <= above) {
            lo_ = upper_ + 1, size_ = above;
            return;
        }
        above_ += above, rank_ -= above, size_ -= above;
        if (rank_ <= inside) {
            lo_ = lower_, hi_ = upper_, size_ = inside, stuck_ = !whole_;
            if (whole_) gathered_ = inside;
            return;
        }
        above_ += inside, rank_ -= inside, size_ -= inside;
        hi_ = lower_ - 1;
    }

    Cut among_few() {
        const int32_t key = ranked_at(scratch_, scratch_ + size_, rank_ - 1);
        const int64_t above = std::count_if(scratch_, scratch_ + size_, [=](int32_t one) { return one > key; });
        return {key, std::count(scratch_, scratch_ + size_, key), rank_ - above};
    }

    const Ranked& ranked_ = ranked();
    const Scores& scores_;
    const Kind kind_;
    const int team_;
    const int64_t room_;  // for keys that one thread gathers
    const std::unique_ptr<int32_t[]> memory_;
    int32_t *const sample_, *const scratch_;
    std::array<int64_t, TEAM> inside_;  // keys that each thread gathered

    int32_t lo_, hi_ = INFINITE;  // the interval that has the cut
    int64_t size_, above_ = 0;    // scores in it, and above it
    int64_t rank_;                // of the cut in it, counted from 1 and from the largest
    int64_t gathered_ = -1;       // all its keys are the first so many of the scratch memory; -1: they are not there
    int32_t lower_ = 0, upper_ = 0;
    bool whole_ = false, stuck_ = false;  // whether what is between the pivots was gathered; whether it has no room
};

}  // namespace

Cut find_cut(const Scores& scores, Kind kind, int64_t keep, int threads) {
    return Search(scores, kind, keep, threads).run();
}

}  // namespace prunus
