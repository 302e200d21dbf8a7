"""Two made-up kinds of study, one that only computes and one that also trains, for tests of what runs and reports."""

from dataclasses import replace
from pathlib import Path

import torch

from prunus.core.masks import Masks
from prunus.core.seeds import derive, generator
from prunus.studies.cells import Cell, shared_identity, trained_on
from prunus.studies.config import BaseSetting, Study, TrainConfig
from prunus.studies.kinds.kind import Kind
from prunus.studies.report.style import arms
from prunus.studies.report.view import Axis, LayerTable, Line, Metric, View
from prunus.studies.work import GivenUp, Work, check_model, new_model
from prunus.tickets import Ticket
from prunus.training import Lane, Recipe

ARMS = ("random", "largest")


class CountSetting(BaseSetting):
    """At which compression ratios weights are counted; `fails` names one that cannot be reached."""

    ratios: tuple[float, ...] = (1.0, 2.0, 4.0)
    fails: float | None = None


class CountStudy(Study[CountSetting]):
    """Counts weights in masks of two sorts."""

    arms: tuple[str, ...] = ARMS


class TrainSetting(CountSetting):
    """The same, and how networks are trained with these masks."""

    train: TrainConfig = TrainConfig()  # type: ignore[valid-type]


class TrainStudy(Study[TrainSetting]):
    """Trains in masks of two sorts."""

    arms: tuple[str, ...] = ARMS


def counted(study, data):
    """A cell for each trial, network, ratio and arm."""
    return [
        Cell(name, trial, place, arm, setting, identity, kind="toy-count", place=f"compression {ratio:g}")
        for trial in range(study.trials)
        for name, setting in study.variants.items()
        for place, ratio in enumerate(setting.ratios)
        for arm in study.arms
        for identity in [
            {**shared_identity(study, setting, trial, data[name]), "kind": "toy-count", "arm": arm, "ratio": ratio}
        ]
    ]


def trained(study, data):
    """For each mask a cell that makes it, and one that trains in it."""
    for cell in counted(study, data):
        recipe = Recipe(**cell.setting.train.__dict__).resolved(len(data[cell.network].train))
        identity = {**cell.identity, "kind": "toy-train", "parent": cell.key, **trained_on(recipe)}
        yield replace(cell, arm="start")
        density = 1 / cell.identity["ratio"]
        yield replace(cell, identity=identity, parent=cell.key, kind="toy-train", density=density)


def masks_of(cell, model):
    """A share of the weights: the largest, or any."""
    density, arm = 1 / cell.identity["ratio"], cell.identity["arm"]
    if arm == "random":
        return Masks.random(model, density, generator=generator(cell.seed, "masks", arm, cell.round))
    named = {name: p.detach().abs() for name, p in model.named_parameters() if p.dim() > 1}
    kept = {}
    for name, size in named.items():
        order = size.flatten().argsort(descending=True)[: round(density * size.numel())]
        kept[name] = torch.zeros(size.numel(), dtype=torch.bool).index_fill(0, order, True).view_as(size)
    return Masks(kept)


def count(cell, data, store, watch):
    """Counts; nothing is trained."""
    if cell.identity["ratio"] == cell.setting.fails:
        raise GivenUp(f"{cell.label}: cannot be reached")
    model = new_model(cell, data)
    masks = masks_of(cell, model)
    means = {name: float(p.detach().abs()[masks[name]].mean()) for name, p in model.named_parameters() if name in masks}
    measures = {
        "ratio": cell.identity["ratio"],
        "emptied": [layer.name for layer in masks.layers if not layer.kept],
        "mean": means,
        "worst": float("inf") if cell.identity["ratio"] == 1 else cell.identity["ratio"],
    }
    return Work(cell, ticket=Ticket(masks, {}), measures=measures)


def train(cell, data, store, watch):
    """Trains in the masks of the parent."""
    ticket, model = store.ticket(cell.parent), new_model(cell, data)
    lane = Lane(
        model.to(data.train.images.device), data, cell.recipe, masks=ticket.masks,
        seed=derive(cell.seed, "training"), watch=watch, checkpoint=store.partial(cell.key),
    )  # fmt: skip
    return Work(cell, lane, layers=ticket.masks.layers, measures={"ratio": cell.identity["ratio"]}, after=norm_of)


def norm_of(model):
    """The norm of what was trained."""
    assert not model.training
    return {"norm": float(sum(p.detach().double().square().sum() for p in model.parameters()) ** 0.5)}


RATIO = Axis(
    "compression", "Compression ratio", "compression ratio", lambda cell: cell.measures["ratio"], short="ratio"
)
SIZE = Axis("layer_size", "Weights of the layer", "layer of", each="layer")


def means_of_layers(cell):
    """The mean size of the weights of each layer, against how many there are."""
    sizes = {layer.name: layer.total for layer in cell.layers}
    return [(sizes[name], mean, name) for name, mean in cell.measures.get("mean", {}).items()]


KEPT = Metric(
    "kept", "Weights kept", "", lambda cell: cell.kept, log=True,
    lines=lambda cells, curves: [Line("limit", x=max(cell.measures["ratio"] for cell in cells) * 2)],
)  # fmt: skip
MEANS = Metric(
    "mean_size", "Mean size", "", means_of_layers, axis=SIZE, log=True, joined=False,
    lines=lambda cells, curves: [Line("slope", points=((10, 1.0), (1000, 0.01)))],
)  # fmt: skip
NORM = Metric("norm", "Norm", "", lambda cell: cell.measures.get("norm"))
ACCURACY = Metric("accuracy", "Test accuracy", "%", lambda cell: cell.final and 100 * cell.final.test_accuracy)


def said(view, results):
    """One paragraph."""
    return [f"{len(results.cells)} cells were looked at."]


COUNT_VIEW = View(
    axis=RATIO,
    metrics=(KEPT, MEANS),
    arms=arms({"random": "any weights", "largest": "the largest weights"}),
    reading=said,
    terms=(("Ratio", "All weights / those kept <of course>."),),
    lines={"limit": "what is possible", "slope": "1 / n"},
)
TRAIN_VIEW = replace(
    COUNT_VIEW, metrics=(ACCURACY,), columns=(NORM,), lines={}, layers=LayerTable(ARMS, "What each layer keeps.")
)


def kinds(folder: Path) -> dict[str, Kind]:
    """The two kinds; their presets are written into `folder`."""
    common = "trials: 2\nmodel: {name: lenet-300-100, width: 0.1}\n"
    for name, more in [("toy-count", ""), ("toy-train", "train: {iterations: 20, evaluate_every: 10}\n")]:
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "quick.yaml").write_text(common + more)
    presets = {"quick": "in no time"}
    return {
        "toy-count": Kind(
            "toy-count",
            CountStudy,
            presets,
            counted,
            count,
            lambda: COUNT_VIEW,
            check_model,
            folder=folder / "toy-count",
        ),
        "toy-train": Kind(
            "toy-train",
            TrainStudy,
            presets,
            lambda study, data: list(trained(study, data)),
            train,
            lambda: TRAIN_VIEW,
            folder=folder / "toy-train",
        ),
    }
