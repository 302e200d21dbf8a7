"""SynFlow against sums over paths, against networks of absolute values, and against a slow loop."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.core.errors import Invalid
from prunus.core.select import select
from tiny_nets import NETS, best, half, masked_copy, mlp, scoring, slowly, tiny

every_net = pytest.mark.parametrize("kind", NETS)


def chain(widths: list[int], seed: int = 0) -> nn.Sequential:
    """Linear layers without biases, with ReLU between them, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Linear(a, b, bias=False) for a, b in pairwise(widths)]
    return nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())][:-1]).double()


def by_absolute_values(model: nn.Module, masks: prunus.Masks, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """|θ| ∂R/∂|θ| of a copy all of whose parameters are their absolute values, as in the paper."""
    twin = masked_copy(model, masks)
    with torch.no_grad():
        for tensor in twin.state_dict(keep_vars=True).values():
            tensor.abs_()
    twin(torch.ones(1, *shape, dtype=torch.float64)).sum().backward()
    return {n: (w * w.grad).detach() for n, w in prunus.prunable(twin).items()}  # type: ignore[operator]


def fresh(kind, seed: int = 0, bias: bool = True) -> nn.Module:
    """A network whose BatchNorm is as at initialisation, where the paper's and ours are one."""
    model = tiny(kind, seed=seed, bias=bias)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return model


def test_in_a_chain_it_is_the_sum_over_paths():
    model = chain([4, 5, 3, 6, 2])
    scores = prunus.SynFlow()(scoring(model))
    weights = [w.detach().abs() for w in prunus.prunable(model).values()]
    for layer, (weight, found) in enumerate(zip(weights, scores.values(), strict=True)):
        into = torch.ones(4, dtype=torch.float64)
        for before in weights[:layer]:
            into = before @ into
        out = torch.ones(2, dtype=torch.float64)
        for after in reversed(weights[layer + 1 :]):
            out = after.T @ out
        torch.testing.assert_close(found, out[:, None] * weight * into, rtol=1e-13, atol=0)


@pytest.mark.parametrize("biases", [True, False])
def test_the_worked_example(biases):
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1, -2], [0.5, 1], [-3, 0.1]]))
        model[0].bias.copy_(torch.tensor([0.5, 0, 1]))
        model[2].weight.copy_(torch.tensor([[1, 2, -0.5], [-1, 0, 4]]))
    first, second = prunus.SynFlow(biases=biases)(scoring(model)).values()
    assert first.flatten().tolist() == pytest.approx([2, 4, 1, 2, 13.5, 0.45])
    if biases:
        assert float(second.sum()) == pytest.approx(28.45)
        assert float(first.sum()) == pytest.approx(22.95)
    else:
        assert second.flatten().tolist() == pytest.approx([3, 3, 1.55, 3, 0, 12.4])
        assert first.sum(1).tolist() == pytest.approx([6, 3, 13.95])
        assert second.sum(0).tolist() == pytest.approx([6, 3, 13.95])


@every_net
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_that_of_a_network_of_absolute_values(kind, masked):
    model = fresh(kind)
    masks = half(model) if masked else prunus.Masks.full(model)
    expected = by_absolute_values(model, masks, NETS[kind])
    found = prunus.SynFlow(torch.ones(1, *NETS[kind]))(scoring(model, masks))
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-12, atol=1e-12)


def test_a_trained_batchnorm_is_a_positive_factor_or_nothing():
    kind = list(NETS)[1]
    model = tiny(kind)
    norm = model[1]
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, -2, 3]))
        norm.running_mean.copy_(torch.tensor([1.0, -5, 2]))
        norm.running_var.copy_(torch.tensor([4, 0.25, 1]))
    for how in ("scale", "identity"):
        plain = copy.deepcopy(model)
        plain[1] = nn.Conv2d(3, 3, 1, groups=3, bias=False).double()
        factor = norm.weight.abs() / (norm.running_var + norm.eps).sqrt() if how == "scale" else torch.ones(3)
        with torch.no_grad():
            plain[1].weight.copy_(factor.view(3, 1, 1, 1))
        expected = by_absolute_values(plain, prunus.Masks.full(plain), NETS[kind])
        found = prunus.SynFlow(torch.ones(1, *NETS[kind]), norm=how)(scoring(model))
        assert all(torch.allclose(t, expected[n], rtol=1e-12, atol=0) for n, t in found.items())


@every_net
def test_what_is_conserved(kind):
    model = fresh(kind, bias=False)
    scores = prunus.SynFlow(torch.ones(1, *NETS[kind]))(scoring(model))
    sums = {name: float(tensor.sum()) for name, tensor in scores.items()}
    total = sums["head.weight" if "head.weight" in sums else list(sums)[-1]]
    for name, carried in sums.items():
        if name not in ("first.weight", "second.weight", "shortcut.weight"):
            assert carried == pytest.approx(total, rel=1e-10)
    if "shortcut.weight" in sums:
        assert sums["second.weight"] + sums["shortcut.weight"] == pytest.approx(total, rel=1e-10)
    if kind is mlp:
        into, through, out = scores.values()
        assert into.sum(1).tolist() == pytest.approx(through.sum(0).tolist(), rel=1e-10)
        assert through.sum(1).tolist() == pytest.approx(out.sum(0).tolist(), rel=1e-10)


@every_net
def test_signs_do_not_matter_and_no_score_is_negative(kind):
    model = fresh(kind)
    inputs = torch.ones(1, *NETS[kind])
    found = prunus.SynFlow(inputs)(scoring(model))
    masks = prunus.prune(model, prunus.SynFlow(inputs), 0.2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.neg_()
    again = prunus.SynFlow(inputs)(scoring(model))
    assert all(torch.equal(tensor, again[name]) and (tensor >= 0).all() for name, tensor in found.items())
    assert prunus.prune(model, prunus.SynFlow(inputs), 0.2) == masks


@every_net
@pytest.mark.filterwarnings("ignore:no weight is kept in:UserWarning")
def test_a_hundred_rounds_are_those_of_a_slow_loop(kind):
    model, shape = fresh(kind), NETS[kind]
    full = prunus.Masks.full(model)
    expected = slowly(lambda masks: by_absolute_values(model, masks, shape), full, 0.1, 100)
    assert prunus.prune(model, prunus.SynFlow(torch.ones(1, *shape)), 0.1) == expected[-1]
    # the masks of every twentieth round, which are nested
    given = {"criterion": prunus.SynFlow(torch.ones(1, *shape))}
    found = [prunus.prune(model, density=0.1 ** (done / 100), rounds=done, **given) for done in range(20, 101, 20)]
    assert found == expected[19::20]
    assert all(after & before == after for before, after in pairwise(found))


@every_net
@pytest.mark.parametrize(
    ("scope", "protect"), [("layerwise", None), ("erk", None), ("lamp", None), ("global", 2), ("erk", {"*": 0.2})]
)
def test_other_scopes_and_floors_are_those_of_a_slow_loop(kind, scope, protect):
    model, shape = fresh(kind), NETS[kind]
    masks, rounds, density = prunus.Masks.full(model), 20, 0.25
    for done in range(1, rounds + 1):
        scores = by_absolute_values(model, masks, shape)
        count = round(density ** (done / rounds) * masks.total)
        if scope == "global":  # the best two of each parameter first
            floor = prunus.Masks({n: best({n: t}, 2, masks)[n] for n, t in scores.items()})
            masks = floor | best(scores, count - floor.kept, masks & ~floor)
        else:
            masks = select(scores, count / masks.total, scope, masks, protect)
    found = prunus.prune(
        model, prunus.SynFlow(torch.ones(1, *shape)), density, scope=scope, protect=protect, rounds=rounds
    )
    assert found == masks


@pytest.mark.parametrize("seed", range(2))
def test_no_layer_of_a_chain_is_emptied_as_long_as_there_is_a_weight_for_each(seed):
    model = chain([30, 100, 100, 100, 100, 100, 10], seed)
    total = prunus.Masks.full(model).total
    for keep in (6, 7, 400):
        masks = prunus.prune(model, prunus.SynFlow(), keep / total)
        assert masks.kept == keep
        assert min(layer.kept for layer in masks.layers) >= 1
    # all of them are on one path from an input to an output
    last = prunus.prune(model, prunus.SynFlow(), 6 / total)
    flow = torch.ones(30, dtype=torch.float64)
    for mask in last.values():
        flow = mask.double() @ flow
    assert flow.sum() == 1


def test_one_round_empties_layers_that_a_hundred_keep():
    model = chain([30, 100, 100, 100, 100, 100, 10])
    with pytest.warns(UserWarning, match="no weight is kept in"):
        masks = prunus.prune(model, prunus.SynFlow(), 12 / 43_000, rounds=1)
    assert masks.kept == 12


@pytest.mark.filterwarnings("ignore:no weight is kept in:UserWarning")
def test_fewer_weights_than_layers_are_kept_all_the_same():
    masks = prunus.prune(chain([5, 6, 7, 3]), prunus.SynFlow(), 2 / 93)
    assert masks.kept == 2


# What goes in


def test_no_data_is_touched_and_batches_give_only_shapes():
    model = fresh(list(NETS)[1])
    shape = NETS[list(NETS)[1]]
    ones = prunus.prune(model, prunus.SynFlow(torch.ones(1, *shape)), 0.2)
    others = torch.randn(7, *shape)
    assert prunus.prune(model, prunus.SynFlow(others), 0.2) == ones
    assert prunus.prune(model, prunus.SynFlow(), 0.2, batches=[(others, torch.zeros(7).long())]) == ones
    assert prunus.prune(model, prunus.SynFlow(), 0.2, batches=iter([others])) == ones
    assert prunus.prune(model, prunus.SynFlow({"input": others}), 0.2) == ones  # nn.Sequential's name for it


def test_a_tuple_of_two_is_two_inputs():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(3, 4), nn.Linear(2, 4)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.left(a) + self.right(b)

    both = prunus.SynFlow((torch.ones(1, 3), torch.ones(1, 2)))
    assert prunus.prune(Two(), both, 0.5).kept == 10


def test_how_it_is_computed_is_no_part_of_what_it_is():
    assert prunus.SynFlow() == prunus.SynFlow(torch.ones(1, 3))
    assert hash(prunus.SynFlow(torch.ones(2))) == hash(prunus.SynFlow())
    assert repr(prunus.SynFlow(norm="identity"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"norm": "scaled"}, "norm is 'scaled'; allowed: scale, identity"),
        ({"dtype": torch.float16}, r"dtype is torch\.float16; allowed: torch\.float32, torch\.float64 or None"),
    ],
)
def test_bad_options_get_one_line(given, message):
    with pytest.raises(Invalid, match=message):
        prunus.SynFlow(**given)


class Subtracting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.plus, self.minus = nn.Linear(3, 4), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.plus(x) - 0.1 * self.minus(x)


class Detached(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).argmax(-1)


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        (mlp(), {"batches": []}, "batches is empty; SynFlow needs one batch, for its shapes, or none at all"),
        (mlp(), {"batches": [torch.ones(2, 9)]}, r"Sequential does not take a float32 tensor of shape \(1, 9\)"),
        (Subtracting(), {}, r"the synaptic flow of minus\.weight is negative"),
        (Detached(nn.Linear(3, 2)), {}, "Detached gives no floating-point tensors, so no flow"),
        (nn.Sequential(nn.Bilinear(2, 2, 2), nn.Linear(2, 2)), {}, "Sequential: what it takes could not be found out"),
    ],
)
def test_models_and_inputs_without_flow_get_one_line(model, given, message):
    with pytest.raises(Invalid, match=message) as caught:
        prunus.prune(model, prunus.SynFlow(), 0.5, **given)
    assert "\n" not in str(caught.value)


def test_a_layer_of_zeros_is_told():
    model = mlp()
    nn.init.zeros_(model[2].weight)
    with pytest.raises(Invalid, match=r"no synaptic flow reaches the outputs, in 64 bits: each path .* layer of zeros"):
        prunus.prune(model, prunus.SynFlow(biases=False), 0.5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_told(bad):
    model = mlp()
    model[2].weight.data[0, 0] = bad
    with pytest.raises(
        Invalid, match=r"the synaptic flow is (nan|inf), in 64 bits: look for NaN or very large weights"
    ):
        prunus.prune(model, prunus.SynFlow(), 0.5)


def test_it_has_no_use_for_a_loss():
    with pytest.raises(Invalid, match="SynFlow has no use for loss; it uses batches"):
        prunus.prune(mlp(), prunus.SynFlow(), 0.5, loss=nn.functional.cross_entropy)
