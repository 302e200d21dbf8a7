"""The model comes back as it was, whatever the criterion and whatever happens in between."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.core.errors import Invalid
from prunus.pruning import CRITERIA, Inverted
from toy import ConvNet, Tied, Transformer, batch, build, random_masks

every_criterion = pytest.mark.parametrize("name", list(CRITERIA))


class Broken(RuntimeError):
    """What a model of these tests raises in the middle."""


class Stateful(ConvNet):
    """A network with everything that a forward pass can leave a trace in."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.embedding = nn.Embedding(5, 4, max_norm=0.1)  # it rescales its own weights as it is used
        self.mean = nn.BatchNorm1d(3, momentum=None)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        self.seen.copy_(x.detach().mean())
        x = self.drop(self.features(x))
        x = x + self.embedding(torch.arange(3).repeat(x.shape[-1])[: x.shape[-1]]).sum()
        return self.mean(self.head(self.more(x).flatten(1)))


def stateful() -> nn.Module:
    model = build(Stateful)
    model.train()
    model.features[1].eval()  # a mix of modes
    model.more.eval()
    model.more[1].train()
    model.head.weight.requires_grad_(False)
    model.features[0].weight.grad = torch.full_like(model.features[0].weight, 0.5)
    return model


def traces(model: nn.Module) -> dict:
    """All there is to know about a model and the generators; copies, and the identities of what is held."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {
        "values": {n: t.detach().clone() for n, t in named},
        "held": {n: id(t) for n, t in named},
        "versions": {n: t._version for n, t in named},
        "memory": {n: t.data_ptr() for n, t in named},
        "gradients": {n: (id(p.grad), None if p.grad is None else p.grad.clone()) for n, p in model.named_parameters()},
        "needs": {n: p.requires_grad for n, p in model.named_parameters()},
        "modes": [module.training for module in model.modules()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()],
        "parameter hooks": {n: len(p._backward_hooks or ()) for n, p in model.named_parameters()},
        "generators": (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()),
        "grad mode": torch.is_grad_enabled(),
    }


def same(a: object, b: object) -> bool:
    if isinstance(a, Tensor | np.ndarray):
        return bool((torch.as_tensor(a) == torch.as_tensor(b)).all())
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def options(name: str, data: list) -> dict:
    given = {"batches": data, "generator": torch.Generator().manual_seed(0), "loss": nn.functional.cross_entropy}
    return {option: given[option] for option in CRITERIA[name].uses}


@every_criterion
@pytest.mark.parametrize("inverted", [False, True])
def test_all_is_as_it_was(name, inverted):
    model = stateful()
    criterion = Inverted(CRITERIA[name]()) if inverted else CRITERIA[name]()
    before = traces(model)
    prunus.prune(model, criterion, 0.5, rounds=3, protect=1, **options(name, [batch(ConvNet)]))
    after = traces(model)
    assert [part for part in before if not same(before[part], after[part])] == []


@pytest.mark.parametrize("name", ["snip", "grasp", "force", "saliency"])
def test_all_is_as_it_was_after_training_mode(name):
    model = stateful()
    before = traces(model)
    prunus.prune(model, CRITERIA[name](mode="train"), 0.5, rounds=3, protect=1, batches=[batch(ConvNet)] * 2)
    after = traces(model)
    assert [part for part in before if not same(before[part], after[part])] == []


@pytest.mark.parametrize("name", [name for name in CRITERIA if "batches" in CRITERIA[name].uses])
@pytest.mark.parametrize("calls", [0, 1, 4])
def test_all_is_as_it_was_when_the_model_raises_in_the_middle(name, calls):
    model = stateful()
    left = [calls]

    def stop(module: nn.Module, args: tuple) -> None:
        left[0] -= 1
        if left[0] < 0:
            torch.rand(3)
            raise Broken("enough")

    handle = model.head.register_forward_pre_hook(stop)
    before = traces(model)
    with pytest.raises(Invalid, match=r"Stateful does not take a float32 tensor of shape .*: enough") as caught:
        prunus.prune(model, name, 0.5, rounds=9, **options(name, [batch(ConvNet)]))
    assert isinstance(caught.value.__cause__, Broken)
    after = traces(model)
    assert [part for part in before if not same(before[part], after[part])] == []
    assert list(model.head._forward_pre_hooks) == [handle.id]


@pytest.mark.parametrize("name", ["snip", "grasp", "force"])
def test_all_is_as_it_was_when_the_loss_or_the_data_raise(name):
    model = stateful()

    def broken(outputs: Tensor, targets: Tensor) -> Tensor:
        raise Broken("no loss")

    def breaking():
        yield batch(ConvNet)
        raise Broken("no data")

    before = traces(model)
    with pytest.raises(Invalid, match=r"the loss does not take these outputs \(a float32 tensor of shape .*: no loss"):
        prunus.prune(model, name, 0.5, batches=[batch(ConvNet)], loss=broken)
    with pytest.raises(Broken, match="no data"):  # the data are not the model's: their error is left alone
        prunus.prune(model, CRITERIA[name](per_class=1000), 0.5, batches=breaking())
    after = traces(model)
    assert [part for part in before if not same(before[part], after[part])] == []


@every_criterion
def test_hooks_of_modules_run_as_in_any_forward_pass_and_those_of_parameters_do_not(name):
    model = build(ConvNet)
    seen: list[str] = []
    model.head.register_forward_pre_hook(lambda *_: seen.append("before"))
    model.head.register_forward_hook(lambda *_: seen.append("after"))
    model.head.weight.register_hook(lambda _: seen.append("gradient"))
    model.head.weight.register_post_accumulate_grad_hook(lambda _: seen.append("gradient"))
    prunus.prune(model, name, 0.5, rounds=2, **options(name, [batch(ConvNet)]))
    looks = name not in ("magnitude", "random")
    assert ("before" in seen) == looks
    assert seen.count("before") == seen.count("after")
    assert "gradient" not in seen
    assert len(model.head._forward_hooks) == len(model.head._forward_pre_hooks) == 1


@every_criterion
@pytest.mark.parametrize("kind", [ConvNet, Tied, Transformer])
def test_a_network_that_holds_masks_is_pruned_further_as_it_stands(name, kind):
    model = build(kind)
    held = random_masks(model, 0.7, seed=1)
    prunus.apply(model, held)
    plain = copy.deepcopy(model)
    prunus.release(plain)
    found = prunus.prune(model, name, 0.3, protect=1, **options(name, [batch(kind)]))
    assert found == prunus.prune(plain, name, 0.3, protect=1, **options(name, [batch(kind)]))
    assert prunus.masks_of(model) == held
    assert all(parameter.grad is None for parameter in model.parameters())


@every_criterion
def test_a_second_call_gives_the_same(name):
    model = stateful()
    first, second = (
        prunus.prune(model, name, 0.5, protect=1, rounds=2, **options(name, [batch(ConvNet)])) for _ in range(2)
    )
    assert first == second
