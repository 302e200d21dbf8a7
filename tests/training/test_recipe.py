import math

import pytest
import torch
from torch import nn

from prunus.core.errors import Invalid
from prunus.training import Recipe
from prunus.training.recipe import in_iterations, learning_rate, make_optimizer


@pytest.mark.parametrize(("value", "iterations"), [(500, 500), ("500", 500), ("500it", 500), ("3ep", 30), (0, 0)])
def test_lengths_in_iterations(value, iterations):
    assert in_iterations(value, epoch=10) == iterations


@pytest.mark.parametrize("value", ["5x", "", "ep", -1, 1.5, True, None])
def test_a_length_that_is_none_is_refused(value):
    with pytest.raises(Invalid, match="allowed: iterations as 500"):
        in_iterations(value, epoch=10, name="iterations")


def test_resolving_counts_whole_batches_an_epoch():
    recipe = Recipe(iterations="2ep", warmup="1ep", schedule="steps", milestones=("1ep", 12), batch=30)
    resolved = recipe.resolved(examples=100)
    assert (resolved.iterations, resolved.warmup, resolved.milestones) == (6, 3, (3, 12))


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(Invalid, match="batch is 60; allowed: at most the 59"):
        Recipe().resolved(59)


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": 0},
        {"lr": math.nan},
        {"batch": 0},
        {"momentum": -1, "optimizer": "sgd"},
        {"momentum": 0.9},
        {"nesterov": True, "optimizer": "sgd"},
        {"milestones": (3,)},
        {"schedule": "steps"},
        {"iterations": 0},
        {"evaluate_every": "0ep"},
    ],
)
def test_recipes_that_make_no_sense_are_refused(wrong):
    with pytest.raises(Invalid):
        Recipe(**wrong)


def test_learning_rates_have_their_closed_forms():
    def rates(**fields):
        recipe = Recipe(lr=0.5, iterations=8, **fields).resolved(60)
        return [learning_rate(recipe, i) for i in range(8)]

    assert rates() == [0.5] * 8
    assert rates(schedule="linear") == pytest.approx([0.5 * (1 - i / 8) for i in range(8)])
    assert rates(schedule="cosine") == pytest.approx([0.25 * (1 + math.cos(math.pi * i / 8)) for i in range(8)])
    assert rates(schedule="steps", milestones=(2, 5)) == pytest.approx([0.5] * 2 + [0.05] * 3 + [0.005] * 3)
    assert rates(warmup=4)[:5] == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5])
    assert rates(warmup=4, schedule="linear")[4:] == pytest.approx([0.5, 0.375, 0.25, 0.125])


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({}, torch.optim.Adam),
        ({"optimizer": "adamw", "weight_decay": 0.1}, torch.optim.AdamW),
        ({"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, torch.optim.SGD),
    ],
)
def test_optimizers_are_torchs_own_with_the_recipes_values(fields, kind):
    optimizer = make_optimizer(Recipe(**fields), nn.Linear(2, 2).parameters())
    assert type(optimizer) is kind
    for name, value in {"lr": 1.2e-3, **fields}.items():
        if name != "optimizer":
            assert optimizer.param_groups[0][name] == value
