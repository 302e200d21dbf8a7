"""Networks whose masks are learned, in training: those that draw in evaluation too, and all that go on half-way."""

import pytest
import torch
from torch import nn

from prunus.core.seeds import derive, generator
from prunus.data import load
from prunus.models import build
from prunus.supermasks import Bernoulli, EdgePopup, GemMiner, supermask, supermask_of
from prunus.training import Checkpointing, Lane, Recipe, evaluate, train, train_together

DIGITS = load("digits")
RECIPE = Recipe(iterations=30, batch=50, evaluate_every=7, optimizer="sgd", lr=0.5, momentum=0.9, schedule="cosine")
DRAWN = Bernoulli(rescale=True)
METHODS = {
    "edge-popup": EdgePopup(density=0.2, schedule="cubic", steps=25, start=2),
    "edge-popup-global": EdgePopup(density=0.2, scope="global"),
    "gem-miner": GemMiner(density=0.1, steps=30, every=4),
    "bernoulli": DRAWN,
}


def plain(name="lenet-300-100"):
    return build(name, DIGITS.input_shape, 10, width=0.1, generator=generator(0, "initialisation"))


def masked(method, name="lenet-300-100"):
    model = plain(name)
    supermask(model, method, weights="kaiming-constant", seed=3)
    return model


def lane(model, seed=5):
    return Lane(model, DIGITS, RECIPE, seed=seed)


def bits(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_network_that_draws_in_evaluation_has_the_same_records_whatever_was_drawn_before():
    histories = []
    for seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            histories.append(train(masked(DRAWN), DIGITS, RECIPE, seed=5))
    assert histories[0] == histories[1]
    assert train(masked(DRAWN), DIGITS, RECIPE, seed=6) != histories[0]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("other", ["drawn", "edge-popup", "dense"])
def test_its_records_are_the_same_beside_another(other, first):
    expected, model = masked(DRAWN), masked(DRAWN)
    alone = train(expected, DIGITS, RECIPE, seed=5)
    make = {"drawn": lambda: masked(DRAWN), "edge-popup": lambda: masked(METHODS["edge-popup"]), "dense": plain}[other]
    beside = make()
    both = [lane(model), lane(beside, 6)][:: 1 if first else -1]
    histories = train_together(both, cores=2, size=2)[:: 1 if first else -1]
    assert histories[0] == alone
    assert equal(bits(model), bits(expected))
    own = make()
    assert histories[1] == train(own, DIGITS, RECIPE, seed=6)
    assert equal(bits(beside), bits(own))


def test_the_global_generator_is_left_where_it_was():
    before = torch.get_rng_state()
    train(masked(DRAWN), DIGITS, RECIPE)
    assert torch.equal(torch.get_rng_state(), before)


def test_each_evaluation_draws_from_the_beginning_of_the_lane_s_own_stream():
    model = masked(DRAWN)
    history = train(model, DIGITS, RECIPE, seed=5)
    seen = []
    for split in (DIGITS.validation, DIGITS.test, DIGITS.train):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(5, "evaluation"))
            seen.append(evaluate(model, DIGITS, split)[1])
    final = history.final
    assert seen == [final.validation_accuracy, final.test_accuracy, final.train_accuracy]


class Killed(Exception):
    pass


@pytest.mark.parametrize("name", ["lenet-300-100", "conv-2"])
@pytest.mark.parametrize("method", METHODS)
def test_a_supermask_in_training_is_gone_on_from_bit_for_bit(tmp_path, method, name):
    whole = masked(METHODS[method], name)
    expected = train(whole, DIGITS, RECIPE, seed=5)

    def kill(evaluation):
        if evaluation.iteration == 21:
            raise Killed

    checkpointing = Checkpointing(tmp_path / "c.safetensors", every=0)
    with pytest.raises(Killed):
        train(masked(METHODS[method], name), DIGITS, RECIPE, seed=5, checkpointing=checkpointing, watch=kill)
    resumed = masked(METHODS[method], name)
    nn.init.constant_(supermask_of(resumed).scores[0], 0.25)  # what the model held before does not matter
    seen = []
    assert train(resumed, DIGITS, RECIPE, seed=5, checkpointing=checkpointing, watch=seen.append) == expected
    assert tuple(seen) == expected.evaluations
    assert equal(bits(resumed), bits(whole))
    one, other = supermask_of(resumed), supermask_of(whole)
    assert one.step_count == other.step_count == 30
    assert equal(one.masks(), other.masks())
    if method == "gem-miner":
        flags = GemMiner.flags(resumed)
        assert flags == GemMiner.flags(whole)
        assert flags.kept == round(0.1 * flags.total)
    if method == "edge-popup":
        assert all(int(mask.sum()) == round(0.2 * mask.numel()) for mask in one.masks().values())
