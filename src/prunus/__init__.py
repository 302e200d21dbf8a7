"""Find, train, measure, store and run the sparse subnetworks hidden inside neural networks.

The public names live in the rooms below and are imported when they are first used, so `import prunus` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from prunus._version import __version__

if TYPE_CHECKING:
    from prunus.core.apply import Handle, apply, masks_of, release
    from prunus.core.errors import Invalid
    from prunus.core.masks import Masks
    from prunus.core.params import prunable
    from prunus.core.select import select
    from prunus.pruning import (
        FORCE,
        SNIP,
        GraSP,
        Inverted,
        IterativeSNIP,
        Magnitude,
        Random,
        Saliency,
        SynFlow,
        prune,
    )
    from prunus.sparse_training import DSR, GMP, MEST, SET, SNFS, STR, GraNet, RigL, SRigL, Static, TopKAST, ToST
    from prunus.supermasks import (
        Bernoulli,
        Biprop,
        EdgePopup,
        GemMiner,
        Movement,
        NeuralWirings,
        Piggyback,
        Supermask,
        bake,
        binary_activations,
        load,
        save,
        scores,
        supermask,
        supermask_of,
    )
    from prunus.tickets import (
        Barrier,
        Ticket,
        error_barrier,
        imp,
        instability,
        randomised,
        reinitialised,
        shuffled,
    )

_HOMES = {
    "prunus.core.apply": ("Handle", "apply", "masks_of", "release"),
    "prunus.core.errors": ("Invalid",),
    "prunus.core.masks": ("Masks",),
    "prunus.core.params": ("prunable",),
    "prunus.core.select": ("select",),
    "prunus.pruning": (
        "FORCE",
        "GraSP",
        "Inverted",
        "IterativeSNIP",
        "Magnitude",
        "Random",
        "SNIP",
        "Saliency",
        "SynFlow",
        "prune",
    ),
    "prunus.sparse_training": (
        "DSR",
        "GMP",
        "GraNet",
        "MEST",
        "RigL",
        "SET",
        "SNFS",
        "SRigL",
        "STR",
        "Static",
        "ToST",
        "TopKAST",
    ),
    "prunus.supermasks": (
        "Bernoulli",
        "Biprop",
        "EdgePopup",
        "GemMiner",
        "Movement",
        "NeuralWirings",
        "Piggyback",
        "Supermask",
        "bake",
        "binary_activations",
        "load",
        "save",
        "scores",
        "supermask",
        "supermask_of",
    ),
    "prunus.tickets": (
        "Barrier",
        "Ticket",
        "error_barrier",
        "imp",
        "instability",
        "randomised",
        "reinitialised",
        "shuffled",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "DSR",
    "FORCE",
    "GMP",
    "MEST",
    "SET",
    "SNFS",
    "SNIP",
    "STR",
    "Barrier",
    "Bernoulli",
    "Biprop",
    "EdgePopup",
    "GemMiner",
    "GraNet",
    "GraSP",
    "Handle",
    "Invalid",
    "Inverted",
    "IterativeSNIP",
    "Magnitude",
    "Masks",
    "Movement",
    "NeuralWirings",
    "Piggyback",
    "Random",
    "RigL",
    "SRigL",
    "Saliency",
    "Static",
    "Supermask",
    "SynFlow",
    "Ticket",
    "ToST",
    "TopKAST",
    "__version__",
    "apply",
    "bake",
    "binary_activations",
    "error_barrier",
    "imp",
    "instability",
    "load",
    "masks_of",
    "prunable",
    "prune",
    "randomised",
    "reinitialised",
    "release",
    "save",
    "scores",
    "select",
    "shuffled",
    "supermask",
    "supermask_of",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'prunus' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
