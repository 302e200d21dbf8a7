"""What a built network was built from: enough to build it again."""

from dataclasses import dataclass, replace
from typing import Self

from torch import nn

from prunus.core.errors import Invalid

#: Where a model keeps its `Reference`: a plain attribute, carried by deepcopy and pickle and not seen by state_dict.
_REFERENCE = "_prunus_reference"


@dataclass(frozen=True)
class Reference:
    """What `build` was given.

    Attributes:
        name: of the network, in `MODELS`.
        input_shape: (channels, height, width) of an image.
        classes: how many outputs there are.
        width: factor on the number of units and channels of every hidden layer.
    """

    name: str
    input_shape: tuple[int, int, int]
    classes: int
    width: float = 1.0

    @classmethod
    def of(cls, value: object) -> Self:
        """The reference that was written as JSON.

        Raises:
            Invalid: if it is none.
        """
        try:
            made = cls(**value)  # type: ignore[arg-type]
            return replace(made, input_shape=tuple(made.input_shape))  # JSON has lists
        except TypeError as error:
            raise Invalid(f"{value!r} is no reference to a network ({error})") from error


def note_reference(model: nn.Module, reference: Reference) -> None:
    """Note on `model` what it was built from."""
    setattr(model, _REFERENCE, reference)


def reference_of(model: nn.Module) -> Reference | None:
    """What `build` made `model`, or the model that it is a copy of, from; None for any other model.

    What was done to the model since does not show in it.
    """
    return vars(model).get(_REFERENCE)
