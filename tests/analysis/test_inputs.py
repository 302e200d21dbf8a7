"""What a model takes, found out."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunus.analysis.inputs import example_of
from prunus.core.errors import Invalid
from toy import MLP, ConvNet, Transformer, build


def shape(model: nn.Module) -> tuple[int, ...]:
    (given,) = example_of(model).args
    assert given.is_floating_point() is False or (given == 1).all()
    return tuple(given.shape)


def test_what_is_given_is_taken_in_any_of_the_usual_forms():
    x, y = torch.randn(2, 3), torch.arange(2)
    assert example_of(nn.Linear(9, 9), x).args[0] is x
    assert example_of(nn.Linear(9, 9), (x, y)).targets is y
    assert example_of(nn.Linear(9, 9), {"a": x}).kwargs["a"] is x


class Flat(nn.Sequential):
    def __init__(self, inputs: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(inputs, 4))


class OnlyImages(Flat):
    def forward(self, x: Tensor) -> Tensor:
        assert x.dim() == 4
        return super().forward(x)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (MLP(), (1, 6)),
        (Flat(784), (1, 784)),
        (OnlyImages(784), (1, 1, 28, 28)),
        (OnlyImages(3072), (1, 3, 32, 32)),
        (build(Transformer), (1, 8, 8)),
        (nn.Conv2d(3, 4, 3), (1, 3, 32, 32)),
        (nn.Conv1d(5, 4, 3), (1, 5, 32)),
        (nn.Conv3d(2, 4, 3), (1, 2, 32, 32, 32)),
        (nn.Sequential(nn.Conv2d(1, 4, 5), nn.MaxPool2d(2), nn.Conv2d(4, 6, 5), nn.MaxPool2d(2), nn.Flatten(),
                       nn.Linear(6 * 16, 10)), (1, 1, 28, 28)),
        (nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Flatten(), nn.Linear(4 * 112**2, 2)), (1, 3, 224, 224)),
    ],
)  # fmt: skip
def test_the_first_layer_says_what_goes_in_and_the_others_how_much(model, expected):
    assert shape(model) == expected


def test_each_tap_of_each_convolution_sees_more_than_padding():
    # five halvings make 32 into 1, where a 3×3 convolution with padding uses its middle alone
    layers = [nn.Conv2d(3 if i == 0 else 4, 4, 2, 2) for i in range(5)]
    model = nn.Sequential(*layers, nn.Conv2d(4, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1))
    assert shape(model) == (1, 3, 64, 64)
    assert shape(nn.Sequential(*layers, nn.Conv2d(4, 4, 1))) == (1, 3, 32, 32)
    assert shape(nn.Sequential(*layers, nn.Conv2d(4, 4, 3, padding="same"))) == (1, 3, 64, 64)
    assert shape(nn.Sequential(*layers, nn.Conv2d(4, 4, 3, padding="valid"))) == (1, 3, 96, 96)


def test_where_no_size_will_do_for_all_taps_the_first_that_is_taken_is():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 3, padding=1))
    assert shape(model) == (1, 3, 32, 32)


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(7, 4), nn.Embedding(16, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embedding(tokens) + self.position(torch.arange(tokens.shape[1])))


def test_tokens_where_the_first_layer_is_an_embedding():
    (given,) = example_of(Tokens()).args
    assert given.dtype == torch.int64
    assert given.shape == (1, 8)


def test_models_that_say_so_themselves_are_believed():
    model: Any = build(ConvNet)
    model.default_cfg = {"input_size": (2, 6, 6)}  # as in timm
    assert shape(model) == (1, 2, 6, 6)
    model.pretrained_cfg = {"input_size": (2, 10, 10)}
    assert shape(model) == (1, 2, 10, 10)
    model = nn.Linear(3, 2)
    model.dummy_inputs = {"input_ids": torch.zeros(3, 5)}  # as in Transformers
    assert example_of(model).kwargs.keys() == {"input_ids"}
    model.main_input_name, model.config = "pixel_values", SimpleNamespace(image_size=(8, 12), num_channels=1)
    assert example_of(model).kwargs["pixel_values"].shape == (1, 1, 8, 12)
    model.config = SimpleNamespace()
    assert example_of(model).kwargs["pixel_values"].shape == (1, 3, 224, 224)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_in_any_type(dtype):
    assert shape(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(dtype)) == (1, 3, 32, 32)


def test_trying_leaves_no_trace():
    class Counting(nn.Conv2d):
        def __init__(self) -> None:
            super().__init__(3, 4, 3)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            torch.rand(3)
            if x.shape[-1] < 60:
                raise ValueError
            return super().forward(x)

    model, state = Counting().train(), torch.get_rng_state()
    assert shape(model) == (1, 3, 64, 64)
    assert model.calls == 0
    assert model.training
    assert not model._forward_hooks
    assert torch.equal(torch.get_rng_state(), state)


def test_what_cannot_be_found_out_is_told():
    class Strange(nn.Linear):
        def forward(self, *, three: Tensor, names: Tensor) -> Tensor:  # type: ignore[override]
            return three + names

    with pytest.raises(Invalid, match=r"Strange: what it takes could not be found out; .* inputs=torch\.ones\("):
        example_of(Strange(3, 3))
    with pytest.raises(Invalid, match="ReLU: what it takes could not be found out"):
        example_of(nn.ReLU())
