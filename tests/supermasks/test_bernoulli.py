import math

import pytest
import torch
from supermasking import output
from torch import nn

from prunus.core.apply import masks_of
from prunus.supermasks import Bernoulli, bake, scores, supermask, supermask_of
from toy import MLP, batch, build

DRAWS = 100_000


def line(method, start, weight=1.0, dtype=torch.float32):
    """A layer of one output whose weights are all alike, with these scores."""
    start = torch.as_tensor(start, dtype=dtype)
    model = nn.Linear(start.numel(), 1, bias=False, dtype=dtype)
    with torch.no_grad():
        model.weight.fill_(weight)
    supermask(model, method)
    with torch.no_grad():
        scores(model)[0].copy_(start.view(1, -1))
    return model


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("score", [-3.0, -0.5, 0.0, 2.0])
def test_a_weight_is_drawn_as_often_as_its_probability_says(score):
    model = line(Bernoulli(), torch.full((DRAWS,), score))
    p = 1 / (1 + math.exp(-score))
    error = (p * (1 - p) / DRAWS) ** 0.5
    assert abs(float((model.weight != 0).double().mean()) - p) < 4 * error


def test_each_forward_pass_draws_anew_in_evaluation_too():
    model = build(MLP)
    supermask(model, Bernoulli())
    x = batch(MLP)[0]
    for mode in (True, False):
        model.train(mode)
        assert not torch.equal(model(x), model(x))
        assert torch.equal(output(model, x, seed=3), output(model, x, seed=3))


def test_mask_and_density_before_and_after_an_update():
    model = build(MLP)
    supermask(model, Bernoulli(first=1.0))
    assert all((score == 1).all() for score in scores(model))
    assert masks_of(model).density == 1
    with torch.no_grad():
        for score in scores(model):
            score.neg_()
    assert masks_of(model).density == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [7, 1000, 200_000])
def test_the_factor_times_the_density_is_one(size, dtype):
    model = line(Bernoulli(rescale=True), torch.zeros(size), dtype=dtype)
    with torch.no_grad():
        weight = model.weight
    factor = weight.max()
    exact = torch.promote_types(dtype, torch.float32)
    kept = (weight != 0).sum()
    assert 0 < kept < size
    expected = torch.tensor(float(size), dtype=exact) / kept.to(exact)
    assert factor == expected.to(dtype)  # n / Σb to the last bit
    assert (weight[weight != 0] == factor).all()


def test_the_factor_of_a_full_mask_is_one():
    model = line(Bernoulli(rescale=True), torch.full((50,), 40.0), weight=0.3)
    assert (model.weight == 0.3).all()


@pytest.mark.parametrize("draw", ["sample", "round"])
@pytest.mark.parametrize("rescale", [False, True])
def test_a_layer_of_which_nothing_is_drawn_is_all_zeros(rescale, draw):
    model = line(Bernoulli(rescale=rescale, draw=draw), torch.full((50,), -200.0)).eval()
    assert not model.weight.any()
    model.train()(torch.ones(2, 50)).sum().backward()
    assert scores(model)[0].grad.isfinite().all()
    assert not bake(model)["weight"].any()
    assert not model.weight.any()


@pytest.mark.parametrize("score", [-70.0, -90.0, -104.0, 90.0])
@pytest.mark.parametrize("draw", ["sample", "round"])
def test_gradients_are_finite_where_probabilities_are_next_to_nothing(draw, score):
    model = line(Bernoulli(rescale=True, draw=draw), torch.full((10,), score))
    for _ in range(20):
        model(torch.ones(2, 10)).sum().backward()
    assert scores(model)[0].grad.isfinite().all()
    assert model.weight.isfinite().all()


@pytest.mark.parametrize("draw", ["sample", "round"])
@pytest.mark.parametrize("rescale", [False, True])
def test_scores_stay_finite_at_the_rate_of_the_paper(rescale, draw):
    model = build(MLP)
    supermask(model, Bernoulli(rescale=rescale, draw=draw))
    optimizer = torch.optim.SGD(scores(model), lr=100, momentum=0.9)
    x, y = batch(MLP, size=32)
    for _ in range(1000):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    assert loss.isfinite()
    assert all(score.isfinite().all() for score in scores(model))


def test_learned_probabilities_find_what_is_needed():
    # y is the sum of the first four of eight inputs: with all weights one, those four are the mask
    model = line(Bernoulli(), torch.zeros(8))
    optimizer = torch.optim.SGD(scores(model), lr=1.0, momentum=0.9)
    for _ in range(300):
        x = torch.randn(64, 8)
        optimizer.zero_grad()
        (model(x).squeeze(1) - x[:, :4].sum(1)).square().mean().backward()
        optimizer.step()
    assert masks_of(model)["weight"].tolist() == [[True] * 4 + [False] * 4]


# The rounding variant


def test_rounding_uses_the_probability_half_the_time_in_training():
    score = 0.8
    p = torch.sigmoid(torch.tensor(score))
    model = line(Bernoulli(draw="round"), torch.full((DRAWS,), score))
    values = model.weight
    assert set(values.unique().tolist()) == {1.0, float(p)}
    share = float((values == 1).double().mean())
    assert abs(share - 0.5) < 4 * 0.5 / DRAWS**0.5


@pytest.mark.parametrize("rescale", [False, True])
def test_rounding_is_deterministic_in_evaluation_and_is_what_bake_leaves(rescale):
    model = line(Bernoulli(draw="round", rescale=rescale), torch.linspace(-1, 1, 10), weight=0.7).eval()
    before = model.weight.detach().clone()
    assert torch.equal(model.weight, before)
    factor = 2.0 if rescale else 1.0
    assert torch.allclose(before, torch.tensor([[0.0] * 5 + [0.7 * factor] * 5]))
    bake(model)
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_score_above_nought_is_kept_however_small(dtype):
    model = line(Bernoulli(draw="round"), [1e-9, 0.0, -1e-9, 1e-3], dtype=dtype).eval()
    kept = masks_of(model)["weight"]
    assert kept.tolist() == [[True, False, False, True]]
    assert torch.equal(model.weight != 0, kept)


def test_the_most_probable_mask_is_rescaled_by_its_own_count():
    model = line(Bernoulli(rescale=True), [1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0], weight=0.9)
    (part,) = supermask_of(model).parts().values()
    assert part.scale == float(torch.tensor(7 / 3))
    bake(model)
    assert torch.allclose(model.weight, torch.tensor([[2.1] * 3 + [0.0] * 4]))
