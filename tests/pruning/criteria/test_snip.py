"""SNIP against the derivative by an explicit mask."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import prunus
from prunus.pruning import IterativeSNIP
from tiny_nets import NETS, best, half, scoring, some, tiny

every_net = pytest.mark.parametrize("kind", NETS)


def by_masks(model: nn.Module, masks: prunus.Masks, batches: list) -> dict[str, Tensor]:
    """|∂L/∂m| at m, from a loss that is summed over batches."""
    weights = prunus.prunable(model)
    m = {name: mask.double().requires_grad_() for name, mask in masks.items()}
    there = {**dict(model.named_parameters()), **{n: w.detach() * m[n] for n, w in weights.items()}}
    loss = sum(nn.functional.cross_entropy(functional_call(model.eval(), there, x), y) for x, y in batches)
    gradients = torch.autograd.grad(loss, list(m.values()))  # type: ignore[arg-type]
    return {name: gradient.abs() for name, gradient in zip(m, gradients, strict=True)}


@every_net
@pytest.mark.parametrize("count", [1, 3])
def test_scores_are_the_derivative_by_the_mask(kind, count):
    model, batches = tiny(kind), some(kind, count)
    full = prunus.Masks.full(model)
    expected = by_masks(model, full, batches)
    found = prunus.SNIP(per_class=None)(scoring(model, batches=batches))
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-12, atol=0)
    assert prunus.prune(model, prunus.SNIP(per_class=None), 0.3, batches=batches) == best(
        expected, round(0.3 * full.total)
    )


@every_net
def test_at_other_masks_what_is_kept_has_the_derivative_by_the_mask(kind):
    model, batches = tiny(kind), some(kind, 2)
    masks = half(model)
    expected = by_masks(model, masks, batches)
    for criterion in (prunus.SNIP(per_class=None), IterativeSNIP(per_class=None)):
        for name, tensor in criterion(scoring(model, masks, batches=batches)).items():
            torch.testing.assert_close(tensor[masks[name]], expected[name][masks[name]], rtol=1e-12, atol=0)


@every_net
def test_batches_are_added_up_before_the_absolute_value(kind):
    model, batches = tiny(kind), some(kind, 2)
    whole = prunus.SNIP(per_class=None)(scoring(model, batches=batches))
    parts = [prunus.SNIP(per_class=None)(scoring(model, batches=[batch])) for batch in batches]
    assert all((t <= sum(part[n] for part in parts) + 1e-15).all() for n, t in whole.items())
    assert any((t < 0.5 * sum(part[n] for part in parts)).any() for n, t in whole.items())


@every_net
def test_the_scale_of_the_loss_does_not_matter(kind):
    model, batches = tiny(kind), some(kind, 2)
    masks = [
        prunus.prune(
            model, prunus.SNIP(), 0.3, batches=batches, loss=lambda o, y, by=by: by * nn.functional.cross_entropy(o, y)
        )
        for by in (1, 2**-40, 2**30)
    ]
    assert masks[0] == masks[1] == masks[2]


def test_ten_of_each_class_unless_told_otherwise():
    kind = next(iter(NETS))
    model, batches = tiny(kind), some(kind, 10)
    taken: list[tuple[Tensor, Tensor]] = []
    seen = [0, 0, 0]
    for x, y in batches:
        for row, label in zip(x, y.tolist(), strict=True):
            if seen[label] < 10:
                seen[label] += 1
                taken.append((row, torch.tensor(label)))
    batch = torch.stack([x for x, _ in taken]), torch.stack([y for _, y in taken])
    assert len(batch[0]) == 30
    expected = by_masks(model, prunus.Masks.full(model), [batch])
    found = prunus.SNIP()(scoring(model, batches=batches))
    assert all(torch.allclose(t, expected[n], rtol=1e-12, atol=0) for n, t in found.items())


def test_once_and_globally_unless_told_otherwise():
    kind = next(iter(NETS))
    model, batches = tiny(kind), some(kind)
    default = prunus.prune(model, prunus.SNIP(), 0.2, batches=batches)
    assert default == prunus.prune(model, "snip", 0.2, batches=batches, rounds=1, scope="global")
    assert default != prunus.prune(model, "snip", 0.2, batches=batches, rounds=5)
