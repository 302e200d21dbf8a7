"""32 bits where they are enough, 64 where they are not."""

import copy

import pytest
import torch
from torch import nn

import prunus
from prunus.core.errors import Invalid
from prunus.pruning import IterativeSNIP
from prunus.pruning.criteria.gradients import MaskedGradients
from tiny_nets import scoring
from toy import MODELS, ConvNet, batch, build

DATA_CRITERIA = [prunus.SNIP(), prunus.GraSP(), prunus.Saliency("square"), prunus.FORCE(), IterativeSNIP()]
by_name = pytest.mark.parametrize("criterion", DATA_CRITERIA, ids=lambda criterion: type(criterion).__name__)


def deep(width: int, depth: int, gain: float, seed: int = 0) -> nn.Sequential:
    """Layers that multiply what passes by `gain` each, in absolute values."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Linear(width, width, bias=False) for _ in range(depth)]
        for layer in layers:
            nn.init.normal_(layer.weight, std=gain / width / 0.8)  # the mean of |x| is 0.8
    return nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())][:-1])


def doubled(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).double()


def widened(data: list) -> list:
    return [(x.double(), y) for x, y in data]


def data_for(width: int) -> list:
    draws = torch.Generator().manual_seed(0)
    return [(torch.randn(30, width, generator=draws), torch.arange(30) % 10)]


@pytest.mark.parametrize("gain", [10.0, 0.1], ids=["too large", "too small"])
def test_synaptic_flow_that_32_bits_cannot_hold(gain):
    model = deep(24, 100, gain)  # 10¹⁰⁰, or 10⁻¹⁰⁰
    criterion, density = prunus.SynFlow(), 0.01
    masks = prunus.prune(model, criterion, density, rounds=10)
    assert masks == prunus.prune(doubled(model), criterion, density, rounds=10)
    assert min(layer.kept for layer in masks.layers) >= 1
    with pytest.raises(Invalid, match=r"(flow is (inf|nan)|no synaptic flow).*, in 32 bits.*torch\.float64 holds more"):
        prunus.prune(model, prunus.SynFlow(dtype=torch.float32), density, rounds=20)


def test_tiny_weights_at_the_last_ten_thousandth():
    model = deep(100, 4, 1e-5)
    masks = prunus.prune(model, prunus.SynFlow(), 1e-4)
    assert masks == prunus.prune(doubled(model), prunus.SynFlow(), 1e-4)
    assert [layer.kept for layer in masks.layers] == [1, 1, 1, 1]


def test_flow_that_32_bits_hold_as_a_whole_but_not_in_all_its_parts():
    # as a whole it is 10⁻²⁴; the smallest of its parts are beyond the smallest numbers
    model = deep(60, 6, 5e-5)
    masks = prunus.prune(model, prunus.SynFlow(), 6 / 21_600, rounds=40)
    assert masks == prunus.prune(doubled(model), prunus.SynFlow(), 6 / 21_600, rounds=40)


def test_the_type_can_be_chosen():
    model = build(ConvNet)
    for dtype in (torch.float32, torch.float64, None):
        scores = prunus.SynFlow(torch.ones(1, 2, 6, 6), dtype=dtype)(scoring(model))
        assert {tensor.dtype for tensor in scores.values()} == {dtype or torch.float32}
    scores = prunus.SynFlow(torch.ones(1, 2, 6, 6))(scoring(doubled(model)))
    assert {tensor.dtype for tensor in scores.values()} == {torch.float64}


@by_name
@pytest.mark.parametrize("gain", [0.12, 20.0], ids=["too small", "too large"])
def test_gradients_that_32_bits_cannot_hold(criterion, gain):
    model, data = deep(16, 40, gain * 3), data_for(16)
    masks = prunus.prune(model, criterion, 0.3, batches=data, rounds=3)
    assert masks == prunus.prune(doubled(model), criterion, 0.3, batches=widened(data), rounds=3)


def test_scores_that_vanish_where_gradients_do_not():
    # weights of 10⁻³⁰ whose gradients are of the order of 1: their products squared are beyond 32 bits
    model, data = nn.Sequential(nn.Linear(16, 10)), data_for(16)
    with torch.no_grad():
        model[0].weight.mul_(1e-30)
    for form in ("absolute", "square"):
        masks = prunus.prune(model, prunus.Saliency(form), 0.3, batches=data)
        assert masks == prunus.prune(doubled(model), prunus.Saliency(form), 0.3, batches=widened(data))


def test_64_bits_are_not_taken_without_need(monkeypatch):
    class PartlyUsed(nn.Module):
        """One layer of zeros, as at the end of a residual branch, and one that nothing goes through."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.zeros, self.spare = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
            self.head = nn.Linear(6, 3)
            nn.init.zeros_(self.zeros.weight)

        def forward(self, x):
            x = self.first(x)
            return self.head(x + self.zeros(x))

    def refuse(self):
        raise AssertionError("64 bits")

    monkeypatch.setattr(MaskedGradients, "_widen", refuse)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = PartlyUsed()
    x, y = torch.randn(12, 6), torch.arange(12) % 3
    masks = prunus.prune(model, prunus.SNIP(), 0.2, batches=[(x, y)], protect=1)
    assert [layer.kept for layer in masks.layers][2] == 1


@pytest.mark.parametrize("kind", MODELS)
@by_name
def test_ordinary_networks_score_the_same_in_both_up_to_roundings(kind, criterion):
    model, data = build(kind), [batch(kind)]
    single = criterion(scoring(model, batches=data))
    double = criterion(scoring(doubled(model), batches=widened(data)))
    for name, tensor in single.items():
        assert tensor.dtype == torch.float32
        error = (tensor - double[name]).abs().max() / double[name].abs().max()
        assert error < 1e-4, name


@pytest.mark.parametrize("kind", MODELS)
def test_synaptic_flow_of_ordinary_networks_is_the_same_in_both_up_to_roundings(kind):
    model, inputs = build(kind), batch(kind)[0]
    single = prunus.SynFlow(inputs)(scoring(model))
    double = prunus.SynFlow(inputs)(scoring(doubled(model)))
    for name, tensor in single.items():
        torch.testing.assert_close(tensor.double(), double[name], rtol=1e-5, atol=0)
    masks = prunus.prune(model, prunus.SynFlow(inputs), 0.2, rounds=20)
    assert masks == prunus.prune(doubled(model), prunus.SynFlow(inputs), 0.2, rounds=20)


@by_name
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bits_are_computed_with_in_32(criterion, dtype):
    model = build(ConvNet).to(dtype)
    data = [(x.to(dtype), y) for x, y in [batch(ConvNet)]]
    masks = prunus.prune(model, criterion, 0.3, batches=data, rounds=2)
    assert masks == prunus.prune(copy.deepcopy(model).float(), criterion, 0.3, batches=data, rounds=2)
    # also from batches in 32 bits, as a loader gives them
    wide = [(x.float(), y) for x, y in data]
    assert masks == prunus.prune(model, criterion, 0.3, batches=wide, rounds=2)
    inputs = data[0][0]
    flow = prunus.prune(model, prunus.SynFlow(inputs), 0.3, rounds=5)
    assert flow == prunus.prune(copy.deepcopy(model).float(), prunus.SynFlow(inputs), 0.3, rounds=5)


@by_name
@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_what_the_caller_has_switched_on_or_off_does_not_matter(criterion, around):
    model, data = build(ConvNet), [batch(ConvNet)]
    expected = prunus.prune(model, criterion, 0.3, batches=data, rounds=2)
    flow = prunus.prune(model, prunus.SynFlow(data[0][0]), 0.3, rounds=3)
    with around():
        assert prunus.prune(model, criterion, 0.3, batches=data, rounds=2) == expected
        assert prunus.prune(model, prunus.SynFlow(data[0][0]), 0.3, rounds=3) == flow
