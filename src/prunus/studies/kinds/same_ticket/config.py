"""The configuration of the same-ticket study."""

from typing import Annotated, Any

from pydantic import BaseModel, Field, field_validator, model_validator

from prunus.core.errors import Invalid
from prunus.studies.config import STRICT, AtLeastOne, Study, Whole
from prunus.studies.kinds.supermask.config import MaskSetting
from prunus.studies.kinds.supermask.grid import has_target
from prunus.supermasks.weights import WEIGHTS

#: A density at which two masks can differ.
Sparse = Annotated[float, Field(gt=0, lt=1)]


class RandomConfig(BaseModel):
    """The random tickets that the winning ticket is placed among.

    Attributes:
        draws: how many in each trial; 0 trains neither these nor tickets.
        density: of the setting's densities, that of the ticket; null is the least.
    """

    model_config = STRICT
    draws: Whole = 20
    density: Sparse | None = None


class Setting(MaskSetting):
    """One network on one data set: a row of the figure. In each trial there is a small grid of runs.

    Attributes:
        densities: the fractions of weights that masks keep.
        weights: what all initial weights are drawn from, a name of `prunus list weights`; weights of one size have no
            magnitudes to compare before they are trained.
        inits: how many draws of them.
        orders: how many data orders.
        scores: how many draws of a learned mask's first scores. They depend on neither the init nor the order. All but
            the first are run with the first order, and once with all three other.
        random: random tickets.
    """

    densities: tuple[Sparse, ...] = (0.5, 0.3, 0.1, 0.03)
    weights: str = "kaiming-normal"
    inits: AtLeastOne = 2
    orders: AtLeastOne = 2
    scores: AtLeastOne = 2
    random: RandomConfig = RandomConfig()

    @field_validator("densities")
    @classmethod
    def _distinct(cls, densities: tuple[float, ...]) -> tuple[float, ...]:
        if not densities or len(set(densities)) < len(densities):
            raise Invalid(f"densities is {list(densities)}; allowed: at least one, and each once")
        return tuple(sorted(densities, reverse=True))

    @field_validator("weights")
    @classmethod
    def _drawn(cls, weights: str) -> str:
        WEIGHTS.look_up(weights, "weights")
        return weights

    @model_validator(mode="after")
    def _consistent(self) -> "Setting":
        for arm, config in self.masks.items():
            if not has_target(config, arm):
                raise Invalid(f"masks has {arm!r}, which keeps no density that it is told; allowed: methods that do")
            if "weights" in config.model_fields_set and config.weights != self.weights:
                said = f"masks.{arm}.weights is {config.weights!r} with weights {self.weights!r}"
                raise Invalid(f"{said}; allowed: the same, since masks are compared over the same weights")
        if self.random.density not in (None, *self.densities):
            raise Invalid(f"random.density is {self.random.density}; allowed: one of densities, {list(self.densities)}")
        if self.inits * self.orders == 1 and not self.masks:
            raise Invalid("inits and orders are 1 with magnitude alone; allowed: at least two runs to compare")
        same: dict[str, Any] = {"weights": self.weights}
        masks = {arm: config.model_copy(update=same) for arm, config in self.masks.items()}
        return self.model_copy(update={"masks": masks})

    @property
    def ticket_density(self) -> float:
        """The density of the tickets that are trained."""
        return self.random.density or self.densities[-1]


class SameTicket(Study[Setting]):
    """The same-ticket study, resolved."""
