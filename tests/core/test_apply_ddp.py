"""Masks under DistributedDataParallel: two real processes, joined by gloo."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from prunus.core.apply import apply, masks_of
from toy import ConvNet, batch, build, gradient_is_sparse, is_sparse, random_masks, two_ranks


def train_on_rank(rank, view, wrap_first):
    """Accumulates one batch without and one with reduction, checks the gradient, clips, steps."""
    model = build(ConvNet)
    masks = random_masks(model)
    if wrap_first:
        parallel = DistributedDataParallel(model, gradient_as_bucket_view=view)
        apply(model, masks)
    else:
        apply(model, masks)
        parallel = DistributedDataParallel(model, gradient_as_bucket_view=view)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    clean = []
    for turn in range(3):
        optimizer.zero_grad(set_to_none=turn == 1)
        with parallel.no_sync():
            x, y = batch(ConvNet, seed=10 * turn + rank)
            nn.functional.cross_entropy(parallel(x), y).backward()
        clean.append(gradient_is_sparse(model, masks))
        x, y = batch(ConvNet, seed=100 + 10 * turn + rank)
        nn.functional.cross_entropy(parallel(x), y).backward()
        clean.append(gradient_is_sparse(model, masks))
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        clean.append(is_sparse(model, masks) and masks_of(model) == masks)
    return all(clean), {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize(("view", "wrap_first"), [(True, False), (False, True)])
def test_masks_hold_under_ddp_and_the_ranks_stay_equal(view, wrap_first):
    (clean, weights), (clean_too, others) = two_ranks(train_on_rank, view, wrap_first)
    assert clean
    assert clean_too
    for name, weight in weights.items():
        assert torch.equal(weight, others[name]), name
