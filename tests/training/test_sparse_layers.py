"""Sparse layers inside of networks that PyTorch computes."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from prunus.core.masks import Masks
from prunus.core.seeds import generator
from prunus.data import load
from prunus.training import Lane, Recipe, Stack, train_together
from prunus.training.engines import SingleEngine, sparse_layers

DIGITS = load("digits")
RECIPE = Recipe(iterations=40, batch=50, evaluate_every=10)


@pytest.fixture
def chosen(monkeypatch):
    """Sparse layers are taken to be faster, or not."""

    def choose(sparse):
        monkeypatch.setattr(sparse_layers, "_sparse_is_faster", lambda *_: sparse)

    monkeypatch.setattr(sparse_layers, "SMALLEST", 0)
    return choose


def network():
    """With a norm between linear layers, so that the kernels do not take the whole of it."""
    layers = [nn.Flatten(), nn.Linear(64, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Linear(40, 30), nn.GELU()]
    model = nn.Sequential(*layers, nn.Linear(30, 10))
    for index, parameter in enumerate(model.parameters()):
        nn.init.normal_(parameter, std=0.2, generator=generator(0, index))
    return model


def lane(recipe=RECIPE, **more):
    masks = Masks.random(network(), 0.2, "uniform", generator(1, "masks"), exclude="6.*")
    return Lane(network(), DIGITS, recipe, masks, **more)


OPTIMIZERS = [{}, {"optimizer": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_training_is_that_of_the_dense_layers_up_to_rounding(chosen, optimizer):
    torch.set_num_threads(1)
    ours, theirs = lane(replace(RECIPE, **optimizer)), lane(replace(RECIPE, **optimizer))
    chosen(True)
    (history,) = train_together([ours])
    assert ours.products == {"1": "sparse", "4": "sparse", "others": "PyTorch"}
    chosen(False)
    (expected,) = train_together([theirs])
    assert theirs.products == {"all layers": "PyTorch"}
    for mine, other in zip(history.evaluations, expected.evaluations, strict=True):
        assert mine.validation_loss == pytest.approx(other.validation_loss, rel=1e-3)
    assert ours.model.state_dict().keys() == network().state_dict().keys()
    parameters = dict(ours.model.named_parameters())
    for name, mask in ours.masks.items():
        assert torch.count_nonzero(parameters[name][~mask]) == 0
        assert torch.count_nonzero(parameters[name]) > 0
    assert int(ours.model[2].num_batches_tracked) == RECIPE.iterations


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_checkpoint_does_not_depend_on_the_choice(chosen, tmp_path, optimizer):
    torch.set_num_threads(1)
    recipe = replace(RECIPE, **optimizer)
    chosen(True)
    (expected,) = train_together([lane(recipe)])
    for half, rest in [(True, True), (True, False), (False, True)]:
        path = tmp_path / f"{half}{rest}.safetensors"
        chosen(half)
        stack = Stack(engine=SingleEngine(1), checkpoint_every=0)
        stack.add(lane(recipe, checkpoint=path))
        stack.advance()
        chosen(rest)
        (history,) = train_together([lane(recipe, checkpoint=path)])
        if half and rest:
            assert history == expected
        for mine, other in zip(history.evaluations, expected.evaluations, strict=True):
            assert mine.validation_loss == pytest.approx(other.validation_loss, rel=1e-3)


def test_layers_that_are_used_twice_or_looked_at_stay_dense(chosen):
    chosen(True)
    tied = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Linear(64, 10))
    tied[3].weight = tied[1].weight
    tied[4].register_forward_hook(lambda *_: None)
    there = Lane(tied, DIGITS, RECIPE, Masks.random(tied, 0.3, generator=generator(0, "masks")))
    model, sparse = sparse_layers.with_sparse_layers(there)
    assert model is tied
    assert sparse == {}


def test_the_choice_is_measured_once_on_a_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNUS_CACHE", str(tmp_path))
    asked = []

    def measured(*what):
        asked.append(what)
        return len(asked) == 1

    monkeypatch.setattr(sparse_layers, "_measured", measured)
    mask = torch.rand(100, 200, generator=generator(0, "mask")) < 0.1
    assert [sparse_layers._sparse_is_faster(mask, 60) for _ in range(3)] == [True] * 3
    assert len(asked) == 1
    assert not sparse_layers._sparse_is_faster(mask, 600)
    assert len(asked) == 2
    dense = torch.ones(100, 200, dtype=torch.bool)
    assert not sparse_layers._sparse_is_faster(dense, 60)
    assert sparse_layers._sparse_is_faster(~dense, 60)
    assert len(asked) == 2
    (tmp_path / "sparse-layers.json").write_text("damaged")
    sparse_layers._sparse_is_faster(mask, 60)
    assert len(asked) == 3


def test_a_very_sparse_large_layer_is_faster_and_its_dense_twin_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNUS_CACHE", str(tmp_path))
    torch.set_num_threads(1)
    draw = torch.rand(1000, 1000, generator=generator(0, "mask"))
    assert sparse_layers._sparse_is_faster(draw < 0.005, 64)
    assert not sparse_layers._sparse_is_faster(draw < 0.8, 64)
