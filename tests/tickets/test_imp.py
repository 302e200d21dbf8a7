import math

import pytest
import torch
from torch import nn

import prunus
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.seeds import generator
from prunus.models import build
from prunus.tickets.rounds import prune_round, rates_of
from prunus.tickets.ticket import snapshot

#: Weights kept in LeNet-300-100 after each round at 20 % (10 % for the output layer): published arithmetic.
LADDER = [266200, 213060, 170538, 136511, 109282, 87490, 70051, 56094, 44923, 35981]
LADDER += [28823, 23093, 18506, 14834, 11893, 9537]


def lenet():
    return build("lenet-300-100", (1, 28, 28), 10, generator=generator(0, "initialisation"))


def small(norm=False):
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8), nn.BatchNorm1d(8) if norm else nn.Identity(), nn.ReLU(), nn.Linear(8, 3)]
    return nn.Sequential(*layers)


def jiggle(model, start=0, stop=10, seed=0):
    """A training that moves every parameter and statistic, and depends on where it starts and stops."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(start, stop):
        inputs = torch.randn(16, 6, generator=generator(seed, "inputs", step))
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
    return stop - start


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_ladder_of_the_paper_is_met_to_the_last_weight():
    kept = [ticket.masks.kept for ticket in prunus.imp(lenet(), lambda _: None, rounds=15)]
    assert kept == LADDER


def test_masks_are_nested_and_each_ticket_starts_from_the_same_weights():
    model = small(norm=True)
    initial = snapshot(model)
    masks = None
    for number, ticket in enumerate(prunus.imp(model, jiggle, rounds=4, rate=0.3)):
        assert ticket.round == number
        assert ticket.result == 10
        assert equal(ticket.weights, initial)
        assert masks is None or (ticket.masks & masks) == ticket.masks
        assert prunus.masks_of(model) == ticket.masks
        masks = ticket.masks


def test_training_starts_bit_for_bit_from_the_masked_start():
    model = small(norm=True)
    starts = []

    def train(model):
        starts.append(snapshot(model))
        jiggle(model)

    tickets = list(prunus.imp(model, train, rounds=2, rate=0.5))
    for start, ticket in zip(starts, tickets, strict=True):
        expected = {n: w * ticket.masks[n] if n in ticket.masks else w for n, w in ticket.weights.items()}
        assert equal(start, expected)


def test_the_smallest_trained_weights_go_layer_by_layer():
    model = small()
    trained = {}
    for ticket in prunus.imp(model, jiggle, rounds=3, rate=0.25, output="same"):
        for name, (weight, before) in trained.items():
            left, gone = weight[ticket.masks[name]].abs(), weight[before & ~ticket.masks[name]].abs()
            assert len(gone) == round(0.25 * int(before.sum()))
            assert gone.max() <= left.min()
        parameters = dict(model.named_parameters())
        trained = {n: (parameters[n].detach().clone(), ticket.masks[n]) for n in ticket.masks}


def test_globally_the_smallest_go_wherever_they_are():
    masks = Masks({"a": torch.ones(10, dtype=torch.bool), "b": torch.ones(10, dtype=torch.bool)})
    weights = {"a": torch.arange(1.0, 11), "b": -torch.arange(11.0, 21)}
    pruned = prune_round(weights, masks, {"a": 0.25, "b": 0.25}, "global")
    assert [layer.kept for layer in pruned.layers] == [5, 10]
    kept_a = prune_round(weights, masks, {"a": 0.0, "b": 0.25}, "global")
    assert [layer.kept for layer in kept_a.layers] == [10, 8]


def test_rescaling_a_layer_changes_global_masks_and_not_layerwise_ones():
    draws = {n: torch.randn(50, generator=generator(0, n)) for n in "ab"}
    scaled = {"a": draws["a"] * 7, "b": draws["b"]}
    masks, rates = Masks({n: torch.ones(50) for n in "ab"}), {"a": 0.4, "b": 0.4}
    assert prune_round(draws, masks, rates, "layerwise") == prune_round(scaled, masks, rates, "layerwise")
    assert prune_round(draws, masks, rates, "global") != prune_round(scaled, masks, rates, "global")


def test_rate_zero_repeats_the_dense_training_bit_for_bit():
    model = small(norm=True)
    first, second = (snapshot(model) for _ in prunus.imp(model, jiggle, rounds=1, rate=0.0))
    assert equal(first, second)


def test_one_shot_is_one_round_at_the_rate_of_the_density():
    model = small()
    jiggle(model)
    trained = snapshot(model)
    one_shot = list(prunus.imp(small(), jiggle, rounds=1, rate=0.75, output="same"))[-1].masks
    assert one_shot == prunus.prune(model, prunus.Magnitude(), density=0.25, scope="uniform")
    assert one_shot.kept == sum(w.numel() - round(0.75 * w.numel()) for n, w in trained.items() if "weight" in n)


def test_late_rewinding_starts_each_round_from_iteration_k():
    reference = small(norm=True)
    jiggle(reference, stop=4)
    at_k = snapshot(reference)
    calls = []

    def train(model, **span):
        calls.append(span)
        return jiggle(model, **span)

    tickets = list(prunus.imp(small(norm=True), train, rounds=2, rewind=4))
    assert calls == [{"stop": 4}, {"start": 4}, {"start": 4}, {"start": 4}]
    assert all(equal(ticket.weights, at_k) for ticket in tickets)


def test_keeping_the_trained_weights_and_fine_tuning():
    model, ends, calls = small(), [], []

    def finetune(model):
        calls.append("finetune")
        jiggle(model, stop=2)

    for ticket in prunus.imp(model, jiggle, rounds=2, rate=0.5, rewind_weights=False, retrain=finetune):
        if ends:
            assert equal(ticket.weights, ends[-1])
        ends.append(snapshot(model))
    assert calls == ["finetune"] * 2


def test_the_output_layer_has_half_the_rate_the_same_or_none():
    model = lenet()
    masks = Masks.full(model)
    first, second, last = masks
    assert rates_of(model, masks, 0.2, "layerwise", None) == {first: 0.2, second: 0.2, last: 0.1}
    assert rates_of(model, masks, 0.2, "layerwise", "keep") == {first: 0.2, second: 0.2, last: 0.0}
    assert rates_of(model, masks, 0.2, "global", None) == {first: 0.2, second: 0.2, last: 0.2}
    assert rates_of(model, masks, {last: 0.5, "*": 0.1}, "layerwise", None) == {first: 0.1, second: 0.1, last: 0.5}
    kept = list(prunus.imp(lenet(), lambda _: None, rounds=1, scope="global", output="keep"))[-1].masks
    assert kept.layers[-1].density == 1
    assert kept.kept == 1000 + 265200 - round(0.2 * 265200)


def test_excluded_layers_stay_dense_and_do_not_count():
    (_, ticket) = prunus.imp(lenet(), lambda _: None, rounds=1, exclude="fc3*", output="same")
    assert ticket.masks.total == 265200
    assert len(ticket.masks) == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rounds": -1}, "rounds is -1"),
        ({"rounds": 2.5}, "rounds is 2.5"),
        ({"rate": 1.0}, "rate is 1.0"),
        ({"rate": math.nan}, "rate is nan"),
        ({"rate": {"0.weight": 0.1}}, "no pattern for '3.weight'"),
        ({"rate": {"nope": 0.1, "*": 0.2}}, "'nope'.* matches no masked parameter"),
        ({"rate": {"*": 0.1}, "output": "half"}, "one of the two"),
        ({"scope": "layer"}, "did you mean 'layerwise'"),
        ({"output": "hlaf"}, "did you mean 'half'"),
        ({"output": "half", "scope": "global"}, "allowed: 'same' or 'keep'"),
        ({"rewind": -3}, "rewind is -3"),
        ({"exclude": "*"}, "no prunable weight"),
    ],
)
def test_wrong_arguments_are_refused_before_any_training(wrong, message):
    def never(_):
        raise AssertionError("trained")

    with pytest.raises(Invalid, match=message):
        prunus.imp(small(), never, **{"rounds": 2, **wrong})


def test_rates_that_differ_cannot_be_global():
    with pytest.raises(Invalid, match="one rate"):
        prunus.imp(small(), lambda _: None, rounds=1, scope="global", rate={"0.*": 0.1, "*": 0.2})


def test_numpy_numbers_are_numbers():
    import numpy as np

    rate = np.float32(0.5)
    (_, ticket) = prunus.imp(small(), lambda _: None, rounds=1, rate=rate, output="same")
    assert ticket.masks.density == 0.5
    assert prunus.prune(small(), "magnitude", np.float64(0.5)).density == 0.5
