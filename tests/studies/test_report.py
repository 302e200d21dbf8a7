import csv
import json
import re
from collections import defaultdict
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from math import log
from xml.etree import ElementTree

import pytest
from results import make_cell, make_results

from prunus.core.errors import Invalid
from prunus.studies.duration import duration
from prunus.studies.kinds.lottery_ticket.metrics import AT_END, AT_STOP, STOP, dense
from prunus.studies.kinds.lottery_ticket.view import VIEW
from prunus.studies.report import write_report
from prunus.studies.report.axes import thinned
from prunus.studies.report.curves import curves
from prunus.studies.report.figure import caption
from prunus.studies.report.page import page
from prunus.studies.report.reading import reading
from prunus.studies.report.tables import layers, numbers
from prunus.studies.report.training import thinned as thinned_evaluations
from prunus.studies.report.words import percent, trials
from prunus.studies.results import Results

SVG_NAMESPACE = "http://www.w3.org/2000/svg"


def small(**options):
    return make_results(**{"rounds": 2, "trials": 2, "iterations": 2000, **options})


def cell(arm, pruned, trial, *, stop=100, at_stop=0.9, at_end=0.9):
    """A cell with these numbers on it."""
    made = make_cell("lenet-300-100", arm, pruned, trial, iterations=1000)
    return replace(
        made,
        early_stop=replace(made.early_stop, iteration=stop, test_accuracy=at_stop),
        final=replace(made.final, test_accuracy=at_end),
    )


def study(*cells, planned=None):
    return Results("study", "A study", cells, len(cells) if planned is None else planned, {}, "prunus run study")


class Page(HTMLParser):
    """What the browser would find: tags with their attributes, ids, the embedded data."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self._inside = [], defaultdict(str), ""
        self.feed(text)
        self.ids = [value for _, attributes in self.tags for name, value in attributes if name == "id"]
        self.data = json.loads(self.texts["data"])

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, attrs))
        self._inside = dict(attrs).get("id", "") if tag == "script" else tag

    def handle_data(self, data):
        self.texts[self._inside] += data


def test_a_point_is_mean_and_range_over_trials():
    results = study(
        cell("ticket", 0, 0, stop=400, at_end=0.97),
        cell("ticket", 0, 1, stop=600, at_end=0.98),
        cell("ticket", 1, 0, stop=100, at_end=0.99),
        cell("reinit", 1, 0, stop=900, at_end=0.5),
        cell("reinit", 1, 1, stop=500, at_end=0.7),
        cell("reinit", 1, 2, stop=400, at_end=0.9),
    )
    ticket, reinit = curves(VIEW, results, "lenet-300-100", STOP)
    assert [(p.round, p.mean, p.low, p.high, p.n) for p in ticket.points] == [
        (0, 500, 400, 600, 2),
        (1, 100, 100, 100, 1),
    ]
    assert [(p.mean, p.low, p.high, p.n) for p in reinit.points] == [(600, 400, 900, 3)]
    ended = curves(VIEW, results, "lenet-300-100", AT_END)
    assert dense(ended) == ended[0].at(0)
    assert ended[0].at(0).mean == pytest.approx(97.5)
    assert ended[1].at(1).mean == pytest.approx(70)
    assert trials(p for c in ended for p in c.points) == "1 to 3 trials"


def test_densities_are_those_that_were_kept_not_those_that_were_planned():
    first, second = (
        replace(cell("ticket", 1, 0), kept=50, total=200),
        replace(cell("ticket", 1, 1), kept=52, total=200),
    )
    (curve,) = curves(VIEW, study(first, second), "lenet-300-100", STOP)
    assert curve.points[0].x == pytest.approx(25.5)


def test_curves_go_from_dense_to_sparse_whatever_the_order_of_the_cells():
    results = small(rounds=4)
    backwards = replace(results, cells=results.cells[::-1])
    for there, back in zip(
        curves(VIEW, results, "lenet-300-100", AT_STOP), curves(VIEW, backwards, "lenet-300-100", AT_STOP), strict=True
    ):
        densities = [p.x for p in there.points]
        assert densities == sorted(densities, reverse=True)
        assert [(p.round, p.low, p.high) for p in there.points] == [(p.round, p.low, p.high) for p in back.points]


def test_the_mean_of_equal_numbers_lies_within_their_range():
    for value in (0.1, 0.7, 0.977):
        (curve,) = curves(VIEW, study(*(cell("ticket", 0, t, at_end=value) for t in range(3))), "lenet-300-100", AT_END)
        assert curve.points[0].low <= curve.points[0].mean <= curve.points[0].high


def test_the_csv_file_holds_every_point_of_the_figure(tmp_path):
    results = make_results(networks=("lenet-300-100", "conv-2"), rounds=2, trials=3, iterations=1000)
    groups = defaultdict(list)
    for c in results.cells:
        read = {
            "early_stop_iteration": c.early_stop.iteration,
            "test_accuracy_at_early_stop": 100 * c.early_stop.test_accuracy,
            "test_accuracy_at_end": 100 * c.final.test_accuracy,
        }
        for metric, value in read.items():
            groups[c.network, c.arm, str(c.round), metric].append((value, 100 * c.kept / c.total))

    with write_report(results, tmp_path).csv.open() as file:
        rows = {(r["network"], r["arm"], r["round"], r["metric"]): r for r in csv.DictReader(file)}
    assert rows.keys() == groups.keys()
    for at, found in groups.items():
        values = [value for value, _ in found]
        row = {name: float(rows[at][name]) for name in ("density_percent", "mean", "min", "max", "n")}
        expected = {
            "density_percent": found[0][1],
            "mean": sum(values) / 3,
            "min": min(values),
            "max": max(values),
        }
        assert row == pytest.approx({**expected, "n": 3})


def test_labels_of_the_axis_keep_the_ends_and_their_distance():
    densities = [100 * 0.8**i for i in range(20)]
    labelled = thinned(densities, apart=0.12)
    assert labelled[0] == densities[0]
    assert labelled[-1] == densities[-1]
    room = log(densities[0] / densities[-1])
    gaps = [log(a / b) / room for a, b in pairwise(labelled)]
    assert min(gaps) >= 0.12 - 1e-9
    assert max(gaps) < 2 * 0.12 + 1 / 19  # nor is a label left out without need
    assert thinned([100.0], 0.12) == [100.0]
    assert thinned([100.0, 99.0], 0.12) == [100.0, 99.0]


@pytest.mark.parametrize(
    ("density", "text"),
    [
        (100, "100"),
        (99.96, "100"),
        (51.2, "51.2"),
        (80.04, "80.0"),
        (7.03, "7.0"),
        (0.853, "0.85"),
        (0.04, "0.04"),
    ],
)
def test_densities_are_written_as_in_the_papers(density, text):
    assert percent(density) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.42, "0.4 s"),
        (12, "12 s"),
        (59.7, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3900, "1 h 5 min"),
        (90_000, "1 day 1 h"),
        (1e6, "11 days 13 h"),
    ],
)
def test_times_are_said_in_fitting_units(seconds, text):
    assert duration(seconds) == text


def test_the_reading_names_the_sparsest_winning_ticket():
    (text,) = reading(
        study(
            cell("ticket", 0, 0, stop=500, at_stop=0.96, at_end=0.97),
            cell("ticket", 1, 0, stop=400, at_stop=0.965, at_end=0.98),
            cell("ticket", 2, 0, stop=600, at_stop=0.97, at_end=0.975),  # accurate, but late
            cell("ticket", 3, 0, stop=300, at_stop=0.95, at_end=0.96),  # soon, but less accurate
        )
    )
    tickets = {c: percent(100 * cell("ticket", c, 0).density) for c in (1, 2)}
    plain = text.replace("\u00a0", " ")
    assert "dense LeNet-300-100 ends training at 97.00 % test accuracy." in plain
    assert f"sparsest ticket that ends no lower keeps {tickets[2]} % of the weights and reaches 97.50 %" in plain
    assert f"sparsest winning ticket keeps {tickets[1]} % of the weights" in plain
    assert "iteration 400 (dense: 500) with 96.50 % test accuracy (dense: 96.00 %)" in plain
    assert "one trial" in plain


def test_the_reading_claims_no_winner_where_there_is_none():
    (text,) = reading(study(cell("ticket", 0, 0, at_stop=0.96, at_end=0.97), cell("ticket", 1, 0, at_end=0.95)))
    assert "No ticket ends as high" in text
    assert "No ticket measured both" in text
    assert "winning" not in text


def test_the_reading_says_ahead_in_each_trial_only_if_so():
    ahead = [cell(arm, 1, t, at_end=e) for t in range(3) for arm, e in (("ticket", 0.97), ("shuffle", 0.96 + t / 500))]
    assert "ahead in each of the 3 trials" in reading(study(*ahead))[0]
    once_behind = [*ahead[:-1], replace(ahead[-1], final=replace(ahead[-1].final, test_accuracy=0.98))]
    assert "ahead" not in reading(study(*once_behind))[0]
    assert "ahead" not in reading(study(*ahead[:-1]))[0]  # a trial without its control


def test_the_table_has_every_arm_at_every_density():
    results = small()
    found = [(row["x"], row["words"], row["n"]) for row in numbers(results, "lenet-300-100")]
    arms = ("winning ticket", "random re-initialisation", "layerwise-shuffled mask", "random mask, new weights")
    densities = [percent(100 * make_cell("lenet-300-100", "ticket", r, 0).density) for r in range(3)]
    assert found == [("100", "dense network", 2), *((d, arm, 2) for d in densities[1:] for arm in arms)]


def test_layer_densities_are_means_over_the_trials_of_the_ticket():
    one, two = cell("ticket", 1, 0), cell("ticket", 1, 1)
    one = replace(one, layers=tuple(replace(l, kept=l.total // 2) for l in one.layers))
    two = replace(two, layers=tuple(replace(l, kept=l.total) for l in two.layers))
    found = layers(study(one, two, cell("reinit", 1, 0)), "lenet-300-100")
    assert [l["part"] for l in found["rows"][0]["layers"]] == pytest.approx([75, 75, 75])
    assert layers(study(cell("reinit", 1, 0)), "lenet-300-100") is None


def test_four_files_that_are_what_they_say(tmp_path):
    report = write_report(small(), tmp_path / "new" / "folder")
    assert report.png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(report.png.read_bytes()[16:20]) == 2000  # pixels wide
    assert ElementTree.parse(report.svg).getroot().tag == f"{{{SVG_NAMESPACE}}}svg"
    assert report.html.read_text().startswith("<!doctype html>")
    assert {p.name for p in report.png.parent.iterdir()} == {
        "figure.png",
        "figure.svg",
        "figure.csv",
        "report.html",
    }


def test_the_same_results_give_the_same_bytes(tmp_path):
    one, two = (write_report(small(), tmp_path / name) for name in "ab")
    for name in ("png", "svg", "csv", "html"):
        assert getattr(one, name).read_bytes() == getattr(two, name).read_bytes()


def test_the_page_needs_nothing_from_elsewhere():
    text = page(small(networks=("lenet-300-100", "conv-2")))
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {SVG_NAMESPACE}
    found = Page(text)
    for _, attributes in found.tags:
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "srcset", "action"):
                assert value.startswith(("#", "data:,"))
    assert "@import" not in text
    assert len(found.ids) == len(set(found.ids))
    for reference in re.findall(r"(?:url\(| href=\")#([^\")]+)", text.split("<script")[0]):
        assert reference in found.ids
    assert "#0a0b" not in text  # every stand-in for a colour was replaced


def test_hostile_names_stay_text():
    attack = '</script><script>alert(1)</script><img src=x onerror="alert(1)">$x_{$&amp;\u2028'
    made = small(rounds=1, trials=1)
    cells = tuple(
        replace(
            c,
            network=attack,
            key=attack,
            environment={attack: attack},
            layers=(replace(c.layers[0], name=attack),),
        )
        for c in made.cells
    )
    text = page(Results(attack, attack, cells, 99, {attack: attack}, attack))
    found = Page(text)
    assert [tag for tag, _ in found.tags].count("script") == 2
    assert "img" not in [tag for tag, _ in found.tags]
    assert found.data["training"]["networks"][0]["name"] == attack
    assert found.texts["title"].startswith(attack)


def test_hostile_names_do_not_break_the_figure(tmp_path):
    made = small(rounds=1, trials=1, networks=("lenet-300-100", "conv-2"))
    names = {"lenet-300-100": "$\\frac{", "conv-2": "<b>&"}
    cells = tuple(replace(c, network=names[c.network]) for c in made.cells)
    assert write_report(replace(made, cells=cells), tmp_path).png.stat().st_size > 0


def test_results_that_are_not_finished_say_so():
    made = small(trials=4)
    part = replace(made, cells=made.cells[:12])
    assert f"12 of {made.planned} cells" in caption(part)
    assert f"12 of {made.planned} cells" in page(part)
    assert "cells" not in caption(made)


def without_test(made):
    return tuple(
        replace(c, early_stop=replace(c.early_stop, test_accuracy=None), final=replace(c.final, test_accuracy=None))
        for c in made.cells
    )


@pytest.mark.parametrize(
    "cells",
    [
        small().cells[:1],
        tuple(c for c in small().cells if c.round == 1),
        tuple(c for c in small().cells if c.arm == "random"),
        tuple(c for c in small(trials=1).cells if (c.arm, c.round) != ("ticket", 0)),
        without_test(small()),
        tuple(replace(c, evaluations=()) for c in small().cells),
        (
            cell("ticket", 0, 0, stop=0, at_stop=0.0, at_end=0.0),
            cell("ticket", 1, 0, stop=0, at_stop=0.0, at_end=0.0),
        ),
    ],
    ids=["only dense", "one round", "one control", "no dense", "no test accuracy", "no curves", "all zero"],
)
def test_whatever_is_there_is_reported(cells, tmp_path):
    report = write_report(study(*cells, planned=40), tmp_path)
    assert f"{len(cells)} of 40 cells" in report.html.read_text()
    with report.csv.open() as file:
        stops = [row for row in csv.DictReader(file) if row["metric"] == "early_stop_iteration"]
    assert sum(int(row["n"]) for row in stops) == len(cells)


def test_what_was_not_measured_is_in_no_file(tmp_path):
    report = write_report(study(*without_test(small())), tmp_path)
    assert "accuracy" not in report.csv.read_text()
    assert report.html.read_text().count("not measured") == 2  # two panels


def test_a_loss_that_diverged_is_a_gap_in_the_curve():
    made = small(rounds=0, trials=1)
    broken = tuple(
        replace(c, evaluations=(*c.evaluations[:-1], replace(c.evaluations[-1], train_loss=float("nan"))))
        for c in made.cells
    )
    (found,) = Page(page(replace(made, cells=broken))).data["training"]["networks"][0]["cells"]
    assert found["tl"][-1] is None
    assert found["vl"][-1] is not None


def test_long_records_are_thinned_to_a_page_of_bearable_size():
    made = make_results(networks=("lenet-300-100", "conv-2", "conv-4"), rounds=9, trials=5, every=100)
    assert len(page(made).encode()) < 1_500_000
    evaluations = made.cells[0].evaluations
    kept = thinned_evaluations(evaluations, 16)
    assert len(kept) == 16
    assert (kept[0], kept[-1]) == (evaluations[0], evaluations[-1])
    steps = [b.iteration - a.iteration for a, b in pairwise(kept)]
    assert max(steps) - min(steps) <= 100
    assert thinned_evaluations(evaluations[:16], 16) == list(evaluations[:16])


def test_nothing_to_report_is_an_error(tmp_path):
    with pytest.raises(Invalid, match="no finished cell"):
        write_report(study(planned=40), tmp_path)
    with pytest.raises(Invalid, match=r"'tickets'.*did you mean 'ticket'"):
        write_report(study(replace(cell("ticket", 0, 0), arm="tickets")), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(Invalid, match="is a file"):
        write_report(small(), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
