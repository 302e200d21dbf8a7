"""The result in plain words."""

from prunus.studies.report.views import view_of
from prunus.studies.results import Results


def reading(results: Results) -> list[str]:
    """What the kind of study says came out, after a line on what is missing if something is."""
    paragraphs = (view := view_of(results)).reading(view, results)
    if len(results.cells) != results.planned:
        done = f"{len(results.cells)} of {results.planned} cells are finished; what follows is of those."
        return [done, *paragraphs]
    return paragraphs
