#include "dispatch.hpp"

#include <atomic>

namespace prunus {

#ifdef PRUNUS_X86
// The compiler's builtin asks the CPU, and also whether the operating system saves the wide registers (XGETBV).
static bool runs_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool runs_avx512() {
    return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
#endif

std::vector<const Kernels*> runnable() {
    std::vector<const Kernels*> tables;
#ifdef PRUNUS_X86
    __builtin_cpu_init();
    if (runs_avx512()) tables.push_back(kernels_avx512());
    if (runs_avx2()) tables.push_back(kernels_avx2());
#endif
    tables.push_back(kernels_portable());
    return tables;
}

static std::atomic<const Kernels*>& chosen() {
    static std::atomic<const Kernels*> table{runnable().front()};
    return table;
}

const Kernels& kernels() { return *chosen().load(std::memory_order_relaxed); }

bool use(const std::string& instruction_set) {
    for (const Kernels* table : runnable()) {
        if (instruction_set == table->instruction_set) {
            chosen().store(table, std::memory_order_relaxed);
            return true;
        }
    }
    return false;
}

}  // namespace prunus
