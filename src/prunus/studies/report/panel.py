"""A panel of the figure as inline SVG of the page: in the page's colours and font, with places for tooltips."""

import re
from dataclasses import dataclass

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prunus.studies.report.curves import Curve, Metric, called, curves, percent
from prunus.studies.report.figure import NO_METADATA, draw_panel, saved
from prunus.studies.report.style import STAND_INS, THEMED, rc
from prunus.studies.results import Results

WIDTH, HEIGHT = 4.2, 3.2  # inches


@dataclass(frozen=True)
class Panel:
    """One inline drawing.

    Attributes:
        svg: the element, safe to put into a page.
        label: what it shows, for those who do not see it.
        places: for the page's script: the frame [left, top, right, bottom], and for each density where it is on
            the axis (in the units of the drawing) and what its points say.
    """

    svg: Markup
    label: str
    places: dict


def panel(results: Results, network: str, metric: Metric, name: str) -> Panel:
    """Draw one panel.

    Args:
        results: the finished cells.
        network: of which network.
        metric: what to show.
        name: a name that no other panel of the page has; its ids start with it.
    """
    with matplotlib.rc_context(rc(THEMED, text_as_text=True)):
        figure = Figure(figsize=(WIDTH, HEIGHT), dpi=72, layout="constrained")  # 72: a pixel is a unit of the SVG
        figure.patch.set_visible(False)
        axes = figure.subplots()
        axes.patch.set_visible(False)
        draw_panel(axes, results, network, metric, THEMED)
        axes.set_xlabel("Weights remaining (%)")
        text = saved(figure, "svg", metadata=NO_METADATA).decode()
    measured = curves(results, network, metric)
    label = f"{metric.title} against weights remaining, {called(network)}; the numbers are in the table below"
    svg = Markup(inline(text, name))  # noqa: S704 - matplotlib escapes what it writes
    return Panel(svg, label, _places(axes, metric, measured))


def inline(svg: str, name: str) -> str:
    """A matplotlib SVG file as an element for a page: no prologue, ids of its own, arms marked, page colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg[^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', svg, count=1)
    svg = re.sub(r'id="arm_([a-z]+)_\d+"', r'data-arm="\1"', svg)
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r'( id="|url\(#| href="#)', rf"\g<1>{name}-", svg)
    for role, colour in STAND_INS.items():
        svg = svg.replace(colour, f"var(--{role})")
    return svg


def _places(axes: Axes, metric: Metric, measured: list[Curve]) -> dict:
    height = 72 * HEIGHT

    stops: dict[int, dict] = {}
    for curve in measured:
        for p in curve.points:
            x = round(float(axes.transData.transform((p.density, p.mean))[0]), 1)
            stop = stops.setdefault(p.round, {"x": x, "density": percent(p.density), "rows": []})
            arm = "dense" if (curve.arm, p.round) == ("ticket", 0) else curve.arm
            stop["rows"].append({"arm": arm, **metric.printed(p), "n": p.n})
    box = axes.get_window_extent()
    frame = [round(float(v), 1) for v in (box.x0, height - box.y1, box.x1, height - box.y0)]
    return {
        "title": metric.title,
        "unit": metric.unit,
        "frame": frame,
        "stops": sorted(stops.values(), key=lambda s: s["x"]),
    }
