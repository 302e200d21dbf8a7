"""Edge-popup as its papers' code has it, written down plainly: flatten, sort and scatter in each forward pass."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class _Subnet(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: object, scores: Tensor, density: float) -> Tensor:
        mask = scores.clone().flatten()
        order = scores.flatten().sort().indices
        dropped = scores.numel() - round(density * scores.numel())
        mask[order[:dropped]] = 0
        mask[order[dropped:]] = 1
        return mask.view_as(scores)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return gradients[0], None


class Popup(nn.Module):
    """The parametrization weight × mask, the mask sorted out anew each time."""

    def __init__(self, scores: Tensor, density: float) -> None:
        super().__init__()
        self.scores, self.density = nn.Parameter(scores.clone()), density

    def forward(self, weight: Tensor) -> Tensor:
        return weight * _Subnet.apply(self.scores.abs(), self.density)


def popup(model: nn.Module, scores: dict[str, Tensor], density: float) -> list[nn.Parameter]:
    """Freeze the model, mask the weights that have scores, and give back the scores to train."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    learned = []
    for name, first in scores.items():
        path, _, attribute = name.rpartition(".")
        part = Popup(first, density)
        parametrize.register_parametrization(model.get_submodule(path), attribute, part)
        learned.append(part.scores)
    return learned
