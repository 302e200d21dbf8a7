// Which of the compiled instruction sets is used: the best that this CPU can run, until another is chosen.
#pragma once

#include <string>
#include <vector>

#include "table.hpp"

namespace prunus {

// The tables that this CPU (and its operating system) can run, best first; the last is the portable one.
std::vector<const Kernels*> runnable();

// The table in use.
const Kernels& kernels();

// Use the table of this name from now on, in every thread; false, and nothing changes, if it is not runnable.
bool use(const std::string& instruction_set);

}  // namespace prunus
