// What Python sees: prunus.kernels._native. Plain buffers in and out, nothing of PyTorch.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "dispatch.hpp"

#ifdef _OPENMP
#include <omp.h>
#endif

#include "bindings.hpp"

namespace nb = nanobind;

namespace {

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (const prunus::Kernels* table : prunus::runnable()) names.emplace_back(table->instruction_set);
    return names;
}

void use(const std::string& name) {
    if (prunus::use(name)) return;
    std::string allowed;
    for (const std::string& one : instruction_sets()) allowed += (allowed.empty() ? "" : ", ") + one;
    throw nb::value_error(("instruction set is '" + name + "'; this CPU runs: " + allowed).c_str());
}

// How many threads a parallel region really gets: 1 where the module was compiled without OpenMP.
int threads() {
    int count = 1;
#ifdef _OPENMP
#pragma omp parallel
#pragma omp single
    count = omp_get_num_threads();
#endif
    return count;
}

}  // namespace

NB_MODULE(_native, m) {
    nb::set_leak_warnings(false);  // what a program still holds when it ends is no fault of it
    m.doc() = "Prunus's kernels in C++, compiled for several instruction sets and chosen when they are loaded.";
    m.def("instruction_sets", &instruction_sets, "The instruction sets that this CPU can run, best first.");
    m.def("instruction_set", [] { return prunus::kernels().instruction_set; }, "The instruction set in use.");
    m.def("use", &use, nb::arg("name"), "Use this instruction set from now on; ValueError if this CPU cannot run it.");
    m.def("threads", &threads, "The number of threads that a parallel region gets now, on the calling thread.");
    prunus::bind_chain(m);
    prunus::bind_sparse(m);
    prunus::bind_ranked(m);
#ifdef _OPENMP
    m.attr("openmp") = true;
#else
    m.attr("openmp") = false;
#endif
}
