"""Iterative SNIP against a slow loop."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.pruning import IterativeSNIP
from tiny_nets import NETS, masked_copy, slowly, some, tiny


def scores(model: nn.Module, masks: prunus.Masks, batches: list) -> dict[str, Tensor]:
    """|θ ∂L/∂θ| of the network that is left."""
    there = masked_copy(model, masks)
    weights = prunus.prunable(there)
    loss = sum(nn.functional.cross_entropy(there(x), y) for x, y in batches)
    gradients = torch.autograd.grad(loss, list(weights.values()))  # type: ignore[arg-type]
    return {n: (w.detach() * g).abs() for (n, w), g in zip(weights.items(), gradients, strict=True)}


@pytest.mark.parametrize("kind", NETS)
def test_masks_are_those_of_a_slow_loop_and_nested(kind):
    model, batches = tiny(kind), some(kind, 2)
    density, rounds = 0.2, 12
    expected = slowly(lambda masks: scores(model, masks, batches), prunus.Masks.full(model), density, rounds)
    given = {"criterion": IterativeSNIP(per_class=None), "batches": batches}
    found = [prunus.prune(model, density=density ** (r / rounds), rounds=r, **given) for r in range(1, rounds + 1)]
    assert found == expected
    assert all(after & before == after for before, after in pairwise(found))


def test_sixty_rounds_with_an_exponential_schedule():
    kind = next(iter(NETS))
    model, batches = tiny(kind), some(kind)
    expected = slowly(lambda masks: scores(model, masks, batches), prunus.Masks.full(model), 0.25, 60)
    found = prunus.prune(model, "iterative-snip", 0.25, batches=batches)
    assert found == expected[-1]
    assert found.kept == round(0.25 * found.total)
