"""FLOPs of training against the formulas and figures of the papers, and against steps counted one by one."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

import toy
from prunus.analysis import Cost, Costs, costs
from prunus.core.allocation import allot
from prunus.core.errors import Invalid
from prunus.core.params import prunable
from prunus.core.seeds import generator
from prunus.models import build
from prunus.sparse_training.flops import Flops, flops
from prunus.sparse_training.record import Update


@dataclass
class Training:
    """What a method says of itself."""

    steps: int
    started: Mapping[str, int]
    updates: Sequence[Update] = ()
    dense_gradients: Any = "never"
    gradient_counts: Mapping[str, int] | None = None


def update(step: Any, kept: Mapping[str, int]) -> Update:
    return Update(step, 0.3, dict.fromkeys(kept, 0), dict.fromkeys(kept, 0), kept)


def table(**layers: tuple[int, int]) -> Costs:
    """Costs of layers from their weights and multiply-accumulates."""
    rows = [Cost(name, 1, size, size, size, macs, macs, macs) for name, (size, macs) in layers.items()]
    return Costs(tuple(rows), sum(row.parameters for row in rows))


#: 100 weights that are used ten times, and 50 that are used once.
TWO = table(conv=(100, 1000), head=(50, 50))
DENSE = 2 * 1050.0


def forward(conv: int, head: int = 50) -> float:
    """f_S, by hand."""
    return 2.0 * (10 * conv + head)


def published(name: str, dense: float, sparse: float, every: int = 100, wider: float = 0.0) -> float:
    """FLOPs of a step for one sample, by the formulas of the papers."""
    return {
        "dense": 3 * dense,
        "static": 3 * sparse,
        "SNFS": 2 * sparse + dense,
        "RigL": (3 * sparse * every + 2 * sparse + dense) / (every + 1),
        "Top-KAST": 2 * sparse + wider,
    }[name]


def updates(period: int, count: int, kept: Mapping[str, int]) -> list[Update]:
    return [update(period * i, kept) for i in range(1, count + 1)]


# Formulas


@pytest.mark.parametrize("kept", [1, 10, 37, 100])
def test_a_static_mask(kept):
    found = flops(Training(7, {"conv": kept}), TWO)
    sparse = forward(kept)
    assert found == Flops(sparse, DENSE, published("static", DENSE, sparse), published("dense", DENSE, sparse))
    assert found.training_share == pytest.approx(found.inference_share) == sparse / DENSE


def test_full_masks_cost_what_the_dense_network_does():
    for dense_gradients in ("never", "updates", "always"):
        kept = {"conv": 100, "head": 50}
        found = flops(Training(5, kept, updates(2, 2, kept), dense_gradients), TWO)
        assert (found.inference_share, found.training_share) == (1, 1)


@pytest.mark.parametrize("every", [1, 10, 100])
def test_rigl_with_ordinary_steps_and_then_one_with_an_update(every):
    kept = {"conv": 20, "head": 5}
    found = flops(Training(3 * (every + 1), kept, updates(every + 1, 3, kept), "updates"), TWO)
    assert found.training == pytest.approx(published("RigL", DENSE, forward(20, 5), every))
    assert found.training_share == pytest.approx(found.training / published("dense", DENSE, 0))


def test_set_pays_nothing_for_its_updates():
    kept = {"conv": 20, "head": 5}
    found = flops(Training(40, kept, updates(10, 4, kept)), TWO)
    assert found.training == pytest.approx(published("static", DENSE, forward(20, 5)))


def test_snfs_takes_dense_gradients_at_each_step():
    kept = {"conv": 20, "head": 5}
    found = flops(Training(40, kept, updates(10, 4, kept), "always"), TWO)
    assert found.training == pytest.approx(published("SNFS", DENSE, forward(20, 5)))


def test_top_kast_takes_gradients_of_a_larger_set():
    kept, wider = {"conv": 20, "head": 5}, {"conv": 50, "head": 9}
    found = flops(Training(40, kept, updates(1, 40, kept), gradient_counts=wider), TWO)
    assert found.training == pytest.approx(published("Top-KAST", DENSE, forward(20, 5), wider=forward(50, 9)))
    assert found.inference == forward(20, 5)


def test_gradual_pruning_is_the_mean_over_its_steps():
    kept = [100, 60, 30, 20]
    made = [update(2 * i, {"conv": count}) for i, count in enumerate(kept) if i]
    sparse = [forward(count) for count in (100, 100, 60, 60, 30, 30, 20, 20)]
    masked = flops(Training(8, {"conv": 100}, made), TWO)
    dense = flops(Training(8, {"conv": 100}, made, "always"), TWO)
    assert masked.training == pytest.approx(sum(3 * each for each in sparse) / 8)
    assert dense.training == pytest.approx(sum(2 * each + DENSE for each in sparse) / 8)
    assert masked.inference == dense.inference == forward(20)


def one_by_one(method: Training) -> float:
    """The mean over steps, each asked for the masks that it had."""
    kept, due, spent = method.started, list(method.updates), 0.0
    for step in range(1, method.steps + 1):
        at_update = bool(due) and due[0].step == step
        everything = method.dense_gradients == "always" or (method.dense_gradients == "updates" and at_update)
        of = {"conv": 100, "head": 50} if everything else method.gradient_counts or kept
        spent += 2 * forward(**kept) + forward(**of)
        if at_update:
            kept = due.pop(0).kept
    return spent / method.steps


@pytest.mark.parametrize("dense_gradients", ["never", "updates", "always"])
@pytest.mark.parametrize("wider", [None, {"conv": 90, "head": 45}])
@pytest.mark.parametrize("at", [[], [1], [1, 2, 3], [4, 9, 23], [23], [22, 23]])
def test_against_steps_one_by_one(dense_gradients, wider, at):
    counts = [{"conv": 80 - 9 * i, "head": 3 + 7 * i} for i in range(len(at) + 1)]
    made = [update(step, kept) for step, kept in zip(at, counts[1:], strict=True)]
    method = Training(23, counts[0], made, dense_gradients, wider)
    assert flops(method, TWO).training == pytest.approx(one_by_one(method))


def test_a_whole_training():
    found = flops(Training(10, {"conv": 20}), TWO)
    assert found.total(6400) == found.training * 6400
    assert found.total(0) == 0


def test_layers_without_a_mask_are_dense():
    assert flops(Training(1, {"conv": 0}), TWO).inference == 2 * 50
    assert flops(Training(1, {}), TWO).inference_share == 1


def test_costs_of_a_model_are_its_products():
    model = toy.build(toy.ConvNet)
    kept = {"features.0.weight": 10, "more.0.weight": 20}
    found = flops(Training(1, kept), costs(model, inputs=torch.ones(1, 2, 6, 6)))
    assert found.inference == 2 * (10 * 36 + 20 * 1 + 18)
    assert found.dense_inference == 2 * (72 * 36 + 216 * 1 + 18)


# Published figures


@pytest.fixture(scope="module")
def resnet() -> tuple[nn.Module, Costs]:
    """ResNet-50 for ImageNet."""
    model = build("resnet-50", (3, 224, 224), 1000, generator=generator(0))
    return model, costs(model, inputs=torch.ones(1, 3, 224, 224))


def erk(model: nn.Module, sparsity: float) -> dict[str, int]:
    weights = prunable(model)
    return dict(allot("erk", weights, round((1 - sparsity) * sum(w.numel() for w in weights.values()))))


def uniform(model: nn.Module, sparsity: float) -> dict[str, int]:
    """The same density everywhere but in the first layer, which is dense."""
    first, *rest = prunable(model).items()
    return {first[0]: first[1].numel(), **{name: round((1 - sparsity) * w.numel()) for name, w in rest}}


def test_resnet_50_takes_8_2e9_flops(resnet):
    model, counted = resnet
    found = flops(Training(1, erk(model, 0.9)), counted)
    assert found.dense_inference == pytest.approx(8.2e9, rel=0.005)
    assert found.dense_training * 32_000 * 4096 == pytest.approx(3.2e18, rel=0.01)


@pytest.mark.parametrize(
    ("sparsity", "share", "printed"), [(0.8, 0.414, 0.42), (0.9, 0.242, 0.24), (0.95, 0.122, 0.12)]
)
def test_resnet_50_by_erk(resnet, sparsity, share, printed):
    model, counted = resnet
    found = flops(Training(1, erk(model, sparsity)), counted)
    assert found.inference_share == pytest.approx(share, abs=0.001)
    assert found.inference_share == pytest.approx(printed, abs=0.01)


@pytest.mark.parametrize(
    ("sparsity", "share", "printed"), [(0.8, 0.223, 0.23), (0.9, 0.126, 0.13), (0.95, 0.077, 0.08)]
)
def test_resnet_50_at_one_density_but_for_a_dense_first_layer(resnet, sparsity, share, printed):
    model, counted = resnet
    found = flops(Training(1, uniform(model, sparsity)), counted)
    assert found.inference_share == pytest.approx(share, abs=0.001)
    assert found.inference_share == pytest.approx(printed, abs=0.01)


def test_resnet_50_trained_by_rigl_and_snfs(resnet):
    """The table of RigL: 0.24 of the dense training at 90 % by RigL, 0.61 at 80 % by SNFS, both with ERK."""
    model, counted = resnet
    kept = erk(model, 0.9)
    rigl = Training(32_000, kept, updates(100, 250, kept), "updates")
    assert flops(rigl, counted).training_share == pytest.approx(0.24, abs=0.01)
    kept = erk(model, 0.8)
    snfs = Training(32_000, kept, updates(100, 250, kept), "always")
    assert flops(snfs, counted).training_share == pytest.approx(0.61, abs=0.005)


# Records


def test_updates_go_through_json():
    made = Update(100, 0.3, {"conv": 3, "head": 0}, {"conv": 2, "head": 1}, {"conv": 9, "head": 5})
    assert Update.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_a_record_is_a_copy():
    kept = {"conv": 9}
    record = update(1, kept).to_json()
    kept["conv"] = 8
    assert record["kept"] == {"conv": 9}


# Refusals


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"step": 0}, r"step of an update is 0; allowed: a whole number of at least 1"),
        ({"step": True}, r"step of an update is True"),
        ({"fraction": 1.5}, r"fraction of an update is 1.5; allowed: a number in \[0, 1\]"),
        ({"fraction": float("nan")}, r"fraction of an update is nan"),
        ({"kept": [3]}, r"kept of an update is \[3\]; allowed: a mapping"),
        ({"grown": {"conv": -1}}, r"grown of an update has -1 for 'conv'; allowed: a whole number of at least 0"),
        ({"dropped": {"conv": 0.5}}, r"dropped of an update has 0.5 for 'conv'"),
        ({"more": 1}, r"the record of an update is .*; allowed: a mapping with step, fraction, dropped, grown, kept"),
    ],
)
def test_a_record_that_is_none(change, says):
    with pytest.raises(Invalid, match=says):
        Update.from_json({**update(1, {"conv": 1}).to_json(), **change})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"steps": 0}, r"steps is 0; allowed: at least one step taken"),
        ({"started": {"cnv": 20}}, r"started has 'cnv', of which costs has no row; did you mean 'conv'\?"),
        ({"started": {"conv": 101}}, r"started has 101 weights of conv; in costs it has 100"),
        ({"started": {"conv": -1}}, r"started has -1 for 'conv'"),
        ({"dense_gradients": "sometimes"}, r"dense_gradients is 'sometimes'; allowed: never, updates, always"),
        ({"updates": [update(3, {"head": 20})]}, r"the update after step 3: only one of kept and started has 'conv'"),
        ({"updates": [update(3, {"conv": 101})]}, r"the update after step 3 has 101 weights of conv"),
        ({"updates": [update(11, {"conv": 20})]}, r"an update is after step 11; allowed: from 1 to 10, in order"),
        ({"updates": [update(3, {"conv": 20})] * 2}, r"an update is after step 3; allowed: from 4 to 10"),
        ({"gradient_counts": {"conv": 19}}, r"gradient_counts has 19 weights of conv; allowed: at least the 20 kept"),
        ({"gradient_counts": {}}, r"gradient_counts has None weights of conv"),
        ({"gradient_counts": {"cnv": 20}}, r"gradient_counts has 'cnv', of which costs has no row"),
    ],
)
def test_records_that_do_not_fit(given, says):
    with pytest.raises(Invalid, match=says):
        flops(Training(**{"steps": 10, "started": {"conv": 20}, **given}), TWO)


def test_costs_without_products():
    with pytest.raises(Invalid, match=r"costs has no multiply-accumulates"):
        flops(Training(1, {"conv": 1}), table(conv=(10, 0)))


@pytest.mark.parametrize("samples", [-1, 0.5, True])
def test_samples_that_are_no_number_of_samples(samples):
    with pytest.raises(Invalid, match=r"samples is .*; allowed: a whole number of at least 0"):
        flops(Training(1, {"conv": 1}), TWO).total(samples)
