import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks

import prunus
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.seeds import generator
from prunus.tickets import hold_frozen, started
from prunus.tickets.ticket import snapshot
from toy import OPTIMIZERS, ConvNet, batch, build, step

SGD, ADAM = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}, {"lr": 0.01, "weight_decay": 0.1}
MAKERS = {
    "sgd": lambda p: torch.optim.SGD(p, **SGD),
    "sgd, fused": lambda p: torch.optim.SGD(p, **SGD, fused=True),
    "adam": lambda p: torch.optim.Adam(p, **ADAM),
    "adam, fused": lambda p: torch.optim.Adam(p, **ADAM, fused=True),
    **OPTIMIZERS,
}


def frozen(zero="freeze", kind=ConvNet, density=0.4, dtype=torch.float32):
    """A model that holds its start, the start, and the handle."""
    model = build(kind).to(dtype)
    initial, final = snapshot(model), snapshot(build(kind, seed=1).to(dtype))
    start = started(initial, final, Masks.random(model, density, generator=generator(0)), zero=zero)
    model.load_state_dict(start.weights)
    return model, start, hold_frozen(model, start)


def bits(tensor):
    return tensor.detach().contiguous().view(torch.uint8)


def is_held(model, start):
    weights = model.state_dict()
    held = [(weights[name][~mask], start.weights[name][~mask]) for name, mask in start.trainable.items()]
    return all(torch.equal(bits(now), bits(then)) for now, then in held)


def moves(model, start):
    weights = model.state_dict()
    return all((weights[n][mask] != start.weights[n][mask]).all() for n, mask in start.trainable.items())


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
@pytest.mark.parametrize("zero", ["freeze", "variant-2"])
def test_frozen_weights_keep_every_bit_through_twenty_steps_while_the_rest_learns(make, zero):
    model, start, _ = frozen(zero)
    optimizer = make(model.parameters())
    for turn in range(20):
        step(model, optimizer, batch(ConvNet, seed=turn))
        assert is_held(model, start)
    assert moves(model, start)


def test_what_is_trained_learns_as_if_the_frozen_part_were_a_constant():
    model, start, _ = frozen(dtype=torch.float64)
    plain = build(ConvNet).double()
    plain.load_state_dict(start.weights)
    # the plain way: the optimizer knows the trained entries only, the others stand beside them in the forward pass
    free = {name: parameter.detach().clone().requires_grad_() for name, parameter in plain.named_parameters()}
    held = dict.fromkeys(free, True) | dict(start.trainable)

    def weights():
        return {n: torch.where(torch.as_tensor(held[n]), p, start.weights[n]) for n, p in free.items()}

    optimizers = [
        torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1) for p in (model.parameters(), free.values())
    ]
    for turn in range(20):
        x, y = batch(ConvNet, seed=turn)
        outputs = [model(x.double()), torch.func.functional_call(plain, weights(), (x.double(),))]
        for optimizer, output in zip(optimizers, outputs, strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(output, y).backward()
            optimizer.step()
    expected = weights()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name].detach())


def test_frozen_gradients_are_zero_for_whoever_looks():
    model, start, _ = frozen()
    x, y = batch(ConvNet)
    nn.functional.cross_entropy(model(x), y).backward()
    for name, mask in start.trainable.items():
        gradient = model.get_parameter(name).grad
        assert not gradient[~mask].any()
        assert gradient[mask].any()


def test_frozen_weights_survive_whatever_stands_there():
    model, start, _ = frozen()
    optimizer = MAKERS["sgd"](model.parameters())
    with torch.no_grad():
        for name, mask in start.trainable.items():
            model.get_parameter(name)[~mask] = float("nan")
    optimizer.step()
    assert is_held(model, start)


def test_holding_puts_the_frozen_weights_in_at_once_and_leaves_the_others():
    model = build(ConvNet)
    start = started(snapshot(model), snapshot(model), Masks.random(model, 0.4, generator=generator(0)), zero="freeze")
    other = build(ConvNet, seed=5)
    before = snapshot(other)
    hold_frozen(other, start)
    assert is_held(other, start)
    for name, tensor in other.state_dict().items():
        mask = start.trainable.get(name, torch.ones_like(tensor, dtype=torch.bool))
        assert torch.equal(tensor[mask], before[name][mask])


def test_zeros_are_held_as_apply_holds_them():
    model, start, _ = frozen("zero")
    twin = build(ConvNet)
    twin.load_state_dict(start.weights)
    prunus.apply(twin, start.trainable)
    for each in (model, twin):
        optimizer = MAKERS["sgd"](each.parameters())
        for turn in range(5):
            step(each, optimizer, batch(ConvNet, seed=turn))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True))


def test_removing_lets_them_move_and_leaves_nothing():
    model, start, handle = frozen()
    hooks = len(_global_optimizer_post_hooks)
    handle.remove()
    handle.remove()
    step(model, MAKERS["sgd"](model.parameters()), batch(ConvNet))
    assert not is_held(model, start)
    hold_frozen(model, start)
    assert is_held(model, start)
    assert len(_global_optimizer_post_hooks) == hooks


def test_a_model_that_is_dropped_is_freed():
    model, _, handle = frozen()
    gone = weakref.ref(model.get_parameter("head.weight"))
    gc.disable()
    try:
        del model
        assert gone() is None
    finally:
        gc.enable()
    handle.remove()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_model_may_be_converted_while_it_holds(dtype, memory_format):
    model, start, _ = frozen()
    model.to(dtype).to(memory_format=memory_format)
    x, y = batch(ConvNet)
    optimizer = MAKERS["sgd"](model.parameters())
    for _ in range(3):
        step(model, optimizer, (x.to(dtype), y))
    for name, mask in start.trainable.items():
        assert torch.equal(model.state_dict()[name][~mask], start.weights[name][~mask].to(dtype))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_is_a_plain_model(copied):
    model, start, _ = frozen()
    twin = copied(model)
    step(twin, MAKERS["sgd"](twin.parameters()), batch(ConvNet))
    assert not is_held(twin, start)
    assert is_held(model, start)
    assert list(model.state_dict()) == list(build(ConvNet).state_dict())


def test_what_cannot_be_held_is_refused_and_nothing_changed():
    model, start, handle = frozen()
    with pytest.raises(Invalid, match=r"features\.0\.weight is held already"):
        hold_frozen(model, start)
    handle.remove()
    prunus.apply(model, start.trainable)
    with pytest.raises(Invalid, match=r"features\.0\.weight is held at zero by a mask"):
        hold_frozen(model, start)
    prunus.release(model)
    model.head.weight.requires_grad_(False)
    before = snapshot(model)
    with pytest.raises(Invalid, match=r"head\.weight takes no gradient"):
        hold_frozen(model, start)
    with pytest.raises(Invalid, match=r"model has no 'features\.0\.weight'"):
        hold_frozen(nn.Linear(2, 2), start)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
