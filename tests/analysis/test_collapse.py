"""Which layers collapse, and what is left of the network then."""

import math

import pytest
import torch
from torch import Tensor, nn

import prunus
import toy
from prunus.analysis import collapse, max_compression
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.params import prunable
from prunus.core.seeds import generator
from prunus.models import build


def without(model: nn.Module, *names: str) -> Masks:
    return Masks({name: mask & (name not in names) for name, mask in Masks.full(model).items()})


class Parallel(nn.Module):
    """Two convolutions side by side between a first and a last one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right, self.last = (nn.Conv2d(2, 2, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.last(self.left(x) + self.right(x)).flatten(1)


def test_a_dense_network_has_not_collapsed():
    found = collapse(toy.build(toy.ConvNet), Masks.full(toy.build(toy.ConvNet)), torch.ones(1, 2, 6, 6))
    assert not found
    assert found.empty == found.stranded == ()
    assert found.connected
    assert (found.outputs, found.unreached, found.layers) == (3, 0, 3)
    assert str(found) == (
        "no layer collapse: all 3 parameters have weights left\nconnected: a path arrives at each output"
    )


@pytest.mark.parametrize("name", ["0.weight", "2.weight", "4.weight"])
def test_each_layer_of_a_chain_cuts_it(name):
    model = toy.build(toy.MLP)
    found = collapse(model, without(model, name), torch.ones(1, 6))
    assert found
    assert (found.cut, found.bypassed) == ((name,), ())
    assert set(found.stranded) == set(prunable(model)) - {name}
    assert not found.connected
    assert found.unreached == 3
    assert f"each of them cuts the network: {name}" in str(found)
    assert "disconnected: no path leads from an input to an output" in str(found)


def test_a_branch_is_bypassed():
    model = toy.build(toy.Residual)
    found = collapse(model, without(model, "grouped.weight"), torch.ones(1, 2, 6, 6))
    assert (found.cut, found.bypassed, found.stranded) == ((), ("grouped.weight",), ("point.weight",))
    assert found.connected
    assert "bypassed, other paths lead around each of them: grouped.weight" in str(found)
    assert "weights left, but none on a path: point.weight" in str(found)


def test_branches_that_only_together_cut_the_network():
    model = Parallel()
    inputs = torch.ones(1, 2, 3, 3)
    alone = collapse(model, without(model, "left.weight"), inputs)
    both = collapse(model, without(model, "left.weight", "right.weight"), inputs)
    assert alone.connected
    assert not both.connected
    assert both.bypassed == ("left.weight", "right.weight")
    assert both.empty == both.bypassed
    assert both.cut == ()


def test_a_layer_that_cuts_stays_one_beside_others():
    model = Parallel()
    found = collapse(model, without(model, "left.weight", "last.weight"), torch.ones(1, 2, 3, 3))
    assert (found.cut, found.bypassed) == (("last.weight",), ("left.weight",))


def test_the_shortcuts_of_a_resnet_are_bypassed():
    """SynFlow empties them at a compression ratio of 10 (issue 7 of its authors' code)."""
    model = build("resnet-18", (3, 8, 8), 10, width=1 / 16, generator=generator(0))
    shortcuts = [name for name in prunable(model) if "shortcut" in name]
    assert len(shortcuts) == 3
    found = collapse(model, without(model, *shortcuts), torch.ones(1, 3, 8, 8))
    assert found.bypassed == tuple(shortcuts)
    assert found.connected
    stem = collapse(model, without(model, "stem.conv1.weight", *shortcuts), torch.ones(1, 3, 8, 8))
    assert stem.cut == ("stem.conv1.weight",)


@pytest.mark.filterwarnings("ignore::UserWarning")  # that layers are left empty, which is what is looked for here
def test_synflow_empties_shortcuts_and_nothing_else():
    model = build("resnet-18", (3, 16, 16), 10, width=1 / 8, generator=generator(0))
    found = collapse(model, prunus.prune(model, prunus.SynFlow(), density=0.005, rounds=30), torch.ones(1, 3, 16, 16))
    assert found.bypassed
    assert all("shortcut" in name for name in found.bypassed)
    assert (found.cut, found.connected) == ((), True)


def test_outputs_that_no_path_reaches():
    model = toy.build(toy.MLP)
    masks = {**Masks.full(model), "4.weight": torch.tensor([True, False, False])[:, None].expand(3, 7)}
    found = collapse(model, masks, torch.ones(1, 6))
    assert (found.outputs, found.reached, found.unreached) == (3, 1, 2)
    assert not found
    assert "no path arrives at 2 of 3 outputs" in str(found)


def test_masks_of_some_layers():
    model = toy.build(toy.MLP)
    found = collapse(model, {"2.weight": torch.zeros(7, 8)}, torch.ones(1, 6))
    assert (found.cut, found.layers) == (("2.weight",), 1)


def test_tied_weights_by_either_name():
    model = toy.build(toy.Tied)
    for name in ("first.weight", "second.weight"):
        assert collapse(model, {name: torch.zeros(6, 6)}, torch.ones(1, 6)).cut == (name,)


def test_the_maximal_compression_of_vgg_16_for_cifar_100():
    model = build("vgg-16", (3, 32, 32), 100, generator=generator(0))
    assert max_compression(model) == 14_761_664 / 14
    assert round(math.log10(max_compression(model)), 2) == 6.02


def test_the_maximal_compression_of_other_things():
    model = toy.build(toy.MLP)
    assert max_compression(model) == max_compression(Masks.full(model)) == 125 / 3
    assert max_compression({"a": 10, "b": torch.zeros(4, 5), "none": torch.zeros(0, 3)}) == 15


@pytest.mark.parametrize("weights", [nn.ReLU(), {}, {"a": 0}])
def test_no_weights_are_refused(weights):
    with pytest.raises(Invalid, match="there is no weight"):
        max_compression(weights)


def test_what_is_no_mapping_is_refused():
    with pytest.raises(Invalid, match="weights is of type int"):
        max_compression(3)  # type: ignore[arg-type]
