"""The house style of figures: the arms' names, colours and markers; fonts, lines and themes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Arm:
    """How an arm is called and drawn.

    Attributes:
        words: its name in the legend.
        colour: from the palette of Okabe and Ito, "Color universal design", 2008: told apart by colour-blind eyes.
        marker: matplotlib's name of its marker.
        shape: the same marker as an SVG path of about ten units around the origin, for the page's legend.
    """

    words: str
    colour: str
    marker: str
    shape: str


ARMS: Mapping[str, Arm] = {
    "ticket": Arm("winning ticket", "#0072b2", "o", "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z"),
    "reinit": Arm("random re-initialisation", "#d55e00", "s", "M-3.6,-3.6h7.2v7.2h-7.2z"),
    "shuffle": Arm("layerwise-shuffled mask", "#009e73", "^", "M0,-4.4L4.4,3.6H-4.4z"),
    "random": Arm("random mask, new weights", "#cc79a7", "D", "M0,-4.8L4.8,0L0,4.8L-4.8,0z"),
}


@dataclass(frozen=True)
class Theme:
    """The colours of one drawing: text and axes, lesser text, grid lines, background, arms."""

    ink: str
    muted: str
    grid: str
    paper: str
    arms: Mapping[str, str]


LIGHT = Theme("#1d2024", "#6a6f76", "#e7e8ea", "#ffffff", {name: arm.colour for name, arm in ARMS.items()})

# Colours that stand for CSS variables: drawn like any other, then replaced in the SVG text (see panel.py).
STAND_INS = {
    "ink": "#0a0b01",
    "muted": "#0a0b02",
    "grid": "#0a0b03",
    "paper": "#0a0b04",
    **{name: f"#0a0b{i:02x}" for i, name in enumerate(ARMS, start=16)},
}
THEMED = Theme(
    STAND_INS["ink"],
    STAND_INS["muted"],
    STAND_INS["grid"],
    STAND_INS["paper"],
    {name: STAND_INS[name] for name in ARMS},
)


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
