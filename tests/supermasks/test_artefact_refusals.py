import re
from dataclasses import replace

import pytest
import torch
from chosen import Chosen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from saved_nets import SHAPE, built, masked, on, own, same_state, state_of, trained, with_room
from torch import nn

import prunus
from prunus.core.errors import Invalid
from prunus.core.files import read_tensors, write_tensors
from prunus.core.masks import Masks
from prunus.models.reference import Reference
from prunus.supermasks import METHODS, supermask, supermask_of
from prunus.supermasks.artefact import load, save
from prunus.supermasks.contents import Artefact


@pytest.fixture
def path(tmp_path):
    return tmp_path / "mask.safetensors"


@pytest.fixture
def backbone():
    return trained()


# What is refused


def refused(path, model, message):
    """The file is refused with these words, and the model is as it was."""
    before, mode = state_of(model), model.training
    with pytest.raises(Invalid) as caught:
        load(path, model)
    assert str(caught.value).startswith(f"{path}: {message}"), caught.value
    assert "\n" not in str(caught.value)
    assert same_state(state_of(model), before)
    assert model.training == mode
    with pytest.raises(Invalid, match="holds no masks"):
        prunus.masks_of(model)


def test_another_architecture_is_refused_by_its_first_weight_that_differs(path):
    save(masked(built("lenet-300-100")), path)
    wide = built("lenet-300-100", width=2.0)
    first = next(iter(dict(wide.named_parameters())))
    both = "(300, 784) of float32 in the file, (600, 784) of float32 in the model"
    refused(path, wide, f"of another architecture: {first} is {both}")
    refused(path, built("lenet-300-100").double(), f"of another architecture: {first} is (300, 784) of float32")
    refused(path, own(), f"of another architecture: the model has no {first!r}")


def test_a_network_with_more_in_it_is_refused(path):
    save(masked(own()), path)
    more = nn.Sequential(*own(), nn.Linear(3, 3))
    refused(path, more, "of another architecture: the file has no '4.weight'")
    without = nn.Sequential(own()[0], nn.BatchNorm1d(16, track_running_stats=False), *list(own())[2:])
    refused(path, without, "of another architecture: the model has no '1.num_batches_tracked'")


def test_a_head_of_another_size_is_refused(backbone, path):
    save(on(backbone), path)
    refused(
        path, with_room(backbone, 4), "of another architecture: 3.weight is (5, 16) of float32 in the file, (4, 16)"
    )


def test_weights_that_are_not_those_of_the_seed_are_refused(path):
    save(masked(own()), path)
    write_anew(path, checksum="0" * 64)
    message = "what seed 5 draws is not what the masks were made over (the checksum of the weights differs)"
    refused(path, own(), message)


def test_a_model_that_has_a_supermask_is_refused(path):
    save(masked(own()), path)
    with pytest.raises(Invalid, match="has a supermask already: bake"):
        load(path, masked(own()))
    with pytest.raises(Invalid, match=r"model is of type str; allowed: a torch.nn.Module"):
        load(path, "lenet-5")


def test_a_model_without_a_supermask_is_not_saved(path):
    with pytest.raises(Invalid, match="this Sequential has no supermask"):
        save(own(), path)
    assert not path.exists()


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.learns_weights])
def test_trained_weights_are_for_a_ticket(name, path):
    model = own()
    supermask(model, METHODS[name](density=0.5), weights="kaiming-normal")
    with pytest.raises(Invalid, match=r"trains the weights themselves, which no seed gives: bake.* Ticket"):
        save(model, path)
    assert not path.exists()


def test_weights_that_were_changed_since_they_were_drawn_are_not_saved(path):
    model = masked(own())
    with torch.no_grad():
        supermask_of(model).layers["0.weight"].weight[0, 0] += 1
    with pytest.raises(Invalid, match="the weights are no longer those that seed 5 draws"):
        save(model, path)
    assert not path.exists()


def test_weights_of_several_types_are_not_saved(path):
    model = own()
    model[3].double()
    supermask(model, Chosen())
    with pytest.raises(Invalid, match="the masked weights are of float32, float64; allowed: one type of"):
        save(model, path)


def test_state_that_is_no_tensor_is_not_saved(path):
    class Odd(nn.Linear):
        def get_extra_state(self):
            return {"a": 1}

        def set_extra_state(self, state):
            pass

    model = nn.Sequential(Odd(3, 3))
    supermask(model, Chosen())
    with pytest.raises(Invalid, match=r"0\._extra_state of the state is of type dict; a file holds tensors only"):
        save(model, path)


def test_what_is_no_supermask_file_is_refused(path):
    prunus.Ticket(Masks.full(own()), {}).save(path)
    refused(path, own(), "not a supermask (its format is 'prunus ticket 1', not 'prunus supermask 1')")
    path.write_bytes(b"no tensors at all")
    refused(path, own(), "cut short or not a safetensors file")
    path.unlink()
    refused(path, own(), "no such file")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "mask.safetensors"
    save(masked(own(), Chosen(0.3, ternary=True)), path)
    return path


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_with_any_bit_turned_or_cut_anywhere_is_refused(whole, path, data):
    content = whole.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(content[:place])
    else:
        bit = 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
    refused(path, own(), "")


def write_anew(path, **changes):
    """Change what is in a file, with a checksum of the file that fits."""
    replace(Artefact.read(path), **changes).write(path)


def test_bits_that_are_cut_off_or_altered_are_refused_where_the_file_is_whole(whole, path):
    first, *others = Artefact.read(whole).layers
    turned = bytes([first.mask[0], *first.mask[1:-1], first.mask[-1] ^ 1])
    wrong = [
        (replace(first, mask=first.mask[:-4]), "0.weight: the coded bits of a mask with"),
        (replace(first, mask=turned), "0.weight: the coded bits of a mask with"),
        (replace(first, turns=b""), "0.weight: the coded bits of a mask with"),
        (replace(first, kept=first.kept + 1), "0.weight: the coded bits of a mask do not hold"),
        (replace(first, kept=first.count + 1), "not a whole supermask (0.weight of shape (16, 6) keeps 97 entries"),
        (replace(first, scale=float("nan")), "not a whole supermask (the scale of 0.weight is nan"),
        (replace(first, turned=-1), "not a whole supermask (0.weight of shape (16, 6) keeps"),
    ]
    for layer, message in wrong:
        replace(Artefact.read(whole), layers=[layer, *others]).write(path)
        refused(path, own(), message)


def test_tables_and_bits_that_do_not_fit_are_refused(whole, path):
    tensors, metadata = read_tensors(whole)
    cut = {**tensors, "masks": tensors["masks"][:-1]}
    more = {**tensors, "masks": torch.cat([tensors["masks"], torch.zeros(3, dtype=torch.uint8)])}
    garbled = {**tensors, "layers": tensors["layers"][:-5]}
    without = {name: tensor for name, tensor in tensors.items() if name != "masks"}
    wrong = [
        (cut, metadata, "not a whole supermask (the coded bits of 3.weight are cut off)"),
        (more, metadata, "not a whole supermask (there are 3 coded bytes too many)"),
        (garbled, metadata, "not a whole supermask (the table of layers is cut off"),
        (without, metadata, "not a whole supermask (KeyError"),
        (tensors, {**metadata, "dtype": "load"}, "not a whole supermask (dtype is 'load'; allowed: float32"),
        (tensors, {**metadata, "origin": '{"seed": 1}'}, "not a whole supermask (TypeError"),
        (tensors, {**metadata, "reference": "[1]"}, "not a whole supermask ([1] is no reference to a network"),
        (tensors, {**metadata, "method": "{"}, "not a whole supermask (JSONDecodeError"),
    ]
    for contents, about, message in wrong:
        write_tensors(path, contents, about)
        refused(path, own(), message)


def test_a_reference_to_a_network_that_is_not_there_is_refused(path):
    save(masked(built()), path)
    write_anew(path, reference=Reference("lenet-6", SHAPE, 10))
    with pytest.raises(Invalid, match=re.escape(f"{path}: model is 'lenet-6'; did you mean")):
        load(path)


def test_another_backbone_is_refused(backbone, path):
    save(on(backbone), path)
    other = with_room(backbone)
    with torch.no_grad():
        other[0].weight[1, 2] = torch.nextafter(other[0].weight[1, 2], torch.tensor(9.0))
    refused(path, other, "of another backbone (the checksum of the weights differs)")


def test_a_backbone_has_to_be_given(backbone, path):
    save(on(backbone), path)
    with pytest.raises(Invalid, match=re.escape(f"{path}: its weights are those of a backbone, not drawn from a seed")):
        load(path)
