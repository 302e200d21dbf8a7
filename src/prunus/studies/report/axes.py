"""The two axes of a panel."""

from collections.abc import Sequence
from math import log

from matplotlib.axes import Axes
from matplotlib.axis import Axis as Ticked
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogFormatterMathtext,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)

from prunus.studies.report.view import Axis, Curve, Line, Metric


def x_axis(axes: Axes, axis: Axis, points: Sequence[float], further: Sequence[float] = ()) -> None:
    """Set up the horizontal axis.

    Args:
        axes: of the panel.
        axis: what it is.
        points: where points lie.
        further: what else is to be on it.
    """
    every = [x for x in (*points, *further) if x > 0 or not axis.log]
    if not every:
        return
    least, most = min(every), max(every)
    if axis.log:
        edge = max((most / least) ** 0.04, 1.05)
        axes.set_xscale("log")
        low, high = least / edge, most * edge
    else:
        edge = 0.04 * (most - least) or 0.5
        low, high = least - edge, most + edge
    axes.set_xlim(*((high, low) if axis.descending else (low, high)))
    if axis.at_points:
        places = sorted(set(points), reverse=axis.descending)
        axes.xaxis.set_major_locator(FixedLocator(thinned(places, 0.12) if axis.log else places))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: axis.shown(x)))
    elif axis.log:
        _log_ticks(axes.xaxis, most / least)


def y_axis(axes: Axes, metric: Metric, measured: Sequence[Curve], lines: Sequence[Line]) -> None:
    """Set up the vertical axis.

    Args:
        axes: of the panel.
        metric: what it is of.
        measured: the curves that it is to hold.
        lines: whose levels it is to hold.
    """
    levels = [line.y for line in lines if line.y is not None]
    every = [y for c in measured for p in c.points for y in (p.low, p.high)] + levels
    if metric.log and (every := [y for y in every if y > 0]):
        edge = max((max(every) / min(every)) ** 0.06, 1.05)
        axes.set_yscale("log")
        axes.set_ylim(min(every) / edge, max(every) * edge)
        _log_ticks(axes.yaxis, max(every) / min(every))
    if metric.log:
        return  # where nothing is above zero, nothing can be drawn so
    low, high = min(every), max(every)
    if metric.whole:
        axes.set_ylim(0, 1.06 * high or 1)
    else:
        margin = 0.06 * (high - low) or 0.5
        axes.set_ylim(low - margin, high + margin)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=metric.whole, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}" if metric.whole else f"{v:g}"))


def _log_ticks(axis: Ticked, span: float) -> None:
    """Labels at powers of ten where there are some of them, and at 1, 2 and 5 times such in little room."""
    if span >= 100:
        axis.set_major_locator(LogLocator(numticks=7))
        axis.set_major_formatter(LogFormatterMathtext())
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}" if v >= 1000 else f"{v:g}"))
    axis.set_minor_formatter(NullFormatter())


def thinned(places: Sequence[float], apart: float) -> list[float]:
    """Those of the places that a log axis has room to label: always the first and the last.

    Args:
        places: in ascending or descending order.
        apart: least distance of two labels, as a fraction of the axis from the first to the last.
    """
    first, *rest = places
    if not rest:
        return [first]
    last = rest.pop()
    room = apart * abs(log(first / last))
    chosen = [first]
    for place in rest:
        if abs(log(chosen[-1] / place)) >= room and abs(log(place / last)) >= room:
            chosen.append(place)
    return [*chosen, last]
