"""What a study found, as plain records: the one thing that the report reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prunus.core.summary import Layer
from prunus.training.history import Evaluation, Outcome


@dataclass(frozen=True)
class CellResult:
    """What one cell of a study came to: a trial, a round, an arm.

    Attributes:
        key: the content hash of all that determines the cell.
        network: the name of the network, such as "lenet-300-100".
        trial: which repetition, from 0.
        round: its place along the axis of the study. In the lottery-ticket study how many times the network was
            pruned; round 0 of the arm "ticket" is the dense network.
        arm: what of the things that the study compares, such as "ticket" or its control "reinit".
        kept: how many prunable weights are kept; 0 where the cell has no masks.
        total: how many prunable weights there are; 0 where the cell has no masks.
        layers: one row for each prunable parameter; none where the cell has no masks.
        early_stop: the outcome at minimum validation loss; None where nothing was trained.
        final: the outcome at the end of training; None where nothing was trained.
        evaluations: the training curve, by iteration; empty where nothing was trained.
        seconds: how long the cell took.
        environment: versions, device, threads, seed: what the numbers depend on besides the config.
        products: how each layer was computed: "dense", "sparse" or "PyTorch".
        measures: what its kind of study has measured of it beside that, by name.
    """

    key: str
    network: str
    trial: int
    round: int
    arm: str
    kept: int
    total: int
    layers: tuple[Layer, ...]
    early_stop: Outcome | None
    final: Outcome | None
    evaluations: tuple[Evaluation, ...]
    seconds: float
    environment: dict[str, str | int]
    products: Mapping[str, str] = field(default_factory=dict)
    measures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def density(self) -> float:
        """Kept / total (1 where there is no weight)."""
        return self.kept / self.total if self.total else 1.0


@dataclass(frozen=True)
class Results:
    """The finished cells of a study.

    Attributes:
        study: the name of the study.
        title: what it is called in words.
        cells: the cells that are finished, in the order of the study.
        planned: how many cells the whole study has.
        config: the resolved study, as it would be written in YAML.
        command: the command line that makes these results again.
        kind: the name of the kind of study, which says how it is reported.
    """

    study: str
    title: str
    cells: tuple[CellResult, ...]
    planned: int
    config: dict
    command: str
    kind: str = "lottery-ticket"
