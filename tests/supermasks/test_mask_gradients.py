"""The gradient of each row of the table, in float64, against autograd on the network that has ŵ for its weights."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from prunus.core.apply import masks_of
from prunus.supermasks import (
    METHODS,
    Bernoulli,
    Biprop,
    EdgePopup,
    GemMiner,
    Movement,
    NeuralWirings,
    Piggyback,
    scores,
    supermask,
    supermask_of,
)
from tiny_nets import conv, some, tiny


def times_sign(w, g, s, _):
    return w * g * s.sign()


def times_weight(w, g, _s, _):
    return w * g


def times_spread(w, g, s, _):
    p = torch.sigmoid(s)
    return w * g * p * (1 - p)


def times_flag(w, g, _s, layer):
    return w * g * layer.flags


#: Each way to learn scores over frozen weights, and the gradient of the scores from w, g at ŵ, the scores, the layer.
FORMULAS = [
    (EdgePopup(density=0.4), times_sign),
    (EdgePopup(density=0.4, scope="global"), times_sign),
    (EdgePopup(density=0.4, signed=True), times_weight),
    (Biprop(density=0.4), times_sign),
    (Biprop(density=0.4, scope="global", signed=True), times_weight),
    (Bernoulli(), times_spread),
    (GemMiner(density=0.3, steps=4, every=2), times_flag),
    (Piggyback(), times_weight),
    (Piggyback(ternary=True), times_weight),
    (Piggyback(balance="layer"), lambda w, g, _s, _: w * g / w.abs().mean()),
    (Piggyback(balance="entry"), lambda w, g, _s, _: w.sign() * g),
    (Movement(density=0.4), times_weight),
]


def masked(method):
    """A network in float64 whose scores lie to both sides of any threshold, of both signs where they may be."""
    model = tiny(conv)
    supermask(model, method)
    draws = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for score in scores(model) if not isinstance(method, NeuralWirings) else []:
            low = 0.0 if isinstance(method, GemMiner) else -1.0
            score.uniform_(low, 1.0, generator=draws)
        if isinstance(method, GemMiner):
            for layer in supermask_of(model).layers.values():
                layer.flags.copy_(torch.rand(layer.flags.shape, generator=draws) < 0.6)
            supermask_of(model).refresh()
    return model


def run(model, x, y):
    """The masked weights of one forward pass, and its loss."""
    with torch.random.fork_rng(devices=[]), parametrize.cached():
        torch.manual_seed(8)
        effective = {name: model.get_submodule(name.rpartition(".")[0]).weight for name in supermask_of(model).layers}
        return effective, nn.functional.cross_entropy(model(x), y)


def gradients_at(effective, x, y, training=True):
    """The gradients of the network that has these for its weights, by autograd."""
    twin = tiny(conv).train(training)
    leaves = {name: value.detach().clone().requires_grad_() for name, value in effective.items()}
    loss = nn.functional.cross_entropy(torch.func.functional_call(twin, leaves, x), y)
    found = torch.autograd.grad(loss, list(leaves.values()))
    return loss, dict(zip(leaves, found, strict=True))


@pytest.mark.parametrize(("method", "formula"), FORMULAS, ids=[repr(method)[:60] for method, _ in FORMULAS])
def test_scores_learn_by_the_formula_on_the_mask_and_off_it(method, formula):
    model, (x, y) = masked(method), some(conv)[0]
    effective, loss = run(model, x, y)
    loss.backward()
    reference, at = gradients_at(effective, x, y, not method.fixes_statistics)
    assert torch.allclose(loss, reference)
    on = off = False
    for name, layer in supermask_of(model).layers.items():
        expected = formula(layer.weight.detach(), at[name], layer.scores.detach(), layer)
        assert torch.allclose(layer.scores.grad, expected, rtol=1e-9, atol=1e-14), name
        learns = layer.scores.grad != 0
        on, off = on or bool(learns[effective[name] != 0].any()), off or bool(learns[effective[name] == 0].any())
        if not method.learns_weights:
            assert layer.weight.grad is None
    assert on
    assert off


def test_the_gradients_of_every_row_are_checked_in_this_file():
    checked = {type(method) for method, _ in FORMULAS} | {NeuralWirings}
    assert checked >= {METHODS[name] for name in METHODS if METHODS[name].__module__.startswith("prunus.")}


@pytest.mark.parametrize("scope", ["layerwise", "global"])
def test_wirings_give_every_weight_the_gradient_at_the_masked_one(scope):
    model, (x, y) = masked(NeuralWirings(density=0.4, scope=scope)), some(conv)[0]
    effective, loss = run(model, x, y)
    loss.backward()
    _, at = gradients_at(effective, x, y)
    for name, layer in supermask_of(model).layers.items():
        assert torch.allclose(layer.weight.grad, at[name], rtol=1e-9, atol=1e-14)
        assert layer.weight.grad[effective[name] == 0].any()


def test_movement_gives_kept_weights_their_gradient_and_dropped_ones_none():
    model, (x, y) = masked(Movement(density=0.4)), some(conv)[0]
    effective, loss = run(model, x, y)
    loss.backward()
    _, at = gradients_at(effective, x, y)
    for name, layer in supermask_of(model).layers.items():
        kept = masks_of(model)[name]
        assert torch.allclose(layer.weight.grad[kept], at[name][kept], rtol=1e-9, atol=1e-14)
        assert not layer.weight.grad[~kept].any()
    assert model[0].bias.grad.any()  # and biases as ever


def test_rescaled_draws_learn_through_the_factor_too():
    model, (x, y) = masked(Bernoulli(rescale=True)), some(conv)[0]
    effective, loss = run(model, x, y)
    loss.backward()
    _, at = gradients_at(effective, x, y)
    for name, layer in supermask_of(model).layers.items():
        drawn = (effective[name].detach() != 0).double().requires_grad_()
        rescaled = drawn.numel() / drawn.sum() * layer.weight.detach() * drawn
        assert torch.allclose(rescaled, effective[name])
        (to_drawn,) = torch.autograd.grad(rescaled, drawn, at[name])
        p = torch.sigmoid(layer.scores.detach())
        assert torch.allclose(layer.scores.grad, to_drawn * p * (1 - p), rtol=1e-9, atol=1e-14)


def test_the_expected_loss_of_drawn_masks_has_the_mean_gradient_by_differences():
    # a loss that is linear in ŵ: its mean over draws is Σ a w p, whose differences in p are those of the expectation
    model = nn.Sequential(nn.Linear(3, 2, bias=False)).double()
    supermask(model, Bernoulli())
    (score,), a = scores(model), torch.arange(1.0, 7.0, dtype=torch.float64).view(2, 3)
    with torch.no_grad():
        score.copy_(torch.linspace(-2, 2, 6).view(2, 3))
    (layer,) = supermask_of(model).layers.values()
    weight, p = layer.weight.detach(), torch.sigmoid(score.detach())

    def mean(at):
        masks = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 6).view(-1, 2, 3)
        chances = torch.where(masks > 0, at, 1 - at).prod(-1).prod(-1)
        return (chances * (a * weight * masks).sum((1, 2))).sum()

    (a * model[0].weight).sum().backward()
    step = 1e-6
    for place in range(6):
        nudge = torch.zeros(6, dtype=torch.float64)
        nudge[place] = step
        slope = (mean(p + nudge.view(2, 3)) - mean(p - nudge.view(2, 3))) / (2 * step)
        spread = (p * (1 - p)).view(-1)[place]
        assert torch.isclose(score.grad.view(-1)[place], slope * spread, rtol=1e-6)


def test_the_rounded_variant_learns_where_the_probability_itself_is_used():
    model, (x, y) = masked(Bernoulli(draw="round")), some(conv)[0]
    effective, loss = run(model, x, y)
    loss.backward()
    _, at = gradients_at(effective, x, y)
    for name, layer in supermask_of(model).layers.items():
        weight, p = layer.weight.detach(), torch.sigmoid(layer.scores.detach())
        itself = torch.isclose(effective[name].detach(), weight * p)
        rounded = torch.isclose(effective[name].detach(), weight * (p > 0.5))
        assert (itself ^ rounded).all()
        expected = at[name] * weight * p * (1 - p) * itself
        assert torch.allclose(layer.scores.grad, expected, rtol=1e-9, atol=1e-14)


class Twice(nn.Module):
    """Two layers that share a weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4).double(), nn.Linear(4, 4).double()
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def test_gradients_add_up_over_the_uses_of_a_tied_weight():
    model = Twice()
    supermask(model, EdgePopup(density=0.5))
    (layer,) = supermask_of(model).layers.values()
    x = torch.linspace(-1, 1, 20, dtype=torch.float64).view(5, 4)
    model(x).square().sum().backward()
    uses = [model.first.weight.detach().clone().requires_grad_() for _ in range(2)]
    hidden = torch.tanh(nn.functional.linear(x, uses[0], model.first.bias))
    nn.functional.linear(hidden, uses[1], model.second.bias).square().sum().backward()
    expected = times_sign(layer.weight, uses[0].grad + uses[1].grad, layer.scores.detach(), layer)
    assert torch.allclose(layer.scores.grad, expected)


def test_gradients_can_be_differentiated_again():
    model, (x, y) = masked(EdgePopup(density=0.4)), some(conv)[0]
    layers = supermask_of(model).layers
    effective, loss = run(model, x, y)
    first = torch.autograd.grad(loss, scores(model), create_graph=True)
    second = torch.autograd.grad(sum(gradient.square().sum() for gradient in first), scores(model))
    # the same with plain operators: ŵ moves as w · |s| does, from where it is
    leaves = {name: layer.scores.detach().clone().requires_grad_() for name, layer in layers.items()}
    plain = {
        name: effective[name].detach() + layers[name].weight * (leaf.abs() - leaf.detach().abs())
        for name, leaf in leaves.items()
    }
    loss = nn.functional.cross_entropy(torch.func.functional_call(tiny(conv), plain, x), y)
    first = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
    expected = torch.autograd.grad(sum(gradient.square().sum() for gradient in first), list(leaves.values()))
    assert all(torch.allclose(mine, theirs, atol=1e-14) for mine, theirs in zip(second, expected, strict=True))
