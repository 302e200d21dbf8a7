"""The compiled module: its choice of instruction set, the one OpenMP runtime, and what happens where it is missing."""

import ast
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from prunus import kernels

BEST_FIRST = ["avx512", "avx2", "portable"]
NEEDED = {"avx512": {"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx2", "fma"}, "avx2": {"avx2", "fma"}}

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def native():
    if not kernels.available():
        pytest.skip("the C++ kernels were not built here")
    module = kernels.native()
    assert module is not None
    return module


@pytest.fixture
def with_openmp(native):
    if not native.openmp:
        pytest.skip("the compiler's OpenMP runtime is not PyTorch's")
    return native


def answers(program: str, **environment: str) -> list[str]:
    """The lines that a fresh interpreter prints, with `environment` added and PRUNUS_ISA not set otherwise."""
    inherited = {name: value for name, value in os.environ.items() if name != "PRUNUS_ISA"}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=inherited | environment, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_the_type_stub_names_what_the_module_has(native):
    stub = ast.parse(Path(native.__file__).with_name("_native.pyi").read_text())
    named = {node.name for node in stub.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    named |= {
        node.target.id for node in stub.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    assert named == {name for name in vars(native) if not name.startswith("_")}


def test_the_portable_kernels_are_always_there_and_the_best_come_first(native):
    sets = native.instruction_sets()
    assert sets[-1] == "portable"
    assert sets == [name for name in BEST_FIRST if name in sets]


@linux
@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86 only")
def test_the_instruction_sets_are_those_that_the_cpu_reports(native):
    line = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    flags = set(line.split())
    assert {*native.instruction_sets()} == {"portable"} | {name for name, need in NEEDED.items() if need <= flags}


def test_each_instruction_set_can_be_used_and_an_unknown_one_changes_nothing(native):
    before = native.instruction_set()
    try:
        for name in native.instruction_sets():
            native.use(name)
            assert native.instruction_set() == name
            with pytest.raises(ValueError, match=r"^instruction set is 'avx1024'; this CPU runs: .*portable$"):
                native.use("avx1024")
            assert native.instruction_set() == name
    finally:
        native.use(before)


@pytest.mark.usefixtures("native")
def test_the_environment_forces_an_instruction_set_and_one_that_is_not_there_is_invalid():
    program = """
import os
from prunus import kernels

for ask in (kernels.native, kernels.available):
    try:
        ask()
    except ValueError as error:
        print(error)
os.environ["PRUNUS_ISA"] = "portable"
print(kernels.native().instruction_set())
"""
    *refusals, used = answers(program, PRUNUS_ISA="mmx")
    assert len(refusals) == 2
    assert all(line.startswith("PRUNUS_ISA is 'mmx'; allowed on this CPU: ") for line in refusals)
    assert used == "portable"


@linux
@pytest.mark.usefixtures("with_openmp")
def test_there_is_one_openmp_runtime_in_the_process_and_the_best_instruction_set_is_used():
    program = """
import torch
def runtimes():
    paths = {line.split()[-1] for line in open("/proc/self/maps")}
    return sorted(path for path in paths if any(name in path.rpartition("/")[2] for name in ("gomp", "iomp", "libomp")))
torch.ones(1000, 1000).sum()
before = runtimes()
from prunus.kernels import native
module = native()
module.threads()
print(before == runtimes(), len(before), module.instruction_set() == module.instruction_sets()[0])
"""
    assert answers(program) == ["True 1 True"]


def test_the_number_of_threads_is_the_one_set_in_pytorch(with_openmp):
    before = torch.get_num_threads()
    try:
        for count in (1, 2, 1):
            torch.set_num_threads(count)
            assert with_openmp.threads() == count
    finally:
        torch.set_num_threads(before)


def test_without_pytorch_loading_it_is_an_import_error_not_the_end_of_the_process(with_openmp):
    program = f"""
from importlib.util import module_from_spec, spec_from_file_location
try:
    module_from_spec(spec_from_file_location("_native", {with_openmp.__file__!r}))
except ImportError as error:
    print("undefined symbol" in str(error))
"""
    assert answers(program) == ["True"]


MISSING = "import sys; sys.modules['prunus.kernels._native'] = None"
BROKEN = """
import sys
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "prunus.kernels._native":
            raise ImportError("undefined symbol: GOMP_parallel")
sys.meta_path.insert(0, Broken())
"""


@pytest.mark.parametrize(
    ("hindrance", "said"),
    [
        (MISSING, "install a C++ compiler (GCC or Clang)"),
        (BROKEN, "cannot be loaded (undefined symbol: GOMP_parallel)"),
    ],
)
def test_where_the_module_is_missing_one_warning_says_what_to_do(hindrance, said):
    program = f"""
{hindrance}
import warnings
from prunus import kernels
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print(kernels.available(), len(caught), kernels.native(), kernels.native(), len(caught))
print(caught[0].category.__name__, caught[0].message)
"""
    counts, warning = answers(program)
    assert counts == "False 0 None None 1"
    assert warning.startswith("UserWarning PyTorch's slower sparse products are used")
    assert said in warning
