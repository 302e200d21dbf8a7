"""The figure of a study: its metrics against its axis, means over trials with bars from the least to the greatest."""

from io import BytesIO
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from prunus.studies.report.axes import x_axis, y_axis
from prunus.studies.report.curves import all_lines, curves, lines, networks, panels
from prunus.studies.report.style import DASHES, Theme, light, rc
from prunus.studies.report.view import Axis, Curve, Line, Metric, View
from prunus.studies.report.views import view_of
from prunus.studies.report.words import called, trials
from prunus.studies.results import Results

NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
PANEL = 10 / 3  # inches


def figure_files(results: Results) -> tuple[bytes, bytes]:
    """The figure as PNG (667 pixels wide for each panel of a row) and as SVG (text as outlines)."""
    with matplotlib.rc_context(rc(light(view_of(results).arms), text_as_text=False)):
        figure = draw(results)
        return saved(figure, "png", dpi=200), saved(figure, "svg", metadata=NO_METADATA)


def saved(figure: Figure, kind: str, **options: Any) -> bytes:
    """The bytes of a figure's file."""
    file = BytesIO()
    figure.savefig(file, format=kind, **options)
    return file.getvalue()


def draw(results: Results) -> Figure:
    """The whole figure: one row of panels for each network, or several, one legend, a line that says what it shows."""
    view, names = view_of(results), networks(results)
    metrics = panels(view, results)
    beside = min(view.beside or len(metrics), len(metrics))
    each = -(-len(metrics) // beside)  # rows of a network
    theme, width = light(view.arms), max(2, beside) * PANEL
    legend, columns = _legend(results, theme), int(width / 2)
    more = 0.19 * max(0, -(-len(legend) // columns) - 4)  # the rows of a legend that is longer than usual
    figure = Figure(
        figsize=(width, 0.85 + more + 2.75 * each * len(names)), facecolor=theme.paper, layout="constrained"
    )
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06, wspace=0.03, hspace=0.05)  # pyright: ignore
    rows = figure.subplots(each * len(names), beside, squeeze=False).reshape(len(names), each * beside)
    for i, (row, network) in enumerate(zip(rows, names, strict=True)):
        for axes, metric in zip(row, metrics, strict=False):
            draw_panel(axes, results, network, metric, theme)
            axes.set_xlabel(view.axis_of(metric).label if each > 1 or i == len(names) - 1 else "")
        for axes in row[len(metrics) :]:
            axes.set_axis_off()
        if len(names) > 1:
            row[0].set_ylabel(called(network), color=theme.ink, weight="bold", labelpad=8, parse_math=False)
    figure.legend(handles=legend, loc="outside upper left", ncols=columns, handlelength=2.2, columnspacing=1.4)
    figure.supxlabel(caption(results), x=0.012, ha="left", fontsize=8.5, color=theme.muted, parse_math=False)
    return figure


def draw_panel(axes: Axes, results: Results, network: str, metric: Metric, theme: Theme) -> None:
    """One panel: a curve for each arm, and lines to compare with, such as the level of the dense network."""
    view = view_of(results)
    shown = curves(view, results, network, metric)
    compared = lines(results, network, metric, shown)
    axes.set_title(metric.heading)
    axis = view.axis_of(metric)
    x_axis(axes, axis, _places(results, network, axis), [line.x for line in compared if line.x is not None])
    if not shown:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=theme.muted)
        return
    for i, line in enumerate(compared):
        _draw_line(axes, view, line, theme, i)
    for curve in reversed(shown):  # the first arm is drawn last, on top
        if curve.arm in view.arms:
            _draw_curve(axes, view, metric, curve, theme)
    together = [m for m in view.metrics if m.key == metric.key or (m.share and m.share == metric.share)]
    y_axis(axes, metric, [c for m in together for c in curves(view, results, network, m)], compared)


def caption(results: Results) -> str:
    """What the figure shows, in one line: networks, trials, how much of the study is there."""
    names = networks(results)
    view = view_of(results)
    points = [p for n in names for m in view.metrics for c in curves(view, results, n, m) for p in c.points]
    said = [", ".join(called(n) for n in names)]
    if max((p.n for p in points), default=1) > 1:
        said.append(f"mean of {trials(points)}, bars from least to greatest")
    else:
        said.append("1 trial")
    if len(results.cells) != results.planned:
        said.append(f"{len(results.cells)} of {results.planned} cells")
    return "  ·  ".join(said)


def _draw_curve(axes: Axes, view: View, metric: Metric, curve: Curve, theme: Theme) -> None:
    look, artists = view.arms[curve.arm].look, []
    how: dict[str, Any] = {"mec": theme.paper, "mew": 0.5, "elinewidth": 1, "capsize": 1.8, "zorder": 3}
    how |= {"color": theme.arms[curve.arm], "marker": look.marker, "ls": look.line if metric.joined else "none"}
    for name in dict.fromkeys(p.name for p in curve.points) if metric.joined else [None]:
        points = [p for p in curve.points if name in (None, p.name)]
        reach = [[p.mean - p.low for p in points], [p.high - p.mean for p in points]]
        drawn = axes.errorbar([p.x for p in points], [p.mean for p in points], reach, **how)
        line, caps, bars = drawn.lines
        artists += [line, *caps, *bars]
    for i, artist in enumerate(artists):
        if artist is not None:
            artist.set_gid(f"arm_{curve.arm}_{i}")


def _draw_line(axes: Axes, view: View, line: Line, theme: Theme, number: int) -> None:
    how: dict[str, Any] = {**_dashed(view, line.name, theme), "zorder": 1.5, "gid": f"arm_{line.name}_{number}"}
    if line.y is not None:
        axes.axhline(line.y, **how)
    if line.x is not None:
        axes.axvline(line.x, **how)
    if line.points:
        axes.plot(*zip(*line.points, strict=True), marker="", **how)


def _dashed(view: View, name: str, theme: Theme) -> dict[str, Any]:
    return {"color": theme.muted, "ls": DASHES[list(view.lines).index(name) % len(DASHES)], "lw": 1.4}


def _places(results: Results, network: str, axis: Axis) -> list[float]:
    """Where the points of all panels with this axis lie; one number for each place that has a label of its own."""
    view = view_of(results)
    metrics = [m for m in view.metrics if view.axis_of(m).key == axis.key]
    drawn = [c for m in metrics for c in curves(view, results, network, m) if c.arm in view.arms or not axis.of_curves]
    points = [p for c in drawn for p in c.points]
    if not axis.at_points:
        return [p.x for p in points]
    return list({(p.place, p.name): p.x for p in points}.values())


def _legend(results: Results, theme: Theme) -> list[Line2D]:
    view = view_of(results)
    present = {cell.arm for cell in results.cells}
    joined = any(metric.joined for metric in view.metrics)
    looks = [(arm.look, arm.words) for name, arm in view.arms.items() if name in present]
    marked: dict[str, Any] = {"mec": theme.paper, "mew": 0.5}
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, ls=look.line if joined else "none", label=words, **marked)
        for look, words in looks
    ]
    drawn = set(all_lines(view, results))
    return [
        *handles,
        *(Line2D([], [], label=words, **_dashed(view, n, theme)) for n, words in view.lines.items() if n in drawn),
    ]
