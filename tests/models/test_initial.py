import copy

import pytest
import torch
from torch import nn

from prunus.core.errors import Invalid
from prunus.core.seeds import generator
from prunus.models import initialise
from prunus.models.initial import SCHEMES, initialised_by, initialiser_of

# a layer, and its inputs and outputs for one unit, counted by hand
LAYERS = {
    "linear": (lambda: nn.Linear(300, 400), 300, 400),
    "conv": (lambda: nn.Conv2d(20, 50, 5), 20 * 25, 50 * 25),
    "grouped": (lambda: nn.Conv2d(40, 80, 3, groups=2), 20 * 9, 80 * 9),
    "transposed": (lambda: nn.ConvTranspose2d(20, 50, 5), 20 * 25, 50 * 25),
}
VARIANCES = {
    "glorot": lambda i, o: 2 / (i + o),
    "kaiming": lambda i, o: 2 / i,
    "kaiming-out": lambda i, o: 2 / o,
    "lecun": lambda i, o: 1 / i,
    "pytorch": lambda i, o: 1 / (3 * i),
    "small": lambda i, o: 1e-4,
}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("layer", LAYERS)
def test_moments_and_shape_of_the_distribution(layer, scheme):
    make, inputs, outputs = LAYERS[layer]
    drawn = initialise(make(), generator(0, layer), scheme)
    weights, count = drawn.weight.detach().double(), drawn.weight.numel()
    rule, shape = scheme.rsplit("-", 1)
    variance = VARIANCES[rule](inputs, outputs)
    # bounds of about five standard errors
    assert abs(weights.mean()) < 5 * (variance / count) ** 0.5
    assert weights.square().mean().item() == pytest.approx(variance, rel=5 * (2 / count) ** 0.5)
    fourth = {"normal": 3.0, "uniform": 1.8}[shape]  # kurtosis
    assert (weights.square().square().mean() / variance**2).item() == pytest.approx(fourth, rel=0.15)
    assert not drawn.bias.detach().any()


def test_only_linear_and_convolution_layers_change():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    returned = initialise(model, generator(0))
    assert returned is model
    changed = {name for name, p in model.named_parameters() if not bool((p == 7.0).all())}
    assert changed == {"1.weight", "1.bias", "3.weight"}
    assert all(p.requires_grad and p.grad_fn is None for p in model.parameters())


def test_the_same_state_gives_the_same_weights_and_the_global_generator_rests():
    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    before = torch.get_rng_state()
    initialise(first, generator(3))
    initialise(second, generator(3))
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(torch.get_rng_state(), before)


def test_another_dtype_holds_the_same_draws():
    single, double = (initialise(nn.Linear(8, 8, dtype=d), generator(3)) for d in (torch.float32, torch.float64))
    assert torch.equal(single.weight.double(), double.weight)


def test_a_tied_weight_is_drawn_once():
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    plain = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    initialise(tied, generator(0))
    initialise(plain, generator(0))
    assert torch.equal(tied[2].weight, plain[1].weight)


@pytest.mark.parametrize("layer", LAYERS)
def test_fans_and_ranges_are_those_of_torch(layer):
    weight = LAYERS[layer][0]().weight
    if layer != "transposed":  # of which torch takes inputs for outputs
        for scheme, mode in (("kaiming-normal", "fan_in"), ("kaiming-out-normal", "fan_out")):
            drawn = initialise(LAYERS[layer][0](), generator(2), scheme).weight
            theirs = nn.init.kaiming_normal_(torch.empty_like(weight), mode=mode, generator=generator(2))
            torch.testing.assert_close(drawn, theirs)
        bound = weight.abs().max()  # torch's own default
        drawn = initialise(LAYERS[layer][0](), generator(2), "pytorch-uniform").weight
        assert drawn.abs().max().item() == pytest.approx(bound.item(), rel=0.01)


def test_linear_layers_may_have_a_scheme_of_their_own():
    def model():
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(5, 6))

    mixed = initialise(model(), generator(0), "kaiming-normal", linear="lecun-uniform")
    assert torch.equal(mixed[0].weight, initialise(model(), generator(0), "kaiming-normal")[0].weight)
    assert mixed[1].weight.abs().max() <= (3 / 5) ** 0.5
    same = initialise(model(), generator(0), "kaiming-normal", linear="kaiming-normal")
    plain = initialise(model(), generator(0), "kaiming-normal")
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), plain.parameters(), strict=True))


def test_marking_gives_back_the_architecture_itself():
    def architecture(shape, classes, width):
        return nn.Linear(shape[0], classes)

    assert initialiser_of(architecture) is initialise
    assert initialised_by(print)(architecture) is architecture
    assert initialiser_of(architecture) is print


def test_an_unknown_scheme_is_refused_and_the_model_left_as_it_was():
    layer = nn.Linear(2, 2)
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(Invalid, match="scheme is 'glorot'; did you mean 'glorot-normal'"):
        initialise(layer, generator(0), "glorot")
    with pytest.raises(Invalid, match="linear is 'kaiming'; did you mean 'kaiming-normal'"):
        initialise(layer, generator(0), linear="kaiming")
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())
