"""The study of topologies, from its presets to its report: what is told of masks against sets of positions."""

import csv
import html
from contextlib import suppress

import pytest
import torch
from matplotlib.figure import Figure

from prunus.analysis import Exploration
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.seeds import derive, generator
from prunus.data import load
from prunus.models import build
from prunus.sparse_training import METHODS, SET
from prunus.studies import local
from prunus.studies.kinds import KINDS
from prunus.studies.kinds.topology.series import series
from prunus.studies.kinds.topology.view import LAYERS, VIEW
from prunus.studies.report import write_report
from prunus.studies.report.figure import draw_panel
from prunus.studies.report.style import light
from prunus.studies.report.views import view_of
from prunus.studies.resolve import resolve
from prunus.studies.results import CellResult, Results
from prunus.studies.runner import prepare, run
from prunus.training import train
from small_study import contents

STEPS, LOOKS, EVERY = 40, 8, 3
TINY = {
    "trials": 1,
    "device": "cpu",
    "model.width": 0.2,
    "train.iterations": STEPS,
    "train.evaluate_every": 20,
    "density": 0.1,
    "looks": LOOKS,
    "options": {"every": EVERY},
}
EACH = {**{name: {} for name in METHODS}, "str": {"options": {"initial": -4.0}}}


def tiny(**more):
    given = {**TINY, "methods": EACH, "arms": list(EACH), **{k.replace("__", "."): v for k, v in more.items()}}
    return resolve("topology", given.items())


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """The study, finished."""
    made = prepare(tiny(), tmp_path_factory.mktemp("study"))
    run(made, "prunus run", quiet=True)
    return made


@pytest.fixture(scope="module")
def measures(plan):
    return {c.arm: c.measures for c in plan.store.results(plan.study.name).cells}


@pytest.fixture(scope="module")
def digits():
    return load("digits", validation=0.1)


def cell_of(plan, arm):
    return next(cell for cell in plan.cells if cell.arm == arm)


@pytest.mark.parametrize("preset", KINDS["topology"].presets)
def test_every_preset_is_a_study(preset):
    study = resolve("topology", [("preset", preset), ("device", "cpu")])
    assert study.preset == preset
    assert all(setting.arms == tuple(setting.methods) for setting in study.variants.values())


def test_each_method_has_one_cell(plan):
    assert [(cell.arm, cell.identity["density"]) for cell in plan.cells] == [
        (arm, None if arm == "str" else 0.1) for arm in EACH
    ]


def positions(masks):
    return {(name, int(i)) for name, mask in masks.items() for i in mask.flatten().nonzero()}


class Seen:
    """A method, and the positions that its masks keep, after each step."""

    def __init__(self, model, optimizer, **how):
        self.method = SET(model, optimizer, **how)
        self.kept = [positions(self.method.masks)]

    def step(self):
        self.method.step()
        self.kept.append(positions(self.method.masks))


def test_what_is_told_of_masks_is_what_they_were(plan, measures, digits):
    cell, told = cell_of(plan, "set"), measures["set"]
    model = build("lenet-300-100", digits.input_shape, 10, width=0.2, generator=generator(cell.seed, "initialisation"))
    seen = []

    def method(model, optimizer):
        how = {"density": 0.1, "total_steps": STEPS, "every": EVERY, "seed": derive(cell.seed, "masks")}
        seen.append(Seen(model, optimizer, **how))
        return seen[0]

    history = train(model, digits, cell.recipe, seed=derive(cell.seed, "training"), method=method)
    assert history == plan.store.history(cell.key)  # to be watched changes nothing
    kept, total = seen[0].kept, sum(p.numel() for n, p in model.named_parameters() if n.endswith("weight"))
    assert told["steps"] == [round(i * STEPS / LOOKS) for i in range(LOOKS + 1)]
    for i, step in enumerate(told["steps"]):
        ever = set().union(*kept[: step + 1])
        assert told["explored"][i] == pytest.approx(len(ever) / total)
        assert told["lost"][i] == pytest.approx(len(kept[0] - kept[step]) / len(kept[0]))
        assert told["distance"][i] == pytest.approx(1 - len(kept[0] & kept[step]) / len(kept[0] | kept[step]))
    alive = [hidden_units(each) for each in kept]
    units = 60 + 20
    for i, step in enumerate(told["steps"]):
        assert told["dead"][i] == pytest.approx(1 - len(alive[step]) / units)
        moves = [(alive[n - 1], alive[n]) for n in range(1, step + 1)]
        assert told["died"][i] == sum(len(before - now) for before, now in moves)
        assert told["revived"][i] == sum(len(now - before) for before, now in moves)
    assert told["died"][-1] > 0


def hidden_units(kept):
    """Of layers of 64, 60, 20 and 10 units: the hidden ones with a weight to them and one from them."""
    fan_in = {"fc1.weight": 64, "fc2.weight": 60, "fc3.weight": 20}
    into = {(name, i // fan_in[name]) for name, i in kept}
    out = {(name, i % fan_in[name]) for name, i in kept}
    following = {"fc1.weight": "fc2.weight", "fc2.weight": "fc3.weight"}
    return {(name, unit) for name, unit in into if name in following and (following[name], unit) in out}


def test_static_stays_and_the_others_keep_their_promises(measures):
    static = measures["static"]
    assert set(static["lost"]) == set(static["revived"]) == {0}
    assert len(set(static["explored"])) == 1
    for arm in ("rigl", "set"):  # each layer keeps its number of weights
        assert all(len(set(densities)) == 1 for densities in measures[arm]["layers"].values())
        assert measures[arm]["explored"][-1] > 0.1
    assert any(len(set(densities)) > 1 for densities in measures["snfs"]["layers"].values())
    for told in measures.values():
        assert told["explored"] == sorted(told["explored"])
        assert all(len(series) == LOOKS + 1 for series in (told["lost"], told["dead"], *told["layers"].values()))
    assert measures["gmp"]["explored"] == [1.0] * (LOOKS + 1)  # it begins dense


def test_each_cell_is_interrupted_and_gone_on_from_to_the_same_records(plan, tmp_path, monkeypatch):
    begin = local.begin

    def interrupted(cell, data, store, watch=None):
        def stop(evaluation):
            if evaluation.iteration == STEPS:  # the checkpoint is that of 20
                raise KeyboardInterrupt

        return begin(cell, data, store, watch if store.partial(cell.key).exists() else stop)

    monkeypatch.setattr(local, "begin", interrupted)
    again = prepare(tiny(), tmp_path)
    for _ in range(len(again.cells) + 1):
        with suppress(KeyboardInterrupt):
            run(again, "prunus run", quiet=True, checkpoint_every=0, cores=1)
    assert again.missing == []
    assert contents(tmp_path) == contents(plan.store.root)


# --- what is said --------------------------------------------------------------------------------------------------


def reported(*cells):
    return Results("to", "to", cells, len(cells), {}, "prunus run topology", "topology")


def made(arm, trial=0, **more):
    told = {"steps": [0, 10], "lost": [0, 0.5], "distance": [0, 0.6], "explored": [0.1, 0.3], "dead": [0.0, 0.25]}
    told |= {"died": [0, 4], "revived": [0, 2], "layers": {"a.weight": [0.1, 0.1], "b.weight": [0.4, 0.2]}}
    told |= {"density": 0.1, "inference": 0.1, "training": 0.2, **more}
    return CellResult(
        f"{arm} {trial}", "lenet-300-100", trial, 1, arm, 10, 100, (), None, None, (), 1.0, {}, {}, measures=told
    )


def test_the_reading_says_where_each_arm_s_masks_have_come_to():
    cells = [made("rigl"), made("rigl", 1, explored=[0.1, 0.5]), made("static", layers={"a.weight": [0.1, 0.1]})]
    view = view_of(reported(*cells))
    assert view.reading(view, reported(*cells)) == [
        "LeNet-300-100: RigL ends with 10.0 % of the weights, 40.0 % were ever active, 50.0 % of its first mask are "
        "gone, 25.0 % of the units are dead, the density of b goes from 40.0 to 20.0 %; static ends with 10.0 % of the "
        "weights, 30.0 % were ever active, 50.0 % of its first mask are gone, 25.0 % of the units are dead."
    ]


def test_the_report_has_each_step(plan, tmp_path):
    found = plan.store.results(plan.study.name)
    report = write_report(found, tmp_path)
    page = html.unescape(report.html.read_text())
    assert all(paragraph in page for paragraph in view_of(found).reading(view_of(found), found))
    rows = list(csv.DictReader(report.csv.read_text().splitlines()))
    for cell in found.cells:
        own = [row for row in rows if row["arm"] == cell.arm]
        told = [(int(r["step"]), float(r["mean"])) for r in own if r["metric"] == "ever_active"]
        share = [100 * value for value in cell.measures["explored"]]
        assert told == [(s, pytest.approx(value)) for s, value in zip(cell.measures["steps"], share, strict=True)]
        layers = [(r["layer"], float(r["mean"])) for r in own if r["metric"] == "layer_density"]
        for name, densities in cell.measures["layers"].items():
            drawn = [mean for layer, mean in layers if f"{layer}.weight" == name]
            assert drawn == [pytest.approx(100 * density) for density in densities]
        (at_end,) = [r for r in own if r["metric"] == "test_accuracy_by_ever_active"]
        assert float(at_end["ever_active_percent"]) == pytest.approx(share[-1])


def test_each_layer_has_a_line_of_its_own():
    axes = Figure().subplots()
    draw_panel(axes, reported(made("rigl")), "lenet-300-100", LAYERS, light(VIEW.arms))
    drawn = [line for line in axes.get_lines() if (line.get_gid() or "").startswith("arm_rigl")]
    there = {tuple(line.get_ydata()) for line in drawn if len(line.get_xdata()) == 2}
    assert {(10.0, 10.0), (40.0, 20.0)} <= there


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"density": 0.0}, "density is 0.0; allowed: above 0"),
        ({"looks": 0}, "looks is 0; allowed: at least 1"),
        ({"methods": {"rigel": {}}}, "'rigel' is no way to train; did you mean 'rigl'"),
        ({"options": {"evry": 1}}, "options has 'evry', which no method has"),
        ({"options": {"every": STEPS}}, "density 0.1 set: every is 40 and updates end before step 30"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line_before_anything_is(more, why, tmp_path):
    with pytest.raises(Invalid, match=why) as caught:
        prepare(tiny(**more), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_measures_do_not_depend_on_how_often_it_is_looked():
    """Fewer looks are a part of more."""

    def masks(seed):
        return Masks({"a": torch.rand(6, 5, generator=generator(seed, "mask")) < 0.4})

    exploration = Exploration(masks(0))
    for step in range(1, 10):
        exploration.see(masks(step), 3 * step)
    often, seldom = (series(exploration.rows, 36, looks) for looks in (36, 4))
    for name in ("steps", "lost", "distance", "explored", "dead", "died", "revived"):
        assert seldom[name] == often[name][::9]
    assert seldom["layers"]["a"] == often["layers"]["a"][::9]
