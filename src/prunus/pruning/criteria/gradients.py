"""The gradients of a loss at masked weights, summed over batches, and what they leave behind in the model: nothing."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.probing import Batch, Loss, Mode, Probe, loss_of, untouched
from prunus.pruning.left import Dropped

#: `MaskedGradients.first` or `MaskedGradients.second`.
Compute = Callable[["MaskedGradients"], dict[str, Tensor]]
#: What becomes the scores of a parameter, from its name and its derivatives.
Form = Callable[[str, Tensor], Tensor]

#: Below this, 32 bits hold a number, but not what is much smaller than it.
SMALL = 1e-25


class MaskedGradients:
    """A model at its weights times a mask, and derivatives of its loss there.

    Weights below 32 bits are computed with in 32. Where that gives scores that are not finite, or a parameter whose
    scores are all near zero, all is computed again in 64 bits, and from then on.

    Args:
        model: it is only read.
        weights: the parameters to differentiate by.
        batches: what the loss is summed over.
        loss: see `prunus.core.probing.loss_of`.
        mode: how the model's modules behave.
        temperature: what logits are divided by.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: Mapping[str, nn.Parameter],
        batches: Sequence[Batch],
        loss: Loss | None,
        mode: Mode,
        temperature: float = 1.0,
    ) -> None:
        self._model, self._weights, self._batches = model, weights, batches
        self._loss, self._mode, self._temperature = loss, mode, temperature
        self._reached: set[str] = set()  # parameters that the loss depends on
        self._pruned = False
        double = any(w.dtype == torch.float64 for w in weights.values())
        self._hold(torch.float64 if double else torch.float32)

    @torch.no_grad()
    def drop(self, dropped: Dropped) -> None:
        """These positions of each parameter are zero from now on."""
        self._pruned = True
        for name, positions in dropped:
            self.values[name].view(-1).index_fill_(0, positions.long(), 0.0)

    @torch.no_grad()
    def become(self, masks: Masks) -> None:
        """The weights are those of the model under these masks."""
        self._pruned = masks.kept < masks.total
        for name, weight in self._weights.items():
            self.values[name].copy_(weight.detach()).mul_(masks[name].to(weight.device))

    def scores(self, compute: Compute, form: Form) -> dict[str, Tensor]:
        """Scores of a form of the derivatives that `compute` gives, in 64 bits if 32 are not enough.

        Raises:
            Invalid: if there is a NaN in 64 bits too, or all is zero though nothing was pruned; if the model refuses
                a batch.
        """
        with untouched(self._model, self._mode):
            found = self._formed(compute, form)
            if next(iter(self.values.values())).dtype != torch.float64 and not self._fits(found):
                self._widen()
                found = self._formed(compute, form)
        self._check(found)
        return found

    def first(self) -> dict[str, Tensor]:
        """∂L/∂θ."""
        total: dict[str, Tensor] = {}
        for batch in self._batches:
            _add(total, self._differentiate(self._loss_of(batch), create_graph=False))
        return total

    def second(self) -> dict[str, Tensor]:
        """H · ∂L/∂θ, with the Hessian H of the loss.

        For one batch a single pass serves both; more than one takes a first pass over all.
        """
        with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
            if len(self._batches) == 1:
                return self._product(self._batches[0], None)
            direction, total = self.first(), {}
            for batch in self._batches:
                _add(total, self._product(batch, direction))
            return total

    def _product(self, batch: Batch, direction: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        gradient = self._differentiate(self._loss_of(batch), create_graph=True)
        along = {name: g.detach() for name, g in gradient.items()} if direction is None else direction
        inner = [(gradient[name] * along[name]).sum() for name in gradient if gradient[name].requires_grad]
        if not inner:  # a loss that is linear in each weight
            return {name: torch.zeros_like(value) for name, value in self.values.items()}
        return self._differentiate(sum(inner[1:], inner[0]), create_graph=False)

    def _differentiate(self, value: Tensor, create_graph: bool) -> dict[str, Tensor]:
        leaves = list(self.values.values())
        gradients = torch.autograd.grad(value, leaves, create_graph=create_graph, allow_unused=True)
        found = dict(zip(self.values, gradients, strict=True))
        self._reached |= {name for name, gradient in found.items() if gradient is not None}
        return {name: torch.zeros_like(self.values[name]) if g is None else g for name, g in found.items()}

    def _loss_of(self, batch: Batch) -> Tensor:
        weight = next(iter(self.values.values()))
        there = batch.to(weight.device, weight.dtype)
        value = loss_of(self._probe(there), there, self._loss, self._temperature)
        if not isinstance(value, Tensor):
            raise Invalid(f"the loss is of type {type(value).__name__}; allowed: one number, as a tensor")
        if value.dim() or not value.requires_grad:
            shape = f"of shape {tuple(value.shape)}" if value.dim() else "independent of the weights"
            raise Invalid(f"the loss is {shape}; allowed: one number that depends on the weights")
        return value

    def _formed(self, compute: Compute, form: Form) -> dict[str, Tensor]:
        found = compute(self)
        with torch.no_grad():
            return {name: form(name, derivative) for name, derivative in found.items()}

    @torch.no_grad()
    def _fits(self, found: Mapping[str, Tensor]) -> bool:
        """Whether all scores are finite, and none of the parameters has lost its own below what 32 bits hold."""
        for name in self._reached:
            largest = float(found[name].abs().amax()) if found[name].numel() else 1.0
            if not largest < float("inf") or (largest < SMALL and self.values[name].any()):
                return False
        return True

    @torch.no_grad()
    def _check(self, found: Mapping[str, Tensor]) -> None:
        sizes = {name: float(t.abs().amax()) for name, t in found.items() if t.numel()}
        for name, size in sizes.items():
            if not size < float("inf"):
                raise Invalid(f"the gradients of {name} are not finite; look for NaN in weights, batches and loss")
        if not any(sizes.values()) and not self._pruned:
            raise Invalid("all scores are zero: the loss does not change with any of the weights (saturated or dead)")

    @torch.no_grad()
    def _widen(self) -> None:
        before = self.values
        self._hold(torch.float64)
        for name, value in self.values.items():
            value.copy_(before[name])

    def _hold(self, dtype: torch.dtype) -> None:
        #: The masked weights by name.
        self.values = {
            n: w.detach().to(dtype, copy=True, memory_format=torch.contiguous_format) for n, w in self._weights.items()
        }
        self._probe = Probe(self._model, self.values, dtype)
        for value in self.values.values():
            value.requires_grad_()


def _add(total: dict[str, Tensor], more: Mapping[str, Tensor]) -> None:
    for name, tensor in more.items():
        total[name] = total[name].add_(tensor) if name in total else tensor
