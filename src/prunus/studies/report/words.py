"""Numbers and names as reports write them."""

from collections.abc import Iterable

from prunus.studies.report.view import Point

#: How the papers spell the beginnings of networks' names.
_SPELLED = ("LeNet", "Conv", "VGG", "ResNet", "Wide-ResNet", "WRN", "MobileNet")


def trials(points: Iterable[Point]) -> str:
    """How many trials the points are the mean of, in words: "5 trials", "2 to 5 trials"."""
    counts = {p.n for p in points}
    least, most = min(counts), max(counts)
    return f"{least} to {most} trials" if least < most else f"{most} trial{'s' if most > 1 else ''}"


def percent(density: float) -> str:
    """A density in percent as the papers print it: 100, 51.2, 7.0, 0.85."""
    if density >= 99.95:
        return "100"
    return f"{density:.1f}" if density >= 1 else f"{density:.2g}"


def called(network: str) -> str:
    """A network's name as the papers spell it: LeNet-300-100, Conv-6."""
    for name in _SPELLED:
        if network.startswith(name.lower() + "-"):
            return name + network[len(name) :]
    return network
