"""The one error that a user can mend, and the words it is told in."""

from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Real


class Invalid(ValueError):
    """Something given to Prunus is not what it takes: the message names it, its value and what is allowed.

    The command line prints the message as one line and ends with exit code 2.
    """


def nearest(name: str, allowed: Iterable[str], most: int = 12) -> str:
    """A phrase that says what would have been allowed: the nearest name if one is near, else all (or `most`)."""
    names = [str(a) for a in allowed]
    if close := get_close_matches(str(name), names, n=1, cutoff=0.6):
        return f"did you mean {close[0]!r}?"
    if not names:
        return "there are none"
    shown = ", ".join(names[:most])
    return f"allowed: {shown}" + (f", … ({len(names)} in all)" if len(names) > most else "")


def check_density(density: float, name: str = "density") -> float:
    """`density` as a float in (0, 1].

    Raises:
        Invalid: if it is not a number in (0, 1].
    """
    if isinstance(density, bool) or not isinstance(density, Real) or not 0 < density <= 1:
        raise Invalid(f"{name} is {density!r}; allowed: a number in (0, 1]")
    return float(density)
