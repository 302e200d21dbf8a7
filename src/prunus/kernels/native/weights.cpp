// The memory of a layer, dense or sparse, and its way in and out.
#include <cstring>
#include <new>
#include <numeric>

#include "chain.hpp"

namespace prunus {

template <class T>
Aligned<T>::Aligned(int64_t count) : size_(count) {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64 + 64;
    void* memory = std::aligned_alloc(64, bytes);
    if (!memory) throw std::bad_alloc();
    std::memset(memory, 0, bytes);
    data_.reset(static_cast<T*>(memory));
}
template class Aligned<float>;
template class Aligned<uint16_t>;
template class Aligned<int32_t>;
template class Aligned<int64_t>;

Weights::Weights(int outputs, int inputs, bool with_bias, const uint8_t* mask, bool sparse) {
    layer.outputs = outputs, layer.inputs = inputs;
    if (sparse && mask)
        lay_out_sparse(mask);
    else
        lay_out_dense(mask);
    layer.weight = values_[0].data(), layer.first = values_[1].data(), layer.second = values_[2].data();
    if (!with_bias) return;
    for (auto& bias : bias_) bias = Aligned<float>(padded(outputs));
    layer.bias = bias_[0].data(), layer.bias_first = bias_[1].data(), layer.bias_second = bias_[2].data();
}

void Weights::lay_out_dense(const uint8_t* mask) {
    layer.stride = padded(layer.inputs);
    used.resize(layer.inputs);
    std::iota(used.begin(), used.end(), 0);
    for (auto& values : values_) values = Aligned<float>(layer.outputs * layer.stride);
    if (!mask) return;
    bits_ = Aligned<uint16_t>(layer.outputs * layer.stride / LANE);
    for (int64_t o = 0; o < layer.outputs; o++)
        for (int64_t k = 0; k < layer.inputs; k++)
            if (mask[o * layer.inputs + k]) bits_[(o * layer.stride + k) / LANE] |= uint16_t(1u << (k % LANE));
    layer.bits = bits_.data();
}

void Weights::lay_out_sparse(const uint8_t* mask) {
    const int64_t outputs = layer.outputs, inputs = layer.inputs;
    start_ = Aligned<int32_t>(outputs), count_ = Aligned<int32_t>(outputs), t_start_ = Aligned<int32_t>(inputs + 1);
    int64_t places = 0, kept = 0;
    for (int64_t o = 0; o < outputs; o++) {
        for (int64_t k = 0; k < inputs; k++)
            if (mask[o * inputs + k]) count_[o]++, t_start_[k + 1]++;
        start_[o] = static_cast<int32_t>(places);
        places += padded(count_[o]), kept += count_[o];
    }
    for (int32_t k = 0; k < inputs; k++) {
        if (t_start_[k + 1]) used.push_back(k);
        t_start_[k + 1] += t_start_[k];
    }
    column_ = Aligned<int32_t>(places + LANE), t_row_ = Aligned<int32_t>(kept), t_place_ = Aligned<int32_t>(kept);
    for (int64_t p = 0; p < places + LANE; p++) column_[p] = static_cast<int32_t>(inputs);
    std::vector<int32_t> next(t_start_.data(), t_start_.data() + inputs);
    for (int64_t o = 0; o < outputs; o++) {
        int32_t place = start_[o];
        for (int64_t k = 0; k < inputs; k++)
            if (mask[o * inputs + k]) {
                column_[place] = static_cast<int32_t>(k);
                t_row_[next[k]] = static_cast<int32_t>(o), t_place_[next[k]++] = place++;
            }
    }
    for (auto& values : values_) values = Aligned<float>(places);
    layer.start = start_.data(), layer.count = count_.data(), layer.column = column_.data();
    layer.t_start = t_start_.data(), layer.t_row = t_row_.data(), layer.t_place = t_place_.data();
}

void Weights::write(Part part, const float* dense) {
    float* to = values_[part].data();
    for (int64_t o = 0; o < layer.outputs; o++, dense += layer.inputs) {
        if (layer.sparse()) {
            const int32_t at = layer.start[o];
            for (int32_t p = at; p < at + layer.count[o]; p++) to[p] = dense[layer.column[p]];
        } else {
            for (int64_t k = 0; k < layer.inputs; k++) {
                const int64_t p = o * layer.stride + k;
                to[p] = !layer.bits || (layer.bits[p / LANE] >> (p % LANE) & 1) ? dense[k] : 0.0f;
            }
        }
    }
}

void Weights::read(Part part, float* dense) const {
    const float* from = values_[part].data();
    for (int64_t o = 0; o < layer.outputs; o++, dense += layer.inputs) {
        if (layer.sparse()) {
            std::memset(dense, 0, sizeof(float) * layer.inputs);
            const int32_t at = layer.start[o];
            for (int32_t p = at; p < at + layer.count[o]; p++) dense[layer.column[p]] = from[p];
        } else {
            std::memcpy(dense, from + o * layer.stride, sizeof(float) * layer.inputs);
        }
    }
}

void Weights::write_bias(Part part, const float* values) {
    std::memcpy(bias_[part].data(), values, sizeof(float) * layer.outputs);
}

void Weights::read_bias(Part part, float* values) const {
    std::memcpy(values, bias_[part].data(), sizeof(float) * layer.outputs);
}

}  // namespace prunus
