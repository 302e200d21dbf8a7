"""What a view can ask for: axes of either direction and scale, several values of a cell, lines, many arms."""

from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from prunus.core.errors import Invalid
from prunus.core.summary import Layer
from prunus.studies.kinds import KINDS
from prunus.studies.report import table, write_report
from prunus.studies.report.curves import curves
from prunus.studies.report.figure import caption, draw, draw_panel
from prunus.studies.report.style import arms, light
from prunus.studies.report.view import Axis, Line, Metric, View
from prunus.studies.results import CellResult, Results

NAMES = {f"arm-{i}": f"the arm number {i}" for i in range(8)}
X = Axis("x", "X", "x", lambda cell: 10.0**cell.round)
Y = Metric("y", "Y", "", lambda cell: cell.measures["y"])
PLAIN = View(axis=X, metrics=(Y,), arms=arms(NAMES), reading=lambda view, results: [])


def cell(arm="arm-0", round_=0, trial=0, **measures):
    layers = (Layer("a", (2, 5), 4), Layer("b", (5, 20), 30))
    return CellResult(
        f"{arm}-{round_}-{trial}",
        "net",
        trial,
        round_,
        arm,
        34,
        110,
        layers,
        None,
        None,
        (),
        1.0,
        {},
        measures=measures,
    )


@pytest.fixture
def results(monkeypatch):
    """A function from a view and cells to results that are reported so."""

    def make(view, *cells):
        kind = replace(KINDS["lottery-ticket"], name="made-up", view=lambda: view)
        monkeypatch.setitem(KINDS._rows, "made-up", kind)
        return Results("study", "A study", cells, len(cells), {}, "prunus run study", "made-up")

    return make


def panel(results, metric, view=PLAIN):
    axes = Figure().subplots()
    draw_panel(axes, results, "net", metric, light(view.arms))
    return axes


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("log", [False, True])
def test_points_lie_in_the_order_of_the_axis(results, descending, log):
    view = replace(PLAIN, axis=replace(X, descending=descending, log=log))
    found = results(view, *(cell(round_=r, y=float(r)) for r in (1, 3, 0, 2)))
    (curve,) = curves(view, found, "net", Y)
    rounds = [p.round for p in curve.points]
    assert rounds == sorted(rounds, reverse=descending)
    axes = panel(found, Y)
    left, right = axes.get_xlim()
    assert (left > right) == descending
    assert min(left, right) < 1 < 1000 < max(left, right)
    assert axes.get_xscale() == ("log" if log else "linear")


def test_values_of_one_cell_are_gathered_over_trials_each_at_its_place(results):
    metric = replace(Y, values=lambda c: [(10, c.measures["a"], "a"), (100, c.measures["b"], "b")])
    (curve,) = curves(PLAIN, results(PLAIN, cell(a=1, b=5), cell(trial=1, a=3, b=9)), "net", metric)
    found = [(p.x, p.mean, p.low, p.high, p.n, p.name) for p in curve.points]
    assert found == [(10, 2, 1, 3, 2, "a"), (100, 7, 5, 9, 2, "b")]
    assert curve.at(0, 1) == curve.points[1]


def test_what_is_no_number_is_not_measured(results):
    cells = [cell(trial=t, y=y) for t, y in enumerate([float("nan"), 2.0, None, float("inf"), 4.0])]
    (curve,) = curves(PLAIN, results(PLAIN, *cells), "net", Y)
    assert [(p.mean, p.n) for p in curve.points] == [(3, 2)]
    assert curves(PLAIN, results(PLAIN, cell(y=None)), "net", Y) == []


@pytest.mark.parametrize("log", [False, True])
def test_lines_to_compare_with_are_on_the_panel(results, log):
    lines = [Line("level", y=50.0), Line("place", x=1e4), Line("slope", points=((1, 9), (1000, 2)))]
    metric = replace(Y, log=log, lines=lambda cells, measured: lines)
    view = replace(PLAIN, metrics=(metric,), lines={"level": "a level", "place": "a place", "slope": "a slope"})
    axes = panel(results(view, *(cell(round_=r, y=1.0 + r) for r in range(3))), metric)
    (low, high), (left, right) = axes.get_ylim(), axes.get_xlim()
    assert low < 1
    assert high > 50
    assert left < 1
    assert right > 1e4
    drawn = [line.get_gid() for line in axes.lines if (line.get_gid() or "").startswith(("arm_l", "arm_p", "arm_s"))]
    assert drawn == ["arm_level_0", "arm_place_1", "arm_slope_2"]


def test_a_log_axis_bears_values_of_zero(results):
    metric = replace(Y, log=True)
    for values in ([0.0, 1e-30, 1e20], [0.0, 0.0, 0.0]):
        found = results(replace(PLAIN, metrics=(metric,)), *(cell(round_=r, y=y) for r, y in enumerate(values)))
        panel(found, metric).figure.canvas.draw()


def test_metrics_that_share_an_axis_have_the_same_limits(results):
    one, two = (replace(Y, key=k, share="s", values=lambda c, k=k: c.measures[k]) for k in ("one", "two"))
    other = replace(Y, key="other", values=lambda c: c.measures["two"])
    view = replace(PLAIN, metrics=(one, two, other))
    found = results(view, cell(one=0.0, two=90.0), cell(round_=1, one=5.0, two=95.0))
    first, second, third = (panel(found, metric).get_ylim() for metric in (one, two, other))
    assert first == second != third


def test_eight_arms_and_a_panel_of_which_nothing_is_measured_make_a_report(results, tmp_path):
    nothing = Metric("nothing", "Nothing", "%", lambda cell: None)
    cells = [cell(arm, r, t, y=float(r * t)) for arm in NAMES for r in range(3) for t in range(2)]
    report = write_report(results(replace(PLAIN, metrics=(Y, nothing)), *cells), tmp_path)
    assert report.html.read_text().count("data-toggle=") == 8
    assert "not measured" in report.html.read_text()
    nowhere = results(replace(PLAIN, metrics=(nothing,)), *cells)
    assert write_report(nowhere, tmp_path).png.stat().st_size > 0
    assert table(nowhere).count("\n") == 1
    assert caption(nowhere) == "net  ·  1 trial"


def test_names_that_a_page_cannot_bear_are_refused():
    for names in ({"Arm": "x"}, {"a b": "x"}, {"": "x"}, {"a": "x", "line": "y"}):
        with pytest.raises(Invalid, match="small letters, digits and hyphens, each name once"):
            replace(PLAIN, arms=arms(names), lines={"line": "z"})


def test_a_view_that_is_made_anew_each_time_will_do(monkeypatch, tmp_path):
    kind = replace(KINDS["lottery-ticket"], name="made-up", view=lambda: replace(PLAIN, metrics=(replace(Y),)))
    monkeypatch.setitem(KINDS._rows, "made-up", kind)
    found = Results("study", "A study", (cell(y=2.0),), 1, {}, "prunus run study", "made-up")
    assert write_report(found, tmp_path).png.is_file()


def test_an_axis_of_curves_leaves_out_the_cells_of_lines(results):
    view = replace(PLAIN, lines={"dense": "dense"})
    cells = [cell(round_=1, y=1.0), cell(round_=2, y=2.0), cell("dense", round_=5, y=3.0)]
    for alone, reaches in ((False, True), (True, False)):
        each = replace(view, axis=replace(X, of_curves=alone))
        found = results(each, *cells)
        assert (panel(found, Y, each).get_xlim()[1] > 1e5) == reaches
        assert [c.arm for c in curves(each, found, "net", Y)] == ["dense", "arm-0"]  # it stays in the tables


def test_points_with_names_are_joined_name_by_name(results):
    metric = replace(Y, values=lambda c: [(1, c.measures["y"], "a"), (10, 4, "a"), (2, 3, "b"), (20, 6, "b")])
    view = replace(PLAIN, metrics=(metric,))
    lines = panel(results(view, cell(y=1)), metric, view).get_lines()
    drawn = {tuple(line.get_xdata()): line for line in lines if line.get_linestyle() != "None"}
    assert set(drawn) == {(1, 10), (2, 20)}
    apart = replace(metric, joined=False)
    view = replace(PLAIN, metrics=(apart,))
    assert all(line.get_linestyle() == "None" for line in panel(results(view, cell(y=1)), apart, view).get_lines())


def test_a_range_is_printed_unless_a_metric_has_none(results):
    (curve,) = curves(PLAIN, results(PLAIN, cell(y=1.0), cell(trial=1, y=3.0)), "net", Y)
    assert Y.printed(curve.points[0]) == {"mean": "2.00", "range": "1.00–3.00"}
    assert replace(Y, ranged=False).printed(curve.points[0]) == {"mean": "2.00", "range": ""}


def test_dashes_of_a_look_are_in_the_figure_and_in_the_page(results, tmp_path):
    own = arms({"arm-0": "whole", "arm-1": "dashed"})
    own["arm-1"] = replace(own["arm-1"], look=replace(own["arm-1"].look, dashes=(4.0, 1.5)))
    view = replace(PLAIN, arms=own)
    found = results(view, *(cell(f"arm-{a}", round_=r, y=1.0 + r) for a in (0, 1) for r in (0, 1)))
    (dashed,) = [line for line in panel(found, Y, view).get_lines() if line.is_dashed()]
    assert dashed.get_gid().startswith("arm_arm-1")
    page = write_report(found, tmp_path).html.read_text()
    assert page.count('stroke-dasharray="4.0 1.5"') == 1


def test_panels_that_are_more_than_stand_beside_each_other_begin_another_row(results):
    view = replace(PLAIN, metrics=tuple(replace(Y, key=f"y{i}") for i in range(5)), beside=3)
    figure = draw(results(view, cell(y=1.0), cell(round_=1, y=2.0)))
    rows = [axes.get_subplotspec().rowspan.start for axes in figure.axes]
    assert rows == [0, 0, 0, 1, 1, 1]
    assert [axes.axison for axes in figure.axes] == [True] * 5 + [False]
    whole = draw(results(replace(view, beside=0), cell(y=1.0), cell(round_=1, y=2.0)))
    assert [axes.get_subplotspec().rowspan.start for axes in whole.axes] == [0] * 5
