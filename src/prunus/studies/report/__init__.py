"""The report of a study: the figure, the numbers behind it, and one page that holds everything.

`write_report` is the way in.
"""

import csv
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from prunus.core.errors import Invalid, nearest
from prunus.core.files import write_bytes, write_text
from prunus.studies.report.curves import curves, networks
from prunus.studies.report.figure import figure_files
from prunus.studies.report.page import page
from prunus.studies.report.views import view_of
from prunus.studies.results import Results

__all__ = ["Report", "write_report"]


@dataclass(frozen=True)
class Report:
    """Where the files of a report are."""

    png: Path
    svg: Path
    csv: Path
    html: Path


def write_report(results: Results, folder: Path) -> Report:
    """Write `figure.png`, `figure.svg`, `figure.csv` and `report.html` into `folder`.

    The same results give the same bytes. Every file is written complete or not at all. Results of a study that is
    not finished are reported as far as they go, and say so.

    Args:
        results: the finished cells; at least one.
        folder: made if it is not there.

    Raises:
        Invalid: if there is no cell, an arm is unknown, or `folder` is a file.
    """
    check(results)
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise Invalid(f"the report's folder {str(folder)!r} is a file; allowed: a folder, made if it is not there")
    folder.mkdir(parents=True, exist_ok=True)
    report = Report(*(folder / name for name in ("figure.png", "figure.svg", "figure.csv", "report.html")))
    png, svg = figure_files(results)
    write_bytes(report.png, png)
    write_bytes(report.svg, svg)
    write_text(report.csv, table(results))
    write_text(report.html, page(results))
    return report


def check(results: Results) -> None:
    """Refuse results that there is nothing to report of.

    Raises:
        Invalid: if there is no cell, or a cell's arm is unknown.
    """
    if not results.cells:
        raise Invalid(f"the study {results.study!r} has no finished cell to report; run it first")
    arms, lines = view_of(results).arms, view_of(results).lines
    for cell in results.cells:
        if cell.arm not in arms and cell.arm not in lines:
            raise Invalid(f"cell {cell.key} has the arm {cell.arm!r}; {nearest(cell.arm, arms)}")


def table(results: Results) -> str:
    """The numbers of the figure and of the tables as CSV; densities and accuracies in percent.

    Each axis has a column for places on it, and one for what a value is of where a cell has several.
    """
    view = view_of(results)
    axes = [axis for axis, _ in view.tables]
    each = list(dict.fromkeys(axis.each for axis in axes if axis.each))
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    places = [axis.key for axis in axes]
    writer.writerow(("network", "arm", "round", *places, *each, "metric", "mean", "min", "max", "n"))
    for network in networks(results):
        for metric in (*view.metrics, *view.columns):
            axis = view.axis_of(metric)
            for curve in curves(view, results, network, metric):
                for p in curve.points:
                    where = [f"{p.x:.10g}" if key == axis.key else "" for key in places]
                    names = [p.name if name == axis.each else "" for name in each]
                    numbers = (f"{x:.10g}" for x in (p.mean, p.low, p.high))
                    writer.writerow((network, curve.arm, p.round, *where, *names, metric.key, *numbers, p.n))
    return text.getvalue()
