import pytest
import torch
from torch import nn

from prunus.core.apply import masks_of
from prunus.core.schedules import cubic
from prunus.supermasks import Movement, bake, scores, supermask, supermask_of
from toy import MODELS, ConvNet, batch, build, step


def both(model, rate=0.05, score_rate=0.1):
    """One optimizer for weights and scores, each at its own rate."""
    learned = {id(score) for score in scores(model)}
    weights = [parameter for parameter in model.parameters() if id(parameter) not in learned]
    return torch.optim.SGD([{"params": scores(model), "lr": score_rate}, {"params": weights}], lr=rate, momentum=0.9)


@pytest.mark.parametrize("scope", ["layerwise", "global"])
@pytest.mark.parametrize("kind", MODELS)
def test_it_starts_dense_and_falls_by_the_cubic_schedule(kind, scope):
    model = build(kind)
    x = batch(kind)[0]
    with torch.no_grad():
        before = model(x)
        supermask(model, Movement(density=0.2, scope=scope, schedule="cubic", steps=5, start=1))
        assert torch.equal(model(x), before)
    assert masks_of(model).density == 1
    assert all(not score.any() for score in scores(model))
    sizes = [mask.numel() for mask in masks_of(model).values()]
    optimizer = both(model)
    for turn in range(1, 8):
        step(model, optimizer, batch(kind, seed=turn))
        density = cubic(min(1.0, max(0, turn - 1) / 5), 0.2)
        expected = round(density * sum(sizes)) if scope == "global" else sum(round(density * size) for size in sizes)
        assert masks_of(model).kept == expected
    assert supermask_of(model).step_count == 7


def test_a_score_is_the_sum_of_how_far_the_gradient_would_move_its_weight_from_nought():
    model = build(ConvNet).double()
    supermask(model, Movement(density=0.3, schedule="linear", steps=6))
    learned = torch.optim.SGD(scores(model), lr=0.5)
    weights = [p for p in model.parameters() if all(p is not score for score in scores(model))]
    moving = torch.optim.SGD(weights, lr=0.01)
    sums = {name: torch.zeros_like(layer.weight) for name, layer in supermask_of(model).layers.items()}
    for turn in range(6):
        x, y = batch(ConvNet, seed=turn, dtype=torch.float64)
        for optimizer in (learned, moving):
            optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        for name, layer in supermask_of(model).layers.items():
            kept = masks_of(model)[name]
            # where a weight is kept, its own gradient is g: the score moves by −rate · w · g
            sums[name][kept] -= 0.5 * (layer.weight.detach() * layer.weight.grad)[kept]
            sums[name][~kept] -= 0.5 * layer.scores.grad[~kept]
        for optimizer in (learned, moving):
            optimizer.step()
        for name, layer in supermask_of(model).layers.items():
            assert torch.allclose(layer.scores, sums[name], atol=1e-12)


def test_the_largest_scores_are_kept_and_not_the_largest_absolute_ones():
    model = nn.Linear(4, 1)
    supermask(model, Movement(density=0.5))
    with torch.no_grad():
        scores(model)[0].copy_(torch.tensor([[-5.0, 0.1, -0.1, 0.2]]))
    assert masks_of(model)["weight"].tolist() == [[False, True, False, True]]


def test_position_decides_among_scores_that_are_all_nought():
    model = nn.Linear(6, 1)
    supermask(model, Movement(density=0.5))
    assert masks_of(model)["weight"].tolist() == [[True] * 3 + [False] * 3]


def test_a_dropped_weight_stays_where_it_was_until_its_score_brings_it_back():
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    supermask(model, Movement(density=0.5))
    (layer,) = supermask_of(model).layers.values()
    optimizer = torch.optim.SGD([{"params": scores(model), "lr": 1.0}, {"params": [layer.weight]}], lr=0.1)
    # the third input pulls its weight up, away from nought, though it is not there
    (model(torch.tensor([[0.0, 0.0, 1.0, 0.0]])) * -1).sum().backward()
    optimizer.step()
    assert scores(model)[0].tolist() == [[0.0, 0.0, 1.0, 0.0]]
    assert layer.weight.tolist() == [[1.0, 1.0, 1.0, 1.0]]
    assert masks_of(model)["weight"].tolist() == [[True, False, True, False]]
    assert model.weight.tolist() == [[1.0, 0.0, 1.0, 0.0]]
    optimizer.zero_grad()
    (model(torch.tensor([[0.0, 0.0, 1.0, 0.0]])) * -1).sum().backward()
    optimizer.step()
    assert torch.allclose(model.weight, torch.tensor([[1.0, 0.0, 1.1, 0.0]]))


def test_weights_and_biases_and_norms_are_trained_and_baked():
    model = build(ConvNet)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    supermask(model, Movement(density=0.3, schedule="cubic", steps=4))
    optimizer = both(model)
    for turn in range(5):
        step(model, optimizer, batch(ConvNet, seed=turn))
    masks = bake(model)
    assert list(dict(model.named_parameters())) == list(start)
    for name, parameter in model.named_parameters():
        kept = masks.get(name, torch.ones_like(parameter, dtype=torch.bool))
        assert (parameter[kept] != start[name][kept]).any()
        assert not parameter[~kept].any()


@pytest.mark.parametrize("first", ["scores", "weights"])
def test_two_optimizers_in_either_order_count_once_and_the_mask_is_of_the_latest_scores(first):
    model = build(ConvNet)
    supermask(model, Movement(density=0.3, schedule="linear", steps=4))
    learned = {id(score) for score in scores(model)}
    weights = [parameter for parameter in model.parameters() if id(parameter) not in learned]
    pair = [torch.optim.Adam(scores(model), lr=0.01), torch.optim.Adam(weights, lr=0.01)]
    for turn in range(5):
        model.zero_grad()
        x, y = batch(ConvNet, seed=turn)
        nn.functional.cross_entropy(model(x), y).backward()
        for optimizer in pair if first == "scores" else reversed(pair):
            optimizer.step()
        for name, layer in supermask_of(model).layers.items():
            assert torch.equal(layer.effective, torch.where(masks_of(model)[name], layer.weight, 0.0))
    assert supermask_of(model).step_count == 5
