"""What a study is: the model that its YAML file is checked by."""

from typing import Annotated, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from prunus.core.errors import Invalid
from prunus.models import MODELS
from prunus.training import Recipe
from prunus.training.recipe import Steps

#: The controls that a ticket is compared with; the ticket itself is always there.
Control = Literal["reinit", "shuffle", "random"]

#: The folders that a results folder has beside those of its studies.
RESERVED = ("cells", "partial")

_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)
Fraction = Annotated[float, Field(ge=0, lt=1)]
Whole = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]


class ModelConfig(BaseModel):
    """Which network: a name of `prunus list models`, and the factor on its hidden widths."""

    model_config = _STRICT
    name: str
    width: float = Field(1.0, gt=0)

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        MODELS.look_up(name)
        return name


class DataConfig(BaseModel):
    """Which data.

    Attributes:
        name: a built-in name, a Hugging Face folder or a hub id.
        validation: how many training examples are held out, or which fraction; see `prunus.data.load`.
        scale: `standard` gives each channel mean 0 and deviation 1 over the training split; `unit` leaves images in
            [0, 1].
    """

    model_config = _STRICT
    name: str = "digits"
    validation: int | float | None = None
    scale: Literal["standard", "unit"] = "standard"


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

    model_config = _STRICT
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


TrainConfig = pydantic.dataclasses.dataclass(Recipe, config=_STRICT)


class Setting(BaseModel):
    """One network on one data set, trained and pruned in one way: a row of the figure."""

    model_config = _STRICT
    model: ModelConfig
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()  # type: ignore[valid-type]
    prune: PruneConfig = PruneConfig()


class LotteryTicket(BaseModel):
    """The lottery-ticket study, resolved: each variant says all there is to say about it.

    Attributes:
        study: the kind of study.
        preset: what the file builds on.
        name: the study's folder; default the study's and preset's names.
        title: what the report is called.
        seed: what all random numbers are derived from.
        trials: repetitions, each with its own initialisation, data order and controls.
        threads: of PyTorch; results depend on it in the last bits, so it is part of a cell's identity.
        device: `cpu`, `cuda`, `cuda:1`, `mps`; `auto` takes a GPU where there is one.
        arms: the controls beside the ticket.
        control_rounds: the rounds in which controls are trained; null is all but the dense one.
        variants: the settings by name; in a file, each need only say what differs from the settings around it.
    """

    model_config = _STRICT
    study: Literal["lottery-ticket"] = "lottery-ticket"
    preset: str = "quick"
    name: str = Field("", pattern=r"^[\w][\w.-]*$")
    title: str = ""
    seed: int = 0
    trials: AtLeastOne = 3
    threads: int = Field(1, ge=1, le=1024)
    device: str = Field("auto", validate_default=True)
    arms: tuple[Control, ...] = ("reinit", "shuffle")
    control_rounds: tuple[AtLeastOne, ...] | None = None
    variants: dict[str, Setting] = Field(min_length=1)

    @field_validator("device")
    @classmethod
    def _there(cls, device: str, info: ValidationInfo) -> str:
        return check_device(device, bool(info.context and info.context["elsewhere"]))

    @field_validator("name")
    @classmethod
    def _free(cls, name: str) -> str:
        if name in RESERVED or len(name) > 100:
            raise Invalid(f"name is {name!r}; allowed: at most 100 characters, and not {' or '.join(RESERVED)}")
        return name

    @field_validator("arms")
    @classmethod
    def _once(cls, arms: tuple[Control, ...]) -> tuple[Control, ...]:
        if len(set(arms)) < len(arms):
            raise Invalid(f"arms is {list(arms)}; allowed: each of reinit, shuffle, random once")
        return arms

    @model_validator(mode="after")
    def _rounds_exist(self) -> "LotteryTicket":
        for number in self.control_rounds or ():
            if number > self.most_rounds:
                raise Invalid(f"control_rounds has {number}; allowed: up to the {self.most_rounds} of prune.rounds")
        return self

    @property
    def most_rounds(self) -> int:
        """The largest number of rounds of any variant."""
        return max(setting.prune.rounds for setting in self.variants.values())


def check_device(device: str, elsewhere: bool = False) -> str:
    """`device` as a device that is there; `auto` is a GPU where there is one, and else the CPU.

    Args:
        device: its name.
        elsewhere: whether other machines will train; `cuda` is then left for them to check.

    Raises:
        Invalid: if there is no such device.
    """
    import torch

    if elsewhere and device == "cuda":
        return device
    there = ["cpu"]
    there += ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))] if torch.cuda.is_available() else []
    there += ["mps"] if torch.backends.mps.is_available() else []
    if device == "auto":
        return there[1] if len(there) > 1 else "cpu"
    if device not in there:
        raise Invalid(f"device is {device!r}; here there is: auto, {', '.join(there)}")
    return device
