"""What is refused before anything is done."""

from prunus.core.errors import Invalid
from prunus.core.floors import floors_of
from prunus.core.params import prunable
from prunus.data import DataSet
from prunus.studies.cells import Cell
from prunus.studies.work import check_model


def check(cell: Cell, data: DataSet) -> None:
    """Refuse a network that cannot be made, or that has fewer weights than a ratio leaves."""
    model = check_model(cell, data)
    sizes = {name: weight.numel() for name, weight in prunable(model).items()}
    total, prune = sum(sizes.values()), cell.setting.prune
    for exponent in prune.exponents:
        if (keep := round(total / 10**exponent)) < 1:
            raise Invalid(f"{cell.network}: prune.exponents has {exponent}, which keeps none of {total:,} weights")
        try:
            floors_of(prune.protect, sizes, keep)
        except Invalid as error:
            raise Invalid(f"{cell.network} at 10^{exponent:g}: prune.{error}") from error
