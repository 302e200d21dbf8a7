"""The lottery-ticket figure: early stop and accuracies against the weights that remain.

Drawn as in Frankle & Carbin, "The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks", ICLR
2019: a log axis from dense at the left to sparse at the right; the mean over trials with bars from the least to
the greatest.
"""

from collections.abc import Sequence
from io import BytesIO
from math import log
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from prunus.studies.report.curves import METRICS, Curve, Metric, called, curves, dense, networks, percent, trials
from prunus.studies.report.style import ARMS, LIGHT, Theme, rc
from prunus.studies.results import Results

NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def figure_files(results: Results) -> tuple[bytes, bytes]:
    """The figure as PNG (2000 pixels wide) and as SVG (text as outlines)."""
    with matplotlib.rc_context(rc(LIGHT, text_as_text=False)):
        figure = draw(results)
        return saved(figure, "png", dpi=200), saved(figure, "svg", metadata=NO_METADATA)


def saved(figure: Figure, kind: str, **options: Any) -> bytes:
    """The bytes of a figure's file."""
    file = BytesIO()
    figure.savefig(file, format=kind, **options)
    return file.getvalue()


def draw(results: Results) -> Figure:
    """The whole figure: one row of panels for each network, one legend, a line that says what it shows."""
    names = networks(results)
    figure = Figure(figsize=(10, 0.85 + 2.75 * len(names)), facecolor=LIGHT.paper, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06, wspace=0.03, hspace=0.05)  # pyright: ignore
    panels = figure.subplots(len(names), len(METRICS), squeeze=False)
    for i, (row, network) in enumerate(zip(panels, names, strict=True)):
        for axes, metric in zip(row, METRICS, strict=True):
            draw_panel(axes, results, network, metric, LIGHT)
            axes.set_xlabel("Weights remaining (%)" if i == len(names) - 1 else "")
        if len(names) > 1:
            row[0].set_ylabel(called(network), color=LIGHT.ink, weight="bold", labelpad=8, parse_math=False)
    figure.legend(handles=_legend(results), loc="outside upper left", ncols=5, handlelength=2.2, columnspacing=1.4)
    figure.supxlabel(caption(results), x=0.012, ha="left", fontsize=8.5, color=LIGHT.muted, parse_math=False)
    return figure


def draw_panel(axes: Axes, results: Results, network: str, metric: Metric, theme: Theme) -> None:
    """One panel: a curve for each arm, and the level of the dense network as a dotted line."""
    shown = curves(results, network, metric)
    axes.set_title(metric.title + (f" ({metric.unit})" if metric.unit else ""))
    _weights_axis(axes, _densities(results, network))
    if not shown:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=theme.muted)
        return
    if level := dense(shown):
        axes.axhline(level.mean, color=theme.muted, ls=(0, (1, 1.8)), lw=1.4, zorder=1.5, gid="arm_dense_0")
    for curve in reversed(shown):  # the ticket is drawn last, on top
        _draw_curve(axes, curve, theme)
    _value_axis(axes, metric, [c for m in METRICS if m.unit == metric.unit for c in curves(results, network, m)])


def caption(results: Results) -> str:
    """What the figure shows, in one line: networks, trials, how much of the study is there."""
    names = networks(results)
    points = [p for n in names for m in METRICS for c in curves(results, n, m) for p in c.points]
    said = [", ".join(called(n) for n in names)]
    if max(p.n for p in points) > 1:
        said.append(f"mean of {trials(points)}, bars from least to greatest")
    else:
        said.append("1 trial")
    if len(results.cells) != results.planned:
        said.append(f"{len(results.cells)} of {results.planned} cells")
    return "  ·  ".join(said)


def thinned(densities: Sequence[float], apart: float) -> list[float]:
    """Those of the densities that a log axis has room to label: always the first and the last.

    Args:
        densities: in percent, in descending order.
        apart: least distance of two labels, as a fraction of the axis from the first to the last.
    """
    first, *rest = densities
    if not rest:
        return [first]
    last = rest.pop()
    room = apart * log(first / last)
    chosen = [first]
    for density in rest:
        if log(chosen[-1] / density) >= room and log(density / last) >= room:
            chosen.append(density)
    return [*chosen, last]


def _draw_curve(axes: Axes, curve: Curve, theme: Theme) -> None:
    x = [p.density for p in curve.points]
    mean = [p.mean for p in curve.points]
    reach = [[p.mean - p.low for p in curve.points], [p.high - p.mean for p in curve.points]]
    colour, marker = theme.arms[curve.arm], ARMS[curve.arm].marker
    drawn = axes.errorbar(
        x, mean, reach, color=colour, marker=marker, mec=theme.paper, mew=0.5, elinewidth=1, capsize=1.8, zorder=3
    )
    line, caps, bars = drawn.lines
    for i, artist in enumerate((line, *caps, *bars)):
        if artist is not None:
            artist.set_gid(f"arm_{curve.arm}_{i}")


def _densities(results: Results, network: str) -> list[float]:
    points = {p.round: p.density for m in METRICS for c in curves(results, network, m) for p in c.points}
    return sorted(set(points.values()), reverse=True)


def _weights_axis(axes: Axes, densities: Sequence[float]) -> None:
    most, least = densities[0], densities[-1]
    edge = max((most / least) ** 0.04, 1.05)
    axes.set_xscale("log")
    axes.set_xlim(most * edge, least / edge)
    axes.xaxis.set_major_locator(FixedLocator(thinned(densities, apart=0.12)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda density, _: percent(density)))


def _value_axis(axes: Axes, metric: Metric, measured: Sequence[Curve]) -> None:
    # The two accuracies have one axis, so that they can be compared across panels.
    low = min(p.low for c in measured for p in c.points)
    high = max(p.high for c in measured for p in c.points)
    if metric.unit:
        margin = 0.06 * (high - low) or 0.5
        axes.set_ylim(low - margin, high + margin)
    else:
        axes.set_ylim(0, 1.06 * high or 1)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=not metric.unit, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}" if metric.unit else f"{v:,.0f}"))


def _legend(results: Results) -> list[Line2D]:
    present = {cell.arm for cell in results.cells}
    handles = [
        Line2D([], [], color=arm.colour, marker=arm.marker, mec=LIGHT.paper, mew=0.5, label=arm.words)
        for name, arm in ARMS.items()
        if name in present
    ]
    level = Line2D([], [], color=LIGHT.muted, ls=(0, (1, 1.8)), lw=1.4, label="dense network")
    return [*handles, level] if any(c.arm == "ticket" and c.round == 0 for c in results.cells) else handles
