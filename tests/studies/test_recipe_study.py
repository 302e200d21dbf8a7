"""The recipe study, from its presets to its report."""

import csv
import html
from contextlib import suppress
from functools import partial
from importlib import import_module

import pytest
import torch
import yaml
from torch import nn

from prunus.core.apply import apply
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.params import prunable
from prunus.core.seeds import derive, generator
from prunus.core.select import select
from prunus.data import load
from prunus.data.dataset import DataSet, Split
from prunus.kernels import available
from prunus.models import build
from prunus.sparse_training.tost import GhostSkips, SoftNeurons, ToST, rescale_init
from prunus.studies import local
from prunus.studies.cells import START
from prunus.studies.kinds import KINDS, expand
from prunus.studies.kinds.recipe.arms import PARTS_OF
from prunus.studies.kinds.recipe.work import Batches, check_plain, stand_in
from prunus.studies.report import write_report
from prunus.studies.report.views import view_of
from prunus.studies.resolve import resolve, to_yaml
from prunus.studies.results import CellResult, Outcome, Results
from prunus.studies.runner import Plan, prepare, run
from prunus.training import Lane, train
from prunus.training.engines import SingleEngine, fastest
from small_study import contents

TINY = {
    "trials": 2,
    "device": "cpu",
    "model.width": 0.2,
    "train.iterations": 20,
    "train.evaluate_every": 10,
    "densities": [0.1, 0.3],
    "switches": {"rescaled_init": {"steps": 3}, "ghost_skips": {"until": 0.5}},
    "recipes": {"all": {"ghost_skips": {"kind": "projection"}}},
}
PARTS = ("soft_neurons", "ghost_skips", "label_smoothing")


def written(folder, **more):
    """The study as a file with another mask beside those of the preset, random and SNIP."""
    raw = {"study": "recipe", "variants": {"ticket": {"mask": {"name": "ticket"}}}, **more}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(raw))
    return str(folder / "tiny.yaml")


def tiny(**more):
    return resolve("recipe", {**TINY, **{key.replace("__", "."): value for key, value in more.items()}}.items())


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Plan:
    """The study, finished."""
    folder = tmp_path_factory.mktemp("recipe")
    plan = prepare(resolve(written(folder), TINY.items()), folder / "out")
    run(plan, "prunus run", quiet=True)
    return plan


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load("digits", validation=0.1)


def stands_in(name, examples):
    """Data of the shape of the real, of which there is one image."""
    shape, count = {"digits": ((1, 8, 8), 1293), "ylecun/mnist": ((1, 28, 28), 55_000)}.get(name, ((3, 32, 32), 45_000))
    train = Split(
        torch.zeros(1, dtype=torch.uint8).expand(examples or count, *shape), torch.zeros(1).expand(examples or count)
    )
    mean, std = torch.zeros(shape[0]), torch.ones(shape[0])
    return DataSet(name, tuple("0123456789"), train, train[:9], train[:9], mean, std, f"{name} {examples}")


def laid_out(study):
    """The cells of a study, whose data need not be there."""
    return expand(study, {name: stands_in(v.data.name, v.data.examples) for name, v in study.variants.items()})


def network(cell, data):
    model = cell.setting.model
    draw = generator(cell.seed, "initialisation")
    return build(model.name, data.input_shape, len(data.classes), width=model.width, generator=draw)


def cells_of(plan, *arms):
    return [cell for cell in plan.cells if cell.arm in arms]


def recorded(plan):
    return {cell.key: cell for cell in plan.store.results(plan.study.name).cells}


# --- cells ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", KINDS["recipe"].presets)
def test_every_preset_has_each_cell_once_but_for_the_dense_network_of_all_masks(preset):
    study = resolve("recipe", [("preset", preset), ("device", "cpu")])
    cells = laid_out(study)
    own = [cell.key for cell in cells if cell.arm != "dense"]
    assert len(set(own)) == len(own)
    networks = {variant.model.name for variant in study.variants.values()}
    assert len({cell.key for cell in cells if cell.arm == "dense"}) == len(networks) * study.trials
    assert [cell.key for cell in laid_out(study)] == [cell.key for cell in cells]
    seen = set()
    for cell in cells:
        assert seen.issuperset(cell.parents)
        seen.add(cell.key)


def test_a_resolved_study_has_the_same_cells(tmp_path):
    study = tiny(arms=["all", "ghost-skips"], switches={"rescaled_init": {"eta": 0.2}})  # the preset says others
    (tmp_path / "study.yaml").write_text(to_yaml(study))
    again = resolve(str(tmp_path / "study.yaml"))
    assert [cell.key for cell in laid_out(again)] == [cell.key for cell in laid_out(study)]
    arms = {cell.arm for cell in laid_out(again)}
    assert arms == {"dense", START, "plain", "all", "ghost-skips"}


def test_an_arm_has_its_parts_and_no_other_with_the_options_of_all_and_its_own():
    said = {cell.arm: cell.identity["switches"] for cell in laid_out(tiny()) if cell.arm not in ("dense", START)}
    assert said["plain"] == {}
    assert {arm: tuple(parts) for arm, parts in said.items() if arm != "plain"} == PARTS_OF
    assert said["ghost-skips"] == {"ghost_skips": {"until": 0.5}}
    assert said["all"]["ghost_skips"] == {"until": 0.5, "kind": "projection"}
    assert said["all-but-smoothing"]["rescaled_init"] == {"steps": 3}
    assert said["soft-neurons"] == {"soft_neurons": {}}


def test_all_arms_of_a_trial_have_one_mask_and_one_plain_training_to_be_compared_with(plan):
    by_key = {cell.key: cell for cell in plan.cells}
    for cell in cells_of(plan, *PARTS_OF):
        mask, plain = by_key[cell.start], by_key[cell.parent]
        assert (mask.arm, plain.arm, plain.start) == (START, "plain", mask.key)
        same = ("seed", "model", "data", "train", "span", "density", "threads")
        assert [cell.identity[name] for name in same] == [plain.identity[name] for name in same]
        assert (mask.network, mask.trial, mask.round) == (cell.network, cell.trial, cell.round)


# --- masks ---------------------------------------------------------------------------------------------------------


def test_masks_have_exact_counts_and_differ_between_trials(plan, digits):
    found = {(c.network, c.trial, c.round): plan.store.ticket(c.key).masks for c in cells_of(plan, START)}
    assert len(found) == 3 * 2 * 2
    for cell in cells_of(plan, START):
        masks = found[cell.network, cell.trial, cell.round]
        total = sum(weight.numel() for weight in prunable(network(cell, digits)).values())
        assert (masks.kept, masks.total) == (round(cell.identity["density"] * total), total)
        assert masks != found[cell.network, 1 - cell.trial, cell.round]


def test_a_random_mask_shares_its_density_as_erdos_renyi_kernels_do(plan, digits):
    for cell in cells_of(plan, START):
        if cell.network == "random":
            weights = prunable(network(cell, digits))
            expected = select({n: w.detach() for n, w in weights.items()}, cell.identity["density"], "erk")
            masks = plan.store.ticket(cell.key).masks
            assert [layer.kept for layer in masks.layers] == [layer.kept for layer in expected.layers]


def test_a_ticket_keeps_the_largest_trained_weights_and_is_trained_from_the_initial_ones(plan, digits):
    for cell in cells_of(plan, START):
        if cell.network != "ticket":
            continue
        trained, masks = plan.store.trained(cell.start), plan.store.ticket(cell.key).masks
        sizes = torch.cat([trained[name].abs().flatten() for name in masks])
        kept = torch.cat([masks[name].flatten() for name in masks])
        assert sizes[kept].min() >= sizes[~kept].max()
        plain = next(c for c in cells_of(plan, "plain") if c.start == cell.key)
        model = network(plain, digits)
        history = train(model, digits, plain.recipe, masks=masks, seed=derive(plain.seed, "training"))
        assert history == plan.store.history(plain.key)


# --- trainings -----------------------------------------------------------------------------------------------------


def trained_by_hand(cell, plan, digits):
    """The same training written out with the library's own functions."""
    model, masks = network(cell, digits), plan.store.ticket(cell.start).masks
    switches = cell.identity["switches"]
    if "rescaled_init" in switches:
        handle = apply(model, masks)
        rescale_init(model, Batches(cell, digits), **switches["rescaled_init"])
        handle.remove()
    given = {part: switches.get(part, False) for part in PARTS}
    if "ghost_skips" in switches:
        given["ghost_skips"] = {**switches["ghost_skips"], "seed": derive(cell.seed, "ghost skips")}
    method = partial(ToST, total_steps=20, **given) if any(part in switches for part in PARTS) else None
    history = train(model, digits, cell.recipe, masks=masks, seed=derive(cell.seed, "training"), method=method)
    return model, history


@pytest.mark.parametrize("arm", ["plain", *PARTS_OF])
def test_each_arm_is_the_training_that_its_name_says(plan, digits, arm):
    cell = next(c for c in cells_of(plan, arm) if (c.network, c.trial, c.round) == ("SNIP", 1, 2))
    model, history = trained_by_hand(cell, plan, digits)
    assert history == plan.store.history(cell.key)
    check_plain(model, plan.store.ticket(cell.start).masks, cell, digits)
    plain = plan.store.history(cell.parent) if cell.parent else history
    assert (history == plain) == (arm == "plain")


def test_differences_are_those_of_the_same_trial_in_points(plan):
    found = recorded(plan)
    compared = cells_of(plan, *PARTS_OF)
    assert len(compared) == 3 * 2 * 2 * 6
    for cell in compared:
        own, plain = (found[key].final.test_accuracy for key in (cell.key, cell.parent))
        assert found[cell.key].measures["gain"] == 100 * (own - plain)
        assert found[cell.key].measures["density"] == pytest.approx(cell.density, abs=1e-3)
    assert all("gain" not in found[cell.key].measures for cell in cells_of(plan, "plain", "dense"))


def test_what_the_recipe_would_leave_behind_is_found(plan, digits):
    cell = cells_of(plan, "plain")[0]
    masks = plan.store.ticket(cell.start).masks

    def sparse():
        model = network(cell, digits)
        apply(model, masks).remove()
        return model

    model = sparse()
    check_plain(model, masks, cell, digits)
    soft = SoftNeurons(model, 10)
    with pytest.raises(AssertionError, match="layers of the recipe are left"):
        check_plain(model, masks, cell, digits)
    soft.finish()
    ghosts = GhostSkips(model, 10)
    with pytest.raises(AssertionError, match="hooks of the recipe are left"):
        check_plain(model, masks, cell, digits)
    ghosts.finish()
    model.register_buffer("more", torch.zeros(1))
    with pytest.raises(AssertionError, match="weights of the recipe are left"):
        check_plain(model, masks, cell, digits)
    with pytest.raises(AssertionError, match="masked weights are not zero"):
        check_plain(network(cell, digits), masks, cell, digits)
    with pytest.raises(AssertionError, match="the density is not exact"):
        check_plain(sparse(), Masks.random(model, 0.2, generator=generator(0, "masks")), cell, digits)


def test_each_cell_is_interrupted_and_gone_on_from_to_the_same_records(plan, tmp_path, monkeypatch):
    begin, gone_on = local.begin, []

    def interrupted(cell, data, store, watch=None):
        if store.partial(cell.key).exists():
            gone_on.append(cell.key)
            return begin(cell, data, store, watch)

        def stop(evaluation):
            if evaluation.iteration == 20:  # the checkpoint is that of 10
                raise KeyboardInterrupt

        return begin(cell, data, store, stop)

    monkeypatch.setattr(local, "begin", interrupted)
    more = {"arms": ["ghost-skips", "all"], "densities": [0.1], "switches": {"rescaled_init": {"steps": 3}}}
    study = resolve(written(tmp_path), {**TINY, **more, "trials": 1}.items())
    whole = prepare(study, tmp_path / "whole")
    broken = prepare(study, tmp_path / "broken")
    for _ in range(len(broken.cells) + 1):
        with suppress(KeyboardInterrupt):
            run(broken, "prunus run", quiet=True, checkpoint_every=0, cores=1)
    assert broken.missing == []
    assert {*gone_on} == {cell.key for cell in broken.cells if cell.trains}
    monkeypatch.setattr(local, "begin", begin)
    run(whole, "prunus run", quiet=True)
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


def test_batches_for_rescaling_are_whole_and_come_again_in_the_same_order(plan, digits):
    batches = Batches(cells_of(plan, "all")[0], digits)
    once, twice = list(batches), list(batches)
    assert len(once) == len(digits.train) // 64
    assert all(len(labels) == 64 for _, labels in once)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(once, twice, strict=True))


def test_estimates_are_made_with_networks_that_are_computed_in_the_same_way(plan, digits):
    """Where the recipe acts in training, autograd computes the network, and no quicker way."""
    found = {}
    for cell in plan.cells:
        if cell.trains:
            lane = Lane(stand_in(cell, digits), digits, cell.recipe)
            found[cell.arm] = fastest(lane) is SingleEngine
    if available():
        assert [arm for arm, slow in found.items() if not slow] == ["dense", "plain", "rescaled-init"]
    assert all(found[arm] for arm in PARTS_OF if arm != "rescaled-init")


# --- what is said --------------------------------------------------------------------------------------------------


def made(arm, place, accuracy, *, trial=0, network="random", **measures):
    """A cell that ended at this accuracy."""
    final = Outcome(100, accuracy, 0.5, accuracy, accuracy)
    key = f"{network} {arm} {place} {trial}"
    return CellResult(key, network, trial, place, arm, 1, 10, (), final, final, (), 1.0, {}, {}, measures)


def paragraphs(*cells):
    results = Results("recipe", "recipe", cells, len(cells), {}, "prunus run recipe", "recipe")
    view = view_of(results)
    return [text.replace("\u00a0", " ") for text in view.reading(view, results)]


def test_the_reading_says_what_is_added_at_the_sparsest_density():
    cells = [made("dense", 0, 0.9, density=1.0), made("plain", 1, 0.8, density=0.05)]
    cells += [made("plain", 2, a, trial=t, density=0.02) for t, a in enumerate((0.6, 0.7))]
    cells += [made("soft-neurons", 2, a, trial=t, density=0.02, gain=g) for t, a, g in ((0, 0.65, 5), (1, 0.69, -1))]
    cells += [made("all", 2, 0.7, density=0.02, gain=10.0), made("plain", 1, 0.8, density=0.05, network="SNIP")]
    assert paragraphs(*cells) == [
        "random: the dense network trains to 90.0 %. At 98.0 % sparsity plain training reaches 65.0 %; points that are "
        "added to it: soft neurons +2.0 (-1.0 to +5.0), all four +10.0.",
        "SNIP: Too little is finished yet to compare anything.",
    ]


def test_the_report_has_each_cell_where_it_belongs(plan, tmp_path):
    results = plan.store.results(plan.study.name)
    assert all(cell.arm != START for cell in results.cells)
    report = write_report(results, tmp_path)
    assert report.png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    page = html.unescape(report.html.read_text()).replace("\u00a0", " ")
    for paragraph in paragraphs(*results.cells):
        assert paragraph in page
    rows = list(csv.DictReader(report.csv.read_text().splitlines()))
    values = {"test_accuracy": lambda c: 100 * c.final.test_accuracy, "gain": lambda c: c.measures["gain"]}
    for row in (row for row in rows if row["metric"] in values):
        place = row["network"], row["arm"], row["round"]
        cells = [c for c in results.cells if (c.network, c.arm, str(c.round)) == place]
        assert row["n"] == str(len(cells)) == "2"
        assert float(row["mean"]) == pytest.approx(sum(map(values[row["metric"]], cells)) / 2, abs=1e-4)
        assert float(row["density_percent"]) == pytest.approx(100 * cells[0].measures["density"], rel=1e-3)


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"recipes": {"soft-neuron": {}}}, "recipes: 'soft-neuron' is no arm; did you mean 'soft-neurons'"),
        ({"recipes": {"all-but-smoothing": {"label_smoothing": {"until": 1}}}}, "smoothing has label_smoothing; allow"),
        (
            {"switches": {"ghost_skips": {"seed": 1}}},
            r"switches\.ghost_skips: 'seed' is no option; allowed: kind, strength",
        ),
        ({"arms": ["some"]}, "arms has 'some'"),
        ({"arms": ["all", "all"]}, r"arms is \['all', 'all'\]; allowed: at least one, and each once"),
        ({"arms": []}, r"arms is \[\]; allowed: at least one"),
        ({"densities": []}, r"densities is \[\]; allowed: at least one"),
        ({"densities": [0.1, 0.1]}, r"densities is \[0\.1, 0\.1\]; allowed: at least one, and each once"),
        ({"densities": [1.0]}, r"densities.* is 1\.0; allowed"),
        ({"densities": [1e-6]}, "densities has 1e-06, which keeps no weight"),
        ({"mask": {"name": "snipp"}}, "name is 'snipp'; did you mean 'snip'"),
        ({"mask": {"scope": "globl"}}, "scope is 'globl'; did you mean 'global'"),
        ({"mask": {"protect": 5000}}, r"at density 0\.3: mask\.protect is 5,000 for fc1"),
        (
            {"mask": {"scope": "uniform-first-last"}, "densities": [0.05]},
            r"at density 0\.05: mask\.scope 'uniform-f",
        ),
        ({"switches": {"soft_neuron": {}}}, r"switches\.soft_neuron: no such key; did you mean 'soft_neurons'"),
        (
            {"switches": {"soft_neurons": {"kid": "mish"}}},
            r"switches\.soft_neurons: 'kid' is no option; did you mean 'kind'",
        ),
        ({"switches": {"soft_neurons": {"until": 2}}}, r"soft_neurons: until is 2; allowed: a fraction"),
        ({"switches": {"ghost_skips": {"strength": "a"}}}, r"ghost_skips: strength is 'a'; allowed: a number above 0"),
        ({"switches": {"ghost_skips": {"include": "fc9*"}}}, r"ghost_skips: include='fc9\*' matches no weight"),
        ({"switches": {"label_smoothing": {"smoothing": 0.95}}}, r"smoothing is 0\.95; allowed: at most 0\.9 for 10"),
        (
            {"switches": {"rescaled_init": {"step": 5}}},
            r"switches\.rescaled_init: 'step' is no option; did you mean 'steps'",
        ),
        ({"switches": {"rescaled_init": {"steps": 0}}}, "rescaled_init: steps is 0; allowed: an integer of at least 1"),
        ({"switches": {"rescaled_init": {"lr": -1}}}, "rescaled_init: lr is -1; allowed: a number above 0"),
        ({"model.width": 1e9}, "model 'lenet-300-100' .*cannot be made"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line_before_anything_is(more, why, tmp_path):
    with pytest.raises(Invalid, match=why) as caught:
        prepare(tiny(**more), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_network_without_relu_modules_is_refused(monkeypatch):
    check = import_module("prunus.studies.kinds.recipe.check")
    cell = laid_out(tiny(arms=["soft-neurons"]))[0]
    monkeypatch.setattr(check, "check_model", lambda cell, data: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    with pytest.raises(Invalid, match=r"recipes\.soft-neurons\.soft_neurons: Sequential has no nn\.ReLU"):
        KINDS["recipe"].check(cell, load("digits"))
