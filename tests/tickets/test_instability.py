import pytest
import torch
from torch import nn

import prunus
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.seeds import generator
from prunus.tickets.ticket import snapshot


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))


def first_weight(model):
    """An 'error' whose values along the line are known: it is the (0, 0) entry, squared."""
    return float(model[0].weight[0, 0].detach()) ** 2


def between(a, b):
    states = [snapshot(net()), snapshot(net())]
    states[0]["0.weight"][0, 0], states[1]["0.weight"][0, 0] = a, b
    return states


def test_the_line_has_its_closed_form_and_the_ends_are_exact():
    model = net()
    barrier = prunus.error_barrier(model, *between(-1.0, 2.0), lambda m: 4 - first_weight(m), points=31)
    expected = [4 - (-1 + 3 * alpha) ** 2 for alpha in barrier.alphas]
    assert barrier.errors == pytest.approx(expected, abs=1e-5)
    assert (barrier.errors[0], barrier.errors[-1]) == (3.0, 0.0)
    assert barrier.height == pytest.approx(4 - 1.5, abs=1e-2)
    assert not barrier.stable


def test_a_network_and_itself_have_no_barrier():
    one, _ = between(0.7, 0.7)
    barrier = prunus.error_barrier(net(), one, one, first_weight)
    assert barrier.height == 0
    assert barrier.stable
    assert len(barrier.errors) == 30


def test_the_barrier_is_symmetric_and_never_negative():
    one, other = between(-1.0, 2.0)
    there = prunus.error_barrier(net(), one, other, first_weight, points=11)
    back = prunus.error_barrier(net(), other, one, first_weight, points=11)
    assert there.errors == pytest.approx(back.errors[::-1], abs=1e-6)
    assert there.height >= 0


def test_the_model_comes_back_and_refresh_is_called_at_each_point():
    model = net().train()
    before, refreshed = snapshot(model), []
    prunus.error_barrier(model.eval(), *between(0.0, 1.0), first_weight, points=5, refresh=refreshed.append)
    assert len(refreshed) == 5
    assert not model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_instability_trains_two_copies_within_the_mask():
    model = net()
    ticket = prunus.Ticket(Masks.random(model, 0.5, generator=generator(0, "masks")), snapshot(model))
    orders, densities = [], []

    def train(model, order):
        orders.append(order)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for step in range(5):
            optimizer.zero_grad()
            model(torch.randn(8, 4, generator=generator(order, step))).square().mean().backward()
            optimizer.step()

    def error(model):
        weights = {n: p for n, p in model.named_parameters() if n in ticket.masks}
        densities.append(all(not w[~ticket.masks[n]].any() for n, w in weights.items()))
        return float(model[0].weight.detach().abs().sum())

    outer = Masks.random(model, 0.9, generator=generator(1, "masks"))
    prunus.apply(model, outer)
    before = snapshot(model)
    barrier = prunus.instability(model, ticket, train, error, points=7)
    assert orders == [0, 1]
    assert densities == [True] * 7
    assert barrier.errors[0] != barrier.errors[-1]
    assert prunus.masks_of(model) == outer
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("points", [-1, 0, 1])
def test_too_few_points_are_refused(points):
    with pytest.raises(Invalid, match="at least 2"):
        prunus.error_barrier(net(), *between(0, 1), first_weight, points=points)


def test_two_architectures_have_no_line_and_equal_orders_no_instability():
    with pytest.raises(Invalid, match="differ in"):
        prunus.error_barrier(net(), net().state_dict(), nn.Linear(4, 5).state_dict(), first_weight)
    with pytest.raises(Invalid, match="two different seeds"):
        prunus.instability(net(), prunus.Ticket(Masks({}), {}), print, first_weight, orders=(3, 3))


def test_a_line_that_passes_through_nan_is_not_stable():
    barrier = prunus.Barrier((0.0, 0.5, 1.0), (0.1, float("nan"), 0.1))
    assert barrier.height == float("inf")
    assert not barrier.stable
