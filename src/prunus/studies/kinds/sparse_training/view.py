"""How the sparse-training study is reported."""

from prunus.studies.kinds.sparse_training.metrics import (
    ACCURACY,
    ARMS,
    BY_FLOPS,
    COMPRESSION,
    DENSITY,
    INFERENCE,
    SPARSITY,
    TRAINING,
)
from prunus.studies.report.view import View
from prunus.studies.results import Results


def reading(view: View, results: Results) -> list[str]:
    """A paragraph for each network."""
    return []


VIEW = View(
    axis=DENSITY,
    metrics=(ACCURACY, BY_FLOPS),
    columns=(SPARSITY, COMPRESSION, INFERENCE, TRAINING),
    arms=ARMS,
    reading=reading,
    lines={"dense": "dense network"},
)
