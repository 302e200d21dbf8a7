"""Supermasks under DistributedDataParallel: two real processes, joined by gloo."""

import pytest
import torch
from supermasking import OPTIONS, others, same
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from prunus.core.apply import masks_of
from prunus.supermasks import METHODS, Bernoulli, scores, supermask, supermask_of
from toy import MLP, batch, build, two_ranks

#: So many steps; the densities of the examples reach their ends on the way.
STEPS = 7
#: Every way to learn a mask that is not drawn: two ranks draw different ones, as they do for dropout.
WAYS = [(name, options) for name in METHODS for options in OPTIONS.get(name, [{}]) if METHODS[name] is not Bernoulli]


def halves(turn):
    x, y = batch(MLP, size=12, seed=turn)
    return (x[:6], y[:6]), (x[6:], y[6:])


def learned(model, of_step):
    """Masks after each step, and the scores in the end; whether what is frozen stayed as it was."""
    frozen, found = others(model), []
    optimizer = torch.optim.SGD(scores(model), lr=0.1, momentum=0.9, weight_decay=0.01)
    for turn in range(STEPS):
        optimizer.zero_grad()
        of_step(turn)
        optimizer.step()
        found.append(dict(masks_of(model)))
    kept = supermask_of(model).method.learns_weights or same(others(model), frozen)
    return kept, found, [score.detach() for score in scores(model)], supermask_of(model).step_count


def on_rank(rank, ways):
    every = []
    for name, options in ways:
        model = build(MLP, seed=rank)  # the second rank takes what DDP gives it
        supermask(model, METHODS[name](**options), seed=rank)
        parallel = DistributedDataParallel(model)

        def of_step(turn, parallel=parallel):
            x, y = halves(turn)[rank]
            nn.functional.cross_entropy(parallel(x), y).backward()

        every.append(learned(model, of_step))
    return every


def alone(name, options):
    model = build(MLP)
    supermask(model, METHODS[name](**options))

    def of_step(turn):
        x, y = batch(MLP, size=12, seed=turn)
        nn.functional.cross_entropy(model(x), y).backward()

    return learned(model, of_step)


@pytest.mark.slow
def test_ranks_stay_equal_and_do_as_one_process_does_with_both_halves():
    first, second = two_ranks(on_rank, WAYS)
    for (name, options), here, there in zip(WAYS, first, second, strict=True):
        kept, masks, values, steps = alone(name, options)
        assert (here[0], there[0], kept) == (True, True, True), name
        assert here[3] == there[3] == steps == STEPS
        for one, two in zip(here[1], there[1], strict=True):
            assert same(one, two), (name, options)
        for one, two, whole in zip(here[2], there[2], values, strict=True):
            assert torch.equal(one, two), (name, options)
            assert torch.allclose(one, whole, atol=1e-5), (name, options)
        assert same(here[1][-1], masks[-1]), (name, options)
