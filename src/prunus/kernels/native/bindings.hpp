// The types of the buffers that Python hands over: contiguous, on the CPU, of one type each.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <string>

namespace prunus {

namespace nb = nanobind;

template <class T, int N>
using Array = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;

// ValueError where a buffer has not the size that it must have: nothing is read or written past its end.
inline void check(bool holds, const char* what) {
    if (!holds) throw nb::value_error(what);
}

void bind_chain(nb::module_& m);
void bind_sparse(nb::module_& m);
void bind_ranked(nb::module_& m);

}  // namespace prunus
