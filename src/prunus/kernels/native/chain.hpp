// A chain of linear layers with ReLU between them, its optimizer, and the loop that trains it.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "table.hpp"

namespace prunus {

// An array whose first entry, like those of all rows of a multiple of 16, is at a 64-byte boundary; zero at first.
template <class T>
class Aligned {
   public:
    Aligned() = default;
    explicit Aligned(int64_t count);
    T* data() const { return data_.get(); }
    int64_t size() const { return size_; }
    T& operator[](int64_t i) const { return data_.get()[i]; }

   private:
    struct Free {
        void operator()(void* p) const { std::free(p); }
    };
    std::unique_ptr<T[], Free> data_;
    int64_t size_ = 0;
};

// The memory of one layer; `layer` points into it.
class Weights {
   public:
    // mask: [outputs, inputs], not 0 where a weight is there; null if all are.
    Weights(int outputs, int inputs, bool with_bias, const uint8_t* mask, bool sparse);
    // Between the kernels' order and dense row-major arrays; `write` leaves out what the mask leaves out.
    enum Part { weight, first, second };
    void write(Part part, const float* dense);
    void read(Part part, float* dense) const;
    void write_bias(Part part, const float* values);
    void read_bias(Part part, float* values) const;

    Layer layer;
    std::vector<int32_t> used;  // the inputs that any weight is there for; all where the layer is dense

   private:
    void lay_out_sparse(const uint8_t* mask);
    void lay_out_dense(const uint8_t* mask);

    Aligned<float> values_[3], bias_[3];
    Aligned<uint16_t> bits_;
    Aligned<int32_t> start_, count_, column_, t_start_, t_row_, t_place_;
};

// Images and their labels.
struct Examples {
    Images images;
    const int64_t* labels;
};

class Chain {
   public:
    Chain(std::vector<int> units, int batch);
    // From here on layer `i` is this one.
    void place(int i, std::unique_ptr<Weights> weights);
    // Train on `iterations` batches: rows [iterations, batch] of the images; rates [iterations] of learning rates;
    // `taken` steps were taken before. Each batch's mean loss is added to sums[0], its correct predictions to sums[1].
    void train(const Examples& examples, const int64_t* rows, const double* rates, int iterations, int64_t taken,
               Update update, double* sums);
    // Adds to `sums` the losses and the correct predictions of the examples from `first` up to `last`.
    void evaluate(const Examples& examples, int64_t first, int64_t last, double* sums);
    // Seconds for the products of layer `i` in one step at learning rate 0, the least of `times` tries.
    double seconds(int i, int times);

    int layers() const { return static_cast<int>(units_.size()) - 1; }
    int units(int i) const { return units_[i]; }
    int batch() const { return batch_; }
    Weights& weights(int i) const { return *weights_[i]; }
    int64_t kept() const;

   private:
    // One panel of the batch: its examples, its width, and where its rows begin, of which a layer has so many units.
    struct Panel {
        int number, examples, width;
        float* of(const Aligned<float>& rows, int units) const { return rows.data() + number * PANEL * rows_of(units); }
    };
    std::vector<Panel> panels(int examples) const;
    void step(const Examples& examples, const int64_t* rows, const int64_t* next, const Update& update, double* sums);
    void gather(const Examples& examples, const Panel& panel, const int64_t* rows, const int64_t* next);
    void forward(const Panel& panel);
    void backward(int i, const Update& update);
    void clear_rows_behind();

    std::vector<int> units_;
    int batch_, width_;  // examples in a batch, and the same padded
    std::vector<Panel> panels_;
    std::vector<std::unique_ptr<Weights>> weights_;
    // What each layer begins with, the images first, and its gradients.
    std::vector<Aligned<float>> activations_, gradients_;
    Aligned<int64_t> labels_;
};

}  // namespace prunus
