"""Sparse training under DistributedDataParallel: two real processes, joined by gloo. No mask is ever sent."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from prunus.sparse_training import METHODS
from toy import MLP, batch, build, two_ranks
from training import made, same_tensors

#: As the issue of the day asks: masks and weights identical after so many steps.
STEPS, EVERY = 200, 10


def halves(turn):
    x, y = batch(MLP, size=12, seed=turn)
    return (x[:6].double(), y[:6]), (x[6:].double(), y[6:])


def trained(name, model, loss_of):
    plain = model.module if isinstance(model, DistributedDataParallel) else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    method = made(name, model, optimizer, total_steps=STEPS, every=EVERY)
    masks = []
    for turn in range(STEPS):
        optimizer.zero_grad()
        loss_of(turn)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        method.step()
        if turn % EVERY == EVERY - 1:
            masks.append(dict(method.masks))
    return masks, {n: t.detach() for n, t in plain.state_dict().items()}, len(method.updates)


def on_rank(rank, names):
    found = []
    for name in names:
        model = DistributedDataParallel(build(MLP, seed=rank).double())  # the second rank takes what DDP gives it

        def loss_of(turn, model=model):
            x, y = halves(turn)[rank]
            nn.functional.cross_entropy(model(x), y).backward()

        found.append(trained(name, model, loss_of))
    return found


def alone(name):
    model = build(MLP, seed=0).double()

    def loss_of(turn):
        (x, y), (more, other) = halves(turn)
        nn.functional.cross_entropy(model(torch.cat([x, more])), torch.cat([y, other])).backward()

    return trained(name, model, loss_of)


@pytest.mark.slow
def test_ranks_stay_equal_and_do_as_one_process_does_with_both_halves():
    names = list(METHODS)
    first, second = two_ranks(on_rank, names)
    for name, here, there in zip(names, first, second, strict=True):
        assert all(same_tensors(one, two) for one, two in zip(here[0], there[0], strict=True)), name
        assert same_tensors(here[1], there[1]), name
        assert here[2] == there[2] > (0 if name != "static" else -1), name
        masks, weights, _ = alone(name)
        assert all(same_tensors(one, two) for one, two in zip(here[0], masks, strict=True)), name
        for parameter, whole in weights.items():
            assert torch.allclose(here[1][parameter], whole, atol=1e-9), name
