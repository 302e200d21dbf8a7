"""The house style of figures: colours and markers; fonts, lines and themes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import cycle
from typing import Any


@dataclass(frozen=True)
class Look:
    """How a curve is drawn.

    Attributes:
        colour: on white paper.
        dark: on dark paper.
        marker: matplotlib's name of its marker.
        shape: the same marker as an SVG path of about ten units around the origin, for the page's legend.
        dashes: how long its line is drawn and left out in turn, in widths of the line; nothing is a whole line.
    """

    colour: str
    dark: str
    marker: str
    shape: str
    dashes: tuple[float, ...] = ()

    @property
    def line(self) -> Any:
        """Matplotlib's line style."""
        return (0, self.dashes) if self.dashes else "-"


#: Looks that are told apart by colour-blind eyes: the colours of Okabe and Ito, "Color universal design", 2008, in an
#: order in which neighbours differ most, the yellow darkened for white paper; and a marker of its own for each.
PALETTE = (
    Look("#0072b2", "#56b4e9", "o", "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z"),
    Look("#d55e00", "#f08a3c", "s", "M-3.6,-3.6h7.2v7.2h-7.2z"),
    Look("#009e73", "#35c79a", "^", "M0,-4.4L4.4,3.6H-4.4z"),
    Look("#cc79a7", "#e29bc4", "D", "M0,-4.8L4.8,0L0,4.8L-4.8,0z"),
    Look("#e69f00", "#f5c24c", "v", "M0,4.4L4.4,-3.6H-4.4z"),
    Look("#000000", "#ffffff", "P", "M-1.5,-4.4h3v2.9h2.9v3h-2.9v2.9h-3v-2.9h-2.9v-3h2.9z"),
    Look("#56b4e9", "#a6dcff", "<", "M-4.4,0L3.6,-4.4V4.4z"),
    Look("#9a8700", "#f0e442", ">", "M4.4,0L-3.6,-4.4V4.4z"),
)


@dataclass(frozen=True)
class Arm:
    """How an arm is called and drawn.

    Attributes:
        words: its name in the legend.
        look: how it is drawn.
    """

    words: str
    look: Look


def arms(words: Mapping[str, str]) -> dict[str, Arm]:
    """Arms in the colours of the palette.

    Args:
        words: the words of each arm, by its name in records. After as many as the palette has looks, they come again.
    """
    return {name: Arm(said, look) for (name, said), look in zip(words.items(), cycle(PALETTE), strict=False)}


#: How lines to compare with are dashed, in their order.
DASHES = ((0, (1, 1.8)), (0, (5, 2)), (0, (5, 2, 1, 2)), (0, (9, 3)))


@dataclass(frozen=True)
class Theme:
    """The colours of one drawing: text and axes, lesser text, grid lines, background, arms."""

    ink: str
    muted: str
    grid: str
    paper: str
    arms: Mapping[str, str]


def light(arms: Mapping[str, Arm]) -> Theme:
    """The colours of the figure's files."""
    return Theme("#1d2024", "#6a6f76", "#e7e8ea", "#ffffff", {name: arm.look.colour for name, arm in arms.items()})


def stand_ins(arms: Iterable[str]) -> dict[str, str]:
    """Colours that stand for CSS variables: drawn like any other, then replaced in the SVG text (see panel.py)."""
    roles = ("ink", "muted", "grid", "paper")
    return {
        **{name: f"#0a0b{i:02x}" for i, name in enumerate(roles, start=1)},
        **{f"arm-{name}": f"#0a0b{i:02x}" for i, name in enumerate(arms, start=16)},
    }


def themed(arms: Mapping[str, Arm]) -> Theme:
    """The colours of a page's drawings, which are stand-ins."""
    there = stand_ins(arms)
    of_arms = {name: there[f"arm-{name}"] for name in arms}
    return Theme(there["ink"], there["muted"], there["grid"], there["paper"], of_arms)


def rc(theme: Theme, *, text_as_text: bool) -> dict[Any, Any]:
    """Matplotlib's settings for a drawing in the house style.

    Args:
        theme: its colours.
        text_as_text: whether an SVG holds letters (in the reader's own font) or their outlines.
    """
    return {
        "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure on every machine
        "font.size": 9.5,
        "text.color": theme.ink,
        "axes.edgecolor": theme.muted,
        "axes.linewidth": 0.8,
        "axes.labelcolor": theme.muted,
        "axes.labelsize": 9.5,
        "axes.titlecolor": theme.ink,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "grid.color": theme.grid,
        "grid.linewidth": 0.8,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "xtick.major.width": 0.8,
        "xtick.major.size": 3.5,
        "ytick.major.size": 0,
        "lines.linewidth": 1.6,
        "lines.markersize": 4.6,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "svg.fonttype": "none" if text_as_text else "path",
        "svg.hashsalt": "prunus",  # the same drawing has the same ids
    }
