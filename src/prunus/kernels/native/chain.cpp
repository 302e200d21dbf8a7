#include "chain.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "dispatch.hpp"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace prunus {

namespace {

// While it lives, numbers below 1.2e-38 count as zero. The moments of a weight whose gradient has died out would stay
// there for good, and arithmetic with them takes a hundred times as long.
class SmallestAreZero {
   public:
#if defined(__x86_64__)
    SmallestAreZero() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
    ~SmallestAreZero() { _mm_setcsr(before_); }

   private:
    unsigned before_;
#endif
};

// The rates of step `taken` + 1, at learning rate `lr`.
void resolve(Update& update, float decay, double lr, int64_t taken) {
    update.rate = static_cast<float>(lr);
    update.decay = update.rule == Rule::adamw ? static_cast<float>(1 - lr * static_cast<double>(decay)) : decay;
    if (update.rule == Rule::sgd) return;
    const auto t = static_cast<double>(taken + 1);
    update.rate = static_cast<float>(lr / (1 - std::pow(0.9, t)));
    update.root_scale = static_cast<float>(1 / std::sqrt(1 - std::pow(0.999, t)));
}

}  // namespace

Chain::Chain(std::vector<int> units, int batch)
    : units_(std::move(units)), batch_(batch), width_(static_cast<int>(padded(batch))), panels_(panels(batch)),
      weights_(units_.size() - 1), labels_(width_) {
    const int64_t widest = std::max(width_, PANEL);  // evaluation takes 64 examples at a time
    for (const int count : units_) activations_.emplace_back(rows_of(count) * widest);
    for (const int count : units_) gradients_.emplace_back(rows_of(count) * widest);
}

std::vector<Chain::Panel> Chain::panels(int examples) const {
    std::vector<Panel> panels;
    for (int at = 0; at < examples; at += PANEL) {
        const int there = std::min(PANEL, examples - at);
        panels.push_back({at / PANEL, there, static_cast<int>(padded(there))});
    }
    return panels;
}

void Chain::place(int i, std::unique_ptr<Weights> weights) { weights_[i] = std::move(weights); }

int64_t Chain::kept() const {
    int64_t kept = 0;
    for (const auto& w : weights_)
        kept += w->layer.sparse() ? w->layer.t_start[w->layer.inputs] : w->layer.outputs * int64_t{w->layer.inputs};
    return kept;
}

void Chain::clear_rows_behind() {
    for (const Panel& panel : panels_)
        for (size_t i = 0; i < units_.size(); i++) {
            const int64_t behind = (rows_of(units_[i]) - units_[i]) * panel.width;
            std::memset(panel.of(activations_[i], units_[i]) + int64_t{units_[i]} * panel.width, 0, sizeof(float) * behind);
        }
}

void Chain::gather(const Examples& examples, const Panel& panel, const int64_t* rows, const int64_t* next) {
    const std::vector<int32_t>& used = weights_[0]->used;
    kernels().gather(examples.images, used.data(), static_cast<int>(used.size()), rows, next, panel.examples,
                     panel.of(activations_[0], units_[0]), panel.width);
}

void Chain::forward(const Panel& panel) {
    for (int i = 0; i < layers(); i++)
        kernels().forward(weights_[i]->layer, panel.of(activations_[i], units_[i]),
                          panel.of(activations_[i + 1], units_[i + 1]), panel.width, i + 1 < layers(), {0, units_[i + 1]});
}

// From the gradient of what layer i ends with to that of what it begins with, and its step.
void Chain::backward(int i, const Update& update) {
    const Layer& layer = weights_[i]->layer;
    for (const Panel& panel : panels_) {
        if (i == 0) break;
        const int above = units_[i + 1], below = units_[i];
        kernels().input_gradient(layer, panel.of(gradients_[i + 1], above), panel.of(activations_[i], below),
                                 panel.of(gradients_[i], below), panel.width, {0, below});
    }
    kernels().update(layer, activations_[i].data(), gradients_[i + 1].data(), width_, update, {0, units_[i + 1]});
}

void Chain::train(const Examples& examples, const int64_t* rows, const double* rates, int iterations, int64_t taken,
                  Update update, double* sums) {
    const SmallestAreZero guard;
    clear_rows_behind();
    const float decay = update.decay;
    for (int i = 0; i < iterations; i++, rows += batch_) {
        resolve(update, decay, rates[i], taken + i);
        step(examples, rows, i + 1 < iterations ? rows + batch_ : nullptr, update, sums);
    }
}

void Chain::step(const Examples& examples, const int64_t* rows, const int64_t* next, const Update& update,
                 double* sums) {
    for (int b = 0; b < batch_; b++) labels_[b] = examples.labels[rows[b]];
    const int classes = units_.back();
    double seen[2] = {};
    for (const Panel& panel : panels_) {
        const int first = panel.number * PANEL;
        gather(examples, panel, rows + first, next ? next + first : nullptr);
        forward(panel);
        kernels().cross_entropy(panel.of(activations_.back(), classes), labels_.data() + first, classes, panel.examples,
                                panel.width, 1.0f / static_cast<float>(batch_), panel.of(gradients_.back(), classes), seen);
    }
    sums[0] += seen[0] / batch_, sums[1] += seen[1];
    for (int i = layers() - 1; i >= 0; i--) backward(i, update);
}

void Chain::evaluate(const Examples& examples, int64_t first, int64_t last, double* sums) {
    const SmallestAreZero guard;
    int64_t rows[PANEL];
    for (int64_t at = first; at < last; at += PANEL) {
        const Panel panel{0, static_cast<int>(std::min<int64_t>(PANEL, last - at)), PANEL};
        for (int b = 0; b < panel.examples; b++) rows[b] = at + b;
        gather(examples, panel, rows, nullptr);
        forward(panel);
        kernels().cross_entropy(activations_.back().data(), examples.labels + at, units_.back(), panel.examples, PANEL, 0,
                                nullptr, sums);
    }
}

double Chain::seconds(int i, int times) {
    using Clock = std::chrono::steady_clock;
    const SmallestAreZero guard;
    clear_rows_behind();
    double least = 1e9;
    for (int time = 0; time < times; time++) {
        const auto began = Clock::now();
        for (const Panel& panel : panels_)
            kernels().forward(weights_[i]->layer, panel.of(activations_[i], units_[i]),
                              panel.of(activations_[i + 1], units_[i + 1]), panel.width, false, {0, units_[i + 1]});
        backward(i, Update{});
        least = std::min(least, std::chrono::duration<double>(Clock::now() - began).count());
    }
    return least;
}

}  // namespace prunus
