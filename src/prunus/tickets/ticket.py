"""`Ticket`: masks together with the weights they belong to, and its file."""

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from prunus.core.apply import Handle, apply
from prunus.core.errors import Invalid, nearest
from prunus.core.files import read_tensors, write_tensors
from prunus.core.masks import Masks

FORMAT = "prunus ticket 1"


@dataclass(frozen=True, eq=False)
class Ticket:
    """Masks together with the initial, or rewound, weights they belong to.

    Args:
        masks: which weights are kept.
        weights: a snapshot of the model's state_dict where training starts, also of what is not kept; may be empty
            in a file that only holds masks.
        round: how many times weights were pruned away; 0 is the dense network.
        provenance: where the ticket comes from, as JSON-able values.
        result: what the training function returned for this ticket; not saved.
    """

    masks: Masks
    weights: Mapping[str, Tensor]
    round: int = 0
    provenance: Mapping[str, Any] = field(default_factory=dict)
    result: Any = None

    @property
    def density(self) -> float:
        """The fraction of prunable weights kept."""
        return self.masks.density

    def install(self, model: nn.Module) -> Handle:
        """Load the weights into `model` and hold the masks in it (see `prunus.apply`).

        Raises:
            Invalid: if the ticket is of another architecture; the model is then unchanged.
        """
        if self.weights:
            own = model.state_dict()
            for name in [*own, *self.weights]:
                if name not in self.weights or name not in own:
                    where, names = ("ticket", self.weights) if name in own else ("model", own)
                    raise Invalid(f"the {where} has no {name!r}; {nearest(name, names)}")
                if own[name].shape != self.weights[name].shape:
                    shapes = f"{tuple(self.weights[name].shape)} in the ticket, {tuple(own[name].shape)} in the model"
                    raise Invalid(f"{name} is {shapes}")
        handle = apply(model, self.masks)
        if self.weights:
            model.load_state_dict(self.weights)
        return handle

    def save(self, path: str | Path) -> None:
        """Write a safetensors file: masks at a bit a weight, the weights as they are, the rest as metadata.

        A file is written complete or not at all; folders that are not there are made.

        Raises:
            Invalid: if a weight is no tensor, or the provenance is not JSON-able.
        """
        for name, value in self.weights.items():
            if not isinstance(value, Tensor):
                raise Invalid(f"{name} of the weights is of type {type(value).__name__}; a file holds tensors only")
        try:
            provenance = json.dumps(dict(self.provenance))
        except (TypeError, ValueError) as error:
            raise Invalid(f"provenance cannot be written as JSON ({error})") from error
        tensors = {f"mask/{name}": packed for name, packed in self.masks.packed().items()}
        tensors |= {f"weight/{name}": tensor for name, tensor in self.weights.items()}
        metadata = {
            "format": FORMAT,
            "round": str(self.round),
            "density": repr(self.density),
            "masks": json.dumps({r.name: {"shape": r.shape, "kept": r.kept} for r in self.masks.layers}),
            "provenance": provenance,
        }
        write_tensors(Path(path), tensors, metadata)

    @classmethod
    def load(cls, path: str | Path) -> "Ticket":
        """Read a file that `save` wrote.

        Raises:
            Invalid: if there is no such file, or it is cut short, altered, or no ticket.
        """
        tensors, metadata = read_tensors(Path(path))
        if metadata.get("format") != FORMAT:
            raise Invalid(f"{path}: not a ticket (its format is {metadata.get('format')!r}, not {FORMAT!r})")
        try:
            shapes = {n: tuple(row["shape"]) for n, row in json.loads(metadata["masks"]).items()}
            masks = Masks.unpacked({n: tensors[f"mask/{n}"] for n in shapes}, shapes)
            weights = {n.removeprefix("weight/"): t for n, t in tensors.items() if n.startswith("weight/")}
            return cls(masks, weights, int(metadata["round"]), json.loads(metadata["provenance"]))
        except (KeyError, TypeError, ValueError) as error:
            raise Invalid(f"{path}: not a whole ticket ({type(error).__name__}: {error})") from error


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's state_dict."""
    state = model.state_dict().items()
    return {name: value.detach().clone() if isinstance(value, Tensor) else deepcopy(value) for name, value in state}
