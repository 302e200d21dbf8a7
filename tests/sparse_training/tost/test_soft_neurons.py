import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from prunus.core.errors import Invalid
from prunus.sparse_training.tost import SoftNeurons
from toy import MLP, ConvNet, Tied, batch, build, is_sparse, masked, step

X = torch.linspace(-12, 12, 20_001, dtype=torch.float64)


class Shared(nn.Module):
    """One activation that is registered three times, in two parents."""

    def __init__(self):
        super().__init__()
        act = nn.ReLU()
        self.first = nn.Sequential(nn.Linear(6, 8), act, nn.Linear(8, 8), act)
        self.act, self.head = act, nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.act(self.first(x) - 0.1))


def soft(sharpness, kind="swish", relu=nn.ReLU):
    model = nn.Sequential(relu())
    SoftNeurons(model, 10, kind=kind, start=sharpness, end=sharpness)
    return model


def test_swish_and_mish_are_those_of_their_papers():
    torch.testing.assert_close(soft(1.0)(X), X * torch.sigmoid(X))
    torch.testing.assert_close(soft(3.0)(X), X * torch.sigmoid(3 * X))
    torch.testing.assert_close(soft(1.0, "mish")(X), X * torch.tanh(torch.log1p(X.exp())))


@pytest.mark.parametrize(("kind", "most"), [("swish", 0.27847), ("mish", 0.30885)])
@pytest.mark.parametrize("sharpness", [0.5, 1.0, 8.0])
def test_the_distance_to_relu_is_inverse_to_the_sharpness(kind, most, sharpness):
    distance = (soft(sharpness, kind)(X) - X.relu()).abs().max()
    torch.testing.assert_close(float(distance), most / sharpness, rtol=1e-3, atol=0)
    six = (soft(sharpness, kind, nn.ReLU6)(X) - nn.functional.relu6(X)).abs().max()
    assert six <= 2 * most / sharpness


def test_the_sharpness_grows_by_a_constant_factor_and_then_relu_is_back():
    model = build(MLP)
    relus = [model[1], model[3]]
    neurons = SoftNeurons(model, 20, start=2.0, end=32.0, until=0.5)
    found = []
    for _ in range(10):
        found.append(float(neurons.dial.value))
        assert all(model[place] is not relu for place, relu in zip((1, 3), relus, strict=True))
        neurons.step()
    assert found[0] == 2
    for before, after in pairwise(found):
        assert after / before == pytest.approx(16 ** (1 / 10))
    assert [model[1], model[3]] == relus
    neurons.step()
    assert neurons.ended
    assert neurons.steps == 11


@pytest.mark.parametrize("kind", [MLP, ConvNet])
def test_at_the_end_the_model_is_the_plain_one(kind):
    model, masks = masked(kind)
    twin = build(kind)
    names = list(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    neurons = SoftNeurons(model, 4)
    for turn in range(4):
        step(model, optimizer, batch(kind, seed=turn))
        neurons.step()
        assert list(model.state_dict()) == names
        assert is_sparse(model, masks)
    twin.load_state_dict(model.state_dict())
    assert [type(m) for m in model.modules()] == [type(m) for m in twin.modules()]
    x = batch(kind, seed=9)[0]
    assert torch.equal(model(x), twin(x))


def test_a_shared_activation_is_replaced_and_put_back_everywhere():
    model = build(Shared)
    act = model.act
    neurons = SoftNeurons(model, 10)
    assert model.act is model.first[1] is model.first[3] is not act
    neurons.finish()
    assert model.act is model.first[1] is model.first[3] is act


def test_modules_come_back_in_the_mode_of_the_model():
    model = build(MLP).train()
    neurons = SoftNeurons(model, 10)
    model.eval()
    neurons.finish()
    assert not any(module.training for module in model.modules())


def test_subclasses_and_other_activations_are_left_alone():
    class Own(nn.ReLU):
        pass

    model = nn.Sequential(nn.ReLU(inplace=True), Own(), nn.GELU())
    neurons = SoftNeurons(model, 10)
    assert [type(module).__name__ for module in model] == ["SoftNeuron", "Own", "GELU"]
    neurons.finish()
    assert type(model[0]) is nn.ReLU
    assert model[0].inplace


def test_a_copy_becomes_plain_with_the_model():
    model = build(MLP)
    neurons = SoftNeurons(model, 10, start=1, end=10, until=1.0)
    twin = copy.deepcopy(model)
    x = batch(MLP)[0]
    neurons.step()
    assert torch.equal(twin(x), model(x))
    neurons.finish()
    assert torch.equal(twin(x), model(x))


def test_compiled_code_follows_the_sharpness_and_is_compiled_anew_only_at_the_end():
    model = build(MLP)
    neurons = SoftNeurons(model, 6, until=1.0)
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter)
    x = batch(MLP)[0]
    outputs = []
    for _ in range(5):
        outputs.append(compiled(x))
        torch.testing.assert_close(outputs[-1], model(x))
        neurons.step()
    assert counter.frame_count == 1
    assert not torch.equal(outputs[0], outputs[-1])
    neurons.finish()
    torch.testing.assert_close(compiled(x), model(x))
    assert counter.frame_count == 2


def test_a_model_without_relu_modules_is_refused():
    with pytest.raises(Invalid, match=r"Tied has no nn.ReLU module"):
        SoftNeurons(Tied(), 10)
    with pytest.raises(Invalid, match=r"ReLU has no nn.ReLU module inside"):
        SoftNeurons(nn.ReLU(), 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "swich"}, "kind is 'swich'; did you mean 'swish'"),
        ({"start": 0}, "start is 0; allowed: a number above 0"),
        ({"start": 5.0, "end": 4.0}, "end is 4.0; allowed: a number of at least start=5"),
        ({"end": float("nan")}, "end is nan"),
        ({"until": 0}, "until is 0; allowed: a fraction of the training in"),
        ({"until": 1.5}, "until is 1.5"),
        ({"total_steps": 0}, "total_steps is 0; allowed: an integer of at least 1"),
        ({"total_steps": 2.5}, "total_steps is 2.5"),
    ],
)
def test_bad_options_change_nothing(options, message):
    model = build(MLP)
    with pytest.raises(Invalid, match=message):
        SoftNeurons(model, **{"total_steps": 10, **options})
    assert type(model[1]) is nn.ReLU
