"""What the papers publish of masks over random weights, on MNIST: shapes of results, at a fraction of the training."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

import prunus
from prunus.data import load
from prunus.models import build
from prunus.training import Recipe, evaluate, train

MNIST = Path(__file__).parents[3] / "shared" / "data" / "mnist"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MNIST.is_dir(), reason=f"the real data is not there: {MNIST}"),
]


@cache
def mnist():
    return load(str(MNIST), seed=0)


def network():
    return build("lenet-300-100", (1, 28, 28), 10, generator=torch.Generator().manual_seed(0))


def recipe(epochs, **more):
    return Recipe(iterations=f"{epochs}ep", evaluate_every=f"{epochs}ep", **more)


def trained(method, data, how, draws=1, **more):
    """Test accuracy in percent, and the model."""
    model = network()
    prunus.supermask(model, method, seed=0, **more)
    train(model, data, how)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = [evaluate(model, data, data.test)[1] for _ in range(draws)]
    return 100 * sum(found) / draws, model


POPUP = recipe(4, batch=128, optimizer="sgd", lr=0.1, momentum=0.9, weight_decay=1e-4, schedule="cosine")


def test_edge_popup_on_half_of_the_weights():
    accuracy, model = trained(prunus.EdgePopup(0.5), mnist(), POPUP, weights="kaiming-constant")
    assert accuracy >= 95.5
    assert [layer.kept for layer in prunus.masks_of(model).layers] == [117_600, 15_000, 500]


def test_scaled_weights_decide_at_a_tenth_of_the_weights():
    plain, _ = trained(prunus.EdgePopup(0.1), mnist(), POPUP, weights="kaiming-constant")
    scaled, _ = trained(prunus.EdgePopup(0.1), mnist(), POPUP, weights="kaiming-constant", scaled=True)
    assert scaled >= 96.5
    assert scaled >= plain + 3


def test_rescaling_makes_sampled_masks_better_and_sparser():
    # two of the sheet's twelve epochs; all twelve are in docs/supermasks.md
    how = recipe(2, batch=250, optimizer="sgd", lr=100.0, momentum=0.9)
    found = {}
    for rescale in (False, True):
        method = prunus.Bernoulli(rescale=rescale)
        accuracy, model = trained(method, mnist().in_unit_range(), how, draws=3, weights="glorot-constant")
        kept = sum(torch.sigmoid(s.detach()).sum().item() for s in prunus.scores(model))
        found[rescale] = accuracy, kept
    assert found[False][0] >= 75
    assert found[True][0] >= found[False][0] + 1.5
    assert found[True][1] < found[False][1]


def permuted(data):
    """The same pictures with all pixels in another order: a task of its own for a fully-connected network."""
    order = torch.randperm(784, generator=torch.Generator().manual_seed(1))

    def split(part):
        return type(part)(part.images.flatten(1)[:, order].reshape(part.images.shape).contiguous(), part.labels)

    return replace(data, train=split(data.train), validation=split(data.validation), test=split(data.test))


def with_new_head(backbone):
    model = network()
    model.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        torch.nn.init.xavier_normal_(model.fc3.weight, generator=torch.Generator().manual_seed(5))
        model.fc3.bias.zero_()
    return model


def test_piggyback_from_mnist_to_its_permuted_pictures():
    """Better than a new head alone, near to training everything, at a bit a weight and with the backbone untouched."""
    first, second = mnist(), permuted(mnist())
    backbone = network()
    train(backbone, first, recipe(3, schedule="cosine"))
    tuned, headed, masked = (with_new_head(backbone) for _ in range(3))
    train(tuned, second, recipe(6, schedule="cosine"))
    for name, parameter in headed.named_parameters():
        parameter.requires_grad_(name.startswith("fc3"))
    train(headed, second, recipe(6, lr=1e-3, schedule="cosine"))
    # threshold and first score are ten times the paper's, as is the rate, which is the head's too
    prunus.supermask(masked, prunus.Piggyback(threshold=0.05, first=0.1), train="fc3.*")
    train(masked, second, recipe(6, lr=1e-3, schedule="cosine"))
    before = backbone.state_dict()
    for name in ("fc1", "fc2"):
        layer = masked.get_submodule(name)
        assert torch.equal(layer.parametrizations.weight.original, before[f"{name}.weight"])
        assert torch.equal(layer.bias, before[f"{name}.bias"])
    accuracy = [100 * evaluate(model, second, second.test)[1] for model in (headed, masked, tuned)]
    assert accuracy[0] + 10 < accuracy[1]
    assert accuracy[2] - 1.5 < accuracy[1]
