"""Schedules: density as a function of progress.

A schedule is `f(progress, final, initial=1.0) -> density`: at progress 0 it is exactly `initial`, at progress 1
exactly `final`, and between them it never turns back. Progress is a fraction of the way, of rounds or of steps.
"""

from collections.abc import Callable
from math import cos, pi

from prunus.core.errors import Invalid, check_density
from prunus.core.registry import Table

Schedule = Callable[..., float]


def one_shot(progress: float, final: float, initial: float = 1.0) -> float:
    """`final` as soon as progress is above 0.

    Args:
        progress: in [0, 1].
        final: the density at progress 1, in (0, 1].
        initial: the density at progress 0, in (0, 1].

    Raises:
        Invalid: if one of them is outside its range.
    """
    return _straight(lambda t: 1.0 if t else 0.0, progress, final, initial)


def linear(progress: float, final: float, initial: float = 1.0) -> float:
    """The same number of weights in each step: initial + (final − initial) · progress.

    Arguments as for `one_shot`.
    """
    return _straight(lambda t: t, progress, final, initial)


def exponential(progress: float, final: float, initial: float = 1.0) -> float:
    """The same fraction of the weights left in each step: initial · (final / initial) ^ progress.

    Iterative magnitude pruning at a fixed rate (Frankle and Carbin, "The lottery ticket hypothesis", 2019, ICLR),
    and the schedule of SynFlow (Tanaka et al., "Pruning neural networks without any data by iteratively conserving
    synaptic flow", 2020, NeurIPS). Arguments as for `one_shot`.
    """
    start, end = _checked(progress, final, initial)
    return _between(start * (end / start) ** progress, progress, start, end)


def cubic(progress: float, final: float, initial: float = 1.0) -> float:
    """Fast at first, slow at the end: final + (initial − final) · (1 − progress)³.

    Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression", 2017,
    arXiv. Arguments as for `one_shot`.
    """
    return _straight(lambda t: 1 - (1 - t) ** 3, progress, final, initial)


def cosine(progress: float, final: float, initial: float = 1.0) -> float:
    """Slow at both ends: final + (initial − final) · (1 + cos(π · progress)) / 2.

    The half cosine of Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017, ICLR,
    used for the fraction dropped by Dettmers and Zettlemoyer, "Sparse networks from scratch", 2019, arXiv.
    Arguments as for `one_shot`.
    """
    return _straight(lambda t: (1 - cos(pi * t)) / 2, progress, final, initial)


#: The schedules by name.
SCHEDULES: Table[Schedule] = Table(
    "schedule",
    {"one-shot": one_shot, "linear": linear, "exponential": exponential, "cubic": cubic, "cosine": cosine},
    group="prunus.schedules",
)


def _straight(way: Callable[[float], float], progress: float, final: float, initial: float) -> float:
    """The density after the fraction way(progress) of the distance from `initial` to `final`."""
    start, end = _checked(progress, final, initial)
    travelled = way(progress)
    return _between(start + (end - start) * travelled if travelled < 1 else end, progress, start, end)


def _between(density: float, progress: float, start: float, end: float) -> float:
    # the ends are exact, and a rounding does not step past them
    if progress in (0, 1):
        return end if progress else start
    return min(max(density, min(start, end)), max(start, end))


def _checked(progress: float, final: float, initial: float) -> tuple[float, float]:
    if isinstance(progress, bool) or not isinstance(progress, int | float) or not 0 <= progress <= 1:
        raise Invalid(f"progress is {progress!r}; allowed: a number in [0, 1]")
    return check_density(initial, "initial"), check_density(final, "final")
