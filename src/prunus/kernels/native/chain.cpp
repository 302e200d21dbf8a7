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
    : units_(std::move(units)), batch_(batch), width_((batch + LANE - 1) / LANE * LANE), weights_(units_.size() - 1) {
    const int64_t widest = std::max(width_, EVALUATED);
    const int64_t most = *std::max_element(units_.begin(), units_.end());
    for (const int count : units_) activations_.emplace_back((count + 1) * widest);
    upstream_ = Aligned<float>(most * widest), downstream_ = Aligned<float>(most * widest);
    labels_ = Aligned<int64_t>(widest);
}

void Chain::place(int i, std::unique_ptr<Weights> weights) { weights_[i] = std::move(weights); }

int64_t Chain::kept() const {
    int64_t kept = 0;
    for (const auto& w : weights_)
        kept += w->layer.sparse() ? w->layer.t_start[w->layer.inputs] : w->layer.outputs * int64_t{w->layer.inputs};
    return kept;
}

void Chain::clear_rows_behind(int width) {
    for (size_t i = 0; i < units_.size(); i++)
        std::memset(activations_[i].data() + int64_t{units_[i]} * width, 0, sizeof(float) * width);
}

void Chain::forward(int width) {
    for (int i = 0; i < layers(); i++)
        kernels().forward(weights_[i]->layer, activations_[i].data(), activations_[i + 1].data(), width,
                          i + 1 < layers());
}

void Chain::train(const Images& images, const int64_t* rows, const double* rates, int iterations, int64_t taken,
                  Update update, double* sums) {
    const SmallestAreZero guard;
    clear_rows_behind(width_);
    const float decay = update.decay;
    for (int i = 0; i < iterations; i++) {
        resolve(update, decay, rates[i], taken + i);
        step(images, rows + int64_t{i} * batch_, update, sums);
    }
}

void Chain::step(const Images& images, const int64_t* rows, const Update& update, double* sums) {
    const Kernels& k = kernels();
    k.gather(images.bytes, rows, batch_, units_[0], images.scale, images.shift, activations_[0].data(), width_);
    for (int b = 0; b < batch_; b++) labels_[b] = images.labels[rows[b]];
    forward(width_);
    double seen[2] = {};
    float *above = upstream_.data(), *below = downstream_.data();
    k.cross_entropy(activations_.back().data(), labels_.data(), units_.back(), batch_, width_, above, seen);
    sums[0] += seen[0] / batch_, sums[1] += seen[1];
    for (int i = layers() - 1; i >= 0; i--) {
        const Layer& layer = weights_[i]->layer;
        const float* entering = activations_[i].data();
        if (i > 0) {
            k.input_gradient(layer, above, below, width_);
            k.rectify_gradient(entering, below, int64_t{units_[i]} * width_);
        }
        k.update(layer, entering, above, width_, update);
        std::swap(above, below);
    }
}

void Chain::evaluate(const Images& images, int64_t first, int64_t last, double* sums) {
    const SmallestAreZero guard;
    int64_t rows[EVALUATED];
    for (int64_t at = first; at < last; at += EVALUATED) {
        const int there = static_cast<int>(std::min<int64_t>(EVALUATED, last - at));
        for (int b = 0; b < there; b++) rows[b] = at + b;
        kernels().gather(images.bytes, rows, there, units_[0], images.scale, images.shift, activations_[0].data(),
                         EVALUATED);
        forward(EVALUATED);
        kernels().cross_entropy(activations_.back().data(), images.labels + at, units_.back(), there, EVALUATED,
                                nullptr, sums);
    }
}

double Chain::seconds(int i, int times) {
    using Clock = std::chrono::steady_clock;
    const SmallestAreZero guard;
    const Layer& layer = weights_[i]->layer;
    float *x = activations_[i].data(), *y = activations_[i + 1].data(), *dy = upstream_.data();
    clear_rows_behind(width_);
    double least = 1e9;
    for (int time = 0; time < times; time++) {
        const auto began = Clock::now();
        kernels().forward(layer, x, y, width_, false);
        if (i > 0) kernels().input_gradient(layer, dy, downstream_.data(), width_);
        kernels().update(layer, x, dy, width_, Update{});
        least = std::min(least, std::chrono::duration<double>(Clock::now() - began).count());
    }
    return least;
}

}  // namespace prunus
