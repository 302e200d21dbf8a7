// The largest of the scores of many layers, and the weights that stay because of them: what `prunus.core.ranked` uses.
//
// Scores, weights and outputs of a layer are arrays of one size whose entries lie in memory alike.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "bindings.hpp"
#include "cut.hpp"

namespace prunus {

namespace {

template <class T>
using Flat = nb::ndarray<T, nb::c_contig, nb::device::cpu>;  // of any number of dimensions
template <class T>
using Layers = std::vector<Flat<T>>;

template <class A, class B>
void check_alike(const A& a, const B& b) {
    check(a.size() == b.size(), "arrays that belong together differ in size");
}

Scores joined(const Layers<const float>& scores) {
    std::vector<const float*> parts;
    std::vector<int64_t> sizes;
    for (const auto& one : scores) parts.push_back(one.data()), sizes.push_back(static_cast<int64_t>(one.size()));
    return Scores(std::move(parts), sizes);
}

// The number that has this key, which is that of a magnitude or of a value.
double number(int32_t key) {
    const int32_t bits = key < 0 ? -key | ~MAGNITUDE : key;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// The cut; where all or none are kept it is at the lowest key that there could be, or above the highest.
Cut cut_of(const Scores& scores, Kind kind, int64_t keep, int threads) {
    if (keep && keep < scores.size()) return find_cut(scores, kind, keep, threads);
    return {keep ? -INFINITE : INFINITE + 1, 0, 0, strange(scores, kind)};
}

// Returns the smallest score that is kept, and how many too many of those that are as large are kept: none `in_order`,
// which says that positions are places in memory; else the last ones. -1 if a score is NaN, and nothing is written.
std::pair<double, int64_t> write_largest(const Layers<const float>& scores, const Layers<const float>& weights,
                                         const Layers<float>& outs, int64_t keep, bool absolute, bool in_order,
                                         int threads) {
    check_alike(scores, weights), check_alike(scores, outs);
    for (size_t i = 0; i < scores.size(); i++) check_alike(scores[i], weights[i]), check_alike(scores[i], outs[i]);
    const Scores all = joined(scores);
    check(keep >= 0 && keep <= all.size(), "keep is not between 0 and the number of scores");
    const Kind kind = absolute ? Kind::magnitudes : Kind::values;
    const nb::gil_scoped_release released;
    const Cut cut = cut_of(all, kind, keep, threads);
    if (cut.strange) return {0, -1};
    const int64_t surplus = cut.ties - cut.wanted;
    // up to this place those at the cut are kept, too
    const int64_t turn = surplus && in_order ? end_of_ties(all, kind, cut.key, cut.wanted) : all.size();
    const auto write = [&](int64_t from, int64_t to, int32_t least) {
        all.each(from, to, [&](size_t i, int64_t begin, int64_t end, int64_t) {
            ranked().write(kind, scores[i].data() + begin, weights[i].data() + begin, outs[i].data() + begin,
                           end - begin, least);
        });
    };
    const int parts = team(all.size(), threads);
#pragma omp parallel for schedule(static, 1) num_threads(parts) if (parts > 1)
    for (int part = 0; part < parts; part++) {
        const int64_t from = all.size() * part / parts, to = all.size() * (part + 1) / parts;
        write(from, std::min(to, turn), cut.key);
        write(std::max(from, turn), to, cut.key + 1);
    }
    return {number(cut.key), in_order ? 0 : surplus};
}

using Positions = nb::ndarray<nb::numpy, int64_t, nb::ndim<1>>;

Positions given(int64_t* positions, int64_t count) {
    const nb::capsule owner(positions, [](void* p) noexcept { delete[] static_cast<int64_t*>(p); });
    return Positions(positions, {static_cast<size_t>(count)}, owner);
}

// The positions in memory of the entries with a bit other than the sign, ascending.
Positions positions_of_bits(const Flat<const float>& bits) {
    const auto size = static_cast<int64_t>(bits.size());
    Tally tally;
    int64_t* found = nullptr;
    {
        const nb::gil_scoped_release released;
        ranked().tally(Kind::magnitudes, bits.data(), size, 1, MAGNITUDE, nullptr, tally);
        found = new int64_t[tally.inside];
        ranked().place(Kind::magnitudes, bits.data(), size, 1, 0, found);
    }
    return given(found, tally.inside);
}

// The positions in memory of the largest scores, ascending; of equal ones the first. None if a score is NaN.
nb::object positions_of_largest(const Flat<const float>& scores, int64_t keep, bool absolute, int threads) {
    const Scores all = joined({scores});
    check(keep >= 0 && keep <= all.size(), "keep is not between 0 and the number of scores");
    const Kind kind = absolute ? Kind::magnitudes : Kind::values;
    int64_t* found = nullptr;
    {
        const nb::gil_scoped_release released;
        const Cut cut = cut_of(all, kind, keep, threads);
        if (cut.strange) keep = -1;
        else found = new int64_t[keep];
        if (keep > 0) {
            const int64_t turn = cut.ties > cut.wanted ? end_of_ties(all, kind, cut.key, cut.wanted) : all.size();
            const int64_t first = ranked().place(kind, scores.data(), turn, cut.key, 0, found);
            ranked().place(kind, scores.data() + turn, all.size() - turn, cut.key + 1, turn, found + first);
        }
    }
    if (keep < 0) return nb::none();
    return nb::cast(given(found, keep));
}

void score_gradient(const Flat<const float>& gradient, const Flat<const float>& weights,
                    const Flat<const float>& scores, const Flat<float>& out, int threads) {
    check_alike(gradient, weights), check_alike(gradient, scores), check_alike(gradient, out);
    const nb::gil_scoped_release released;
    const auto size = static_cast<int64_t>(out.size());
    const int parts = team(size, threads);
#pragma omp parallel for schedule(static, 1) num_threads(parts) if (parts > 1)
    for (int part = 0; part < parts; part++) {
        const int64_t from = size * part / parts, to = size * (part + 1) / parts;
        ranked().gradient(gradient.data() + from, weights.data() + from, scores.data() + from, out.data() + from,
                          to - from);
    }
}

}  // namespace

void bind_ranked(nb::module_& m) {
    m.def("write_largest", &write_largest, nb::arg("scores").noconvert(), nb::arg("weights").noconvert(),
          nb::arg("outs").noconvert(), nb::arg("keep"), nb::arg("absolute"), nb::arg("in_order"), nb::arg("threads"));
    m.def("positions_of_bits", &positions_of_bits, nb::arg("bits").noconvert());
    m.def("positions_of_largest", &positions_of_largest, nb::arg("scores").noconvert(), nb::arg("keep"),
          nb::arg("absolute"), nb::arg("threads"));
    m.def("score_gradient", &score_gradient, nb::arg("gradient").noconvert(), nb::arg("weights").noconvert(),
          nb::arg("scores").noconvert(), nb::arg("out").noconvert(), nb::arg("threads"));
}

}  // namespace prunus
