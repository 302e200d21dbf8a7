"""The configuration of the lottery-ticket study."""

from typing import Literal

from pydantic import BaseModel, ValidationInfo, field_validator, model_validator

from prunus.core.errors import Invalid
from prunus.studies.config import STRICT, AtLeastOne, BaseSetting, Fraction, Study, TrainConfig, Whole, inherited
from prunus.training.recipe import Steps

#: The controls that a ticket is compared with; the ticket itself is always there.
Control = Literal["reinit", "shuffle", "random"]


class PruneConfig(BaseModel):
    """How tickets are found. Rates are fractions of the weights that are left, removed in each round.

    Attributes:
        rounds: how often to prune.
        rate: of all layers that have no rate of their own.
        conv_rate: of convolutions; default `rate`.
        output_rate: of the layer that feeds the outputs; default half of `rate`, and `rate` where scope is global.
        scope: smallest weights layer by layer, or wherever they are.
        exclude: glob patterns on parameter names that stay dense and do not count.
        rewind: the iteration whose weights each round starts from.
        retrain: after pruning: `reset` to the weights of `rewind`; `learning-rate` keeps the trained weights and trains
            on the schedule from `rewind` on; `fine-tune` keeps them at the schedule's last rate.
        fine_tune: how long `fine-tune` trains; default as long as the recipe.
    """

    model_config = STRICT
    rounds: Whole = 15
    rate: Fraction = 0.2
    conv_rate: Fraction | None = None
    output_rate: Fraction | None = None
    scope: Literal["layerwise", "global"] = "layerwise"
    exclude: tuple[str, ...] = ()
    rewind: Steps = 0
    retrain: Literal["reset", "learning-rate", "fine-tune"] = "reset"
    fine_tune: Steps | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "PruneConfig":
        if self.fine_tune is not None and self.retrain != "fine-tune":
            raise Invalid(
                f"fine_tune is {self.fine_tune!r} with retrain {self.retrain!r}; allowed: only with 'fine-tune'"
            )
        if self.scope == "global" and {self.conv_rate, self.output_rate} - {None, self.rate}:
            raise Invalid("conv_rate and output_rate need scope 'layerwise': 'global' prunes all layers at one rate")
        return self


class Setting(BaseSetting):
    """One network on one data set, trained and pruned in one way: a row of the figure."""

    train: TrainConfig = TrainConfig()  # type: ignore[valid-type]
    prune: PruneConfig = PruneConfig()


class LotteryTicket(Study[Setting]):
    """The lottery-ticket study, resolved: what every study has, and its controls.

    Attributes:
        arms: the controls beside the ticket.
        control_rounds: the rounds in which controls are trained; null is all but the dense one.
    """

    arms: tuple[Control, ...] = ("reinit", "shuffle")
    control_rounds: tuple[AtLeastOne, ...] | None = None

    @field_validator("arms")
    @classmethod
    def _once(cls, arms: tuple[Control, ...]) -> tuple[Control, ...]:
        if len(set(arms)) < len(arms):
            raise Invalid(f"arms is {list(arms)}; allowed: each of reinit, shuffle, random once")
        return arms

    @model_validator(mode="after")
    def _rounds_exist(self, info: ValidationInfo) -> "LotteryTicket":
        if self.control_rounds and "control_rounds" in inherited(info):
            # the preset's control rounds are those of its own number of rounds
            there = tuple(number for number in self.control_rounds if number <= self.most_rounds)
            return self.model_copy(update={"control_rounds": there})
        for number in self.control_rounds or ():
            if number > self.most_rounds:
                raise Invalid(f"control_rounds has {number}; allowed: up to the {self.most_rounds} of prune.rounds")
        return self

    @property
    def most_rounds(self) -> int:
        """The largest number of rounds of any variant."""
        return max(setting.prune.rounds for setting in self.variants.values())
