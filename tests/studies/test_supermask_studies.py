"""The studies of supermasks, each from its preset to its report: hidden-network, width and fixed-budget."""

import csv
import html
from contextlib import suppress
from math import sqrt

import pytest
import torch

from prunus.core.errors import Invalid
from prunus.core.params import prunable
from prunus.core.seeds import derive, generator
from prunus.core.summary import Layer
from prunus.data import load
from prunus.data.dataset import DataSet, Split
from prunus.models import build
from prunus.studies import local
from prunus.studies.kinds import KINDS, expand
from prunus.studies.kinds.supermask.metrics import size
from prunus.studies.report import write_report
from prunus.studies.report.views import view_of
from prunus.studies.resolve import resolve, to_yaml
from prunus.studies.results import CellResult, Outcome, Results
from prunus.studies.runner import Plan, prepare, run
from prunus.supermasks import METHODS, bake, supermask
from prunus.training import evaluate, train
from small_study import contents

STUDIES = ("hidden-network", "width", "fixed-budget")
PRESETS = [(kind, preset) for kind in STUDIES for preset in KINDS[kind].presets]
MASKS = {
    "edge-popup": {"scaled": True},
    "edge-popup-global": {"options": {"schedule": "cubic", "steps": 20}},
    "gem-miner": {"options": {"steps": 30, "every": 5}, "train": {"lr": 0.3}},
    "bernoulli-rescaled": {"weights": "glorot-constant", "train": {"lr": 20.0, "schedule": "constant"}},
}
TINY = {
    "trials": 1,
    "device": "cpu",
    "model.width": 0.2,
    "train.iterations": 40,
    "train.evaluate_every": 20,
}
AXES = {
    "hidden-network": {"densities": [0.5, 0.1], "masks": MASKS},
    "width": {"widths": [0.5, 1.0], "density": 0.3},
    "fixed-budget": {"widths": [1.0, 2.5], "density": 0.8},
}


def tiny(kind, **more):
    given = {**TINY, **AXES[kind], **{key.replace("__", "."): value for key, value in more.items()}}
    return resolve(kind, given.items())


def finished(study, out) -> Plan:
    plan = prepare(study, out)
    run(plan, "prunus run", quiet=True)
    return plan


@pytest.fixture(scope="module")
def plans(tmp_path_factory) -> dict[str, Plan]:
    """Each study, finished."""
    return {kind: finished(tiny(kind), tmp_path_factory.mktemp(kind)) for kind in STUDIES}


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load("digits", validation=0.1)


def stand_in(name, examples):
    """Data of the shape of the real, of which there is one image."""
    shape, count = {"digits": ((1, 8, 8), 1293), "ylecun/mnist": ((1, 28, 28), 55_000)}.get(name, ((3, 32, 32), 45_000))
    train = Split(
        torch.zeros(1, dtype=torch.uint8).expand(examples or count, *shape), torch.zeros(1).expand(examples or count)
    )
    mean, std = torch.zeros(shape[0]), torch.ones(shape[0])
    return DataSet(name, tuple("0123456789"), train, train[:9], train[:9], mean, std, f"{name} {examples}")


def laid_out(study):
    """The cells of a study, whose data need not be there."""
    data = {name: stand_in(v.data.name, v.data.examples) for name, v in study.variants.items()}
    return expand(study, data)


def network(cell, data):
    width = cell.setting.model.width * cell.identity["width"]
    draw = generator(cell.seed, "initialisation")
    return build(cell.setting.model.name, data.input_shape, len(data.classes), width=width, generator=draw)


# --- cells ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "preset"), PRESETS)
def test_every_preset_has_each_cell_once_and_the_same_ones_again(kind, preset):
    study = resolve(kind, [("preset", preset), ("device", "cpu")])
    cells = laid_out(study)
    keys = [cell.key for cell in cells]
    assert len(set(keys)) == len(keys)
    assert [cell.key for cell in laid_out(study)] == keys
    assert {cell.trial for cell in cells} == set(range(study.trials))
    assert all(cell.trains and not cell.parents for cell in cells)


@pytest.mark.parametrize("kind", STUDIES)
def test_a_resolved_study_has_the_same_cells(kind, tmp_path):
    study = resolve(kind, TINY.items())
    (tmp_path / "study.yaml").write_text(to_yaml(study))
    again = resolve(str(tmp_path / "study.yaml"))
    assert [cell.key for cell in laid_out(again)] == [cell.key for cell in laid_out(study)]


def test_methods_without_a_target_have_one_cell_and_the_others_one_for_each_density():
    cells = laid_out(tiny("hidden-network"))
    of_arm = {arm: [c for c in cells if c.arm == arm] for arm in ("dense", *MASKS)}
    assert {arm: len(found) for arm, found in of_arm.items()} == {
        "dense": 1, "bernoulli-rescaled": 1, "edge-popup": 2, "edge-popup-global": 2, "gem-miner": 2,
    }  # fmt: skip
    assert "density" not in of_arm["bernoulli-rescaled"][0].identity["mask"]["options"]
    assert [c.identity["mask"]["options"]["density"] for c in of_arm["gem-miner"]] == [0.5, 0.1]


def test_arms_are_what_they_are_called_without_being_told():
    plain = {"edge-popup-global": {}, "bernoulli-rescaled": {}, "bernoulli": {}, "edge-popup": {}}
    said = {cell.arm: cell.identity.get("mask") for cell in laid_out(tiny("hidden-network", masks=plain))}
    assert said["edge-popup-global"]["method"] == said["edge-popup"]["method"] == "edge-popup"
    assert said["edge-popup-global"]["options"]["scope"] == "global"
    assert "scope" not in said["edge-popup"]["options"]
    assert (said["bernoulli-rescaled"]["options"], said["bernoulli"]["options"]) == ({"rescale": True}, {})
    assert said["bernoulli-rescaled"]["method"] == "bernoulli"


def test_lengths_of_methods_are_resolved_in_iterations_of_their_own_training():
    masks = {
        "gem-miner": {"options": {"every": "1ep"}, "train": {"batch": 100, "iterations": "7ep"}},
        "edge-popup-global": {"options": {"schedule": "cubic", "steps": "5ep", "start": "3it"}},
    }
    study = tiny("hidden-network", masks=masks, train__batch=50, train__iterations="9ep")
    mask = {cell.arm: cell.identity["mask"]["options"] for cell in laid_out(study) if cell.arm != "dense"}
    assert (mask["gem-miner"]["every"], mask["gem-miner"]["steps"]) == (1293 // 100, 7 * (1293 // 100))
    assert (mask["edge-popup-global"]["steps"], mask["edge-popup-global"]["start"]) == (5 * (1293 // 50), 3)


def test_a_mask_s_training_is_the_dense_one_but_for_what_it_says():
    masks = {"edge-popup": {"train": {"lr": 0.5, "schedule": "steps", "milestones": [10, "20it"]}}}
    dense, *masked = laid_out(tiny("hidden-network", masks=masks))
    for cell in masked:
        differ = {n: v for n, v in cell.identity["train"].items() if v != dense.identity["train"][n]}
        assert differ == {"lr": 0.5, "schedule": "steps", "milestones": (10, 20)}
        assert cell.recipe.milestones == (10, 20)


def test_a_width_counts_on_top_of_the_model_s_own(digits):
    cells = laid_out(tiny("width"))
    units = {cell.identity["width"]: network(cell, digits)[1].out_features for cell in cells}
    assert units == {0.5: 30, 1.0: 60}
    assert [(c.arm, c.identity["width"]) for c in cells] == [
        (arm, width) for width in (0.5, 1.0) for arm in ("trained", "edge-popup")
    ]


# --- what is trained -----------------------------------------------------------------------------------------------


def masked_cells(plan):
    return [cell for cell in plan.cells if "mask" in cell.identity]


@pytest.mark.parametrize("kind", STUDIES)
def test_filed_masks_have_exact_counts(plans, kind):
    plan = plans[kind]
    measures = {c.key: (c.measures, c.kept, c.total) for c in plan.store.results(plan.study.name).cells}
    for cell in masked_cells(plan):
        masks, density = plan.store.ticket(cell.key).masks, cell.identity["density"]
        said, kept, total = measures[cell.key]
        assert (kept, total) == (masks.kept, masks.total)
        if cell.arm == "edge-popup":
            assert all(layer.kept == round(density * layer.total) for layer in masks.layers)
        elif cell.arm == "edge-popup-global":
            assert masks.kept == round(density * masks.total)
        elif cell.arm == "gem-miner":
            assert masks.kept <= round(density * masks.total)
        if cell.arm != "bernoulli-rescaled":
            assert said["density"] == pytest.approx(masks.kept / masks.total)
        else:
            assert 0 < said["density"] < 1


def test_as_many_weights_are_kept_at_each_width_up_to_half_a_weight_a_layer(plans, digits):
    plan = plans["fixed-budget"]
    dense, *masked = plan.cells
    budget = round(0.8 * sum(weight.numel() for weight in prunable(network(dense, digits)).values()))
    totals = []
    for cell in masked:
        masks = plan.store.ticket(cell.key).masks
        assert abs(masks.kept - budget) <= len(masks.layers) / 2
        totals.append(masks.total)
    assert totals[0] < totals[1]


def test_a_mask_and_a_seed_give_the_recorded_accuracy(plans, digits):
    checked = 0
    for plan in plans.values():
        recorded = {c.key: c.final for c in plan.store.results(plan.study.name).cells}
        for cell in masked_cells(plan):
            if not cell.arm.startswith("edge-popup"):
                continue
            mask, masks = cell.identity["mask"], plan.store.ticket(cell.key).masks
            model = network(cell, digits)
            method = METHODS[mask["method"]](**mask["options"])
            how = {"weights": mask["weights"], "seed": derive(cell.seed, "weights"), "scaled": mask["scaled"]}
            supermask(model, method, **how)
            bake(model, masks)
            for name, weight in prunable(model).items():
                gain = method.density**-0.5 if mask["scaled"] else 1.0
                expected = gain * sqrt(2 / weight.shape[1]) * masks[name]
                torch.testing.assert_close(weight.abs(), expected.float())
            assert evaluate(model, digits, digits.test)[1] == recorded[cell.key].test_accuracy
            assert evaluate(model, digits, digits.train)[1] == recorded[cell.key].train_accuracy
            checked += 1
    assert checked == 4 + 2 + 2


@pytest.mark.parametrize("kind", STUDIES)
def test_dense_networks_are_trained_as_by_train(plans, digits, kind):
    plan = plans[kind]
    dense = [cell for cell in plan.cells if "mask" not in cell.identity]
    assert dense
    for cell in dense:
        seed = derive(cell.seed, "training")
        assert train(network(cell, digits), digits, cell.recipe, seed=seed) == plan.store.history(cell.key)


def test_each_cell_is_interrupted_and_gone_on_from_to_the_same_records(plans, tmp_path, monkeypatch):
    begin, gone_on = local.begin, []

    def interrupted(cell, data, store, watch=None):
        if store.partial(cell.key).exists():
            gone_on.append(cell.key)
            return begin(cell, data, store, watch)

        def stop(evaluation):
            if evaluation.iteration == 40:  # the checkpoint is that of 20
                raise KeyboardInterrupt

        return begin(cell, data, store, stop)

    monkeypatch.setattr(local, "begin", interrupted)
    plan = prepare(tiny("hidden-network"), tmp_path)
    for _ in range(len(plan.cells) + 1):
        with suppress(KeyboardInterrupt):
            run(plan, "prunus run", quiet=True, checkpoint_every=0, cores=1)
    assert plan.missing == []
    assert {*gone_on} == {cell.key for cell in plan.cells}
    assert contents(tmp_path) == contents(plans["hidden-network"].store.root)


# --- what is said --------------------------------------------------------------------------------------------------


def made(arm, place, accuracy, *, trial=0, network="lenet-300-100", layers=(), **measures):
    """A cell that ended at this accuracy."""
    kept, total = sum(layer.kept for layer in layers), sum(layer.total for layer in layers)
    final = Outcome(100, accuracy, 0.5, accuracy, accuracy)
    key = f"{network} {arm} {place} {trial}"
    return CellResult(
        key, network, trial, place, arm, kept, total, tuple(layers), final, final, (), 1.0, {}, {}, measures
    )


def paragraphs(kind, *cells):
    results = Results(kind, kind, cells, len(cells), {}, f"prunus run {kind}", kind)
    view = view_of(results)
    assert view.reading is not None
    return [text.replace("\u00a0", " ") for text in view.reading(view, results)]


def test_the_reading_of_hidden_network_says_the_best_density_of_each_method():
    cells = [made("dense", 0, a, trial=t, density=1.0) for t, a in enumerate((0.9, 0.92))]
    cells += [made("edge-popup", 1, a, trial=t, density=0.5) for t, a in enumerate((0.8, 0.9))]
    cells += [made("edge-popup", 2, a, trial=t, density=0.1) for t, a in enumerate((0.7, 0.75))]
    cells += [made("bernoulli", 0, a, trial=t, density=d) for t, a, d in ((0, 0.6, 0.4), (1, 0.65, 0.5))]
    cells += [made("edge-popup", 1, 0.25, network="conv-2", density=0.02)]
    said = paragraphs("hidden-network", *cells)
    assert said == [
        "LeNet-300-100: the dense network trains to 91.0 %; edge-popup reaches 85.0 % with 50.0 % of the weights; "
        "Zhou's supermask reaches 62.5 % with 45.0 % of the weights.",
        "Conv-2: no dense network is finished yet; edge-popup reaches 25.0 % with 2.0 % of the weights.",
    ]


def test_the_reading_of_width_says_the_gap_at_the_ends_and_where_it_is_closed():
    trained = [made("trained", i, a, width=w) for i, (w, a) in enumerate(((0.5, 0.8), (1.0, 0.9), (2.0, 0.92)))]
    found = [made("edge-popup", i, a, width=w) for i, (w, a) in enumerate(((0.5, 0.5), (1.0, 0.9), (2.0, 0.93)))]
    ahead = "LeNet-300-100: the trained network of the same width is ahead of edge-popup by +30.0 points at width 0.5"
    assert paragraphs("width", *trained, *found) == [
        f"{ahead} and by -1.0 points at width 2; it is first met at width 1."
    ]
    assert paragraphs("width", *trained, found[0]) == [f"{ahead}."]
    unfinished = "LeNet-300-100: too little is finished yet to compare anything."
    assert paragraphs("width", trained[0], found[1]) == paragraphs("width", *trained) == [unfinished]


def test_the_reading_of_fixed_budget_says_the_best_width():
    dense = made("dense", 0, 0.95, width=1.0, density=1.0)
    found = [
        made("edge-popup", i, a, width=w, density=0.1) for i, w, a in ((1, 1.0, 0.5), (2, 2.0, 0.8), (3, 4.0, 0.7))
    ]
    assert paragraphs("fixed-budget", dense, *found) == [
        "LeNet-300-100: with as many weights kept, edge-popup is best at width 2 (80.0 %, against 50.0 % at width 1)."
    ]
    unfinished = "LeNet-300-100: too little is finished yet to compare anything."
    assert paragraphs("fixed-budget", dense, found[1]) == [unfinished]


def test_the_size_of_a_mask_is_its_entropy_over_32_bits_a_weight():
    half, tenth, full = Layer("a", (10, 20), 100), Layer("b", (100,), 10), Layer("c", (50,), 50)
    assert size(made("edge-popup", 1, 0.9, layers=[half])) == pytest.approx(100 / 32)
    entropy = 100 * (0.1 * 3.321928095 + 0.9 * 0.152003093)  # −log2 of 0.1 and of 0.9
    whole = 32 * (200 + 100 + 50)
    assert size(made("gem-miner", 1, 0.9, layers=[half, tenth, full])) == pytest.approx(100 * (200 + entropy) / whole)
    for arm in ("dense", "trained", "neural-wirings"):
        assert size(made(arm, 0, 0.9, layers=[half])) is None


@pytest.mark.parametrize("kind", STUDIES)
def test_the_report_has_each_cell_where_it_belongs(plans, kind, tmp_path):
    plan = plans[kind]
    results = plan.store.results(plan.study.name)
    report = write_report(results, tmp_path)
    assert report.png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    page = html.unescape(report.html.read_text()).replace("\u00a0", " ")
    for paragraph in paragraphs(kind, *results.cells):
        assert paragraph in page
    rows = [r for r in csv.DictReader(report.csv.read_text().splitlines()) if r["metric"] == "test_accuracy"]
    there = {(r["arm"], int(r["round"])): r for r in rows}
    for cell in results.cells:
        row = there[cell.arm, cell.round]
        assert (float(row["mean"]), row["n"]) == (pytest.approx(100 * cell.final.test_accuracy), "1")
        axis = ("density_percent", 100 * cell.measures["density"])
        axis = axis if kind == "hidden-network" else ("width", cell.measures["width"])
        assert float(row[axis[0]]) == pytest.approx(axis[1], rel=1e-3)


# --- refusals ------------------------------------------------------------------------------------------------------


def one(arm="edge-popup", **config):
    return {"masks": {arm: config}}


@pytest.mark.parametrize(
    ("kind", "more", "why"),
    [
        ("hidden-network", one("edge-pop"), "masks: 'edge-pop' is no way to find masks; did you mean 'edge-popup'"),
        ("hidden-network", {"masks": {}}, "masks is {}; allowed: at least one"),
        ("width", one(method="gem-minor"), "method is 'gem-minor'; did you mean 'gem-miner'"),
        ("width", one(weights="kaiming-constants"), "weights is 'kaiming-constants'; did you mean 'kaiming-constant'"),
        ("width", one(options={"scop": "global"}), "masks: edge-popup has no option 'scop'; did you mean 'scope'"),
        ("width", one(options={"scope": "globl"}), "masks: edge-popup: scope is 'globl'; did you mean 'global'"),
        ("width", one(options={"signed": "yes"}), "masks: edge-popup: signed is 'yes'; allowed: true or false"),
        ("width", one(options={"density": 0.1}), r"masks\.edge-popup\.options has density"),
        ("width", one(options={"steps": "5xx"}), r"masks\.edge-popup\.options\.steps is '5xx'; allowed: iterations"),
        ("width", one("bernoulli", options={"first": "a"}), "masks: bernoulli: first is 'a'; allowed: a number"),
        ("hidden-network", one("gem-miner"), "masks: gem-miner: every is None; allowed: a whole number from 1"),
        ("hidden-network", one(train={"lrr": 1}), r"masks\.edge-popup\.train\.lrr: no such key; did you mean 'lr'"),
        ("hidden-network", one(train={"lr": "a"}), r"masks\.edge-popup\.train\.lr is 'a'; allowed: a number"),
        ("hidden-network", one(train={"schedule": "cosin"}), r"masks\.edge-popup\.train\.schedule is 'cosin'; allowed"),
        ("hidden-network", one(train={"optimizer": "adam"}), r"masks\.edge-popup\.train\.momentum is 0\.9 with"),
        ("hidden-network", {"densities": [0.5, 0.0005]}, "density 0.0005 edge-popup: density is 0.0005 .* none of the"),
        ("width", {"density": 0.002}, r"width 0\.5 edge-popup: density is 0\.002 .* none of the 100 weights of fc3"),
        ("fixed-budget", {"density": 0.002}, "width 1 edge-popup: density is 0.00.* none of the 200 weights of fc3"),
        ("hidden-network", {"densities": [0.5, 0.5]}, r"densities is \[0.5, 0.5\]; allowed: at least one, and each"),
        ("width", {"widths": [1, 2, 1]}, r"widths is \[1.0, 2.0, 1.0\]; allowed: at least one, and each once"),
        ("fixed-budget", {"widths": []}, r"widths is \[\]; allowed: at least one"),
        ("fixed-budget", {"widths": [0.5, 1]}, r"widths has 0.5, where there are 2,320 weights for the 4,192 that"),
        ("fixed-budget", one("bernoulli"), "masks has 'bernoulli', which has no density to be told"),
        ("width", one("bernoulli", scaled=True), "scaled is true, and bernoulli has no density to scale by"),
        ("hidden-network", {"model.width": 1e9}, "model 'lenet-300-100' .*cannot be made"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line_before_anything_is(kind, more, why, tmp_path):
    given = {**({"masks": {"edge-popup": {}}} if kind == "hidden-network" else {}), **more}
    with pytest.raises(Invalid, match=why) as caught:
        prepare(tiny(kind, **given), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_arms_choose_among_masks_also_when_the_stored_study_is_run_again(tmp_path):
    study = resolve("hidden-network", [("arms", ["gem-miner"])])
    (tmp_path / "again.yaml").write_text(to_yaml(study))
    for each in (study, resolve(str(tmp_path / "again.yaml"))):
        assert list(next(iter(each.variants.values())).masks) == ["gem-miner"]
    with pytest.raises(Invalid, match="arms has 'popup'"):
        resolve("hidden-network", [("arms", ["popup"])])
    with pytest.raises(Invalid, match="each once"):
        resolve("hidden-network", [("arms", ["gem-miner", "gem-miner"])])
