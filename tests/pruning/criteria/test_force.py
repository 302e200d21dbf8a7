"""FORCE against its definition."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import prunus
from tiny_nets import NETS, half, masked_copy, scoring, slowly, some, tiny


def scores(model: nn.Module, masks: prunus.Masks, batches: list) -> dict[str, Tensor]:
    """The dense weights times the gradients at the pruned network."""
    there = masked_copy(model, masks)
    loss = sum(nn.functional.cross_entropy(there(x), y) for x, y in batches)
    gradients = torch.autograd.grad(loss, list(prunus.prunable(there).values()))  # type: ignore[arg-type]
    weights = prunus.prunable(model)
    return {n: (w.detach() * g).abs() for (n, w), g in zip(weights.items(), gradients, strict=True)}


@pytest.mark.parametrize("kind", NETS)
def test_a_pruned_weight_is_scored_by_its_dense_value(kind):
    model, batches = tiny(kind), some(kind, 2)
    masks = half(model)
    expected = scores(model, masks, batches)
    found = prunus.FORCE(per_class=None)(scoring(model, masks, batches=batches))
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-12, atol=0)
    assert any(tensor[~masks[name]].any() for name, tensor in found.items())


@pytest.mark.parametrize("kind", NETS)
def test_masks_are_those_of_a_slow_loop_in_which_weights_come_back(kind):
    model, batches = tiny(kind), some(kind, 2)
    density, rounds = 0.2, 12
    full = prunus.Masks.full(model)
    expected = slowly(lambda masks: scores(model, masks, batches), full, density, rounds, regrows=True)
    given = {"criterion": prunus.FORCE(per_class=None), "batches": batches}
    found = [prunus.prune(model, density=density ** (r / rounds), rounds=r, **given) for r in range(1, rounds + 1)]
    assert found == expected
    assert any(after & before != after for before, after in pairwise(found))


@pytest.mark.parametrize("scope", ["global", "layerwise", "erk"])
def test_it_ends_at_the_exact_count_and_at_the_floors(scope):
    kind = list(NETS)[-1]
    model, batches = tiny(kind), some(kind)
    masks = prunus.prune(model, prunus.FORCE(), 0.15, batches=batches, scope=scope, protect=3, rounds=9)
    assert masks.kept == round(0.15 * masks.total)
    assert all(layer.kept >= 3 for layer in masks.layers)


def test_sixty_rounds_with_an_exponential_schedule():
    kind = next(iter(NETS))
    model, batches = tiny(kind), some(kind)
    full = prunus.Masks.full(model)
    expected = slowly(lambda masks: scores(model, masks, batches), full, 0.3, 60, regrows=True)
    assert prunus.prune(model, "force", 0.3, batches=batches) == expected[-1]
