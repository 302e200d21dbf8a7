"""How the studies of sparse training train."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, ValidationInfo, field_validator, model_validator

from prunus.core.errors import Invalid, nearest
from prunus.sparse_training import METHODS
from prunus.studies.config import STRICT, BaseSetting, TrainConfig
from prunus.studies.kinds.chosen import chosen
from prunus.studies.kinds.sparse_training.arms import LONGEST, METHOD_OF, OPTIONS_OF, PLAIN, words
from prunus.studies.kinds.sparse_training.options import options_of
from prunus.studies.kinds.trained_otherwise import trained_otherwise
from prunus.training import Recipe

Density = Annotated[float, Field(gt=0, le=1)]
Length = Annotated[int, Field(ge=1, le=LONGEST)]


def each_once(values: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
    """The values, if there are any and none is there twice.

    Raises:
        Invalid: if not.
    """
    if not values or len(set(values)) < len(values):
        raise Invalid(f"{info.field_name} is {list(values)}; allowed: at least one, and each once")
    return values


class ArmConfig(BaseModel):
    """How one arm trains.

    Attributes:
        method: a name of `prunus list sparse-training`; default that of the arm.
        options: the method's own but the density, added to those of the setting and to what the arm's name says;
            numbers of steps as `100` or `1ep`.
        densities: what it trains at, in place of the setting's.
        lengths: of its training, in place of the setting's.
        train: what differs from the training of the dense network.
    """

    model_config = STRICT
    method: str = ""
    options: dict[str, Any] = {}
    densities: tuple[Density, ...] | None = None
    lengths: tuple[Length, ...] | None = None
    train: dict[str, Any] = {}

    @field_validator("densities", "lengths")
    @classmethod
    def _distinct(cls, values: tuple[float, ...] | None, info: ValidationInfo) -> tuple[float, ...] | None:
        return None if values is None else each_once(values, info)

    @field_validator("method")
    @classmethod
    def _known(cls, method: str) -> str:
        if method:
            METHODS.look_up(method, "method")
        return method

    def method_of(self, arm: str) -> str:
        """The name of the method of the arm that this is of."""
        return self.method or METHOD_OF.get(arm, arm)

    def options_of(self, arm: str, shared: dict[str, Any]) -> dict[str, Any]:
        """The options of the method.

        Args:
            arm: the arm that this is of.
            shared: those of the setting, for each method that has them.
        """
        known = options_of(METHODS.look_up(self.method_of(arm), "method"))
        of_name = {} if self.method else OPTIONS_OF.get(arm, {})
        return {**{name: value for name, value in shared.items() if name in known}, **of_name, **self.options}

    def recipe(self, dense: Any) -> Recipe:
        """The training at length 1.

        Args:
            dense: the training of the dense network.

        Raises:
            Invalid: if it is no training.
        """
        return trained_otherwise(dense, self.train)


class SparseSetting(BaseSetting):
    """One network on one data set: a row of the figure.

    Attributes:
        train: the training of the dense network.
        options: of methods, for each that has them.
        methods: what is compared, by arm.
        arms: those of `methods` that are trained; null is all. A preset's arms that are not wanted are left out here.
    """

    train: TrainConfig = TrainConfig()  # type: ignore[valid-type]
    options: dict[str, Any] = Field({})
    methods: dict[str, ArmConfig] = Field({"rigl": ArmConfig()})
    arms: tuple[str, ...] | None = None

    @field_validator("options")
    @classmethod
    def _of_some_method(cls, options: dict[str, Any]) -> dict[str, Any]:
        known = {name for kind in METHODS.values() for name in options_of(kind)}
        for name in options:
            if name not in known:
                raise Invalid(f"options has {name!r}, which no method has; {nearest(name, known)}")
        return options

    @field_validator("methods")
    @classmethod
    def _arms(cls, methods: dict[str, ArmConfig]) -> dict[str, ArmConfig]:
        if not methods:
            raise Invalid("methods is {}; allowed: at least one")
        known = [arm for arm in words() if arm not in PLAIN]
        for arm in methods:
            if arm not in known:
                raise Invalid(f"{arm!r} is no way to train; {nearest(arm, known)}")
        return methods

    @model_validator(mode="after")
    def _trainings(self) -> Self:
        configs = chosen(self.methods, self.arms)
        for arm, config in configs.items():
            try:
                config.recipe(self.train)
            except Invalid as error:
                raise Invalid(f"methods.{arm}.{error}") from error
        # said in full, so that a stored study does not get arms of its preset back
        return self.model_copy(update={"methods": configs, "arms": tuple(configs)})
