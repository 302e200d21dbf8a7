"""A training, stopped half-way, as one file: weights, optimizer, records, and the global generator's state."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from prunus.core.errors import Invalid
from prunus.core.files import read_tensors, write_tensors
from prunus.training.history import Evaluation


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    sums: Tensor,
    evaluations: Sequence[Evaluation],
    where: Mapping[str, int],
) -> None:
    """Write where a training stands to `path`, complete or not at all."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{n}": t for n, t in state.items() if isinstance(t, Tensor)}
    tensors |= {"sums": sums, "generator": torch.get_rng_state()}
    if sums.is_cuda:
        tensors["cuda generator"] = torch.cuda.get_rng_state(sums.device)
    metadata = {"where": json.dumps(dict(where)), "evaluations": json.dumps([asdict(e) for e in evaluations])}
    write_tensors(path, tensors, metadata)


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, sums: Tensor, where: Mapping[str, int]
) -> tuple[int, list[Evaluation]]:
    """Put `model`, `optimizer` and `sums` where the checkpoint stands; its iteration and evaluations.

    Raises:
        Invalid: if the file is damaged, or was left by a training of another length or model.
    """
    try:
        tensors, metadata = read_tensors(path)
    except Invalid as error:
        raise Invalid(f"{error}; remove it, and the training starts again") from error
    stands = json.loads(metadata["where"])
    if {name: stands[name] for name in where} != dict(where):
        raise Invalid(f"{path}: a checkpoint of another training ({stands}, not {dict(where)}); remove it")
    weights = {n.removeprefix("model/"): t for n, t in tensors.items() if n.startswith("model/")}
    if weights.keys() != model.state_dict().keys():
        raise Invalid(f"{path}: a checkpoint of another model; remove it")
    model.load_state_dict(weights)
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, index, entry = name.split("/")
            state.setdefault(int(index), {})[entry] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    sums.copy_(tensors["sums"])
    torch.set_rng_state(tensors["generator"])
    if "cuda generator" in tensors:
        torch.cuda.set_rng_state(tensors["cuda generator"], sums.device)
    return stands["iteration"], [Evaluation(**e) for e in json.loads(metadata["evaluations"])]
