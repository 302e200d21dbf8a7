"""The names of what the same-ticket study compares."""

from itertools import combinations

from prunus.studies.kinds.supermask.arms import WORDS

#: The ticket that needs no learned scores: the largest weights of the trained network.
MAGNITUDE = "magnitude"

#: Ways to find a mask, in the order of the figures, with their words.
FINDERS = {MAGNITUDE: "magnitude", **WORDS}

#: What differs between two runs of one method; all else is the same.
RELATIONS = ("order", "init", "scores", "all")


def within(method: str, relation: str) -> str:
    """The arm of two runs of one method."""
    return f"{method}-{relation}"


def between(one: str, other: str) -> str:
    """The arm of two methods over the same weights, in the order of `FINDERS`."""
    return f"{one}-and-{other}"


#: The two methods of each arm that compares two.
BETWEEN = {between(one, other): (one, other) for one, other in combinations(FINDERS, 2)}
