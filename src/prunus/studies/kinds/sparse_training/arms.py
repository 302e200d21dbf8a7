"""What the studies of sparse training compare."""

from collections.abc import Iterator, Mapping
from typing import Any

from prunus.sparse_training import METHODS

#: The arm that is trained dense, pruned and trained on.
PRUNED = "pruned"

#: The arm of the dense network with fewer units.
NARROW = "narrow"

#: Arms that have no method.
PLAIN = (PRUNED, NARROW)

#: Ways to train, in the order of the figures, and their words. The method of an arm is its name, unless the table below
#: says another.
WORDS = {
    "rigl": "RigL",
    "set": "SET",
    "static": "static",
    "snfs": "SNFS",
    "granet": "GraNet",
    PRUNED: "pruned after training",
    "gmp": "gradual pruning",
    "mest": "MEST",
    "dsr": "DSR",
    "top-kast": "Top-KAST",
    "str": "STR",
    "srigl": "SRigL",
    NARROW: "narrow dense network",
    "rigl-uniform": "RigL, uniform",
    "set-uniform": "SET, uniform",
    "static-uniform": "static, uniform",
    "rigl-n-m": "RigL, 2:4",
    "static-n-m": "static, 2:4",
}

#: The method of an arm whose name is not one, and the options that make it what it is called.
METHOD_OF = {name: name.split("-")[0] for name in WORDS if name.endswith(("-uniform", "-n-m"))}
OPTIONS_OF: Mapping[str, Mapping[str, Any]] = {
    name: {"scope": "uniform"} if name.endswith("-uniform") else {"pattern": "2:4"} for name in METHOD_OF
}

#: Methods that learn their density.
WITHOUT_TARGET = ("str",)

#: The longest training, as a multiple of the dense network's.
LONGEST = 10


def words() -> dict[str, str]:
    """The words of all arms but the dense network, by name; methods of other packages are called by theirs."""
    return {**WORDS, **{name: name for name in METHODS if name not in WORDS}}


def named(arm: str, length: int) -> str:
    """What an arm is called in records when it trains so many times as long."""
    return arm if length == 1 else f"{arm}-{length}x"


def each_length() -> Iterator[tuple[str, str, int]]:
    """Each arm at each length: its name in records, its words, and the length."""
    for length in range(1, LONGEST + 1):
        for arm, said in words().items():
            if length == 1 or arm not in PLAIN:
                yield named(arm, length), said if length == 1 else f"{said}, {length}×", length
