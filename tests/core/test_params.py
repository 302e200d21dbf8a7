"""Which parameters masks act on, for the layers that users have."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from prunus.core.errors import Invalid
from prunus.core.params import device_of, owners, prunable


class TiedLanguageModel(nn.Module):
    """Its output layer shares the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.body = nn.Linear(4, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight


def names(model: nn.Module, **options) -> list[str]:
    return list(prunable(model, **options))


def test_linear_and_convolution_weights_only() -> None:
    model = nn.ModuleDict(
        {
            "linear": nn.Linear(3, 4),
            "bilinear": nn.Bilinear(2, 2, 2),
            "conv1": nn.Conv1d(2, 2, 3),
            "conv2": nn.Conv2d(2, 2, 3),
            "conv3": nn.Conv3d(2, 2, 3),
            "up1": nn.ConvTranspose1d(2, 2, 3),
            "up2": nn.ConvTranspose2d(2, 2, 3),
            "up3": nn.ConvTranspose3d(2, 2, 3),
            "batchnorm": nn.BatchNorm2d(2),
            "layernorm": nn.LayerNorm(2),
            "groupnorm": nn.GroupNorm(1, 2),
            "embedding": nn.Embedding(5, 2),
            "bag": nn.EmbeddingBag(5, 2),
            "prelu": nn.PReLU(),
            "lstm": nn.LSTM(2, 2),
        }
    )
    kinds = ("linear", "conv1", "conv2", "conv3", "up1", "up2", "up3")
    assert names(model) == [f"{kind}.weight" for kind in kinds]


def test_names_and_order_are_those_of_the_state_dict() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Conv2d(1, 1, 1), nn.Linear(3, 2)))
    found = prunable(model)
    assert list(found) == [name for name in model.state_dict() if name in found]
    assert all(found[name] is dict(model.named_parameters())[name] for name in found)


def test_attention_is_linear_layers() -> None:
    model = nn.MultiheadAttention(4, 2)
    assert names(model) == ["in_proj_weight", "out_proj.weight"]
    model = nn.MultiheadAttention(4, 2, kdim=3, vdim=5)
    assert names(model) == ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"]


def test_a_transformer_layer_has_its_four() -> None:
    model = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    weights = ["self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"]
    assert names(model) == weights


def test_the_conv1d_of_hugging_face() -> None:
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    model = nn.Sequential(conv1d(6, 2), nn.LayerNorm(6))
    assert names(model) == ["0.weight"]

    class Conv1D(nn.Module):  # of somebody else, with a weight that may mean anything
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 2))

    assert names(nn.Sequential(Conv1D())) == []


def test_subclasses_count() -> None:
    class Special(nn.Linear):
        pass

    assert names(nn.Sequential(Special(2, 2))) == ["0.weight"]


def test_tied_weights_count_once_under_their_first_name() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    assert names(model) == ["0.weight", "1.weight"]
    assert list(owners(model, model[0].weight)) == [(model[0], "weight"), (model[2], "weight")]


def test_a_shared_module_counts_once() -> None:
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    assert names(model) == ["0.weight"]
    assert list(owners(model, layer.weight)) == [(layer, "weight")]


def test_a_linear_layer_tied_to_an_embedding_is_an_embedding() -> None:
    model = TiedLanguageModel()
    assert names(model) == ["body.weight"]
    assert names(model, include=["embed.weight", "body.*"]) == ["embed.weight", "body.weight"]


def test_globs() -> None:
    model = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("first", "second", "third", "head")})
    assert names(model, include="*ir*") == ["first.weight", "third.weight"]
    assert names(model, include=("head.*", "first.*")) == ["first.weight", "head.weight"]
    assert names(model, exclude="head.*") == ["first.weight", "second.weight", "third.weight"]
    assert names(model, exclude=["head.*", "[fs]*"]) == ["third.weight"]
    assert names(model, include="*d.weight", exclude="head*") == ["second.weight", "third.weight"]
    assert names(model, include=()) == []
    assert names(model, exclude=()) == [f"{name}.weight" for name in model]
    assert names(model, exclude="*") == []


def test_a_glob_takes_only_what_is_prunable_and_a_whole_name_anything() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert names(model, include="0.*") == ["0.weight"]
    assert names(model, include=["0.bias", "1.weight"]) == ["0.bias", "1.weight"]
    with pytest.raises(Invalid, match=r"include='1\.\*' matches no prunable parameter"):
        prunable(model, include="1.*")


def test_a_pattern_that_matches_nothing() -> None:
    model = nn.ModuleDict({"encoder": nn.Linear(2, 2)})
    with pytest.raises(Invalid, match=r"include='encoder.wieght' .*did you mean 'encoder.weight'"):
        prunable(model, include="encoder.wieght")
    with pytest.raises(Invalid, match=r"exclude='decoder' matches no parameter"):
        prunable(model, exclude="decoder")


def test_integers_cannot_be_masked() -> None:
    model = nn.Module()
    model.table = nn.Parameter(torch.ones(2, dtype=torch.int64), requires_grad=False)
    with pytest.raises(Invalid, match=r"torch\.int64; masks need floating point"):
        prunable(model, include="table")


def test_what_cannot_be_masked_yet_says_so() -> None:
    lazy = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(3))
    with pytest.raises(Invalid, match=r"1\.weight is not initialised yet"):
        prunable(lazy)
    assert names(lazy, exclude="1.*") == ["0.weight"]
    normed = nn.Sequential(nn.Linear(2, 2), weight_norm(nn.Linear(2, 2)))
    with pytest.raises(Invalid, match=r"1\.weight is behind a parametrization"):
        prunable(normed)


def test_frozen_weights_are_prunable_too() -> None:
    assert names(nn.Sequential(nn.Linear(2, 2).requires_grad_(False))) == ["0.weight"]


def test_the_device() -> None:
    assert device_of(nn.Linear(2, 2, device="meta")) == torch.device("meta")
    assert device_of(nn.ReLU()) == torch.device("cpu")


def test_weights_that_a_hook_computes_are_refused_by_name():
    from torch.nn.utils import prune as torch_prune

    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    torch_prune.l1_unstructured(model[0], "weight", 0.5)
    with pytest.raises(Invalid, match=r"0\.weight is computed in a hook"):
        prunable(model)
