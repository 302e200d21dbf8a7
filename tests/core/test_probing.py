"""Asking a model at weights that are not its own."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from prunus.core.errors import Invalid
from prunus.core.probing import Batch, Probe, loss_of, tensors_in, untouched
from toy import MODELS, ConvNet, Tied, batch, build

X, Y = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 1, 1])
entropy = nn.functional.cross_entropy


# Batches


@pytest.mark.parametrize(
    ("given", "args", "kwargs", "targets"),
    [
        (X, (X,), {}, None),
        ((X, Y), (X,), {}, Y),
        ([X, Y], (X,), {}, Y),
        (((X, X), Y), (X, X), {}, Y),
        ([[X], Y], (X,), {}, Y),
        (({"a": X}, Y), (), {"a": X}, Y),
        ({"a": X, "labels": Y}, (), {"a": X, "labels": Y}, Y),
        ({"a": X}, (), {"a": X}, None),
        ((X, None), (X,), {}, None),
        ([X], (X,), {}, None),
        (({"a": X},), (), {"a": X}, None),
    ],
)
def test_the_usual_forms_of_a_batch(given, args, kwargs, targets):
    read = Batch.read(given)
    assert len(read.args) == len(args)
    assert all(a is b for a, b in zip(read.args, args, strict=True))
    assert read.kwargs.keys() == kwargs.keys()
    assert all(read.kwargs[name] is kwargs[name] for name in kwargs)
    assert read.targets is targets


@pytest.mark.parametrize("given", [None, 3, "text", (), (3,), (X, Y, Y), {1, 2}])
def test_other_forms_are_refused(given):
    with pytest.raises(Invalid, match=r"a batch is of type \w+; allowed: a tensor, \(inputs, targets\) or a mapping"):
        Batch.read(given)


class Pair(NamedTuple):
    a: Tensor
    b: Any


def test_only_floating_point_tensors_change_their_type():
    read = Batch.read(([Pair(X, [Y, "text", None])], {"y": Y.float()})).to(torch.device("cpu"), torch.float64)
    (pair,) = read.args
    assert isinstance(pair, Pair)
    assert pair.a.dtype == torch.float64
    assert pair.b[0].dtype == torch.int64
    assert pair.b[1:] == ["text", None]
    assert read.targets["y"].dtype == torch.float64


# Probes


@pytest.mark.parametrize("kind", MODELS)
def test_the_outputs_are_those_of_the_model_at_the_given_weights(kind):
    model, other = build(kind, seed=0), build(kind, seed=1)
    x, _ = batch(kind)
    found = Probe(model, dict(other.named_parameters()))(Batch((x,)))
    assert torch.equal(found, other(x))
    assert torch.equal(Probe(model, {})(Batch((x,))), model(x))


def test_tied_weights_are_put_in_all_their_places():
    model = build(Tied)
    x, _ = batch(Tied)
    found = Probe(model, {"first.weight": torch.zeros(6, 6)})(Batch((x,)))
    with torch.no_grad():
        model.first.weight.zero_()
    assert torch.equal(found, model(x))


def test_all_is_brought_to_one_type():
    model = build(ConvNet).bfloat16()
    x, _ = batch(ConvNet)
    assert Probe(model, {}, torch.float64)(Batch((x,))).dtype == torch.float64
    assert {t.dtype for t in model.state_dict().values()} == {torch.bfloat16, torch.int64}


def test_gradients_go_to_the_given_values_alone():
    model = build(ConvNet)
    x, _ = batch(ConvNet)
    value = model.head.weight.detach().clone().requires_grad_()
    Probe(model, {"head.weight": value})(Batch((x,))).sum().backward()
    assert value.grad is not None
    assert all(parameter.grad is None for parameter in model.parameters())


class Writing(nn.Module):
    """A forward pass that writes to what it can reach."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.embedding = nn.Embedding(4, 3, max_norm=0.1)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return self.norm(x) + self.embedding(torch.arange(4))


def test_what_a_forward_pass_writes_to_is_a_copy():
    model = Writing()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    versions = [t._version for t in model.state_dict(keep_vars=True).values()]
    with untouched(model, "train"):
        first = Probe(model, {})(Batch((X,)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [t._version for t in model.state_dict(keep_vars=True).values()] == versions
    model.train()
    assert torch.equal(first, model(X))


@pytest.mark.parametrize("error", [RuntimeError, TypeError, AttributeError, ZeroDivisionError, StopIteration])
def test_whatever_a_model_raises_is_one_line(error):
    class Raising(nn.Linear):
        def forward(self, x: Tensor, number: int, scale: Any = None) -> Tensor:  # type: ignore[override]
            raise error("first line\nsecond line")

    with pytest.raises(Invalid) as caught:
        Probe(Raising(3, 2), {})(Batch((X, 3), {"scale": None}))
    assert str(caught.value) == (
        "Raising does not take a float32 tensor of shape (4, 3), int, scale=NoneType: first line"
    )
    assert isinstance(caught.value.__cause__, error)


def test_wrappers_are_looked_through(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        x, _ = batch(ConvNet)
        plain = build(ConvNet, seed=1)
        for wrap in (nn.parallel.DistributedDataParallel, nn.DataParallel):
            wrapped = wrap(build(ConvNet))
            values = {f"module.{name}": p for name, p in plain.named_parameters()}
            assert torch.equal(Probe(wrapped, values)(Batch((x,))), plain(x))
    finally:
        torch.distributed.destroy_process_group()


# Untouched


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_modes_are_set_within_and_put_back_one_by_one(mode):
    model = build(ConvNet).train()
    model.features.eval()
    model.features[1].train()
    before = [module.training for module in model.modules()]
    with untouched(model, mode):
        for module in model.modules():
            assert module.training == (mode == "train" and isinstance(module, nn.BatchNorm2d))
    assert [module.training for module in model.modules()] == before
    with pytest.raises(KeyError), untouched(model, mode):
        raise KeyError
    assert [module.training for module in model.modules()] == before


def test_generators_and_grad_modes_are_as_they_were():
    state = torch.get_rng_state()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        with untouched(build(ConvNet)):
            assert torch.is_grad_enabled()
            assert not torch.is_inference_mode_enabled()
            assert not torch.is_autocast_enabled("cpu")
            torch.rand(5)
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(torch.get_rng_state(), state)


def test_other_modes_are_refused():
    with pytest.raises(Invalid, match="mode is 'test'; allowed: eval, train"), untouched(build(ConvNet), "test"):
        pass


# Losses


@dataclass
class Outputs:
    logits: Tensor
    loss: Tensor | None = None


LOGITS = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("outputs", [LOGITS, Outputs(LOGITS), {"logits": LOGITS}])
@pytest.mark.parametrize("temperature", [1.0, 7.0])
def test_cross_entropy_of_tensors_and_logits(outputs, temperature):
    assert loss_of(outputs, Batch((), targets=Y), None, temperature) == entropy(LOGITS / temperature, Y)


def test_one_class_a_token_and_classes_in_the_second_dimension():
    tokens, labels = torch.randn(2, 5, 3), torch.tensor([[0, 1, 2, -100, 1]] * 2)
    expected = entropy(tokens.flatten(0, 1), labels.flatten())
    assert torch.allclose(loss_of(tokens, Batch((), targets=labels)), expected)
    pixels, of_each = torch.randn(2, 3, 4, 5), torch.randint(3, (2, 4, 5))
    assert torch.allclose(loss_of(pixels, Batch((), targets=of_each)), entropy(pixels, of_each))
    shares = torch.rand(4, 3).softmax(1)
    assert torch.allclose(loss_of(LOGITS.float(), Batch((), targets=shares)), entropy(LOGITS.float(), shares))


def test_a_models_own_loss_comes_before_cross_entropy_and_the_users_before_both():
    own = torch.tensor(3.0)
    assert loss_of(Outputs(LOGITS, own), Batch((), targets=Y)) is own
    assert loss_of({"loss": own}, Batch(())) is own
    mine = loss_of(Outputs(LOGITS, own), Batch((), targets=Y), lambda outputs, y: outputs.logits.sum() + y.sum())
    assert mine == LOGITS.sum() + Y.sum()


@pytest.mark.parametrize("outputs", [LOGITS, Outputs(LOGITS), {"logits": LOGITS}])
def test_a_loss_of_ones_own_is_given_outputs_whose_logits_are_divided(outputs):
    given = []
    loss_of(outputs, Batch((), targets=Y), lambda o, y: given.append(o) or LOGITS.sum(), 4.0)
    (there,) = given
    assert type(there) is type(outputs)
    logits = there if isinstance(there, Tensor) else there["logits"] if isinstance(there, dict) else there.logits
    assert torch.equal(logits, LOGITS / 4)
    assert torch.equal(Outputs(LOGITS).logits, LOGITS)


def test_a_models_own_cross_entropy_has_a_temperature_too():
    own = entropy(LOGITS, Y)
    assert loss_of(Outputs(LOGITS, own), Batch((), targets=Y), None, 5.0) == entropy(LOGITS / 5, Y)
    tokens, labels = torch.randn(2, 5, 3), torch.randint(3, (2, 5))
    own = entropy(tokens[:, :-1].flatten(0, 1), labels[:, 1:].flatten())  # of each token with the next
    found = loss_of(Outputs(tokens, own), Batch((), targets=labels), None, 5.0)
    assert torch.allclose(found, entropy(tokens[:, :-1].flatten(0, 1) / 5, labels[:, 1:].flatten()))
    with pytest.raises(Invalid, match=r"own loss is no cross-entropy, so it has no temperature=5; allowed: temperatur"):
        loss_of(Outputs(LOGITS, torch.tensor(0.1)), Batch((), targets=Y), None, 5.0)


@pytest.mark.parametrize(
    ("outputs", "targets", "given", "match"),
    [
        (LOGITS, None, {}, r"batches hold no targets; allowed: \[\(inputs, targets\), …\], or mappings with 'labels'"),
        (LOGITS, None, {"loss": entropy}, "batches hold no targets"),
        ((LOGITS,), Y, {}, "outputs are of type tuple; allowed without loss=: a tensor, or logits"),
        ((LOGITS,), Y, {"temperature": 2.0}, "outputs are of type tuple; a temperature needs a tensor, or logits"),
        (LOGITS, Y[:2], {}, r"the loss does not take these outputs \(a float64 tensor of shape \(4, 3\)\) and targets"),
        (LOGITS, [0, 1], {}, r"targets \(list\)"),
    ],
)
def test_losses_that_cannot_be_had_get_one_line(outputs, targets, given, match):
    with pytest.raises(Invalid, match=match) as caught:
        loss_of(outputs, Batch((), targets=targets), **given)
    assert "\n" not in str(caught.value)


def test_which_outputs_are_numbers():
    assert tensors_in(X)[0] is X
    assert tensors_in(Y) == []
    assert [t is X for t in tensors_in({"a": X, "b": [X, Y], "c": "text"})] == [True, True]
    assert [t is LOGITS for t in tensors_in(Outputs(LOGITS, torch.ones(())))] == [True]
    assert tensors_in(object()) == []
    assert tensors_in(None) == []
