"""The configuration of the recipe study."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, ValidationInfo, field_validator, model_validator

from prunus.core.allocation import ALLOCATIONS
from prunus.core.errors import Invalid, nearest
from prunus.pruning import CRITERIA
from prunus.studies.config import STRICT, AtLeastOne, BaseSetting, Study, TrainConfig
from prunus.studies.kinds.recipe.arms import PARTS, PARTS_OF

Density = Annotated[float, Field(gt=0, lt=1)]

#: The mask of the largest weights of the trained dense network, on its initial weights.
TICKET = "ticket"


class MaskConfig(BaseModel):
    """Which mask is trained under.

    Attributes:
        name: a name of `prunus list criteria`, or `ticket`: the largest weights after the training of the dense
            network, on their initial values.
        scope: how the density is shared among the layers, as in `prunus.select`; null is Erdős–Rényi (`erk`) for
            `random` and `global` for all others.
        per_class: how many training examples of each class a criterion looks at.
        mode: whether BatchNorm uses its own statistics (`eval`) or the batch's (`train`) while it does; null is as the
            criterion has it.
        protect: how many weights each layer keeps at least, or which fraction of its own.
    """

    model_config = STRICT
    name: str = "random"
    scope: str | None = None
    per_class: AtLeastOne = 10
    mode: Literal["eval", "train"] | None = None
    protect: int | float | None = None

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in (TICKET, *CRITERIA):
            raise Invalid(f"name is {name!r}; {nearest(name, (TICKET, *CRITERIA))}")
        return name

    @field_validator("scope")
    @classmethod
    def _shared(cls, scope: str | None) -> str | None:
        if scope is not None:
            ALLOCATIONS.look_up(scope, "scope")
        return scope

    @property
    def allocation(self) -> str:
        """The scope, said or not."""
        return self.scope or ("erk" if self.name == "random" else "global")


class Switches(BaseModel):
    """The options of each part of the recipe.

    Attributes:
        soft_neurons: of `prunus.sparse_training.SoftNeurons`, but for the model and the length of training.
        ghost_skips: of `prunus.sparse_training.GhostSkips`, but for these, the optimizer and the seed.
        label_smoothing: of `prunus.sparse_training.LabelSmoothing`, but for the length of training.
        rescaled_init: of `prunus.sparse_training.rescale_init`, but for the model, batches and loss; its `optimizer` is
            by default that of the training.
    """

    model_config = STRICT
    soft_neurons: dict[str, Any] = {}
    ghost_skips: dict[str, Any] = {}
    label_smoothing: dict[str, Any] = {}
    rescaled_init: dict[str, Any] = {}

    @field_validator(*PARTS)
    @classmethod
    def _known(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        for name in options:
            if name not in PARTS[str(info.field_name)]:
                raise Invalid(f"{name!r} is no option; {nearest(name, PARTS[str(info.field_name)])}")
        return options


class Setting(BaseSetting):
    """One network on one data set with masks of one kind: a row of the figure.

    Attributes:
        densities: the fractions of weights that masks keep.
        mask: which masks.
        switches: options of the parts, in every arm that has them.
        recipes: options by arm, which win over these.
        arms: what is trained beside plain training.
    """

    train: TrainConfig = TrainConfig()  # type: ignore[valid-type]
    densities: tuple[Density, ...] = (0.05, 0.02)
    mask: MaskConfig = MaskConfig()
    switches: Switches = Switches()
    recipes: dict[str, Switches] = Field({})
    arms: tuple[str, ...] = tuple(PARTS_OF)

    @field_validator("densities")
    @classmethod
    def _distinct(cls, densities: tuple[float, ...]) -> tuple[float, ...]:
        if not densities or len(set(densities)) < len(densities):
            raise Invalid(f"densities is {list(densities)}; allowed: at least one, and each once")
        return tuple(sorted(densities, reverse=True))

    @field_validator("recipes")
    @classmethod
    def _of_arms(cls, recipes: dict[str, Switches]) -> dict[str, Switches]:
        for arm, switches in recipes.items():
            if arm not in PARTS_OF:
                raise Invalid(f"{arm!r} is no arm; {nearest(arm, PARTS_OF)}")
            for part, options in switches:
                if options and part not in PARTS_OF[arm]:
                    raise Invalid(f"{arm} has {part}; {nearest(part, PARTS_OF[arm])}")
        return recipes

    @field_validator("arms")
    @classmethod
    def _known(cls, arms: tuple[str, ...]) -> tuple[str, ...]:
        for arm in arms:
            if arm not in PARTS_OF:
                raise Invalid(f"arms has {arm!r}; {nearest(arm, PARTS_OF)}")
        if not arms or len(set(arms)) < len(arms):
            raise Invalid(f"arms is {list(arms)}; allowed: at least one, and each once")
        return arms

    @model_validator(mode="after")
    def _resolved(self) -> Self:
        # said in full, so that a stored study does not get options of its preset back
        return self.model_copy(update={"recipes": {arm: self._of(arm) for arm in self.arms}})

    def _of(self, arm: str) -> Switches:
        shared, own = dict(self.switches), dict(self.recipes.get(arm, Switches()))
        return Switches(**{part: {**PARTS[part], **shared[part], **own[part]} for part in PARTS_OF[arm]})


class RecipeStudy(Study[Setting]):
    """The recipe study, resolved."""
