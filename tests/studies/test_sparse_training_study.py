"""The study of sparse training, from its presets to its report."""

import csv
import html
from contextlib import suppress
from functools import partial
from math import floor

import pytest
import torch

from prunus.core.apply import masks_of
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.params import prunable
from prunus.core.seeds import derive, generator
from prunus.data import load
from prunus.data.dataset import DataSet, Split
from prunus.models import build
from prunus.sparse_training import METHODS, RigL, Static
from prunus.studies import local
from prunus.studies.kinds import KINDS, expand
from prunus.studies.kinds.sparse_training import grid
from prunus.studies.kinds.sparse_training.arms import named, words
from prunus.studies.kinds.sparse_training.metrics import ARMS
from prunus.studies.report import write_report
from prunus.studies.report.views import view_of
from prunus.studies.resolve import resolve, to_yaml
from prunus.studies.results import CellResult, Outcome, Results
from prunus.studies.runner import Plan, prepare, run
from prunus.training import Lane, train, train_together
from small_study import contents

TINY = {
    "trials": 1,
    "device": "cpu",
    "model.width": 0.2,
    "train.iterations": 40,
    "train.evaluate_every": 20,
    "densities": [0.5, 0.2],
    "options": {"every": 8},
}
#: One arm for each method, and forms of them.
EACH = {
    **{name: {} for name in METHODS},
    "rigl": {"lengths": [1, 2]},
    "str": {"options": {"initial": -4.0}},
    "static-uniform": {},
    "rigl-n-m": {"densities": [0.5]},
}


def tiny(**more):
    given = {**TINY, "methods": EACH, "arms": list(EACH), **{k.replace("__", "."): v for k, v in more.items()}}
    return resolve("sparse-training", given.items())


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Plan:
    """The study, finished."""
    made = prepare(tiny(), tmp_path_factory.mktemp("study"))
    run(made, "prunus run", quiet=True)
    return made


@pytest.fixture(scope="module")
def results(plan):
    return {(c.arm, c.round): c for c in plan.store.results(plan.study.name).cells}


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load("digits", validation=0.1)


def stand_in(name, examples):
    """Data of the shape of the real, of which there is one image."""
    shape, count = {"digits": ((1, 8, 8), 1293), "ylecun/mnist": ((1, 28, 28), 55_000)}.get(name, ((3, 32, 32), 45_000))
    images = torch.zeros(1, dtype=torch.uint8).expand(examples or count, *shape)
    split = Split(images, torch.zeros(1).expand(examples or count))
    mean, std = torch.zeros(shape[0]), torch.ones(shape[0])
    return DataSet(name, tuple("0123456789"), split, split[:9], split[:9], mean, std, f"{name} {examples}")


def laid_out(study):
    return expand(study, {name: stand_in(v.data.name, v.data.examples) for name, v in study.variants.items()})


def network(cell, data, width=1.0):
    draw = generator(cell.seed, "initialisation")
    scale = cell.setting.model.width * width
    return build(cell.setting.model.name, data.input_shape, len(data.classes), width=scale, generator=draw)


def cells_of(plan, *, arm=None):
    return [cell for cell in plan.cells if arm in (None, cell.arm)]


# --- cells ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", KINDS["sparse-training"].presets)
def test_every_preset_has_each_cell_once_and_the_same_ones_again(preset, monkeypatch):
    if preset == "paper":  # large networks, whose masks are drawn on no device
        monkeypatch.setattr(grid, "_check", lambda cells, data: None)
    study = resolve("sparse-training", [("preset", preset), ("device", "cpu")])
    cells = laid_out(study)
    keys = [cell.key for cell in cells]
    assert len(set(keys)) == len(keys)
    assert [cell.key for cell in laid_out(study)] == keys
    assert {cell.trial for cell in cells} == set(range(study.trials))
    assert all(set(cell.parents) <= set(keys[:i]) for i, cell in enumerate(cells))


def test_a_resolved_study_has_the_same_cells(tmp_path):
    study = tiny(arms=["set", "rigl"])
    (tmp_path / "study.yaml").write_text(to_yaml(study))
    again = resolve(str(tmp_path / "study.yaml"))
    assert [cell.key for cell in laid_out(again)] == [cell.key for cell in laid_out(study)]
    assert {cell.arm for cell in laid_out(again)} == {"dense", "pruned", "narrow", "rigl", "rigl-2x", "set"}


def test_methods_have_a_cell_for_each_density_and_length_and_one_that_learns_its_density_one(plan):
    of = {arm: [cell.identity["density"] for cell in cells_of(plan, arm=arm)] for arm in {c.arm for c in plan.cells}}
    assert of.pop("dense") == [1.0]
    assert of.pop("str") == [None]
    assert of.pop("rigl-n-m") == [0.5]
    assert set(of) == {*(set(EACH) - {"str", "rigl-n-m"}), "rigl-2x", "pruned", "narrow"}
    assert all(densities == [0.5, 0.2] for densities in of.values())


def test_a_longer_training_is_stretched_and_its_updates_are_not():
    schedule = {"train.schedule": "steps", "train.milestones": [10, "1ep"], "train.warmup": 4}
    study = tiny(
        methods={"rigl": {"lengths": [1, 3]}}, arms=["rigl"], options={"every": 7}, densities=[0.5], **schedule
    )
    *_, short, long = laid_out(study)
    assert (short.arm, long.arm) == ("rigl", "rigl-3x")
    epoch = 1293 // 64
    for cell, factor in ((short, 1), (long, 3)):
        recipe, options = cell.recipe, cell.identity["method"]["options"]
        assert (recipe.iterations, recipe.warmup) == (40 * factor, 4 * factor)
        assert recipe.milestones == (10 * factor, epoch * factor)
        assert (options["total_steps"], options["every"]) == (40 * factor, 7)


def test_numbers_of_steps_may_be_lengths_and_an_arm_s_own_options_win():
    methods = {"rigl": {}, "set": {"options": {"every": "20it"}}, "static": {}, "snfs": {"train": {"batch": 100}}}
    study = tiny(methods=methods, arms=list(methods), options={"every": "1ep", "until": 0.8}, train__iterations="3ep")
    options = {cell.arm: cell.identity["method"]["options"] for cell in laid_out(study) if "method" in cell.identity}
    shared = {"every": 1293 // 64, "until": 0.8, "total_steps": 3 * (1293 // 64), "density": 0.2}
    assert options["rigl"] == shared
    assert options["set"] == {**shared, "every": 20}
    assert options["static"] == {"density": 0.2}
    assert options["snfs"] == {**shared, "every": 12, "total_steps": 36}


def test_what_a_training_is_compared_with_is_part_of_a_cell_where_it_differs():
    methods = {"rigl": {}, "set": {"train": {"iterations": 60}}, "static": {"train": {"lr": 0.2}}}
    cells = {cell.arm: cell.identity for cell in laid_out(tiny(methods=methods, arms=list(methods)))}
    assert {arm: cells[arm].get("beside") for arm in methods} == {"rigl": None, "set": [40, 64], "static": None}


# --- what is trained -----------------------------------------------------------------------------------------------


def test_filed_masks_have_exact_counts(plan, results):
    checked = 0
    for cell in (cell for cell in plan.cells if "method" in cell.identity):
        masks, said = plan.store.ticket(cell.key).masks, results[cell.arm, cell.round]
        assert (said.kept, said.total) == (masks.kept, masks.total)
        assert said.measures["density"] == masks.density
        if cell.arm == "srigl":  # as many in each unit as the density allows
            assert masks.kept <= round(cell.identity["density"] * masks.total)
        elif cell.arm != "str":
            assert masks.kept == round(cell.identity["density"] * masks.total)
            checked += 1
    assert checked == 2 * 11 + 1


def test_a_cell_is_the_library_s_own_training(plan, digits):
    for cell in cells_of(plan, arm="rigl-2x"):
        model = network(cell, digits)
        how = {"total_steps": 80, "every": 8, "seed": derive(cell.seed, "masks"), "density": cell.identity["density"]}
        method = partial(RigL, **how)
        history = train(model, digits, cell.recipe, seed=derive(cell.seed, "training"), method=method)
        assert history == plan.store.history(cell.key)
        assert masks_of(model) == plan.store.ticket(cell.key).masks


def test_static_ends_with_the_masks_it_began_with(plan, digits):
    for cell in cells_of(plan, arm="static"):
        model = network(cell, digits)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        first = Static(model, optimizer, density=cell.identity["density"], seed=derive(cell.seed, "masks")).masks
        assert plan.store.ticket(cell.key).masks == first


def test_pruned_keeps_the_largest_trained_weights_and_trains_on(plan, digits):
    (dense,) = cells_of(plan, arm="dense")
    trained = plan.store.trained(dense.key)
    weights = {name: trained[name].abs() for name in prunable(network(dense, digits))}
    for cell in cells_of(plan, arm="pruned"):
        every = torch.cat([tensor.flatten() for tensor in weights.values()])
        least = every.sort(descending=True).values[round(cell.identity["density"] * len(every)) - 1]
        masks = Masks({name: tensor >= least for name, tensor in weights.items()})
        assert plan.store.ticket(cell.key).masks == masks
        model = network(cell, digits)
        model.load_state_dict(trained)
        lane = Lane(model, digits, dense.recipe, masks, derive(cell.seed, "training"), start=30)
        assert train_together([lane])[0] == plan.store.history(cell.key)


def test_a_narrow_network_has_no_more_weights_and_the_next_wider_one_has(plan, results, digits):
    (dense,) = cells_of(plan, arm="dense")

    def weights(width):
        return sum(weight.numel() for weight in prunable(network(dense, digits, width)).values())

    for cell in cells_of(plan, arm="narrow"):
        width, budget = cell.identity["width"], cell.identity["density"] * weights(1.0)
        assert weights(width) <= budget < weights(width + 1 / 4096)
        said = results["narrow", cell.round].measures
        share = weights(width) / weights(1.0)
        assert said == {"density": share, "inference": share, "training": share}  # each weight is multiplied once
        model = network(cell, digits, width)
        history = train(model, digits, cell.recipe, seed=derive(cell.seed, "training"))
        assert history == plan.store.history(cell.key)


def test_flops_are_those_of_the_papers(plan, results):
    """In a fully-connected network each weight is multiplied once, so that shares of FLOPs are shares of weights."""
    steps, updates = 40, floor((0.75 * 40 - 1) / 8)
    for place, density in ((1, 0.5), (2, 0.2)):
        kept = round(density * results["static", 1].total) / results["static", 1].total
        for arm in ("static", "set", "dsr"):
            said = results[arm, place].measures
            assert said["training"] == pytest.approx(kept), arm
            assert said["inference"] == pytest.approx(kept), arm
        rigl = (updates * (2 * kept + 1) + (steps - updates) * 3 * kept) / (3 * steps)
        assert results["rigl", place].measures["training"] == pytest.approx(rigl)
        assert results["snfs", place].measures["training"] == pytest.approx((2 * kept + 1) / 3)
        assert results["pruned", place].measures["training"] == pytest.approx(1 + kept / 4)
        twice = floor((0.75 * 80 - 1) / 8)
        longer = (twice * (2 * kept + 1) + (2 * steps - twice) * 3 * kept) / (3 * steps)
        assert results["rigl-2x", place].measures["training"] == pytest.approx(longer)
    mest = results["mest", 2].measures  # it has more weights between its updates than it is told
    assert 0.2 < mest["training"] < 0.2 * 1.5
    assert results["dense", 0].measures == {"density": 1, "inference": 1, "training": 1}


def test_each_cell_is_interrupted_and_gone_on_from_to_the_same_records(plan, tmp_path, monkeypatch):
    begin, gone_on = local.begin, []

    def interrupted(cell, data, store, watch=None):
        if store.partial(cell.key).exists():
            gone_on.append(cell.key)
            return begin(cell, data, store, watch)

        def stop(evaluation):
            if evaluation.iteration >= 40 and "method" in cell.identity:  # the checkpoint is that of 20
                raise KeyboardInterrupt

        return begin(cell, data, store, stop)

    monkeypatch.setattr(local, "begin", interrupted)
    again = prepare(tiny(), tmp_path)
    for _ in range(len(again.cells) + 1):
        with suppress(KeyboardInterrupt):
            run(again, "prunus run", quiet=True, checkpoint_every=0, cores=1)
    assert again.missing == []
    assert {*gone_on} == {cell.key for cell in again.cells if "method" in cell.identity}
    assert contents(tmp_path) == contents(plan.store.root)


# --- what is said --------------------------------------------------------------------------------------------------


def made(arm, place, accuracy, *, trial=0, density=1.0, training=1.0):
    """A cell that ended at this accuracy."""
    final = Outcome(100, accuracy, 0.5, accuracy, accuracy)
    measures = {"density": density, "inference": density, "training": training}
    key = f"{arm} {place} {trial}"
    return CellResult(key, "lenet-300-100", trial, place, arm, 0, 0, (), final, final, (), 1.0, {}, {}, measures)


def reported(*cells):
    return Results("st", "st", cells, len(cells), {}, "prunus run sparse-training", "sparse-training")


def paragraphs(found):
    view = view_of(found)
    return [text.replace("\u00a0", " ") for text in view.reading(view, found)]


def test_the_reading_orders_the_arms_at_the_most_and_the_fewest_weights():
    cells = [made("dense", 0, a, trial=t) for t, a in enumerate((0.9, 0.92))]
    for place, density, accuracies in ((1, 0.1, (0.85, 0.8)), (2, 0.05, (0.7, 0.6)), (3, 0.01, (0.3, 0.5))):
        for arm, accuracy in zip(("rigl", "static-2x"), accuracies, strict=True):
            cells.append(made(arm, place, accuracy, density=density, training=1.5 * density))
    cells.append(made("str", 0, 0.88, density=0.2, training=0.6))
    assert paragraphs(reported(*cells)) == [
        "LeNet-300-100: the dense network trains to 91.0 %. "
        "With 10.0 % of the weights: RigL 85.0 % (15 % of the FLOPs); static, 2× 80.0 % (15 % of the FLOPs). "
        "With 1.0 % of the weights: static, 2× 50.0 % (1.5 % of the FLOPs); RigL 30.0 % (1.5 % of the FLOPs). "
        "STR comes to 20.0 % of the weights: 88.0 % (60 % of the FLOPs)."
    ]
    assert paragraphs(reported(made("rigl", 1, 0.5, density=0.1, training=0.2))) == [
        "LeNet-300-100: the dense network is not finished yet. "
        "With 10.0 % of the weights: RigL 50.0 % (20 % of the FLOPs)."
    ]


def test_arms_of_one_length_are_told_apart_and_longer_ones_are_their_dashed_selves():
    looks = {arm: (ARMS[arm].look.colour, ARMS[arm].look.marker) for arm in words()}
    assert len(set(looks.values())) == len(looks)
    for arm in METHODS:
        longer = ARMS[named(arm, 2)]
        assert (longer.look.colour, longer.look.marker) == looks[arm]
        assert longer.words == f"{words()[arm]}, 2×"
        assert longer.look.dashes
        assert not ARMS[arm].look.dashes


def test_the_report_has_each_cell_where_it_belongs(plan, tmp_path):
    found = plan.store.results(plan.study.name)
    report = write_report(found, tmp_path)
    page = html.unescape(report.html.read_text()).replace("\u00a0", " ")
    assert all(paragraph in page for paragraph in paragraphs(found))
    assert 'stroke-dasharray="4.0 1.6"' in page  # of the longer RigL in the legend
    rows = list(csv.DictReader(report.csv.read_text().splitlines()))
    there = {(r["metric"], r["arm"], int(r["round"])): r for r in rows}
    for cell in found.cells:
        measures = cell.measures
        on_axis = there["test_accuracy", cell.arm, cell.round]
        assert float(on_axis["mean"]) == pytest.approx(100 * cell.final.test_accuracy)
        assert float(on_axis["density_percent"]) == pytest.approx(100 * measures["density"])
        by_flops = there["test_accuracy_by_flops", cell.arm, cell.round]
        assert float(by_flops["training_flops_percent"]) == pytest.approx(100 * measures["training"])
        columns = {name: float(there[name, cell.arm, cell.round]["mean"]) for name in ("sparsity", "compression")}
        assert columns["sparsity"] == pytest.approx(100 - 100 * measures["density"])
        assert columns["compression"] == pytest.approx(1 / measures["density"])


# --- refusals ------------------------------------------------------------------------------------------------------


def one(arm="rigl", **config):
    return {"methods": {arm: config}, "arms": [arm]}


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (one("rigel"), "methods: 'rigel' is no way to train; did you mean 'rigl'"),
        (one("pruned"), "methods: 'pruned' is no way to train"),
        ({"methods": {}, "arms": []}, "arms is .*|methods is .*"),
        (one(method="rigel"), "method is 'rigel'; did you mean 'rigl'"),
        (one(options={"evry": 5}), r"methods\.rigl\.options: 'evry' is no option of rigl; did you mean 'every'"),
        (one(options={"density": 0.1}), r"methods\.rigl\.options: 'density' is no option of rigl"),
        (one(options={"every": "5xx"}), r"methods\.rigl\.options: every is '5xx'; allowed: iterations"),
        (one(options={"every": 2.5}), r"methods\.rigl\.options: every is 2\.5; allowed: a whole number"),
        (one(options={"decay": "cosin"}), "density 0.2 rigl: decay is 'cosin'; did you mean 'cosine'"),
        (one(options={"every": 31}), "density 0.2 rigl: every is 31 and updates end before step 30"),
        (one(options={"exclude": "fc9*"}), "density 0.2 rigl: exclude"),
        ({**one(), "options": {"evry": 5}}, "options has 'evry', which no method has; did you mean 'every'"),
        (one(train={"lrr": 1}), r"methods\.rigl\.train\.lrr: no such key; did you mean 'lr'"),
        (one(train={"optimizer": "adam"}), r"methods\.rigl\.train\.momentum is 0\.9 with"),
        (one(lengths=[1, 1]), r"lengths is \[1, 1\]; allowed: at least one, and each once"),
        (one(lengths=[11]), r"lengths\.0 is 11; allowed: at most 10"),
        (one(densities=[0.3], options={"pattern": "2:4"}), "density 0.3 rigl: .*2:4"),
        ({**one(), "densities": [0.5, 0.5]}, r"densities is \[0\.5, 0\.5\]; allowed: at least one, and each once"),
        ({**one(), "densities": [0.0]}, r"densities\.0 is 0\.0; allowed: above 0"),
        ({**one(), "pruned": {"fine_tune": 0.0}}, r"pruned\.fine_tune is 0\.0; allowed: above 0"),
        ({**one(), "model.width": 1e9}, "model 'lenet-300-100' .*cannot be made"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line_before_anything_is(more, why, tmp_path):
    with pytest.raises(Invalid, match=why) as caught:
        prepare(tiny(**more), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
