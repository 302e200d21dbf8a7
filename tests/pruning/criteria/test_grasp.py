"""GraSP against an explicit Hessian, and the sign of its scores against weights that are really taken away."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import prunus
from prunus.core.errors import Invalid
from prunus.pruning import Inverted
from tiny_nets import NETS, best, half, mlp, scoring, some, tiny

SMOOTH = nn.Tanh


def loss_at(model: nn.Module, batches: list, temperature: float):
    """The loss as a function of one vector of all prunable weights, and that vector."""
    weights = prunus.prunable(model)
    sizes = [weight.numel() for weight in weights.values()]

    def loss(vector: Tensor) -> Tensor:
        parts = zip(weights.items(), vector.split(sizes), strict=True)
        there = {n: part.view_as(w) for (n, w), part in parts}
        outputs = [(functional_call(model, there, x), y) for x, y in batches]
        return sum(nn.functional.cross_entropy(o / temperature, y) for o, y in outputs)  # type: ignore[return-value]

    return loss, torch.cat([weight.detach().flatten() for weight in weights.values()])


def by_hessian(model: nn.Module, batches: list, temperature: float = 200.0, masks=None) -> Tensor:
    """θ ⊙ H g, flat."""
    loss, vector = loss_at(model, batches, temperature)
    if masks is not None:
        vector = vector * torch.cat([mask.flatten() for mask in masks.values()])
    gradient = torch.autograd.functional.jacobian(loss, vector)
    return vector * (torch.autograd.functional.hessian(loss, vector) @ gradient)


def flat(scores) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in scores.values()])


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("activation", [nn.ReLU, SMOOTH])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_scores_are_weight_times_hessian_times_gradient(kind, activation, mode):
    model, batches = tiny(kind, activation), some(kind)
    found = flat(prunus.GraSP(per_class=None, mode=mode)(scoring(model, batches=batches)))
    # BatchNorm by its statistics, or by those of the batch
    expected = by_hessian(copy.deepcopy(model).train(mode == "train"), batches)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", NETS)
def test_many_batches_are_one_loss(kind):
    model, batches = tiny(kind, SMOOTH), some(kind, 3)
    found = flat(prunus.GraSP(per_class=None)(scoring(model, batches=batches)))
    expected = by_hessian(copy.deepcopy(model).train(), batches)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12 * float(expected.abs().max()))


def test_one_batch_and_its_parts_give_the_same_masks():
    model, (batch,) = tiny(mlp, SMOOTH), some(mlp, size=9)
    parts = list(zip(batch[0].split(3), batch[1].split(3), strict=True))
    one, three = (prunus.prune(model, prunus.GraSP(per_class=None), 0.4, batches=b) for b in ([batch], parts))
    assert one == three
    assert prunus.prune(model, prunus.GraSP(), 0.4, batches=parts) == one


def test_under_masks_it_is_that_of_the_pruned_network():
    model, batches = tiny(mlp, SMOOTH), some(mlp)
    masks = half(model)
    found = flat(prunus.GraSP()(scoring(model, masks, batches=batches)))
    torch.testing.assert_close(found, by_hessian(model, batches, masks=masks), rtol=1e-9, atol=1e-18)


def test_taking_a_weight_away_changes_the_squared_norm_of_the_gradient_by_minus_two_scores():
    model, batches = tiny(mlp, SMOOTH), some(mlp)
    with torch.no_grad():  # small weights: what is left out goes by their square
        for weight in prunus.prunable(model).values():
            weight.mul_(1e-3)
    loss, vector = loss_at(model, batches, 200.0)

    def squared_norm(at: Tensor) -> float:
        return float(torch.autograd.functional.jacobian(loss, at).square().sum())

    changes = []
    for place in range(len(vector)):
        without = vector.clone()
        without[place] = 0
        changes.append(squared_norm(without) - squared_norm(vector))
    scores = flat(prunus.GraSP()(scoring(model, batches=batches)))
    change = torch.tensor(changes, dtype=torch.float64)
    large = scores.abs() > 0.05 * scores.abs().max()
    assert large.sum() > 10
    torch.testing.assert_close(change[large], -2 * scores[large], rtol=0.02, atol=0)
    # so the first that goes is the one whose absence raises the norm most
    masks = prunus.prune(model, prunus.GraSP(), (len(vector) - 1) / len(vector), batches=batches)
    assert not flat(masks)[change.argmax()]


def test_positive_factors_change_nothing_and_the_sign_does():
    model, batches = tiny(mlp, SMOOTH), some(mlp)
    scaled = prunus.prune(
        model, prunus.GraSP(), 0.4, batches=batches, loss=lambda o, y: 8 * nn.functional.cross_entropy(o, y)
    )
    plain = prunus.prune(model, prunus.GraSP(), 0.4, batches=batches)
    assert scaled == plain
    assert prunus.prune(model, Inverted(prunus.GraSP()), 0.4, batches=batches) != plain
    total = plain.total
    assert plain == best(prunus.GraSP()(scoring(model, batches=batches)), round(0.4 * total))


def test_the_temperature_divides_the_logits():
    model, batches = tiny(mlp, SMOOTH), some(mlp)
    for temperature in (1.0, 3):
        found = flat(prunus.GraSP(temperature=temperature)(scoring(model, batches=batches)))
        torch.testing.assert_close(found, by_hessian(model, batches, temperature), rtol=1e-9, atol=1e-15)
    cooled = prunus.GraSP()(scoring(model, batches=batches, loss=lambda o, y: nn.functional.cross_entropy(o, y)))
    torch.testing.assert_close(flat(cooled), by_hessian(model, batches), rtol=1e-9, atol=1e-18)


@pytest.mark.parametrize("temperature", [0, -1, float("inf"), float("nan"), True, "200", None])
def test_a_temperature_is_a_number_above_zero(temperature):
    with pytest.raises(Invalid, match=r"temperature is .*; allowed: a number above 0"):
        prunus.GraSP(temperature=temperature)


def test_a_loss_without_curvature_is_refused():
    model = nn.Linear(5, 3)
    x, y = some(mlp)[0]
    with pytest.raises(Invalid, match="all scores are zero"):
        prunus.prune(model, prunus.GraSP(), 0.5, batches=[(x, y)], loss=lambda outputs, _: outputs.sum())
