import copy
import pickle
import re

import pytest
import torch
from torch import nn

from prunus.core.errors import Invalid
from prunus.core.seeds import generator
from prunus.models import build, build_from
from prunus.models.reference import Reference, reference_of


@pytest.fixture
def model():
    return build("conv-2", (1, 12, 16), 7, width=0.25, generator=generator(3, "a test"))


def test_build_notes_what_it_was_given(model):
    assert reference_of(model) == Reference("conv-2", (1, 12, 16), 7, 0.25)


def test_the_note_is_no_part_of_the_state(model):
    assert not any("reference" in name for name in model.state_dict())
    assert dict(model.named_buffers()) == {}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_carry_it(model, copied):
    assert reference_of(copied(model)) == reference_of(model)


def test_a_model_that_was_not_built_has_none():
    assert reference_of(nn.Linear(2, 2)) is None
    inside = nn.Sequential(build("lenet-5", (1, 28, 28), 10, generator=generator(0)))
    assert reference_of(inside) is None  # it is of the network inside


def test_the_network_is_made_again_with_other_weights(model):
    again = build_from(reference_of(model))
    assert repr(again) == repr(model)
    shapes = [{n: (v.shape, v.dtype) for n, v in m.state_dict().items()} for m in (again, model)]
    assert shapes[0] == shapes[1]
    assert reference_of(again) == reference_of(model)
    assert not torch.equal(next(again.parameters()), next(model.parameters()))


def test_a_seed_gives_the_weights_again(model):
    first, same, other = (next(build_from(reference_of(model), seed).parameters()) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_reference_that_came_as_json():
    value = {"name": "lenet-5", "input_shape": [1, 28, 28], "classes": 10, "width": 1.0}
    assert Reference.of(value) == Reference("lenet-5", (1, 28, 28), 10)


@pytest.mark.parametrize(
    "value", [7, [], {}, {"name": "lenet-5"}, {"name": "x", "input_shape": 3, "classes": 1}, {"extra": 1}]
)
def test_what_is_no_reference_is_refused(value):
    with pytest.raises(Invalid, match="is no reference to a network"):
        Reference.of(value)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (Reference("lenet-6", (1, 28, 28), 10), "model is 'lenet-6'; did you mean"),
        (Reference("lenet-5", (1, 28), 10), "input_shape is (1, 28); allowed"),
        (Reference("lenet-5", (1, 28, 28), 0), "classes is 0; allowed"),
        (Reference("lenet-5", (1, 28, 28), 10, -1.0), "width is -1.0; allowed"),
    ],
)
def test_a_value_out_of_range_is_named(reference, message):
    with pytest.raises(Invalid, match=re.escape(message)):
        build_from(reference)
