"""What every study has: the models that its YAML file is checked by. Each kind of study adds its own to them."""

from typing import Annotated, Generic, Literal, TypeVar, get_args

import pydantic
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from prunus.core.errors import Invalid
from prunus.models import MODELS
from prunus.training import Recipe

#: The folders that a results folder has beside those of its studies.
RESERVED = ("cells", "partial")

STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)
Fraction = Annotated[float, Field(ge=0, lt=1)]
Whole = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]


class ModelConfig(BaseModel):
    """Which network: a name of `prunus list models`, and the factor on its hidden widths."""

    model_config = STRICT
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
        examples: how many of the other training examples are used; null is all.
        scale: `standard` gives each channel mean 0 and deviation 1 over the training split; `unit` leaves images in
            [0, 1].
    """

    model_config = STRICT
    name: str = "digits"
    validation: int | float | None = None
    examples: AtLeastOne | None = None
    scale: Literal["standard", "unit"] = "standard"


TrainConfig = pydantic.dataclasses.dataclass(Recipe, config=STRICT)


class BaseSetting(BaseModel):
    """One network on one data set: a row of the figure. A kind of study adds what it does with them.

    A kind that trains calls its recipe `train: TrainConfig = TrainConfig()`.
    """

    model_config = STRICT
    model: ModelConfig
    data: DataConfig = DataConfig()


SettingT = TypeVar("SettingT", bound=BaseSetting)


class Study(BaseModel, Generic[SettingT]):
    """A study, resolved: each variant says all there is to say about it.

    A kind of study is a subclass, `class Mine(Study[MySetting])`, with fields of its own.

    Attributes:
        study: the kind of study.
        preset: what the file builds on.
        name: the study's folder; default the study's and preset's names.
        title: what the report is called.
        seed: what all random numbers are derived from.
        trials: repetitions, each with random numbers of its own.
        threads: of PyTorch; results depend on it in the last bits, so it is part of a cell's identity.
        device: `cpu`, `cuda`, `cuda:1`, `mps`; `auto` takes a GPU where there is one.
        variants: the settings by name; in a file, each need only say what differs from the settings around it.
    """

    model_config = STRICT
    study: str
    preset: str = ""
    name: str = Field("", pattern=r"^[\w][\w.-]*$")
    title: str = ""
    seed: int = 0
    trials: AtLeastOne = 3
    threads: int = Field(1, ge=1, le=1024)
    device: str = Field("auto", validate_default=True)
    variants: dict[str, SettingT] = Field(min_length=1)

    @field_validator("device")
    @classmethod
    def _there(cls, device: str, info: ValidationInfo) -> str:
        return check_device(device, bool(info.context and info.context.get("elsewhere")))

    @field_validator("name")
    @classmethod
    def _free(cls, name: str) -> str:
        if name in RESERVED or len(name) > 100:
            raise Invalid(f"name is {name!r}; allowed: at most 100 characters, and not {' or '.join(RESERVED)}")
        return name

    @classmethod
    def setting(cls) -> type[BaseSetting]:
        """The model of one variant."""
        return get_args(cls.model_fields["variants"].annotation)[1]


def inherited(info: ValidationInfo) -> frozenset[str]:
    """The keys of a study, of those at the top, whose values are only its preset's: nobody has asked for them."""
    return info.context.get("inherited", frozenset()) if info.context else frozenset()


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
