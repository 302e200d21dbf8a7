"""What a study found, as plain records: the one thing that the report reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from prunus.core.summary import Layer
from prunus.training.history import Evaluation, Outcome


@dataclass(frozen=True)
class CellResult:
    """One trained network of a study: a trial, a round, an arm.

    Attributes:
        key: the content hash of all that determines the cell.
        network: the name of the network, such as "lenet-300-100".
        trial: which repetition, from 0.
        round: how many times the network was pruned; round 0 of the arm "ticket" is the dense network.
        arm: "ticket", or the control it is compared with: "reinit", "shuffle", "random".
        kept: how many prunable weights are kept.
        total: how many prunable weights there are.
        layers: one row for each prunable parameter.
        early_stop: the outcome at minimum validation loss.
        final: the outcome at the end of training.
        evaluations: the training curve, by iteration.
        seconds: how long the cell took.
        environment: versions, device, threads, seed: what the numbers depend on besides the config.
        products: how each layer was computed: "dense", "sparse" or "PyTorch".
    """

    key: str
    network: str
    trial: int
    round: int
    arm: str
    kept: int
    total: int
    layers: tuple[Layer, ...]
    early_stop: Outcome
    final: Outcome
    evaluations: tuple[Evaluation, ...]
    seconds: float
    environment: dict[str, str | int]
    products: Mapping[str, str] = field(default_factory=dict)

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
    """

    study: str
    title: str
    cells: tuple[CellResult, ...]
    planned: int
    config: dict
    command: str
