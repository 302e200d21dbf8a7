"""A panel of the figure as inline SVG of the page: in the page's colours and font, with places for tooltips."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prunus.studies.report.curves import curves
from prunus.studies.report.figure import NO_METADATA, draw_panel, saved
from prunus.studies.report.style import rc, stand_ins, themed
from prunus.studies.report.view import Curve, Metric, View
from prunus.studies.report.views import view_of
from prunus.studies.report.words import called
from prunus.studies.results import Results

WIDTH, HEIGHT = 4.2, 3.2  # inches


@dataclass(frozen=True)
class Panel:
    """One inline drawing.

    Attributes:
        svg: the element, safe to put into a page.
        label: what it shows, for those who do not see it.
        places: for the page's script: the frame [left, top, right, bottom], and for each place where it is on the
            axis (in the units of the drawing) and what its points say.
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
    view = view_of(results)
    theme, axis = themed(view.arms), view.axis_of(metric)
    with matplotlib.rc_context(rc(theme, text_as_text=True)):
        figure = Figure(figsize=(WIDTH, HEIGHT), dpi=72, layout="constrained")  # 72: a pixel is a unit of the SVG
        figure.patch.set_visible(False)
        axes = figure.subplots()
        axes.patch.set_visible(False)
        draw_panel(axes, results, network, metric, theme)
        axes.set_xlabel(axis.label)
        text = saved(figure, "svg", metadata=NO_METADATA).decode()
    measured = curves(view, results, network, metric)
    label = f"{metric.title} against {axis.name}, {called(network)}; the numbers are in the table below"
    svg = Markup(inline(text, name, stand_ins(view.arms)))  # noqa: S704 - matplotlib escapes what it writes
    return Panel(svg, label, _places(axes, view, metric, measured))


def inline(svg: str, name: str, roles: Mapping[str, str]) -> str:
    """A matplotlib SVG file as an element for a page: no prologue, ids of its own, arms marked, page colours.

    Args:
        svg: the file.
        name: what its ids start with.
        roles: the colours that stand for the page's, by what they are there.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg[^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', svg, count=1)
    svg = re.sub(r'id="arm_([a-z0-9-]+)_\d+"', r'data-arm="\1"', svg)
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r'( id="|url\(#| href="#)', rf"\g<1>{name}-", svg)
    for role, colour in roles.items():
        svg = svg.replace(colour, f"var(--{role})")
    return svg


def _places(axes: Axes, view: View, metric: Metric, measured: list[Curve]) -> dict:
    height, axis = 72 * HEIGHT, view.axis_of(metric)

    stops: dict[object, dict] = {}
    for curve in measured:
        for p in curve.points:
            x = round(float(axes.transData.transform((p.x, p.mean))[0]), 1)
            # values of one cell may lie at the same place, where one has to be able to point at all of them
            stop = stops.setdefault(x if p.name else p.place, {"x": x, "place": axis.in_words(p.x), "rows": []})
            row = {"arm": view.called(curve.arm, p.round), **metric.printed(p), "n": p.n}
            stop["rows"].append({**row, "name": p.name} if p.name else row)
    box = axes.get_window_extent()
    frame = [round(float(v), 1) for v in (box.x0, height - box.y1, box.x1, height - box.y0)]
    return {
        "title": metric.title,
        "unit": metric.unit,
        "frame": frame,
        "stops": sorted(stops.values(), key=lambda s: s["x"]),
    }
