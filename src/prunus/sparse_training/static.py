"""`Static`: the masks of the beginning, to the end."""

from dataclasses import dataclass
from typing import ClassVar

from prunus.sparse_training.base import SparseTraining


@dataclass(eq=False)
class Static(SparseTraining):
    """Train under the masks of the beginning: random ones of a density, or those of `start`.

    What every other method of this room has to beat. The arguments are those of `SparseTraining`.
    """

    name: ClassVar[str] = "static"
