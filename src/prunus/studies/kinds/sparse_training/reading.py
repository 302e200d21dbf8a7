"""The result of a sparse-training study in plain words."""

from prunus.studies.kinds.sparse_training.metrics import ACCURACY, TRAINING
from prunus.studies.report.curves import curves, networks
from prunus.studies.report.view import Point, View
from prunus.studies.report.words import called, percent
from prunus.studies.results import Results

#: An arm, its accuracy and the FLOPs of its training.
Row = tuple[str, Point, Point]


def reading(view: View, results: Results) -> list[str]:
    """A paragraph for each network: the arms at the most weights and at the fewest, from the highest to the lowest."""
    return [_paragraph(view, results, network) for network in networks(results)]


def _paragraph(view: View, results: Results, network: str) -> str:
    measured = {curve.arm: curve for curve in curves(view, results, network, ACCURACY)}
    spent = {curve.arm: curve for curve in curves(view, results, network, TRAINING)}
    dense = measured.pop("dense", None)
    level = f"trains to {dense.points[0].mean:.1f} %" if dense else "is not finished yet"
    places: dict[int, list[Row]] = {}
    for arm, curve in measured.items():
        for point in curve.points:
            cost = spent[arm].at(point.round)
            assert cost
            places.setdefault(point.round, []).append((arm, point, cost))
    learned, told = places.pop(0, []), [places[place] for place in sorted(places)]
    said = [f"{called(network)}: the dense network {level}.", *map(_place(view), told[:1] + told[1:][-1:])]
    return " ".join([*said, *(_alone(view, row) for row in learned)])


def _place(view: View):
    def said(rows: list[Row]) -> str:
        ordered = sorted(rows, key=lambda row: -row[1].mean)
        listed = "; ".join(f"{view.arms[arm].words} {_reached(point, cost)}" for arm, point, cost in ordered)
        return f"With {percent(ordered[0][1].x)} % of the weights: {listed}."

    return said


def _alone(view: View, row: Row) -> str:
    arm, point, cost = row
    return f"{view.arms[arm].words} comes to {percent(point.x)} % of the weights: {_reached(point, cost)}."


def _reached(point: Point, cost: Point) -> str:
    return f"{point.mean:.1f} % ({TRAINING.shown(cost.mean)} % of the FLOPs)"
