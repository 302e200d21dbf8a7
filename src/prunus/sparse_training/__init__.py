"""Networks that are sparse from the first step to the last: objects with `.step()`, for any model and any loop."""

from prunus.core.registry import Table
from prunus.sparse_training.base import SparseTraining
from prunus.sparse_training.dsr import DSR
from prunus.sparse_training.dynamic import ByGradient, Dynamic
from prunus.sparse_training.flops import Flops, flops
from prunus.sparse_training.gmp import GMP
from prunus.sparse_training.granet import GraNet
from prunus.sparse_training.mest import MEST
from prunus.sparse_training.pattern import NM, ConstantFanIn, Pattern
from prunus.sparse_training.record import Update
from prunus.sparse_training.rigl import RigL
from prunus.sparse_training.schedule import UpdateSchedule
from prunus.sparse_training.set import SET
from prunus.sparse_training.snfs import SNFS
from prunus.sparse_training.srigl import SRigL
from prunus.sparse_training.static import Static
from prunus.sparse_training.threshold import STR
from prunus.sparse_training.top_kast import TopKAST
from prunus.sparse_training.tost import GhostSkips, LabelSmoothing, SoftNeurons, ToST, rescale_init

__all__ = [
    "DSR",
    "GMP",
    "MEST",
    "METHODS",
    "NM",
    "SET",
    "SNFS",
    "STR",
    "ByGradient",
    "ConstantFanIn",
    "Dynamic",
    "Flops",
    "GhostSkips",
    "GraNet",
    "LabelSmoothing",
    "Pattern",
    "RigL",
    "SRigL",
    "SoftNeurons",
    "SparseTraining",
    "Static",
    "ToST",
    "TopKAST",
    "Update",
    "UpdateSchedule",
    "flops",
    "rescale_init",
]

#: The methods by name.
METHODS: Table[type[SparseTraining]] = Table(
    "method",
    {method.name: method for method in (Static, SET, SNFS, DSR, RigL, SRigL, GraNet, MEST, GMP, TopKAST, STR)},
    group="prunus.sparse_training",
)
