// Products of one sparse layer with batches of any float tensor: what `prunus.kernels.sparse` makes an operator of.
//
// Values come as one number for each weight that is there, row by row; examples as rows [examples, units].
#include <nanobind/stl/optional.h>
#include <nanobind/stl/unique_ptr.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "bindings.hpp"
#include "chain.hpp"
#include "dispatch.hpp"

namespace prunus {

namespace {

using Values = Array<const float, 1>;
using Rows = Array<const float, 2>;

int64_t kept(const Layer& l) { return l.t_start[l.inputs]; }
int64_t places(const Layer& l) { return l.outputs ? l.start[l.outputs - 1] + padded(l.count[l.outputs - 1]) : 0; }

// Between values one after the other and the places of a layer, of which each row has a multiple of 16.
void spread(const Layer& l, const float* values, float* to) {
    for (int o = 0; o < l.outputs; values += l.count[o++])
        std::memcpy(to + l.start[o], values, sizeof(float) * l.count[o]);
}
void collect(const Layer& l, const float* from, float* values) {
    for (int o = 0; o < l.outputs; values += l.count[o++])
        std::memcpy(values, from + l.start[o], sizeof(float) * l.count[o]);
}

// Examples in the kernels' order: panel by panel.
class Panels {
   public:
    Panels(int64_t examples, int units) : examples_(examples), units_(units), rows_(count() * size()) {}
    int64_t count() const { return (examples_ + PANEL - 1) / PANEL; }
    int batch() const { return static_cast<int>(padded(examples_)); }
    int there(int64_t panel) const { return static_cast<int>(std::min<int64_t>(PANEL, examples_ - panel * PANEL)); }
    int width(int64_t panel) const { return static_cast<int>(padded(there(panel))); }
    float* at(int64_t panel) const { return rows_.data() + panel * size(); }

    void turn(const float* from, int64_t panel) const {
        kernels().turn(from + panel * PANEL * units_, units_, there(panel), at(panel), width(panel), {0, units_});
    }
    void turn_back(float* to, int64_t panel) const {
        kernels().turn_back(at(panel), units_, there(panel), to + panel * PANEL * units_, width(panel), {0, units_});
    }

   private:
    int64_t size() const { return rows_of(units_) * PANEL; }

    int64_t examples_;
    int units_;
    Aligned<float> rows_;
};

// `work(i)` for i below `count`, on as many threads as there are tasks for.
template <class Work>
void each(int64_t count, int threads, Work work) {
    const int team = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, count)));
    (void)team;
#pragma omp parallel for schedule(dynamic, 1) num_threads(team) if (team > 1)
    for (int64_t i = 0; i < count; i++) work(i);
}

// The units in parts that begin at multiples of 16, one for each thread.
Range part_of(int units, int64_t part, int parts) {
    const int64_t size = padded((units + parts - 1) / parts);
    return {static_cast<int>(std::min<int64_t>(units, part * size)),
            static_cast<int>(std::min<int64_t>(units, (part + 1) * size))};
}

std::unique_ptr<Weights> make(const Array<const uint8_t, 2>& mask) {
    check(mask.shape(0) >= 1 && mask.shape(1) >= 1, "a pattern needs an output and an input");
    return std::make_unique<Weights>(static_cast<int>(mask.shape(0)), static_cast<int>(mask.shape(1)), false,
                                     mask.data(), true);
}

void check_values(const Layer& l, size_t size) {
    check(static_cast<int64_t>(size) == kept(l), "there is not one value for each weight of the pattern");
}
template <class A, class B>
void check_rows(const Layer& l, const A& x, const B& y) {
    check(x.shape(1) == static_cast<size_t>(l.inputs) && y.shape(1) == static_cast<size_t>(l.outputs) &&
              x.shape(0) == y.shape(0),
          "rows do not fit the pattern, or each other");
}

void forward(const Weights& pattern, const Values& values, const std::optional<Values>& bias, const Rows& x,
             const Array<float, 2>& y, int threads) {
    Layer l = pattern.layer;
    check_values(l, values.size()), check_rows(l, x, y);
    check(!bias || bias->size() == static_cast<size_t>(l.outputs), "there is not one bias for each output");
    const nb::gil_scoped_release released;
    const Aligned<float> weight(places(l)), shift(padded(l.outputs));
    spread(l, values.data(), weight.data());
    if (bias) std::memcpy(shift.data(), bias->data(), sizeof(float) * l.outputs);
    l.weight = weight.data(), l.bias = shift.data();
    const Panels from(x.shape(0), l.inputs), to(x.shape(0), l.outputs);
    each(from.count(), threads, [&](int64_t p) {
        from.turn(x.data(), p);
        kernels().forward(l, from.at(p), to.at(p), from.width(p), false, {0, l.outputs});
        to.turn_back(y.data(), p);
    });
}

void input_gradient(const Weights& pattern, const Values& values, const Rows& dy, const Array<float, 2>& dx,
                    int threads) {
    Layer l = pattern.layer;
    check_values(l, values.size()), check_rows(l, dx, dy);
    const nb::gil_scoped_release released;
    const Aligned<float> weight(places(l));
    spread(l, values.data(), weight.data());
    l.weight = weight.data();
    const Panels from(dy.shape(0), l.outputs), to(dy.shape(0), l.inputs);
    each(from.count(), threads, [&](int64_t p) {
        from.turn(dy.data(), p);
        kernels().input_gradient(l, from.at(p), nullptr, to.at(p), from.width(p), {0, l.inputs});
        to.turn_back(dx.data(), p);
    });
}

void weight_gradient(const Weights& pattern, const Rows& x, const Rows& dy, const Array<float, 1>& values,
                     int threads) {
    const Layer& l = pattern.layer;
    check_values(l, values.size()), check_rows(l, x, dy);
    const nb::gil_scoped_release released;
    if (!x.shape(0)) return;
    const Panels from(x.shape(0), l.inputs), above(x.shape(0), l.outputs);
    each(from.count(), threads, [&](int64_t p) { from.turn(x.data(), p), above.turn(dy.data(), p); });
    const Aligned<float> found(places(l));
    const int parts = std::max(1, threads);
    each(parts, threads, [&](int64_t i) {
        const Range outputs = part_of(l.outputs, i, parts);
        if (outputs.from < outputs.to)
            kernels().weight_gradient(l, from.at(0), above.at(0), from.batch(), found.data(), outputs);
    });
    collect(l, found.data(), values.data());
}

}  // namespace

void bind_sparse(nb::module_& m) {
    nb::class_<Weights>(m, "Pattern", "Which weights of a layer [outputs, inputs] are there.")
        .def(nb::new_(&make), nb::arg("mask"))
        .def_prop_ro("kept", [](const Weights& pattern) { return kept(pattern.layer); });
    m.def("sparse_forward", &forward, nb::arg("pattern"), nb::arg("values"), nb::arg("bias").none(), nb::arg("x"),
          nb::arg("y"), nb::arg("threads"));
    m.def("sparse_input_gradient", &input_gradient, nb::arg("pattern"), nb::arg("values"), nb::arg("dy"),
          nb::arg("dx"), nb::arg("threads"));
    m.def("sparse_weight_gradient", &weight_gradient, nb::arg("pattern"), nb::arg("x"), nb::arg("dy"),
          nb::arg("values"), nb::arg("threads"));
}

}  // namespace prunus
