"""The studies of pruning at initialization, each from its command to its report, on the embedded digits."""

import csv
import json
import subprocess
import sys
from math import log10
from pathlib import Path

import pytest
import torch

from prunus.core.errors import Invalid
from prunus.studies.kinds import KINDS
from prunus.studies.report import write_report
from prunus.studies.resolve import resolve
from prunus.studies.runner import Plan, prepare, run
from small_study import contents

TINY = {"trials": 1, "model.name": "conv-2", "model.width": 0.3}


def finished(kind: str, out: Path, **more) -> Plan:
    given = {**TINY, **{key.replace("__", "."): value for key, value in more.items()}}
    plan = prepare(resolve(kind, given.items()), out)
    run(plan, "prunus run", quiet=True)
    return plan


def results_of(plan: Plan):
    return plan.store.results(plan.study.name)


def by_arm(plan: Plan):
    return {(cell.arm, cell.round): cell for cell in results_of(plan).cells}


@pytest.fixture(scope="module")
def collapse(tmp_path_factory) -> Plan:
    more = {"prune__exponents": [1.0, 2.0, 3.0], "prune__trained": [1.0], "train__iterations": 30}
    return finished("synflow-collapse", tmp_path_factory.mktemp("collapse"), **more)


def test_each_ratio_is_exact_and_only_the_chosen_ones_are_trained(collapse):
    for cell in results_of(collapse).cells:
        trained = cell.arm == "dense" or cell.round == 1
        assert (cell.final is not None) == trained
        if cell.arm != "dense" and "critical" not in cell.measures:
            exponent = (1.0, 2.0, 3.0)[cell.round - 1]
            assert cell.kept == round(cell.total / 10**exponent)


def test_synflow_empties_no_layer_where_others_do(collapse):
    cells = by_arm(collapse)
    assert all(cells["synflow", place].measures["empty"] == [] for place in (1, 2, 3))
    assert cells["magnitude", 3].measures["empty"]
    assert not cells["magnitude", 3].measures["connected"]
    assert cells["magnitude", 3].measures["effective"] == 0


def test_the_critical_compression_is_the_last_without_an_empty_layer(collapse):
    cells = by_arm(collapse)
    most = cells["synflow", 4].total / len(cells["synflow", 4].layers)
    for arm in ("random", "magnitude", "snip", "grasp", "synflow"):
        cell = cells[arm, 4]
        assert cell.measures["critical"] == pytest.approx(cell.total / cell.kept)
        assert cell.measures["emptiest"] >= 1
        assert cell.measures["critical"] <= most
        for place, exponent in enumerate((1.0, 2.0, 3.0), 1):
            emptied = bool(cells[arm, place].measures["empty"])
            assert emptied == (exponent > log10(cell.measures["critical"]))
    assert cells["synflow", 4].measures["critical"] == pytest.approx(most)


def test_the_report_says_it(collapse, tmp_path):
    report = write_report(results_of(collapse), tmp_path)
    rows = list(csv.DictReader(report.csv.read_text().splitlines()))
    assert {row["arm"] for row in rows} >= {"dense", "synflow", "snip", "grasp", "magnitude", "random"}
    page = report.html.read_text()
    assert "no layer is emptied up to a compression ratio of SynFlow 10^" in page
    assert "is possible" in page


def test_cells_that_are_taken_away_come_back_the_same(collapse):
    out = collapse.store.root
    before = contents(out)
    lost = [cell for cell in collapse.cells if cell.round == 2][:3]
    for cell in lost:
        for file in (out / "cells" / cell.key).iterdir():
            file.unlink()
        (out / "cells" / cell.key).rmdir()
    assert len(collapse.missing) == 3
    run(collapse, "prunus run", quiet=True)
    assert contents(out) == before


def test_layers_that_paths_lead_around_are_told_from_collapse(tmp_path):
    more = {"model__name": "resnet-18", "model__width": 0.25, "prune__exponents": [1.5], "prune__criteria": ["synflow"]}
    whole = finished("synflow-collapse", tmp_path / "a", **more, prune__trained=[], prune__critical=False)
    cell = results_of(whole).cells[0]
    assert cell.measures["empty"]
    assert all("shortcut" in name or "branch" in name for name in cell.measures["empty"])
    assert cell.measures["connected"]
    assert cell.measures["cut"] == []
    more["prune__protect"] = 1
    held = finished("synflow-collapse", tmp_path / "b", **more, prune__trained=[], prune__critical=False)
    cell = results_of(held).cells[0]
    assert cell.measures["empty"] == []
    assert cell.kept == round(cell.total / 10**1.5)


def test_flow_is_conserved_and_its_mean_goes_with_the_inverse_of_the_size(tmp_path):
    plan = finished("conservation", tmp_path, prune__criteria=["synflow", "magnitude"])
    for cell in results_of(plan).cells:
        sums = torch.tensor([layer["sum"] for layer in cell.measures["layers"]], dtype=torch.float64)
        if cell.arm == "synflow":
            assert sums.max() / sums.min() - 1 < 1e-4  # 32 bits
            assert cell.measures["layer_error"] < 1e-10
            assert cell.measures["neuron_error"] < 1e-10
        else:
            assert sums.max() / sums.min() - 1 > 0.1
    report = write_report(results_of(plan), tmp_path / "report")
    assert "SynFlow -1.00" in report.html.read_text()


def test_each_control_is_what_it_says(tmp_path):
    more = {"prune__criteria": ["snip", "magnitude"], "prune__exponents": [1.0], "train__iterations": 20}
    plan = finished("pai-sanity", tmp_path, **more)
    masks = {(c.identity.get("criterion"), c.arm): plan.store.ticket(c.key).masks for c in plan.cells}
    for criterion in ("snip", "magnitude"):
        original, shuffled, reinitialised, inverted = (
            masks[criterion, arm] for arm in ("original", "shuffled", "reinitialised", "inverted")
        )
        assert reinitialised == original
        assert shuffled != original
        assert [layer.kept for layer in shuffled.layers] == [layer.kept for layer in original.layers]
        assert original.overlap(inverted) == 0
    accuracies = {c.arm: c.final.test_accuracy for c in results_of(plan).cells if c.measures["criterion"] == "snip"}
    assert accuracies["reinitialised"] != accuracies["original"]
    page = write_report(results_of(plan), tmp_path / "report").html.read_text()
    assert "SNIP at 10^1" in page


def test_more_rounds_take_less_at_once(tmp_path):
    more = {"prune__rounds": [1, 5, 50], "prune__exponents": [3.0]}
    plan = finished("rounds", tmp_path, **more)
    cells = {(cell.arm, cell.measures["rounds"]): cell for cell in results_of(plan).cells}
    taken = [cells["exponential", number].measures["taken"] for number in (1, 5, 50)]
    assert taken == sorted(taken, reverse=True)
    # in one round more goes than flows through a layer, and a layer is emptied; in fifty neither
    assert taken[0] > 1
    assert cells["exponential", 1].measures["empty"]
    assert cells["exponential", 50].measures["empty"] == []
    assert "rounds" in write_report(results_of(plan), tmp_path / "report").csv.read_text()


@pytest.mark.parametrize(
    ("kind", "key", "value", "said"),
    [
        ("synflow-collapse", "prune.criteria", ["snipe"], "criteria is 'snipe'; did you mean 'snip'"),
        ("synflow-collapse", "prune.exponents", [1.0, 1.0], "exponents is .*each once"),
        ("synflow-collapse", "prune.exponents", [-1.0], "prune.exponents"),
        ("synflow-collapse", "prune.criteria", [], "criteria is .*at least one"),
        ("rounds", "prune.exponents", [1.0, 2.0], "one exponent a variant"),
        ("rounds", "prune.rounds", [0], "prune.rounds"),
        ("pai-sanity", "arms", ["upside-down"], "arms"),
        ("conservation", "data.examples", 0, "data.examples"),
        ("conservation", "prune.exponents", [2.0], "prune.exponents: no such key"),
        ("synflow-collapse", "prune.rounds", 0, "prune.rounds is 0"),
    ],
)
def test_bad_settings_get_one_line(kind, key, value, said):
    with pytest.raises(Invalid, match=said) as error:
        resolve(kind, [(key, value)])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["synflow-collapse", "pai-sanity", "rounds"])
def test_a_ratio_that_keeps_nothing_is_refused_before_anything_is_done(kind, tmp_path):
    study = resolve(kind, [*TINY.items(), ("prune.exponents", [9.0])])
    with pytest.raises(Invalid, match=r"exponents has 9\.0, which keeps none of"):
        prepare(study, tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["synflow-collapse", "pai-sanity", "conservation", "rounds"])
def test_every_preset_resolves(kind):
    for preset in KINDS[kind].presets:
        study = resolve(kind, [("preset", preset)])
        assert json.loads(study.model_dump_json())["preset"] == preset


def test_more_floors_than_weights_are_refused_before_anything_is_done(tmp_path):
    study = resolve("synflow-collapse", [*TINY.items(), ("prune.exponents", [2.0]), ("prune.protect", 1000)])
    with pytest.raises(Invalid, match=r"at 10\^2: prune\.protect is 1,000 for conv1\.weight, which has"):
        prepare(study, tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_criterion_of_another_package_has_an_arm_of_its_own(tmp_path):
    code = """
from prunus.pruning import CRITERIA, Magnitude
CRITERIA._rows["of-another"] = Magnitude
import sys
from prunus.cli import main
main(sys.argv[1:])
"""
    options = ["--set", "prune.criteria=[of-another, synflow]", "--set", "trials=1", "--out", str(tmp_path)]
    command = [sys.executable, "-c", code, "run", "conservation", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "of-another" in (tmp_path / "conservation-quick" / "figure.csv").read_text()
