"""How the studies of supermasks find masks."""

from typing import Annotated, Any

from pydantic import BaseModel, Field, field_validator

from prunus.core.errors import Invalid, nearest
from prunus.studies.config import STRICT, BaseSetting, TrainConfig
from prunus.studies.kinds.supermask.arms import WORDS
from prunus.supermasks import METHODS
from prunus.supermasks.weights import WEIGHTS
from prunus.training import Recipe

Density = Annotated[float, Field(gt=0, le=1)]


class MaskConfig(BaseModel):
    """How one arm finds its masks.

    Attributes:
        method: a name of `prunus list supermasks`; default the arm's name up to a first `:`.
        options: the method's own; lengths (`steps`, `every`, `start`) as `500` or `5ep`.
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
        """
        known = dense.__dict__
        for name in self.train:
            if name not in known:
                raise Invalid(f"masks: train.{name} is no part of a training; {nearest(name, known)}")
        said = {name: tuple(value) if isinstance(value, list) else value for name, value in self.train.items()}
        return Recipe(**{**known, **said})


class MaskSetting(BaseSetting):
    """One network on one data set: a row of the figure.

    Attributes:
        train: the training of the dense network.
        masks: how masks are learned, by arm.
    """

    train: TrainConfig = TrainConfig()  # type: ignore[valid-type]
    masks: dict[str, MaskConfig] = Field({"edge-popup": MaskConfig()}, min_length=1)

    @field_validator("masks")
    @classmethod
    def _arms(cls, masks: dict[str, MaskConfig]) -> dict[str, MaskConfig]:
        for arm in masks:
            if arm not in WORDS:
                raise Invalid(f"masks has {arm!r}; {nearest(arm, WORDS)}")
        return masks
