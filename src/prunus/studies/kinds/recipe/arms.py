"""What the recipe study compares: parts of the recipe, alone and together."""

from collections.abc import Callable, Mapping
from inspect import signature
from types import MappingProxyType
from typing import Any

from prunus.sparse_training.tost import GhostSkips, LabelSmoothing, SoftNeurons, rescale_init

#: What a study gives to the parts itself.
_GIVEN = ("model", "total_steps", "seed", "batches", "loss")


def _options(part: Callable[..., Any], *given: str) -> Mapping[str, Any]:
    parameters = signature(part).parameters.values()
    return MappingProxyType({p.name: p.default for p in parameters if p.name not in (*_GIVEN, *given)})


#: The parts, as `Switches` names them, each with the options that a study may say and their defaults. That of the
#: optimizer of `rescaled_init` is the training's.
PARTS: Mapping[str, Mapping[str, Any]] = {
    "soft_neurons": _options(SoftNeurons),
    "ghost_skips": _options(GhostSkips, "optimizer"),
    "label_smoothing": _options(LabelSmoothing),
    "rescaled_init": {**_options(rescale_init), "optimizer": None},
}

#: The arm without any of them. It is always trained.
PLAIN = "plain"

#: The parts of each other arm, in the order of the figures.
PARTS_OF = {
    "soft-neurons": ("soft_neurons",),
    "ghost-skips": ("ghost_skips",),
    "label-smoothing": ("label_smoothing",),
    "rescaled-init": ("rescaled_init",),
    "all-but-smoothing": ("soft_neurons", "ghost_skips", "rescaled_init"),
    "all": tuple(PARTS),
}

WORDS = {
    PLAIN: "plain training",
    "soft-neurons": "soft neurons",
    "ghost-skips": "ghost skips",
    "label-smoothing": "label smoothing",
    "rescaled-init": "rescaled initialisation",
    "all-but-smoothing": "all but label smoothing",
    "all": "all four",
}
