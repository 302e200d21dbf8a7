"""The configuration of the mask-criteria study."""

from typing import Any

from pydantic import BaseModel, ValidationInfo, field_validator, model_validator

from prunus.core.errors import Invalid
from prunus.core.registry import Table
from prunus.studies.config import STRICT, AtLeastOne, BaseSetting, Fraction, Study, TrainConfig
from prunus.tickets import MASK_CRITERIA, ONE_ACTIONS, ZERO_ACTIONS

#: Of each list of names: its table, and what each criterion is trained with anyway.
_TABLES: dict[str, tuple[Table[Any], str]] = {
    "criteria": (MASK_CRITERIA, ""),
    "one_actions": (ONE_ACTIONS, "rewind"),
    "zero_actions": (ZERO_ACTIONS, "zero"),
}


class RoundsConfig(BaseModel):
    """How much a round removes. Rates are fractions of the weights that are left in a layer.

    Attributes:
        rounds: how often to prune.
        rate: of all layers that have no rate of their own.
        conv_rate: of convolutions; default `rate`.
        output_rate: of the layer that feeds the outputs; default half of `rate`.
        exclude: glob patterns on parameter names that stay dense and do not count.
    """

    model_config = STRICT
    rounds: AtLeastOne = 12
    rate: Fraction = 0.2
    conv_rate: Fraction | None = None
    output_rate: Fraction | None = None
    exclude: tuple[str, ...] = ()


class Setting(BaseSetting):
    """One network on one data set: a row of the figure."""

    train: TrainConfig = TrainConfig()  # type: ignore[valid-type]
    prune: RoundsConfig = RoundsConfig()


class MaskCriteria(Study[Setting]):
    """The mask-criteria study, resolved.

    Attributes:
        criteria: names of `MASK_CRITERIA`. Each has rounds of its own, in which kept weights are rewound to their
            initial values and pruned ones are zero.
        actions_of: whose masks the actions are tried on, one of `criteria`.
        one_actions: names of `ONE_ACTIONS`: other starts of kept weights.
        zero_actions: names of `ZERO_ACTIONS`: other values of pruned weights, to which they are frozen.
    """

    criteria: tuple[str, ...] = ("large-final", "magnitude-increase", "movement", "large-final-same-sign", "random")
    actions_of: str = "large-final"
    one_actions: tuple[str, ...] = ("reinit", "signed-reinit", "constant", "signed-constant")
    zero_actions: tuple[str, ...] = ("freeze", "variant-1", "variant-2")

    @field_validator(*_TABLES)
    @classmethod
    def _known(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        option = str(info.field_name)
        table, always = _TABLES[option]
        for name in names:
            table.look_up(name, option)
        if always in names:
            raise Invalid(f"{option} has {always!r}, which all criteria are trained with; allowed: the other actions")
        if len(set(names)) < len(names) or (option == "criteria" and not names):
            least = "at least one, and " if option == "criteria" else ""
            raise Invalid(f"{option} is {list(names)}; allowed: {least}each name once")
        return names

    @model_validator(mode="after")
    def _consistent(self) -> "MaskCriteria":
        actions = (*self.one_actions, *self.zero_actions)
        if actions and self.actions_of not in self.criteria:
            raise Invalid(f"actions_of is {self.actions_of!r}; allowed: one of criteria, {', '.join(self.criteria)}")
        both = [name for name in actions if (*self.criteria, *actions).count(name) > 1]
        if both:  # rows of other packages may be called the same
            raise Invalid(f"{both[0]!r} is there twice among criteria, one_actions and zero_actions; allowed: once")
        return self
