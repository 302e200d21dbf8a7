"""What the lanes of one computation have on the device: every tensor with a leading axis of lanes."""

from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor, nn

from prunus.training.checkpoint import State

#: Parameters begin at multiples of so many numbers, since products of what lies askew are slower.
_ALIGNED = 32


class Layout:
    """Where each parameter lies in a row that holds all of a lane's.

    One row for all of them means that the optimizer is a few operations, however many parameters there are.

    Args:
        shapes: of the parameters that are trained, by name.
    """

    def __init__(self, shapes: Mapping[str, torch.Size]) -> None:
        self.shapes = dict(shapes)
        self._places: dict[str, tuple[int, int]] = {}
        self.width = 0
        for name, shape in self.shapes.items():
            size = prod(shape)
            self._places[name] = (self.width, self.width + size)
            self.width += -(-size // _ALIGNED) * _ALIGNED

    def views(self, rows: Tensor) -> dict[str, Tensor]:
        """The parameters in rows [..., width], each [..., *shape]; they share the memory."""
        before = rows.shape[:-1]
        return {name: rows[..., a:b].view((*before, *self.shapes[name])) for name, (a, b) in self._places.items()}


class Bank:
    """Weights, moments, masks and statistics of lanes: row i of each tensor is lane i's.

    Attributes:
        weights: what is trained, [lanes, width]; the gaps between parameters are zero.
        gradients: likewise.
        masks: 1 where a weight is kept, likewise; None if no lane has masks.
        moments: what the optimizer keeps, by name, likewise.
        rest: buffers and frozen parameters, by name, [lanes, *shape].
        sums: loss and correct predictions, float64 [lanes, 2].
    """

    def __init__(
        self, layout: Layout, moments: Sequence[str], rest: Mapping[str, Tensor], device: torch.device
    ) -> None:
        self.layout = layout
        self.weights = torch.zeros(0, layout.width, device=device)
        self.gradients = torch.zeros_like(self.weights)
        self.masks: Tensor | None = None
        self.moments = {name: torch.zeros_like(self.weights) for name in moments}
        self.rest = {name: tensor.detach().new_zeros(0, *tensor.shape) for name, tensor in rest.items()}
        self.sums = torch.zeros(0, 2, dtype=torch.float64, device=device)

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def bytes(self) -> int:
        """What it takes."""
        masks = [] if self.masks is None else [self.masks]
        return sum(tensor.nbytes for tensor in [self.gradients, *masks, *self._lasting()])

    def resize(self, keep: Sequence[int], count: int, masked: bool) -> None:
        """Keep some rows, in this order, and make room for `count` of them."""
        if masked and self.masks is None:
            self.masks = torch.ones_like(self.weights)
        elif not masked:
            self.masks = None
        chosen = torch.tensor(list(keep), dtype=torch.int64, device=self.weights.device)

        def resized(tensor: Tensor) -> Tensor:
            new = tensor.new_zeros(count, *tensor.shape[1:])
            new[: len(chosen)] = tensor.index_select(0, chosen)
            return new

        # one after the other: there is never more than one tensor twice
        self.gradients = self.gradients.new_empty(0)
        self.weights = resized(self.weights)
        for tensors in (self.moments, self.rest):
            for name in tensors:
                tensors[name] = resized(tensors[name])
        if self.masks is not None:
            self.masks = resized(self.masks)
        self.sums = resized(self.sums)
        self.gradients = torch.zeros_like(self.weights)

    @torch.no_grad()
    def load(self, row: int, model: nn.Module, masks: Mapping[str, Tensor], state: State) -> None:
        """Fill a row with a lane: weights, masks and statistics, and the moments that a checkpoint kept."""
        there = tensors_of(model)
        weights = self.layout.views(self.weights[row])
        for name, view in weights.items():
            view.copy_(there[name])
        for name, tensor in self.rest.items():
            tensor[row] = there[name]
        if self.masks is not None:
            self.masks[row] = 1
            kept = self.layout.views(self.masks[row])
            for name in masks.keys() & kept.keys():
                kept[name].copy_(masks[name])
        for name, mask in masks.items():
            view = weights[name] if name in weights else self.rest[name][row]
            view.mul_(mask.to(view))
        for moment, rows in self.moments.items():
            rows[row] = 0
            for name, view in self.layout.views(rows[row]).items():
                if (kept_moment := state.get(f"{moment}/{name}")) is not None:
                    view.copy_(kept_moment)

    @torch.no_grad()
    def read(self, row: int, model: nn.Module) -> None:
        """Put the weights and statistics of a row into a lane's model."""
        found = {name: tensor[row] for name, tensor in self.rest.items()} | self.layout.views(self.weights[row])
        for name, tensor in tensors_of(model).items():
            tensor.copy_(found[name])

    def state(self, row: int) -> State:
        """The moments of a row, as copies, as a checkpoint names them."""
        return {
            f"{moment}/{name}": view.clone()
            for moment, rows in self.moments.items()
            for name, view in self.layout.views(rows[row]).items()
        }

    def copy(self, row: int) -> list[Tensor]:
        """All that training changes in a row."""
        return [tensor[row].clone() for tensor in self._lasting()]

    def put(self, row: int, copied: Sequence[Tensor]) -> None:
        """The inverse of `copy`."""
        for tensor, kept in zip(self._lasting(), copied, strict=True):
            tensor[row] = kept

    def chosen(self, rows: Sequence[int]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Trained parameters and the rest of some rows, by name, each with a leading axis."""
        if list(rows) == list(range(len(self))):
            return self.layout.views(self.weights), self.rest
        where = torch.tensor(list(rows), dtype=torch.int64, device=self.weights.device)
        rest = {name: tensor.index_select(0, where) for name, tensor in self.rest.items()}
        return self.layout.views(self.weights.index_select(0, where)), rest

    def _lasting(self) -> list[Tensor]:
        return [self.weights, *self.moments.values(), *self.rest.values(), self.sums]


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, tied ones once."""
    return dict(model.named_parameters()) | dict(model.named_buffers())
