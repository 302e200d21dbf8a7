"""The largest scores against a stable sort, whoever finds them: the kernels, `largest`, or operators on a device."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from prunus.core import ranked
from prunus.core.errors import Invalid
from prunus.core.ranked import (
    masks_of_largest,
    masks_without_waiting,
    positions_of_largest,
    score_gradient,
    write_largest,
)

INF = math.inf
#: Few distinct values, so that ties are the rule, among them infinities and both zeros; or hardly any ties.
COARSE = st.sampled_from([-INF, -2.0, -0.0, 0.0, 1e-42, 0.5, 1.0, 2.0, INF])
FINE = st.floats(-1e4, 1e4, width=32)
SHAPES = st.sampled_from([(), (1,), (0,), (7,), (40,), (3, 4), (2, 3, 2, 2), (2, 17, 3, 3)])
LAYOUTS = st.sampled_from(["rows", "channels last", "turned"])


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """The same entries, elsewhere in memory."""
    if layout == "channels last" and tensor.ndim == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor.mT.contiguous().mT if layout == "turned" and tensor.ndim > 1 else tensor


@st.composite
def layers(draw: st.DrawFn) -> tuple[list[Tensor], int]:
    """Scores of some layers, and how many to keep."""
    values, scores = draw(st.sampled_from([COARSE, FINE])), []
    for _ in range(draw(st.integers(1, 4))):
        shape = draw(SHAPES)
        size = math.prod(shape)
        entries = draw(st.lists(values, min_size=size, max_size=size))
        scores.append(laid_out(torch.tensor(entries, dtype=torch.float32).reshape(shape), draw(LAYOUTS)))
    total = sum(tensor.numel() for tensor in scores)
    return scores, draw(st.one_of(st.just(0), st.just(total), st.integers(0, total)))


def expected(scores: list[Tensor], keep: int, absolute: bool) -> list[Tensor]:
    """The first `keep` of all, sorted by falling score; Python's sort is stable."""
    flat = [abs(score) if absolute else score for tensor in scores for score in tensor.reshape(-1).tolist()]
    chosen = set(sorted(range(len(flat)), key=lambda place: -flat[place])[:keep])
    kept = torch.tensor([place in chosen for place in range(len(flat))], dtype=torch.bool)
    sizes = [tensor.numel() for tensor in scores]
    return [part.reshape(tensor.shape) for part, tensor in zip(kept.split(sizes), scores, strict=True)]


def weights_like(scores: list[Tensor]) -> list[Tensor]:
    """Numbers, infinities and NaN: none of them may show where the weight is not kept."""
    draw = torch.Generator().manual_seed(1)
    weights = [torch.empty_like(tensor).normal_(generator=draw) for tensor in scores]
    for weight in weights:
        kind = torch.randint(0, 6, weight.shape, generator=draw)
        weight[kind == 0], weight[kind == 1], weight[kind == 2] = INF, -INF, math.nan
    return weights


def check_written(scores: list[Tensor], keep: int, absolute: bool) -> None:
    weights = weights_like(scores)
    outs = [torch.full_like(weight, 7) for weight in weights]
    write_largest(scores, weights, outs, keep, absolute=absolute)
    for mask, weight, out in zip(expected(scores, keep, absolute), weights, outs, strict=True):
        zero = weight.new_zeros(())
        assert torch.equal(torch.where(mask, weight, zero).nan_to_num(5), out.nan_to_num(5))
        assert not out[~mask].signbit().any()


@pytest.fixture(params=["kernels", "no kernels"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "no kernels":
        monkeypatch.setattr(ranked, "native", lambda: None)


@pytest.mark.usefixtures("way")
def test_what_is_written_is_what_a_stable_sort_keeps():
    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(drawn=layers(), absolute=st.booleans())
    def check(drawn: tuple[list[Tensor], int], absolute: bool) -> None:
        check_written(*drawn, absolute)

    check()


@settings(max_examples=150, deadline=None)
@given(drawn=layers(), absolute=st.booleans(), dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_masks_are_those_of_a_stable_sort_also_without_waiting(drawn, absolute, dtype):
    scores, keep = drawn
    scores = [tensor.to(dtype) for tensor in scores]
    wanted = expected(scores, keep, absolute)
    for found in (masks_of_largest, masks_without_waiting):
        masks = found(scores, keep, absolute=absolute)
        assert all(mask.dtype == torch.bool for mask in masks)
        assert all(torch.equal(mask, right) for mask, right in zip(masks, wanted, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_written_as_well(dtype):
    scores = [torch.arange(-5, 7).to(dtype), torch.tensor([[9.0, -7.0]], dtype=dtype)]
    check_written(scores, 5, absolute=True)
    check_written(scores, 5, absolute=False)


def test_scores_weights_and_outs_may_lie_differently():
    draw = torch.Generator().manual_seed(3)
    scores, weight = torch.randn(6, 8, generator=draw).round(), torch.randn(8, 6, generator=draw).t()
    mask = expected([scores], 20, True)[0]
    for out in (
        torch.ones(6, 8),
        torch.ones(8, 6).t(),
        torch.ones(6, 16)[:, ::2],
        torch.ones(6, 1).expand(6, 8).clone(),
    ):
        write_largest([scores], [weight], [out], 20, absolute=True)
        assert torch.equal(out, torch.where(mask, weight, 0))


def test_both_zeros_are_one_score():
    out = torch.ones(4)
    write_largest([torch.tensor([-0.0, 0.0, -0.0, -1.0])], [torch.arange(1.0, 5)], [out], 2, absolute=False)
    assert out.tolist() == [1, 2, 0, 0]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("keep", [0, 1, 25, 50])
@pytest.mark.parametrize("nan", [math.nan, -math.nan])
def test_nan_is_invalid_and_nothing_is_written(absolute, keep, nan):
    for place in (0, 17, 39):
        scores = [torch.zeros(10), torch.zeros(40)]
        scores[1][place] = nan
        outs = [torch.full((10,), 7.0), torch.full((40,), 7.0)]
        with pytest.raises(Invalid, match=r"^scores\[1\] has NaN in it; allowed: numbers and infinities$"):
            write_largest(scores, scores, outs, keep, absolute=absolute)
        assert all((out == 7).all() for out in outs)
        with pytest.raises(Invalid, match=r"^scores\[1\] has NaN"):
            masks_of_largest(scores, keep, absolute=absolute)


def test_counts_and_shapes_that_do_not_fit_are_refused():
    x, y = torch.zeros(4), torch.zeros(5)
    for keep in (-1, 5):
        with pytest.raises(ValueError, match=f"^keep is {keep} of 4$"):
            write_largest([x], [x], [x.clone()], keep, absolute=True)
    with pytest.raises(ValueError, match=r"^scores are \[4\], weights \[5\] and outs \[4\]$"):
        write_largest([x], [y], [x.clone()], 1, absolute=True)


def test_no_layers_at_all():
    write_largest([], [], [], 0, absolute=True)
    assert masks_of_largest([], 0, absolute=True) == []


def test_parameters_are_taken_and_autograd_notices_the_write():
    scores, weight = nn.Parameter(torch.arange(4.0)), nn.Parameter(torch.ones(4))
    out, x = torch.zeros(4), torch.ones(4, requires_grad=True)
    loss = (out * x).sum()
    write_largest([scores], [weight], [out], 2, absolute=True)
    assert out.tolist() == [0, 0, 1, 1]
    assert not out.requires_grad
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("keep", [0, 3, 9, 12])
def test_on_a_device_no_number_is_asked_for(keep):
    """The device "meta" has no numbers at all, and fake tensors refuse whatever would ask for one."""
    with torch.device("meta"):
        scores, weights, outs = ([torch.empty(3, 2), torch.empty(6)] for _ in range(3))
    write_largest(scores, weights, outs, keep, absolute=True)
    with FakeTensorMode(allow_non_fake_inputs=False):
        fakes = [torch.empty(3, 2), torch.empty(6)]
        for absolute in (True, False):
            masks = masks_without_waiting(fakes, keep, absolute=absolute)
            assert [mask.shape for mask in masks] == [(3, 2), (6,)]


@settings(max_examples=60, deadline=None)
@given(
    shape=SHAPES,
    layout=LAYOUTS,
    dtype=st.sampled_from([torch.float32, torch.float64]),
    other=LAYOUTS,
    seed=st.integers(0, 9),
)
def test_the_score_gradient_is_that_of_autograd(shape, layout, dtype, other, seed):
    draw = torch.Generator().manual_seed(seed)
    scores, weight, upstream = (torch.randn(shape, generator=draw, dtype=dtype) for _ in range(3))
    scores = torch.where(torch.rand(shape, generator=draw) < 0.2, -0.0, scores)
    scores, weight, upstream = laid_out(scores, layout), laid_out(weight, layout), laid_out(upstream, other)
    for absolute in (True, False):
        leaf = scores.clone().requires_grad_()
        (weight * (leaf.abs() if absolute else leaf)).backward(upstream)
        found = score_gradient(upstream, weight, leaf, absolute=absolute)
        assert leaf.grad is not None
        assert torch.equal(found, leaf.grad)
        assert not found.requires_grad


def test_the_score_gradient_is_traced_under_compile():
    compiled = torch.compile(score_gradient, backend="aot_eager", fullgraph=True)
    gradient, weight, scores = (torch.randn(5, generator=torch.Generator().manual_seed(i)) for i in range(3))
    wanted = score_gradient(gradient, weight, scores, absolute=True)
    assert torch.equal(compiled(gradient, weight, scores, absolute=True), wanted)


@settings(max_examples=60, deadline=None)
@given(layers(), st.booleans(), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_positions_of_the_largest_are_those_of_the_masks(drawn, absolute, dtype):
    tensor = drawn[0][0].to(dtype)
    keep = min(drawn[1], tensor.numel())
    mask = expected([tensor], keep, absolute)[0]
    found = positions_of_largest(tensor, keep, absolute=absolute)
    assert found.dtype == torch.int64
    assert torch.equal(found, mask.reshape(-1).nonzero().squeeze(1))


def test_nan_counts_as_zero_where_positions_are_asked_for():
    scores = torch.tensor([math.nan, 1.0, -2.0, math.nan, 0.5])
    assert positions_of_largest(scores, 2, absolute=True).tolist() == [1, 2]
    assert positions_of_largest(scores, 3, absolute=False).tolist() == [0, 1, 4]
    with pytest.raises(ValueError, match="keep is 6 of 5"):
        positions_of_largest(scores, 6, absolute=True)
