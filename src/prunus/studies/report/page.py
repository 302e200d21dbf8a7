"""The page of a study: one HTML file that holds all it needs and opens from disk."""

import json
from importlib.resources import files
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from prunus._version import __version__
from prunus.studies.report import tables
from prunus.studies.report.curves import all_lines, networks, panels
from prunus.studies.report.panel import panel
from prunus.studies.report.reading import reading
from prunus.studies.report.training import training
from prunus.studies.report.views import view_of
from prunus.studies.report.words import called
from prunus.studies.results import Results


def page(results: Results) -> str:
    """The HTML of the page."""
    view = view_of(results)
    metrics, rows = panels(view, results), []
    for i, network in enumerate(networks(results)):
        drawn_here = [panel(results, network, metric, f"p{i}{j}") for j, metric in enumerate(metrics)]
        rows.append({"name": called(network), "panels": drawn_here})
    data = {
        "arms": view.words,
        "panels": [p.places for row in rows for p in row["panels"]],
        "training": training(results),
    }
    present, drawn = {cell.arm for cell in results.cells}, set(all_lines(view, results))
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    return environment.from_string(_resource("page.html.j2")).render(
        results=results,
        title=results.title or results.study,
        version=__version__,
        rows=rows,
        view=view,
        arms={name: arm for name, arm in view.arms.items() if name in present},
        lines={name: words for name, words in view.lines.items() if name in drawn},
        has_curves=any(c.evaluations for c in results.cells),
        reading=reading(results),
        networks=tables.all_networks(results),
        facts=tables.facts(results),
        cells=tables.cells(results),
        config=_yaml(results.config),
        css=Markup(_resource("page.css")),  # noqa: S704 - our own file
        js=Markup(_resource("page.js")),  # noqa: S704 - our own file
        data=embedded(data),
    )


def embedded(data: Any) -> Markup:
    """Data as JSON for a script element: what could end the element is written as an escape."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # noqa: S704 - no sign is left that HTML reads


def _yaml(config: dict) -> str:
    plain = json.loads(json.dumps(config, default=str))  # tuples, paths and the like as YAML knows them
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def _resource(name: str) -> str:
    return (files("prunus.studies.report") / name).read_text(encoding="utf-8")
