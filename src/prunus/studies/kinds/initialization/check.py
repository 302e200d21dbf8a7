"""What is refused before anything is done."""

from prunus.core.errors import Invalid
from prunus.core.params import prunable
from prunus.data import DataSet
from prunus.studies.cells import Cell
from prunus.studies.work import check_model


def check(cell: Cell, data: DataSet) -> None:
    """Refuse a network that cannot be made, or that has fewer weights than a ratio leaves."""
    model = check_model(cell, data)
    total = sum(weight.numel() for weight in prunable(model).values())
    for exponent in cell.setting.prune.exponents:
        if round(total / 10**exponent) < 1:
            raise Invalid(f"{cell.network}: prune.exponents has {exponent}, which keeps none of {total:,} weights")
