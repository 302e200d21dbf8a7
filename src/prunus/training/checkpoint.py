"""A training, stopped half-way, as one file: weights, moments, records, and the state of its generators.

The order of the data needs no saving: it is a function of the seed. The file does not depend on how the network is
computed, so a training may go on in another stack, with other kernels, or on another device.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from prunus.core.errors import Invalid
from prunus.core.files import read_tensors, write_tensors
from prunus.training.history import Evaluation
from prunus.training.lane import Lane

#: What a lane has in memory besides its weights, by name: the optimizer's moments (`exp_avg/fc1.weight`), generators.
State = Mapping[str, Tensor]


def save_checkpoint(lane: Lane, state: State) -> None:
    """Write where `lane` stands, its weights being in its model, complete or not at all."""
    assert lane.checkpoint is not None
    tensors = {f"model/{name}": tensor for name, tensor in lane.model.state_dict().items()}
    tensors |= {f"state/{name}": tensor for name, tensor in state.items()}
    tensors["sums"] = lane.sums
    metadata = {
        "where": json.dumps({**_span(lane), "iteration": lane.iteration}),
        "evaluations": json.dumps([asdict(e) for e in lane.evaluations]),
    }
    write_tensors(lane.checkpoint, tensors, metadata)


def load_checkpoint(lane: Lane) -> State:
    """Put `lane` where its checkpoint stands, if there is one; what it had in memory besides its weights.

    Raises:
        Invalid: if the file is damaged, or was left by a training of another length or model.
    """
    path = lane.checkpoint
    if path is None or not path.exists():
        return {}
    stands, tensors, evaluations = _read(path)
    if {name: stands.get(name) for name in _span(lane)} != _span(lane):
        raise Invalid(f"{path}: a checkpoint of another training ({stands}, not {_span(lane)}); remove it")
    weights = {n.removeprefix("model/"): t for n, t in tensors.items() if n.startswith("model/")}
    own = {name: tensor.shape for name, tensor in lane.model.state_dict().items()}
    if {name: tensor.shape for name, tensor in weights.items()} != own:
        raise Invalid(f"{path}: a checkpoint of another model; remove it")
    lane.model.load_state_dict(weights)
    lane.sums.copy_(tensors["sums"])
    lane.iteration, lane.evaluations = stands["iteration"], evaluations
    return {n.removeprefix("state/"): t for n, t in tensors.items() if n.startswith("state/")}


def _span(lane: Lane) -> dict[str, int]:
    return {"start": lane.start, "stop": lane.last}


def _read(path: Path) -> tuple[dict[str, int], dict[str, Tensor], list[Evaluation]]:
    try:
        tensors, metadata = read_tensors(path)
        evaluations = [Evaluation(**e) for e in json.loads(metadata["evaluations"])]
        return json.loads(metadata["where"]), tensors, evaluations
    except (Invalid, KeyError, TypeError, ValueError) as error:
        reason = (
            str(error) if isinstance(error, Invalid) else f"{path}: no checkpoint ({type(error).__name__}: {error})"
        )
        raise Invalid(f"{reason}; remove it, and the training starts again") from error
