// Chains as Python sees them: one object for each lane, and two functions that move many of them at once.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <numeric>
#include <optional>

#include "bindings.hpp"
#include "chain.hpp"

namespace prunus {

namespace {

using Matrix = Array<const float, 2>;
using Vector = Array<const float, 1>;
using Mask = Array<const uint8_t, 2>;

void check_layer(const Chain& chain, int i) { check(i >= 0 && i < chain.layers(), "there is no such layer"); }

template <class M>
void check_matrix(const Chain& chain, int i, const M& matrix) {
    const auto outputs = static_cast<size_t>(chain.units(i + 1)), inputs = static_cast<size_t>(chain.units(i));
    check(matrix.shape(0) == outputs && matrix.shape(1) == inputs, "a matrix has not the shape of its layer");
}

template <class V>
void check_bias(const Chain& chain, int i, const std::optional<V>& bias) {
    check(!bias || bias->shape(0) == static_cast<size_t>(chain.units(i + 1)), "a bias has not the size of its layer");
}

std::unique_ptr<Chain> make(std::vector<int> units, int batch) {
    check(units.size() >= 2 && *std::min_element(units.begin(), units.end()) >= 1 && batch >= 1,
          "a chain needs two counts of units, and a batch, of at least 1");
    return std::make_unique<Chain>(std::move(units), batch);
}

void place(Chain& chain, int i, const Matrix& weight, const std::optional<Vector>& bias,
           const std::optional<Mask>& mask, bool sparse) {
    check_layer(chain, i), check_matrix(chain, i, weight), check_bias(chain, i, bias);
    if (mask) check_matrix(chain, i, *mask);
    auto weights = std::make_unique<Weights>(chain.units(i + 1), chain.units(i), bias.has_value(),
                                             mask ? mask->data() : nullptr, sparse);
    weights->write(Weights::weight, weight.data());
    if (bias) weights->write_bias(Weights::weight, bias->data());
    chain.place(i, std::move(weights));
}

void write(Chain& chain, int i, int part, const Matrix& values, const std::optional<Vector>& bias) {
    check_layer(chain, i), check_matrix(chain, i, values), check_bias(chain, i, bias);
    check(part >= 0 && part < 3 && bias.has_value() == (chain.weights(i).layer.bias != nullptr), "no such part");
    chain.weights(i).write(static_cast<Weights::Part>(part), values.data());
    if (bias) chain.weights(i).write_bias(static_cast<Weights::Part>(part), bias->data());
}

void read(const Chain& chain, int i, int part, const Array<float, 2>& values,
          const std::optional<Array<float, 1>>& bias) {
    check_layer(chain, i), check_matrix(chain, i, values), check_bias(chain, i, bias);
    check(part >= 0 && part < 3 && bias.has_value() == (chain.weights(i).layer.bias != nullptr), "no such part");
    chain.weights(i).read(static_cast<Weights::Part>(part), values.data());
    if (bias) chain.weights(i).read_bias(static_cast<Weights::Part>(part), bias->data());
}

// What all examples have in common, checked once.
struct Source {
    Examples where;
    int64_t examples;

    Source(const Array<const uint8_t, 2>& bytes, const Array<const int64_t, 1>& labels, const Vector& scale,
           const Vector& shift, const Chain& chain)
        : where{{bytes.data(), static_cast<int64_t>(bytes.shape(1)), scale.data(), shift.data()}, labels.data()},
          examples(static_cast<int64_t>(labels.shape(0))) {
        const auto inputs = static_cast<size_t>(chain.units(0));
        check(static_cast<int64_t>(bytes.shape(0)) == examples && bytes.shape(1) == inputs &&
                  scale.shape(0) == inputs && shift.shape(0) == inputs,
              "images, labels, scale and shift do not fit each other, or the chain");
    }
};

// Each set of labels once: lanes share theirs.
void check_labels(const std::vector<Source>& sources, const std::vector<Chain*>& chains) {
    for (size_t i = 0; i < sources.size(); i++) {
        const int64_t classes = chains[i]->units(chains[i]->layers());
        const int64_t* labels = sources[i].where.labels;
        if (i && labels == sources[i - 1].where.labels) continue;
        for (int64_t j = 0; j < sources[i].examples; j++)
            check(labels[j] >= 0 && labels[j] < classes, "a label is no class of the chain");
    }
}

// One lane's part of a call to `train`.
struct Task {
    Chain* chain;
    Examples examples;
    const int64_t* rows;
    const double* rates;
    int iterations;
    int64_t taken;
    double* sums;
};

Update update_of(int rule, float decay, float momentum, bool nesterov) {
    check(rule >= 0 && rule <= 2, "there is no such optimizer");
    Update update;
    update.rule = static_cast<Rule>(rule), update.decay = decay;
    update.momentum = momentum, update.nesterov = nesterov;
    return update;
}

// Each lane is one task on one thread, the longest first: so its numbers depend on no other lane, nor on the threads.
template <class Tasks, class Work>
void each_lane(Tasks& tasks, int threads, Work work) {
    nb::gil_scoped_release released;
    const int count = static_cast<int>(tasks.size());
    (void)threads;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1 && count > 1)
    for (int i = 0; i < count; i++) work(tasks[i]);
}

void train(const std::vector<Chain*>& chains, const std::vector<Array<const uint8_t, 2>>& images,
           const std::vector<Array<const int64_t, 1>>& labels, const Vector& scale, const Vector& shift,
           const std::vector<Array<const int64_t, 2>>& rows, const std::vector<Array<const double, 1>>& rates,
           const std::vector<int64_t>& taken, const std::vector<Array<double, 1>>& sums, int rule, float decay,
           float momentum, bool nesterov, int threads) {
    const size_t count = chains.size();
    check(images.size() == count && labels.size() == count && rows.size() == count && rates.size() == count &&
              taken.size() == count && sums.size() == count,
          "a list has not one entry for each chain");
    const Update update = update_of(rule, decay, momentum, nesterov);
    std::vector<Source> sources;
    for (size_t i = 0; i < count; i++) sources.emplace_back(images[i], labels[i], scale, shift, *chains[i]);
    check_labels(sources, chains);
    std::vector<Task> tasks;
    for (size_t i = 0; i < count; i++) {
        check(rows[i].shape(1) == static_cast<size_t>(chains[i]->batch()) &&
                  rates[i].shape(0) == rows[i].shape(0) && sums[i].shape(0) == 2,
              "rows are not [iterations, batch], rates not [iterations], or sums not [2]");
        for (size_t j = 0; j < rows[i].size(); j++)
            check(rows[i].data()[j] >= 0 && rows[i].data()[j] < sources[i].examples, "a row is no example");
        tasks.push_back({chains[i], sources[i].where, rows[i].data(), rates[i].data(), static_cast<int>(rows[i].shape(0)),
                         taken[i], sums[i].data()});
    }
    std::stable_sort(tasks.begin(), tasks.end(), [](const Task& a, const Task& b) {
        return a.chain->kept() * a.iterations > b.chain->kept() * b.iterations;
    });
    each_lane(tasks, threads, [&](const Task& t) {
        t.chain->train(t.examples, t.rows, t.rates, t.iterations, t.taken, update, t.sums);
    });
}

void evaluate(const std::vector<Chain*>& chains, const Array<const uint8_t, 2>& images,
              const Array<const int64_t, 1>& labels, const Vector& scale, const Vector& shift,
              const Array<double, 2>& sums, int threads) {
    check(sums.shape(0) == chains.size() && sums.shape(1) == 2, "sums are not [chains, 2]");
    std::vector<size_t> tasks(chains.size());
    std::iota(tasks.begin(), tasks.end(), 0);
    std::vector<Source> sources;
    for (const Chain* chain : chains) sources.emplace_back(images, labels, scale, shift, *chain);
    check_labels(sources, chains);
    each_lane(tasks, threads, [&](size_t i) {
        chains[i]->evaluate(sources[i].where, 0, sources[i].examples, sums.data() + 2 * i);
    });
}

}  // namespace

void bind_chain(nb::module_& m) {
    nb::class_<Chain>(m, "Chain", "Linear layers with ReLU between them, with the state of an optimizer.")
        .def(nb::new_(&make), nb::arg("units"), nb::arg("batch"))
        .def("place", &place, nb::arg("layer"), nb::arg("weight"), nb::arg("bias").none(), nb::arg("mask").none(),
             nb::arg("sparse"), "Make a layer anew; its moments are zero.")
        .def("write", &write, nb::arg("layer"), nb::arg("part"), nb::arg("values"), nb::arg("bias").none(),
             "Set weights (part 0) or moments (1, 2) of a layer.")
        .def("read", &read, nb::arg("layer"), nb::arg("part"), nb::arg("values"), nb::arg("bias").none(),
             "Copy weights (part 0) or moments (1, 2) of a layer out.")
        .def("seconds", [](Chain& chain, int i, int times) { check_layer(chain, i); return chain.seconds(i, times); },
             nb::arg("layer"), nb::arg("times"), nb::call_guard<nb::gil_scoped_release>());
    m.def("train", &train, nb::arg("chains"), nb::arg("images"), nb::arg("labels"), nb::arg("scale"),
          nb::arg("shift"), nb::arg("rows"), nb::arg("rates"), nb::arg("taken"), nb::arg("sums"), nb::arg("rule"),
          nb::arg("decay"), nb::arg("momentum"), nb::arg("nesterov"), nb::arg("threads"));
    m.def("evaluate", &evaluate, nb::arg("chains"), nb::arg("images"), nb::arg("labels"), nb::arg("scale"),
          nb::arg("shift"), nb::arg("sums"), nb::arg("threads"));
}

}  // namespace prunus
