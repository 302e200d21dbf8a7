// The kernels, for the instruction set PRUNUS_ISA (portable, avx2 or avx512).
//
// Dense and sparse layers give the same results bit for bit: every sum runs in the same order, and a weight that is
// not there would have added zero. So which of the two is used is a question of speed alone.
//
// This file is compiled three times, and the three objects are linked together. Two rules follow, for it and for what it
// includes:
// - everything but the one exported function lives in the namespace prunus::PRUNUS_ISA, or is static: two functions
//   of one name would be merged by the linker, and the portable one could get AVX-512 code. For the same reason
//   nothing of the standard library's templates is used.
// - no object with a constructor at file scope: it would run, with this file's instructions, on every CPU.
#include "ends.hpp"
#include "gradients.hpp"
#include "products.hpp"
#include "steps.hpp"
#include "table.hpp"

#define PRUNUS_JOIN_(a, b) a##b
#define PRUNUS_JOIN(a, b) PRUNUS_JOIN_(a, b)
#define PRUNUS_TEXT_(a) #a
#define PRUNUS_TEXT(a) PRUNUS_TEXT_(a)

namespace prunus {

const Kernels* PRUNUS_JOIN(kernels_, PRUNUS_ISA)() {
    using namespace PRUNUS_ISA;
    static const Kernels table = {
        PRUNUS_TEXT(PRUNUS_ISA), forward, input_gradient,  cross_entropy, gather,
        turn,                    turn_back, weight_gradient, bias_gradient, update,
    };
    return &table;
}

}  // namespace prunus
