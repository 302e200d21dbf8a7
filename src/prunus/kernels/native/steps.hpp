// Gradients of weights and the optimizer's step on them at once: a gradient never leaves the registers.
#pragma once

#include "gradients.hpp"

namespace prunus::PRUNUS_ISA {

struct Adam {
    Vec rate, root_scale, epsilon, rest1, beta2, rest2, decay, keep;

    explicit Adam(const Update& u)
        : rate(all(-u.rate)), root_scale(all(u.root_scale)), epsilon(all(u.epsilon)),
          rest1(all(static_cast<float>(1 - u.beta1))), beta2(all(static_cast<float>(u.beta2))),
          rest2(all(static_cast<float>(1 - u.beta2))), decay(all(u.rule == Rule::adamw ? 0 : u.decay)),
          keep(all(u.rule == Rule::adamw ? u.decay : 1)) {}

    void operator()(float* weight, float* first, float* second, Vec g) const {
        Vec w = load(weight), m = load(first), v = load(second);
        g = fma(decay, w, g);
        m = fma(rest1, sub(g, m), m);
        v = fma(mul(rest2, g), g, mul(beta2, v));
        w = fma(rate, div(m, fma(root(v), root_scale, epsilon)), mul(w, keep));
        store(weight, w), store(first, m), store(second, v);
    }
};

struct Sgd {
    Vec rate, decay, momentum;
    bool moving, nesterov;

    explicit Sgd(const Update& u)
        : rate(all(-u.rate)), decay(all(u.decay)), momentum(all(u.momentum)), moving(u.momentum != 0),
          nesterov(u.nesterov) {}

    void operator()(float* weight, float* first, float*, Vec g) const {
        const Vec w = load(weight);
        g = fma(decay, w, g);
        if (moving) {
            const Vec m = fma(momentum, load(first), g);
            store(first, m);
            g = nesterov ? fma(momentum, m, g) : m;
        }
        store(weight, fma(rate, g, w));
    }
};

template <class Step>
void update_with(const Step& step, const Layer& l, const float* x, const float* dy, int batch, Range outputs) {
    // Of a dense layer the next row's weights and moments are asked for: they lie in short pieces far apart, which the
    // hardware does not foresee, and come from the third-level cache each time.
    const int64_t ahead = l.sparse() ? 0 : l.stride;
    each_gradient(l, x, dy, batch, outputs, [=](int64_t place, const float* found, int count) {
        float *weight = l.weight + place, *first = l.first + place, *second = l.second + place;
        for (int g = 0; g < count; g += W) {
            fetch(weight + g + ahead), fetch(first + g + ahead), fetch(second + g + ahead);
            step(weight + g, first + g, second + g, load(found + g));
        }
    });
    if (!l.bias) return;
    for (int o = outputs.from; o < outputs.to; o += W)
        step(l.bias + o, l.bias_first + o, l.bias_second + o, row_sums(dy, l.outputs, o, batch));
}

static void update(const Layer& l, const float* x, const float* dy, int batch, const Update& u, Range outputs) {
    if (u.rule == Rule::sgd)
        update_with(Sgd(u), l, x, dy, batch, outputs);
    else
        update_with(Adam(u), l, x, dy, batch, outputs);
}

}  // namespace prunus::PRUNUS_ISA
