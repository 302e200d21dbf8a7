"""Kinds of study that are not Prunus's own go all the way: run, resume, report, show, the command line."""

import csv
import json
import re
from itertools import pairwise
from math import inf

import pytest
import torch
from toy_kinds import kinds

from prunus.cli import main
from prunus.core.errors import Invalid
from prunus.studies import local, rank
from prunus.studies.estimate import estimate
from prunus.studies.kinds import KINDS, STUDIES
from prunus.studies.resolve import resolve, to_yaml
from prunus.studies.runner import prepare, run
from prunus.studies.show import CATALOGUE
from prunus.studies.store import Store
from prunus.studies.worker import Worker
from small_study import by_place, contents, finished, left_over, small

#: Keys of cells of the lottery ticket as version 0.1 has given them: results folders hold them.
KEYS = {
    (0, 0, "start"): "9655295fc05f2bae0015",
    (0, 0, "ticket"): "06e2f3e044e5020c0fc9",
    (0, 1, "ticket"): "916514ef25dfb4a211cd",
    (0, 1, "reinit"): "fe3b1f068b8551364b0a",
    (0, 2, "shuffle"): "68f7a5677c8b14c56665",
    (0, 2, "random"): "543144bf0c901294704b",
}
PLAIN = {
    (0, 0, "ticket"): "fc319da2337ee1e399f4",
    (0, 1, "ticket"): "76f20c34b718e16d46e4",
    (0, 1, "reinit"): "a5d2e35d5c827f7feba4",
    (0, 2, "shuffle"): "c3bee618dfc16311ddfb",
}


@pytest.fixture(autouse=True)
def toys(tmp_path_factory, monkeypatch):
    """The toy kinds in the table."""
    for name, kind in kinds(tmp_path_factory.mktemp("presets")).items():
        monkeypatch.setitem(KINDS._rows, name, kind)


@pytest.fixture
def cli(capsys, monkeypatch):
    """`prunus …` in this process: exit code, output, errors."""
    monkeypatch.setenv("COLUMNS", "120")

    def command(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return command


def toy(name, **more):
    return resolve(name, [(key.replace("__", "."), value) for key, value in more.items()])


@pytest.mark.parametrize(
    ("more", "keys"),
    [
        ({"arms": ["reinit", "shuffle", "random"], "prune__rewind": 5, "prune__exclude": ["fc2.*"]}, KEYS),
        ({}, PLAIN),
    ],
)
def test_cells_of_the_lottery_ticket_keep_their_keys(tmp_path, more, keys):
    # the thread count and the device are part of a key
    found = by_place(prepare(small(**more, device="cpu"), tmp_path).cells)
    assert {place: found[place].key for place in keys} == keys


def test_records_of_the_lottery_ticket_say_nothing_new(tmp_path):
    plan = finished(small(prune__rounds=0), tmp_path)
    records = json.loads((tmp_path / "cells" / plan.cells[0].key / "records.json").read_text())
    assert list(records) == ["kept", "total", "layers", "early_stop", "final", "evaluations"]


def test_a_kind_has_keys_of_its_own_and_those_of_every_study():
    study = toy("toy-count", ratios=[1, 8.0], seed=3)
    assert study.variants["lenet-300-100"].ratios == (1, 8)
    assert (study.seed, study.name, study.trials) == (3, "toy-count-quick", 2)
    with pytest.raises(Invalid, match=r"toy-count: ratio: no such key; did you mean 'ratios'\?"):
        toy("toy-count", ratio=2)
    with pytest.raises(Invalid, match="toy-count: prune: no such key"):
        toy("toy-count", prune__rounds=2)
    assert STUDIES["toy-count"] == {"quick": "in no time"}
    assert CATALOGUE["studies"]["toy-train (preset quick)"] == "in no time"


def test_a_resolved_study_of_any_kind_resolves_to_itself(tmp_path):
    study = toy("toy-train", ratios=[2.0], train__lr=0.1)
    (tmp_path / "study.yaml").write_text(to_yaml(study))
    assert resolve(str(tmp_path / "study.yaml")) == study


def test_what_is_computed_is_filed_and_read_back(tmp_path):
    plan = finished(toy("toy-count"), tmp_path)
    assert left_over(tmp_path) == []
    results = plan.store.results("toy-count-quick")
    assert (len(results.cells), results.planned, results.kind) == (12, 12, "toy-count")
    for cell in results.cells:
        assert (cell.early_stop, cell.final, cell.evaluations) == (None, None, ())
        assert cell.measures["worst"] == (inf if cell.round == 0 else 2**cell.round)
        assert cell.measures["emptied"] == []
        assert cell.kept == pytest.approx(cell.total / 2**cell.round, abs=3)
        assert cell.measures["mean"].keys() == {layer.name for layer in cell.layers}
        assert plan.store.history(cell.key) is None
        assert cell.environment["threads"] == 1
    records = (tmp_path / "cells" / results.cells[0].key / "records.json").read_text()
    json.loads(records, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_trainings_follow_what_was_computed_and_are_measured_at_their_end(tmp_path):
    plan = finished(toy("toy-train", trials=1), tmp_path)
    results = plan.store.results("toy-train-quick")
    assert [cell.round for cell in results.cells] == [0, 0, 1, 1, 2, 2]  # those that made the masks are not reported
    by_key = {cell.key: cell for cell in plan.cells}
    for cell in results.cells:
        assert [e.iteration for e in cell.evaluations] == [10, 20]
        assert cell.measures["norm"] > 0
        assert list(cell.layers) == plan.store.ticket(by_key[cell.key].parent).masks.layers
        assert not (tmp_path / "cells" / cell.key / "ticket.safetensors").exists()


@pytest.mark.parametrize("name", ["toy-count", "toy-train"])
def test_only_what_is_missing_is_done_and_the_records_are_the_same_bit_for_bit(tmp_path, monkeypatch, name):
    finished(toy(name), tmp_path / "whole")
    done, begin = [], local.begin

    def interrupted(cell, *rest):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(cell.key)
        return begin(cell, *rest)

    monkeypatch.setattr(local, "begin", interrupted)
    plan = prepare(toy(name), tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        run(plan, "prunus run", quiet=True)
    monkeypatch.setattr(local, "begin", lambda cell, *rest: done.append(cell.key) or begin(cell, *rest))
    filed = {cell.key for cell in plan.cells} - {cell.key for cell in plan.missing}
    assert 0 < len(filed) < len(plan.cells)
    again = finished(toy(name), tmp_path / "parts")
    assert again.missing == []
    assert not filed & set(done[5:])
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_a_cell_that_cannot_be_done_does_not_stop_the_others(tmp_path):
    plan = prepare(toy("toy-train", fails=2.0, trials=1), tmp_path)
    with pytest.raises(Invalid, match=r"compression 2 start: cannot be reached \(and 1 more like it\)"):
        run(plan, "prunus run", quiet=True)
    assert {cell.round for cell in plan.missing} == {1}
    assert len(plan.missing) == 4


def test_a_network_that_cannot_be_made_is_refused_before_anything_is_done(tmp_path):
    with pytest.raises(Invalid, match="cannot be made"):
        prepare(toy("toy-count", model__width=1e9), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_estimate_of_time_is_of_trainings_only(tmp_path):
    left = estimate(prepare(toy("toy-train", trials=1), tmp_path), iterations=2)
    assert (left.cells, left.iterations, left.computing) == (6, 120, 6)
    assert left.seconds > 0
    left = estimate(prepare(toy("toy-count"), tmp_path))
    assert (left.cells, left.iterations, left.seconds, left.computing) == (0, 0, 0, 12)


def test_a_worker_does_cells_of_both_sorts(tmp_path):
    plan = prepare(toy("toy-train", ratios=[2.0], trials=1), tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "token").write_text("it is me")
    from test_worker import brief, end_of

    at_work = Worker(brief(plan))
    for cell in plan.cells:
        told = end_of(at_work, cell.key)
        assert (told.kind, told.key) == ("filed", cell.key)
        assert (told.what is None) == (not cell.trains)
    assert plan.missing == []
    assert [news.what for news in Worker(brief(plan)).exchange([plan.cells[0].key], 1.0)] == [None]


class Alone:
    """The place of a process whose group hears what it is told here."""

    device = torch.device("cpu")

    def __init__(self, number, told):
        self.rank, self._told = number, told

    def agreed(self, value):
        return value if self.rank == 0 else self._told.pop(0)


def test_of_several_processes_the_first_computes_and_all_hear_what_could_not_be_done(tmp_path):
    from prunus.studies.progress import Quiet

    plan = prepare(toy("toy-count", trials=1, fails=2.0), tmp_path)
    missing = plan.missing
    failures = rank._do(plan, missing, Alone(0, []), Quiet(), 60.0)
    assert len(failures) == 2
    assert {cell.round for cell in plan.missing} == {1}
    before = contents(tmp_path)
    told = [failures.pop(0) if cell.round == 1 else None for cell in missing]
    assert len(rank._do(plan, missing, Alone(1, told), Quiet(), 60.0)) == 2
    assert contents(tmp_path) == before


def test_the_bar_of_a_study_ends_when_the_last_cell_of_either_sort_does(tmp_path):
    from rich.progress import Progress

    from prunus.studies.progress import Bars

    plan = prepare(toy("toy-train", trials=1, fails=4.0), tmp_path)
    progress = Progress(disable=True)
    bars = Bars(plan.missing, progress)
    whole = progress.tasks[0]
    assert whole.total == 12 * 20  # what is computed counts as much as a training
    first, *others = plan.missing
    bars.begin(first)
    assert whole.description == "0/12 cells, 1 at once"
    bars.given_up(first)
    assert whole.description == "0/12 cells, 0 at once"
    finished(toy("toy-train", trials=1), tmp_path)
    for cell in others:
        bars.begin(cell)
        history = plan.store.history(cell.key)
        for evaluation in history.evaluations if history else ():
            bars.evaluated(cell, evaluation)
        bars.end(cell, history)
    assert (whole.description, whole.completed) == ("11/12 cells, 0 at once", 11 * 20)


# --- reports ---------------------------------------------------------------------------------------------------


def test_the_csv_file_has_a_column_for_each_axis(tmp_path, cli):
    finished(toy("toy-count"), tmp_path)
    assert cli("report", tmp_path)[0] == 0
    folder = tmp_path / "toy-count-quick"
    with (folder / "figure.csv").open() as file:
        rows = list(csv.DictReader(file))
    head = ["network", "arm", "round", "compression", "layer_size", "layer", "metric", "mean", "min", "max", "n"]
    assert list(rows[0]) == head
    kept = [row for row in rows if row["metric"] == "kept"]
    assert [(row["arm"], row["compression"]) for row in kept] == [(a, r) for a in ("random", "largest") for r in "124"]
    assert {row["layer_size"] for row in kept} == {""}
    means = [row for row in rows if row["metric"] == "mean_size"]
    assert len(means) == 2 * 3 * 3  # arms, ratios, layers
    sizes = {"fc1.weight": 64 * 30, "fc2.weight": 30 * 10, "fc3.weight": 10 * 10}
    cells = Store(tmp_path).results("toy-count-quick").cells
    for row in means:
        assert float(row["layer_size"]) == sizes[row["layer"]]
        same = [c for c in cells if (c.arm, str(c.round)) == (row["arm"], row["round"])]
        values = [c.measures["mean"][row["layer"]] for c in same]
        assert float(row["mean"]) == pytest.approx(sum(values) / len(values))
        assert (float(row["min"]), float(row["max"]), row["n"]) == pytest.approx((min(values), max(values), "2"))


def test_a_page_leaves_out_what_makes_no_sense(tmp_path):
    from prunus.studies.report import write_report

    page = {}
    for name in ("toy-count", "toy-train"):
        plan = finished(toy(name), tmp_path / name)
        report = write_report(plan.store.results(f"{name}-quick"), tmp_path / name / "report")
        assert report.png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        page[name] = report.html.read_text()
    assert "Training curves" not in page["toy-count"]
    assert "Where the weights remain" not in page["toy-count"]
    assert "Training curves" in page["toy-train"]
    assert page["toy-train"].count('aria-label="Layer densities of') == 2  # a table for each arm
    assert "12 cells were looked at." in page["toy-count"]
    assert "All weights / those kept &lt;of course&gt;." in page["toy-count"]
    for words in ("what is possible", "1 / n", "the largest weights", "--arm-largest: light-dark("):
        assert words in page["toy-count"]
    assert "what is possible" not in page["toy-train"]
    assert ">dense network" not in page["toy-count"] + page["toy-train"]
    assert "#0a0b" not in page["toy-count"]


def test_points_without_a_line_lie_where_their_layers_do(tmp_path):
    from matplotlib.figure import Figure

    from prunus.studies.report.figure import draw_panel
    from prunus.studies.report.style import light
    from prunus.studies.report.views import view_of

    plan = finished(toy("toy-count", ratios=[1.0]), tmp_path)
    results = plan.store.results("toy-count-quick")
    view = view_of(results)
    axes = Figure().subplots()
    draw_panel(axes, results, "lenet-300-100", view.metrics[1], light(view.arms))
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    curves = [line for line in axes.lines if line.get_marker() in ("o", "s")]
    assert len(curves) == 2
    for line in curves:
        assert line.get_linestyle() == "None"
        assert sorted(line.get_xdata()) == [100, 300, 1920]
    (slope,) = (line for line in axes.lines if (line.get_gid() or "").startswith("arm_slope"))
    assert list(slope.get_xdata()) == [10, 1000]
    kept = Figure().subplots()
    draw_panel(kept, results, "lenet-300-100", view.metrics[0], light(view.arms))
    low, high = kept.get_xlim()
    assert low < 1 < 2 < high  # ascending, and the line at 2 is on it


def test_what_is_a_line_of_the_figure_is_a_row_of_the_tables(tmp_path):
    from dataclasses import replace

    from prunus.studies.report import table, write_report
    from prunus.studies.report.figure import draw
    from prunus.studies.report.tables import numbers

    plan = finished(toy("toy-count", trials=1), tmp_path)
    results = plan.store.results("toy-count-quick")
    first, *rest = results.cells
    results = replace(results, cells=(replace(first, arm="limit"), *rest))
    row = next(row for row in numbers(results, "lenet-300-100") if row["arm"] == "limit")
    assert (row["words"], row["x"], row["cells"][0]["mean"]) == ("what is possible", "1", f"{first.kept:,}")
    assert f"lenet-300-100,limit,0,1,,,kept,{first.kept}," in table(results)
    kept = draw(results).axes[0]
    assert {len(c.get_xdata()) for c in kept.lines if c.get_marker() == "o"} == {2}
    write_report(results, tmp_path / "report")


def test_the_command_line_runs_shows_and_lists_any_kind(tmp_path, cli):
    finished(small(prune__rounds=0), tmp_path)  # another kind in the same folder
    code, out, err = cli("run", "toy-train", "--set", "trials=1", "--out", tmp_path, "--dry-run")
    assert (code, err) == (0, "")
    assert "6 cells to train, 120 iterations, about" in out
    assert "; 6 cells to compute" in out
    code, out, err = cli("run", "toy-count", "--out", tmp_path)
    assert (code, err) == (0, "")
    first, *lines, _, _ = out.splitlines()
    assert first == "toy-count-quick: 12 cells, 12 to compute"
    assert lines[0].startswith("[1/12] lenet-300-100 trial 0 compression 1 ")
    assert all(line.endswith(": computed") for line in lines)
    assert "12 cells, 0 to compute" in cli("run", "toy-count", "--out", tmp_path)[1]
    assert "nothing is left to compute" in cli("run", "toy-count", "--out", tmp_path, "--dry-run")[1]
    assert (
        "12 cells, 6 to train\n" in cli("run", "toy-train", "--set", "trials=1", "--out", tmp_path)[1]
    )  # shared masks
    code, out, err = cli("run", "toy-train", "--set", "trials=1", "--seed", 1, "--out", tmp_path)
    assert (code, err) == (0, "")
    assert "12 cells, 6 to train, 6 to compute" in out
    assert out.count(": computed\n") == out.count(" left\n") == 6
    code, out, err = cli("show", tmp_path)
    assert (code, err) == (0, "")
    for heading in ("kept, %", "ratio", "layer", "Norm", "Test accuracy (%)"):
        assert heading in out
    assert all(len(line) <= 120 for line in out.splitlines())
    # as many weights are kept in each of the two trials
    assert re.search(r"^largest +4 +2 +580 \(580–580\)$", out, re.MULTILINE)
    assert "toy-count (preset quick)" in cli("list", "studies", "toy*")[1]
    code, out, err = cli("report", tmp_path)
    assert (code, err) == (0, "")
    assert out.count("page:") == 3


def test_results_of_a_kind_that_is_not_here_say_so(tmp_path, cli, monkeypatch):
    finished(toy("toy-count"), tmp_path)
    monkeypatch.delitem(KINDS._rows, "toy-count")
    for command in ("show", "report"):
        code, _, err = cli(command, tmp_path)
        assert code == 2
        assert err.startswith("error: study is 'toy-count'; ")


def test_looks_of_the_palette_differ():
    from prunus.studies.report.style import PALETTE

    for part in ("colour", "dark", "marker", "shape"):
        assert len({getattr(look, part) for look in PALETTE}) == len(PALETTE) >= 8
    assert all(a != b for a, b in pairwise(PALETTE))
