"""How the studies of pruning at initialization prune."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, field_validator

from prunus.core.errors import Invalid
from prunus.pruning import CRITERIA
from prunus.studies.config import STRICT, AtLeastOne, BaseSetting, TrainConfig

#: The power of ten of a compression ratio: 2 is 1 % of the weights.
Exponent = Annotated[float, Field(ge=0, le=12)]


class InitialScoring(BaseModel):
    """How weights are scored before training.

    Attributes:
        criteria: what gives scores: names of `prunus list criteria`.
        per_class: how many training examples of each class criteria look at.
        mode: whether BatchNorm uses its own statistics (`eval`) or the batch's (`train`) while they do; null is as each
            criterion has it.
    """

    model_config = STRICT
    criteria: tuple[str, ...] = ("random", "magnitude", "snip", "grasp", "synflow")
    per_class: AtLeastOne = 10
    mode: Literal["eval", "train"] | None = None

    @field_validator("criteria")
    @classmethod
    def _known(cls, criteria: tuple[str, ...]) -> tuple[str, ...]:
        for name in criteria:
            CRITERIA.look_up(name, "criteria")
        return _once("criteria", criteria)


class InitialPruning(InitialScoring):
    """How masks are found before training.

    Attributes:
        exponents: compression ratios, as powers of ten: 1.5 keeps one weight in 10^1.5.
        protect: how many weights each layer keeps at least (a whole number), or which fraction of its own.
    """

    exponents: tuple[Exponent, ...] = (0.5, 1.0, 1.5, 2.0)
    protect: int | float | None = None

    @field_validator("exponents")
    @classmethod
    def _distinct(cls, exponents: tuple[float, ...]) -> tuple[float, ...]:
        return _once("exponents", exponents)


class InitialSetting(BaseSetting):
    """One network on one data set: a row of the figure."""

    train: TrainConfig = TrainConfig()  # type: ignore[valid-type]
    prune: InitialPruning = InitialPruning()


def _once(name: str, values: tuple) -> tuple:
    if not values or len(set(values)) < len(values):
        raise Invalid(f"{name} is {list(values)}; allowed: at least one, and each once")
    return values
