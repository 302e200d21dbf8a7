import copy
import io
import pickle

import pytest
import torch
from torch import fx, nn
from torch.func import functional_call

from prunus.core.errors import Invalid
from prunus.core.params import prunable
from prunus.core.seeds import generator
from prunus.models import MODELS, build, initialise, initialised_by

GREY, COLOUR, DIGIT = (1, 28, 28), (3, 32, 32), (1, 8, 8)


def fresh(name, shape=GREY, classes=10, **options):
    return build(name, shape, classes, generator=generator(0, "initialisation"), **options)


@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [
        ("lenet-300-100", GREY, 235_200 + 30_000 + 1_000),
        ("lenet-5", GREY, 150 + 2_400 + 48_000 + 10_080 + 840),
        ("conv-2", COLOUR, 4_300_992),
        ("conv-4", COLOUR, 2_425_024),
        ("conv-6", COLOUR, 2_261_184),
        ("conv-8", COLOUR, 5_275_840),
    ],
)
def test_the_published_number_of_weights(name, shape, count):
    model = fresh(name, shape)
    assert sum(weight.numel() for weight in prunable(model).values()) == count


def test_lenet_5_is_the_classic_with_its_biases_and_reaches_the_linear_layers_as_16_5_5():
    assert sum(p.numel() for p in fresh("lenet-5").parameters()) == 61_706
    assert fresh("lenet-5", (1, 32, 32)).get_submodule("fc1").in_features == 16 * 5 * 5


PLAIN = ["lenet-300-100", "lenet-5", "conv-2", "conv-4", "conv-6", "conv-8"]
DEEP = [name for name in MODELS if name not in PLAIN]
SMALLEST = {
    **dict(zip(PLAIN, [1, 12, 2, 4, 8, 16], strict=True)),
    **dict.fromkeys(MODELS.names("vgg-*"), 16),
    **dict.fromkeys(["resnet-18", "resnet-50", "wide-resnet-50-2"], 8),
    **dict.fromkeys(["resnet-20", "resnet-32", "resnet-56", *MODELS.names("wrn-*"), "wiring-graph"], 4),
    **dict.fromkeys(MODELS.names("mobilenet-*"), 16),
}


def test_every_network_has_a_smallest_side():
    assert set(SMALLEST) == set(MODELS)


@pytest.mark.parametrize("name", SMALLEST)
def test_any_shape_from_the_smallest_side_up_gives_one_output_a_class(name):
    side = SMALLEST[name]
    for shape in [(1, side, side), (2, side, side + 3), (3, 2 * side + 1, side), (1, 31, 33), (1, 32, 40)]:
        model = fresh(name, shape, 7, width=0.1)
        assert model(torch.zeros(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize("name", [name for name, side in SMALLEST.items() if side > 1])
def test_an_image_too_small_for_the_pooling_is_refused_with_the_smallest_side(name):
    side = SMALLEST[name]
    with pytest.raises(Invalid, match=rf"{name}.*3×{side - 1}×40.*at least {side}"):
        fresh(name, (3, side - 1, 40))


@pytest.mark.parametrize("name", ["lenet-300-100", "conv-2", "conv-4", "conv-6"])
def test_digits_fit(name):
    assert fresh(name, DIGIT)(torch.zeros(1, *DIGIT)).shape == (1, 10)


def test_layers_are_plain_and_named_in_order():
    lenet = fresh("lenet-300-100")
    assert type(lenet) is nn.Sequential
    assert [*dict(lenet.named_children())] == ["flatten", "fc1", "relu1", "fc2", "relu2", "fc3"]
    conv = fresh("conv-2", COLOUR)
    names = "conv1 relu1 conv2 relu2 pool1 flatten fc1 relu3 fc2 relu4 fc3"
    assert [*dict(conv.named_children())] == names.split()
    plain = {nn.Flatten, nn.Linear, nn.ReLU, nn.Conv2d, nn.MaxPool2d}
    assert {type(layer) for name in PLAIN for layer in fresh(name, COLOUR)} == plain


def test_width_scales_hidden_layers_only():
    lenet = fresh("lenet-300-100", width=0.333)
    assert [tuple(w.shape) for w in prunable(lenet).values()] == [(100, 784), (33, 100), (10, 33)]
    conv = fresh("conv-4", COLOUR, width=0.25)
    sizes = [16, 16, 32, 32, 64, 64, 10]
    assert [w.shape[0] for w in prunable(conv).values()] == sizes
    thin = fresh("lenet-5", width=1e-9)
    assert [w.shape[0] for w in prunable(thin).values()] == [1, 1, 1, 1, 10]


def test_weights_come_from_the_generator_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = fresh("conv-2", DIGIT, width=0.1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = fresh("conv-2", DIGIT, width=0.1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    other = build("conv-2", DIGIT, 10, width=0.1, generator=generator(0, "other"))
    assert not torch.equal(first.get_submodule("conv1").weight, other.get_submodule("conv1").weight)


@pytest.mark.parametrize("name", DEEP)
def test_deep_networks_come_from_the_generator_alone(name):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = fresh(name, COLOUR, width=0.1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = fresh(name, COLOUR, width=0.1).state_dict()
    other = build(name, COLOUR, 10, width=0.1, generator=generator(0, "other")).state_dict()
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.state_dict().items())
    assert not any(torch.equal(weight, other[key]) for key, weight in prunable(first).items())


@pytest.mark.parametrize("name", DEEP)
def test_a_deep_network_can_be_traced_called_with_other_weights_copied_and_pickled(name):
    model = fresh(name, COLOUR, width=0.1).eval()
    x = torch.rand(2, *COLOUR, generator=generator(0))
    expected = model(x)
    copies = [fx.symbolic_trace(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    for twin in copies:
        assert torch.equal(twin(x), expected)
    other = build(name, COLOUR, 10, width=0.1, generator=generator(1)).eval()
    assert torch.equal(functional_call(model, other.state_dict(), (x,)), other(x))
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("name", ["vgg-11", "vgg-11-bn", "resnet-18", "resnet-20", "wrn-16-8", "mobilenet-v1"])
def test_a_deep_network_compiles_to_one_graph(name):
    torch.compiler.reset()  # how often the code of nn.Sequential may be compiled anew is limited
    model = fresh(name, COLOUR, width=0.1).eval()
    x = torch.rand(2, *COLOUR, generator=generator(0))
    assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(x), model(x))


@pytest.mark.parametrize("name", DEEP)
def test_a_state_dict_goes_through_a_file(name):
    model, file = fresh(name, COLOUR, width=0.1), io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = build(name, COLOUR, 10, width=0.1, generator=generator(1))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", DEEP)
def test_nothing_is_written_in_place_and_every_weight_gets_a_gradient(name):
    model = fresh(name, COLOUR, width=0.1)
    assert not [module for module in model.modules() if getattr(module, "inplace", False)]
    model(torch.randn(4, *COLOUR, generator=generator(0))).square().sum().backward()
    assert [key for key, weight in prunable(model).items() if not weight.grad.any()] == []


@pytest.mark.parametrize("name", DEEP)
def test_a_fresh_network_neither_vanishes_nor_explodes_in_evaluation_mode(name):
    # as scores at initialization see it: BatchNorm divides by nothing yet
    outputs = fresh(name, COLOUR, width=0.25).eval()(torch.randn(4, *COLOUR, generator=generator(0)))
    assert 1e-3 < outputs.std() < 1e4


@pytest.mark.parametrize("name", [name for name in DEEP if name != "wiring-graph"])  # which is recurrent
def test_no_module_runs_twice(name):
    model, runs = fresh(name, COLOUR, width=0.1), []
    for key, module in model.named_modules():
        module.register_forward_hook(lambda *_, key=key: runs.append(key))
    model(torch.zeros(2, *COLOUR))
    assert sorted(runs) == sorted(key for key, _ in model.named_modules())


def test_building_is_initialising_with_the_same_generator():
    built = fresh("lenet-300-100", DIGIT)
    drawn = initialise(build("lenet-300-100", DIGIT, 10, generator=generator(9)), generator(0, "initialisation"))
    assert all(torch.equal(a, b) for a, b in zip(built.parameters(), drawn.parameters(), strict=True))


def test_a_model_of_another_package_is_reproducible_whatever_it_draws(monkeypatch):
    class Odd(nn.Module):
        def __init__(self, shape, classes, width):
            super().__init__()
            self.scale = nn.Parameter(torch.randn(5))

    monkeypatch.setitem(MODELS._rows, "odd", Odd)
    scales = [fresh("odd").scale for _ in range(2)]
    assert torch.equal(*scales)


def test_a_model_of_another_package_says_how_it_starts_or_is_glorot_normal(monkeypatch):
    def row(shape, classes, width):
        return nn.Linear(shape[0], classes)

    def ones(model, generator):
        model.weight.data.fill_(1.0)

    monkeypatch.setitem(MODELS._rows, "silent", row)
    drawn = initialise(nn.Linear(1, 10), generator(0, "initialisation"))
    assert torch.equal(fresh("silent").weight, drawn.weight)
    monkeypatch.setitem(MODELS._rows, "marked", initialised_by(ones)(lambda *given: row(*given)))
    assert torch.equal(fresh("marked").weight, torch.ones(10, 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "conv-7"}, "model is 'conv-7'; did you mean"),
        ({"classes": 0}, "classes is 0"),
        ({"classes": True}, "classes is True"),
        ({"input_shape": (28, 28)}, r"input_shape is \(28, 28\)"),
        ({"input_shape": (0, 28, 28)}, "input_shape"),
        ({"input_shape": (1, 28.0, 28)}, "input_shape"),
        ({"width": 0}, "width is 0"),
        ({"width": float("nan")}, "width is nan"),
        ({"width": float("inf")}, "width is inf"),
        ({"width": "wide"}, "width is 'wide'"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(changes, message):
    given = {"name": "conv-2", "input_shape": GREY, "classes": 10, "generator": generator(0)} | changes
    with pytest.raises(Invalid, match=message) as raised:
        build(**given)
    assert "\n" not in str(raised.value)
