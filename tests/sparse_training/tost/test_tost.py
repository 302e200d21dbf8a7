import json
from functools import partial

import pytest
import torch
from torch.nn import functional as F
from torch.nn.utils import prune

from prunus.core.apply import apply
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.seeds import generator
from prunus.data import load
from prunus.models import build as network
from prunus.sparse_training.tost import GhostSkips, LabelSmoothing, SoftNeurons, ToST, rescale_init
from prunus.training import Recipe
from prunus.training.engines.single import Seat
from prunus.training.lane import Lane
from toy import OPTIMIZERS, ConvNet, Tied, batch, build, is_sparse, masked, random_masks

PROJECTION = {"kind": "projection", "until": 0.8}
SWITCHES = {
    "soft neurons": lambda model, optimizer: SoftNeurons(model, 10, until=0.8),
    "identity": lambda model, optimizer: GhostSkips(model, 10, until=0.8),
    "projection": lambda model, optimizer: GhostSkips(model, 10, optimizer=optimizer, **PROJECTION),
    "label smoothing": lambda model, optimizer: LabelSmoothing(0.1, 10, until=0.8),
    "all": lambda model, optimizer: ToST(model, optimizer, 10, ghost_skips=PROJECTION),
}


def train(model, optimizer, switch, turns):
    loss = getattr(switch, "loss", switch if isinstance(switch, LabelSmoothing) else F.cross_entropy)
    for turn in turns:
        x, y = batch(ConvNet, seed=turn)
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
        switch.step()


def held(masks=None):
    model = build(ConvNet)
    apply(model, masks or random_masks(model))
    return model


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_at_the_end_the_model_is_the_plain_sparse_one(name):
    model, masks = masked(ConvNet)
    optimizer = OPTIMIZERS[name](model.parameters())
    tost = ToST(model, optimizer, 10, ghost_skips=PROJECTION)
    for turn in range(10):
        train(model, optimizer, tost, [turn])
        assert is_sparse(model, masks)
    twin = build(ConvNet)
    twin.load_state_dict(model.state_dict())
    assert str(model) == str(twin)
    x, y = batch(ConvNet, seed=99)
    assert torch.equal(model(x), twin(x))
    assert torch.equal(tost.loss(model(x), y), F.cross_entropy(twin(x), y))
    assert sum(p.numel() for g in optimizer.param_groups for p in g["params"]) == sum(
        p.numel() for p in twin.parameters()
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "adamw, fused"])
@pytest.mark.parametrize("stop", [0, 3, 8, 9])
@pytest.mark.parametrize("switch", SWITCHES)
def test_stopped_and_resumed_is_the_same_bit_for_bit(switch, stop, optimizer):
    whole = held()
    steady = OPTIMIZERS[optimizer](whole.parameters())
    train(whole, steady, SWITCHES[switch](whole, steady), range(10))

    model = held()
    first = OPTIMIZERS[optimizer](model.parameters())
    before = SWITCHES[switch](model, first)
    train(model, first, before, range(stop))
    state = before.state_dict()
    tensors = {name: value.clone() for name, value in state.items() if isinstance(value, torch.Tensor)}
    rest = json.loads(json.dumps({name: value for name, value in state.items() if name not in tensors}))

    again = held()
    again.load_state_dict(model.state_dict())
    second = OPTIMIZERS[optimizer](again.parameters())
    after = SWITCHES[switch](again, second)
    after.load_state_dict({**rest, **tensors})
    second.load_state_dict(first.state_dict())
    train(again, second, after, range(stop, 10))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


@pytest.mark.parametrize("switch", ["soft neurons", "projection", "all"])
def test_a_state_of_before_the_end_can_be_gone_back_to(switch):
    model = held()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    made = SWITCHES[switch](model, optimizer)
    train(model, optimizer, made, range(3))
    x = batch(ConvNet, seed=9)[0]
    state, weights, logits = made.state_dict(), {n: t.clone() for n, t in model.state_dict().items()}, model.eval()(x)
    train(model.train(), optimizer, made, range(3, 10))
    model.load_state_dict(weights)
    made.load_state_dict(state)
    assert torch.equal(model.eval()(x), logits)
    made.finish()
    made.finish()
    twin = build(ConvNet).eval()
    twin.load_state_dict(weights)
    assert torch.equal(model(x), twin(x))


def test_each_switch_has_its_own_options_and_its_way_out():
    model = build(ConvNet)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tost = ToST(model, optimizer, 100, soft_neurons={"until": 0.1}, ghost_skips=False, label_smoothing={"smoothing": 0})
    assert list(tost.switches) == ["label_smoothing", "soft_neurons"]
    for _ in range(9):
        tost.step()
    assert not tost.switches["soft_neurons"].ended
    tost.step()
    assert str(model) == str(build(ConvNet))
    assert not tost.switches["label_smoothing"].ended


def test_with_all_switches_off_nothing_happens():
    model = build(ConvNet)
    off = {"soft_neurons": False, "ghost_skips": False, "label_smoothing": False}
    tost = ToST(model, torch.optim.SGD(model.parameters(), lr=0.1), 10, **off)
    tost.step()
    x, y = batch(ConvNet)
    assert torch.equal(tost.loss(model(x), y), F.cross_entropy(build(ConvNet)(x), y))
    assert tost.state_dict() == {}
    tost.load_state_dict({})


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Tied, {}, "Tied has no nn.ReLU module"),
        (
            ConvNet,
            {"soft_neurons": {"beta": 3}},
            "soft_neurons has the option 'beta'; allowed: kind, start, end, until",
        ),
        (ConvNet, {"ghost_skips": {"until": 0}}, "until is 0"),
        (ConvNet, {"ghost_skips": {"optimizer": None}}, "ghost_skips has the option 'optimizer'"),
        (ConvNet, {"label_smoothing": 0.1}, "label_smoothing is 0.1; allowed: true, false, or options by name"),
        (ConvNet, {"total_steps": 0}, "total_steps is 0"),
    ],
)
def test_bad_options_change_nothing(kind, options, message):
    model = build(kind)
    with pytest.raises(Invalid, match=message):
        ToST(model, torch.optim.SGD(model.parameters(), lr=0.1), **{"total_steps": 10, **options})
    assert str(model) == str(build(kind))
    assert not any(module._forward_hooks for module in model.modules())


def test_states_of_other_trainings_are_refused_and_change_nothing():
    def made(steps=10, **options):
        model = build(ConvNet)
        return ToST(model, torch.optim.SGD(model.parameters(), lr=0.1), steps, **options)

    own, other = made(), made(20)
    other.step()
    with pytest.raises(Invalid, match="of a LabelSmoothing with total_steps=20; allowed: 10"):
        own.load_state_dict(other.state_dict())
    with pytest.raises(Invalid, match="the state has 'soft_neurons/total_steps'; allowed: a state of label_smoothing"):
        made(soft_neurons=False).load_state_dict(own.state_dict())
    with pytest.raises(Invalid, match="the state has no 'steps'; allowed: the state_dict"):
        own.load_state_dict(made(soft_neurons=False).state_dict())
    assert all(switch.steps == 0 for switch in own.switches.values())


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_in_a_training_by_lanes_it_is_resumed_bit_for_bit(optimizer):
    digits = load("digits")
    recipe = Recipe(iterations=10, batch=50, optimizer=optimizer, momentum=0.9 * (optimizer == "sgd"), lr=0.01)
    method = partial(ToST, total_steps=10, ghost_skips=PROJECTION)

    def lane(weights=None):
        model = network("lenet-300-100", digits.input_shape, 10, width=0.1, generator=generator(0, "initialisation"))
        masks = Masks.random(model, 0.1, "erk", generator(0, "masks"))
        model.load_state_dict(weights or model.state_dict())
        return Lane(model, digits, recipe, masks, method=method)

    whole = lane()
    Seat(whole, {}).advance(10)
    first = lane()
    seat = Seat(first, {})
    seat.advance(4)
    second = lane(first.model.state_dict())
    second.iteration = 4
    Seat(second, seat.state()).advance(6)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], tensor)
    assert [type(m) for m in second.model.modules()] == [type(m) for m in lane().model.modules()]


def test_the_loss_of_a_method_is_trained_with_and_recorded():
    digits = load("digits")

    def loss_of_the_first_step(**switches):
        off = {"soft_neurons": False, "ghost_skips": False, "label_smoothing": False, **switches}
        model = network("lenet-300-100", digits.input_shape, 10, width=0.1, generator=generator(0, "initialisation"))
        lane = Lane(model, digits, Recipe(iterations=10, batch=50), method=partial(ToST, total_steps=10, **off))
        Seat(lane, {}).advance(1)
        images, labels = lane.batches[0]
        start = network("lenet-300-100", digits.input_shape, 10, width=0.1, generator=generator(0, "initialisation"))
        return float(lane.sums[0]), start(images).detach(), labels

    smoothed, logits, labels = loss_of_the_first_step(label_smoothing={"smoothing": 0.4})
    assert smoothed == pytest.approx(float(LabelSmoothing(0.4)(logits, labels)))
    plain, logits, labels = loss_of_the_first_step()
    assert plain == pytest.approx(float(F.cross_entropy(logits, labels)))


def test_masks_may_be_held_in_another_way():
    model = build(ConvNet)
    kept = torch.arange(216).view(6, 4, 3, 3) % 3 == 0
    prune.custom_from_mask(model.more[0], "weight", kept)
    data = [batch(ConvNet, seed=seed) for seed in range(4)]
    rescale_init(model, data, steps=4)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    tost = ToST(model, optimizer, 4, ghost_skips=PROJECTION)
    train(model, optimizer, tost, range(4))
    assert torch.equal(model.more[0].weight != 0, kept)
