"""`sparse_linear` against dense products in float64, and the kernels against each other bit for bit."""

import copy
import os
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from prunus.kernels import available, native
from prunus.kernels.sparse import Pattern, _input_gradient, _linear, _weight_gradient, sparse_linear

needs_kernels = pytest.mark.skipif(not available(), reason="the C++ kernels were not built")
ROUNDING = torch.finfo(torch.float32).eps / 2


def layer(outputs, inputs, density, seed=0, dtype=torch.float32):
    draw = torch.Generator().manual_seed(seed)
    mask = torch.rand(outputs, inputs, generator=draw) < density
    weight = torch.randn(outputs, inputs, generator=draw, dtype=torch.float64).to(dtype)
    bias = torch.randn(outputs, generator=draw, dtype=torch.float64).to(dtype)
    return Pattern.of(mask), weight, bias


def computed(x, pattern, weight, bias, upstream):
    """Output and the three gradients."""
    x, values = x.clone().requires_grad_(), pattern.values(weight).requires_grad_()
    bias = None if bias is None else bias.clone().requires_grad_()
    y = sparse_linear(x, values, pattern, bias)
    y.backward(upstream)
    return [y.detach(), x.grad, values.grad, None if bias is None else bias.grad]


def reference(x, pattern, weight, bias, upstream):
    """The same by a dense layer in float64, and for each entry the sum of the absolute products in it."""
    mask = pattern.mask.double()
    x, weight, upstream = x.double(), weight.double() * mask, upstream.double()
    bias = torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias.double()
    rows, above = x.reshape(-1, x.shape[-1]), upstream.reshape(-1, upstream.shape[-1])
    exact = [F.linear(x, weight, bias), upstream @ weight, pattern.values(above.t() @ rows), above.sum(0)]
    sizes = [
        F.linear(x.abs(), weight.abs(), bias.abs()),
        upstream.abs() @ weight.abs(),
        pattern.values(above.abs().t() @ rows.abs()),
        above.abs().sum(0),
    ]
    terms = [x.shape[-1] + 1, upstream.shape[-1], len(rows), len(rows)]
    return exact, sizes, terms


def check(x, pattern, weight, bias, upstream, rounding=ROUNDING):
    """Within the bound of any order of summation: terms × half a unit × the sum of absolute products."""
    exact, sizes, terms = reference(x, pattern, weight, bias, upstream)
    for ours, theirs, size, count in zip(
        computed(x, pattern, weight, bias, upstream), exact, sizes, terms, strict=True
    ):
        if ours is not None:
            assert ours.shape == theirs.shape
            assert ((ours.double() - theirs).abs() <= 1.01 * (count + 1) * rounding * size + 1e-37).all()


@settings(max_examples=60, deadline=None)
@given(
    outputs=st.integers(1, 70),
    inputs=st.integers(1, 70),
    batch=st.integers(0, 130),
    density=st.sampled_from([0.0, 0.02, 0.2, 0.6, 1.0]),
    biased=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_output_and_gradients_are_those_of_the_dense_layer(outputs, inputs, batch, density, biased, dtype):
    pattern, weight, bias = layer(outputs, inputs, density, seed=outputs + inputs, dtype=dtype)
    draw = torch.Generator().manual_seed(batch)
    x, upstream = (torch.randn(batch, n, generator=draw).to(dtype) for n in (inputs, outputs))
    rounding = torch.finfo(dtype).eps / 2 + torch.finfo(torch.float64).eps
    check(x, pattern, weight, bias if biased else None, upstream, rounding)


def test_leading_dimensions_are_kept_and_strides_do_not_matter():
    pattern, weight, bias = layer(12, 20, 0.3)
    x = torch.randn(20, 5, 3, generator=torch.Generator().manual_seed(0)).permute(2, 1, 0)
    upstream = torch.randn(12, 5, 3, generator=torch.Generator().manual_seed(1)).permute(2, 1, 0)
    check(x, pattern, weight, bias, upstream)
    one = sparse_linear(x[0, 0], pattern.values(weight), pattern, bias)
    torch.testing.assert_close(one, F.linear(x[0, 0], weight * pattern.mask, bias))


@needs_kernels
@pytest.mark.parametrize(("outputs", "inputs", "batch"), [(70, 33, 100), (300, 784, 60), (10, 100, 1), (17, 5, 300)])
def test_the_kernels_agree_bit_for_bit_on_every_instruction_set_and_number_of_threads(outputs, inputs, batch):
    pattern, weight, bias = layer(outputs, inputs, 0.1)
    draw = torch.Generator().manual_seed(0)
    x, upstream = (torch.randn(batch, n, generator=draw) for n in (inputs, outputs))
    module, threads = native(), torch.get_num_threads()
    before = module.instruction_set()
    found = []
    try:
        for name in module.instruction_sets():
            for count in (1, 2):
                module.use(name)
                torch.set_num_threads(count)
                found.append(computed(x, pattern, weight, bias, upstream)[:3])
    finally:
        module.use(before)
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for others in found[1:] for a, b in zip(found[0], others, strict=True))


def test_the_operators_keep_the_rules_of_operators():
    pattern, weight, bias = layer(6, 9, 0.4)
    x, dy = torch.randn(5, 9, requires_grad=True), torch.randn(5, 6)
    values = pattern.values(weight).requires_grad_()
    torch.library.opcheck(_linear, (x, values, bias, pattern.handle))
    torch.library.opcheck(_linear, (x, values, None, pattern.handle))
    torch.library.opcheck(_input_gradient, (dy, values.detach(), pattern.handle))
    torch.library.opcheck(_weight_gradient, (x.detach(), dy, pattern.handle))


def test_gradients_are_those_of_finite_differences():
    pattern, weight, bias = layer(4, 5, 0.5, dtype=torch.float64)
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    values = pattern.values(weight).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, v, b: sparse_linear(x, v, pattern, b), (x, values, bias.requires_grad_()))


def test_it_compiles_as_one_graph():
    pattern, weight, bias = layer(8, 12, 0.3)
    values, x = pattern.values(weight).requires_grad_(), torch.randn(7, 12)
    compiled = torch.compile(
        lambda x, v: sparse_linear(x, v, pattern, bias).relu(), fullgraph=True, backend="aot_eager"
    )
    compiled(x, values).sum().backward()
    found, values.grad = values.grad, None
    sparse_linear(x, values, pattern, bias).relu().sum().backward()
    assert torch.equal(found, values.grad)


def test_a_second_derivative_is_refused():
    pattern, weight, _ = layer(4, 5, 0.5)
    x = torch.randn(3, 5, requires_grad=True)
    values = pattern.values(weight).requires_grad_()
    (gradient,) = torch.autograd.grad(sparse_linear(x, values, pattern).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError):
        gradient.sum().backward()


@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_values_and_dense_weights_are_inverse(density):
    pattern, weight, _ = layer(7, 11, density)
    values = pattern.values(weight)
    assert torch.equal(pattern.dense(values), weight * pattern.mask)
    assert torch.equal(pattern.values(pattern.dense(values)), values)
    assert pattern.kept == int(pattern.mask.sum()) == len(values)
    assert copy.deepcopy(pattern) is pattern
    again = pickle.loads(pickle.dumps(pattern))
    assert torch.equal(again.mask, pattern.mask)


def test_what_does_not_fit_is_refused_in_one_line():
    pattern, weight, bias = layer(4, 5, 0.5)
    values, x = pattern.values(weight), torch.randn(3, 5)
    bad = [
        (x[:, :4], values, bias),
        (x, values[1:], bias),
        (x, values, bias[:3]),
        (x.half(), values.half(), bias.half()),
        (x.double(), values, bias),
    ]
    for inputs, vector, shift in bad:
        with pytest.raises(ValueError, match=r"^[^\n]*allowed[^\n]*$"):
            sparse_linear(inputs, vector, pattern, shift)
    for mask in (torch.ones(3, 4), torch.ones(3, dtype=torch.bool), torch.ones(0, 4, dtype=torch.bool)):
        with pytest.raises(ValueError, match=r"allowed: bool \[outputs, inputs\]"):
            Pattern.of(mask)


def test_without_the_kernels_pytorch_gives_the_same_to_rounding_and_says_so_once():
    program = """
import sys, warnings
sys.modules["prunus.kernels._native"] = None
import torch
from prunus.kernels.sparse import Pattern, sparse_linear
draw = torch.Generator().manual_seed(0)
mask = torch.rand(30, 40, generator=draw) < 0.2
x = torch.randn(50, 40, generator=draw).requires_grad_()
weight, bias = torch.randn(30, 40, generator=draw), torch.randn(30, generator=draw)
pattern = Pattern.of(mask)
values = pattern.values(weight).requires_grad_()
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for _ in range(2):
        x.grad = values.grad = None
        y = sparse_linear(x, values, pattern, bias)
        y.square().sum().backward()
dense = (weight * mask).requires_grad_()
other = x.detach().clone().requires_grad_()
z = torch.nn.functional.linear(other, dense, bias)
z.square().sum().backward()
torch.testing.assert_close(y, z)
torch.testing.assert_close(x.grad, other.grad, rtol=1e-4, atol=1e-4)
torch.testing.assert_close(values.grad, pattern.values(dense.grad), rtol=1e-4, atol=1e-4)
print(len([w for w in said if "kernels" in str(w.message)]), len(said))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ})
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["1", "1"]
