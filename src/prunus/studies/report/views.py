"""The view of results: that of their kind of study."""

from prunus.studies.kinds import KINDS
from prunus.studies.report.view import View
from prunus.studies.results import Results


def view_of(results: Results) -> View:
    """The view of the kind of study that the results are of.

    Raises:
        Invalid: if there is no such kind here.
    """
    return KINDS.look_up(results.kind).view()
