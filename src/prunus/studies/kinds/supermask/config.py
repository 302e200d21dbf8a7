"""How the studies of supermasks find masks."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from prunus.core.errors import Invalid, nearest
from prunus.studies.config import STRICT, BaseSetting, TrainConfig
from prunus.studies.kinds.chosen import chosen
from prunus.studies.kinds.supermask.arms import WORDS
from prunus.studies.kinds.trained_otherwise import trained_otherwise
from prunus.supermasks import METHODS
from prunus.supermasks.weights import WEIGHTS
from prunus.training import Recipe

Density = Annotated[float, Field(gt=0, le=1)]


class MaskConfig(BaseModel):
    """How one arm finds its masks.

    Attributes:
        method: a name of `prunus list supermasks`; default that of the arm.
        options: the method's own but the density, added to what the arm's name says; lengths (`steps`, `every`,
            `start`) as `500` or `5ep`, `steps` at most that of the training.
        weights: what the frozen weights are drawn from, a name of `prunus list weights`.
        scaled: whether they are multiplied by 1/√density.
        train: what differs from the training of the dense network.
    """

    model_config = STRICT
    method: str = ""
    options: dict[str, Any] = {}
    weights: str = "kaiming-constant"
    scaled: bool = False
    train: dict[str, Any] = {}

    @field_validator("method")
    @classmethod
    def _known(cls, method: str) -> str:
        if method:
            METHODS.look_up(method, "method")
        return method

    @field_validator("weights")
    @classmethod
    def _drawn(cls, weights: str) -> str:
        WEIGHTS.look_up(weights, "weights")
        return weights

    def recipe(self, dense: Any) -> Recipe:
        """The training of the scores.

        Args:
            dense: the training of the dense network.

        Raises:
            Invalid: if it is no training.
        """
        return trained_otherwise(dense, self.train)


class MaskSetting(BaseSetting):
    """One network on one data set: a row of the figure.

    Attributes:
        train: the training of the dense network.
        masks: how masks are learned, by arm.
        arms: those of `masks` that are learned; null is all. A preset's arms that are not wanted are left out here.
    """

    train: TrainConfig = TrainConfig()  # type: ignore[valid-type]
    masks: dict[str, MaskConfig] = Field({"edge-popup": MaskConfig()})
    arms: tuple[str, ...] | None = None

    @field_validator("masks")
    @classmethod
    def _arms(cls, masks: dict[str, MaskConfig]) -> dict[str, MaskConfig]:
        if not masks:
            raise Invalid("masks is {}; allowed: at least one")
        for arm in masks:
            if arm not in WORDS:
                raise Invalid(f"{arm!r} is no way to find masks; {nearest(arm, WORDS)}")
        return masks

    @model_validator(mode="after")
    def _trainings(self) -> Self:
        configs = chosen(self.masks, self.arms)
        for arm, config in configs.items():
            try:
                config.recipe(self.train)
            except Invalid as error:
                raise Invalid(f"masks.{arm}.{error}") from error
        # said in full, so that a stored study does not get arms of its preset back
        return self.model_copy(update={"masks": configs, "arms": tuple(configs)})
