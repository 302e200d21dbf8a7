"""Masks that are learned over weights that are not: one engine, and one file a method.

| method | learned | mask in the forward pass | gradient to dropped entries | scope, schedule |
| --- | --- | --- | --- | --- |
| `EdgePopup` | scores s | largest abs(s) | w g sign(s) | any / any |
| `Biprop` | scores s | largest abs(s), on signs of w | w g sign(s) | any / any |
| `Bernoulli` | scores s | drawn from σ(s) | w g p (1 − p) | none |
| `GemMiner` | p in [0, 1] | p > 0.5, while flagged | w g while flagged, then 0 | global / geometric |
| `Piggyback` | scores r | r > τ | w g | none |
| `NeuralWirings` | weights w | largest abs(w) | g | any / any |
| `Movement` | weights and scores s | largest s | w g to s, 0 to w | any / any |

g is the gradient of the loss at the masked weight.
"""

from prunus.core.registry import Table
from prunus.supermasks.artefact import load, save
from prunus.supermasks.baking import bake
from prunus.supermasks.bernoulli import Bernoulli
from prunus.supermasks.binary_activations import BinaryActivation, binary_activations
from prunus.supermasks.biprop import Biprop
from prunus.supermasks.contents import Artefact
from prunus.supermasks.edge_popup import EdgePopup
from prunus.supermasks.engine import Supermask, scores, supermask, supermask_of
from prunus.supermasks.gem_miner import GemMiner
from prunus.supermasks.method import Method
from prunus.supermasks.movement import Movement
from prunus.supermasks.part import Part
from prunus.supermasks.piggyback import Piggyback
from prunus.supermasks.weights import WEIGHTS, Origin
from prunus.supermasks.wirings import NeuralWirings

__all__ = [
    "METHODS",
    "WEIGHTS",
    "Artefact",
    "Bernoulli",
    "BinaryActivation",
    "Biprop",
    "EdgePopup",
    "GemMiner",
    "Method",
    "Movement",
    "NeuralWirings",
    "Origin",
    "Part",
    "Piggyback",
    "Supermask",
    "bake",
    "binary_activations",
    "load",
    "save",
    "scores",
    "supermask",
    "supermask_of",
]

#: The methods by name; a row called with a method's options makes one.
METHODS: Table[type[Method]] = Table(
    "supermask",
    {
        "edge-popup": EdgePopup,
        "biprop": Biprop,
        "bernoulli": Bernoulli,
        "gem-miner": GemMiner,
        "piggyback": Piggyback,
        "neural-wirings": NeuralWirings,
        "movement": Movement,
    },
    group="prunus.supermasks",
)
