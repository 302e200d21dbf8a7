"""Synaptic flow: what passes through each weight of a network when ones go in and all outputs are added up.

With R = 1ᵀ f(1; |θ ⊙ m|) and f made linear (see `linearised`), the flow through a weight is |θ| · ∂R/∂|θ|: the sum
over all paths from an input to an output that use the weight, of the product of the absolute weights on the path.
(Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow", 2020, NeurIPS.)
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from prunus.analysis.linearised import NORMS, Linearised, Norm
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.params import prunable
from prunus.core.probing import Batch, Probe, tensors_in, untouched

#: What a buffer holds below this is no weight.
MASKED = -1e3

#: What `Flow.run` calls for each weight: its name, its absolute value, and the gradient of R, which it may write to.
Each = Callable[[str, Tensor, Tensor], None]


class Flow:
    """The synaptic flow of a model, whose weights can be taken away.

    The absolute values of the weights are held once, beside the model, which is only read.

    Args:
        model: any `nn.Module`.
        inputs: what it takes; only shapes count, and the first row. Integers (tokens, indices) stay what they are.
        weights: the parameters whose flow is asked for. Default: all that are prunable.
        masks: what is kept of them. Default: all.
        dtype: the type to compute in. Default: float64.
        norm: what normalisation does (see `linearised`).
        biases: whether biases (and other parameters that are added) are sources of flow too, by their absolute
            value. Without them flow is conserved from layer to layer.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Batch,
        *,
        weights: Mapping[str, nn.Parameter] | None = None,
        masks: Masks | None = None,
        dtype: torch.dtype = torch.float64,
        norm: Norm = "scale",
        biases: bool = True,
    ) -> None:
        if norm not in NORMS:
            raise Invalid(f"norm is {norm!r}; allowed: {', '.join(NORMS)}")
        self._model, self._norm, self._inputs = model, norm, inputs.mapped(_ones)
        named = prunable(model) if weights is None else weights
        #: The absolute values of the weights that are there, by name.
        self.weights = {n: _absolute(w, None if masks is None else masks[n], dtype) for n, w in named.items()}
        others = {
            n: p.detach().to(dtype).abs() if biases or not _added(n) else torch.zeros_like(p, dtype=dtype)
            for n, p in model.named_parameters()
            if n not in named and p.is_floating_point()
        }
        buffers = {n: _positive(b.detach().to(dtype)) for n, b in model.named_buffers() if b.is_floating_point()}
        self._probe = Probe(model, {**self.weights, **others, **buffers}, dtype)

    def run(self, each: Each) -> float:
        """One forward and one backward pass; the gradient of a weight is let go once it was handed out.

        A weight that no path reaches may not be handed out.

        Returns:
            R, the flow as a whole: 0 where no path leads from an input to an output.

        Raises:
            Invalid: if the model does not take the inputs, or its outputs are no numbers.
        """
        hooks = [
            weight.requires_grad_().register_post_accumulate_grad_hook(_once(name, each))
            for name, weight in self.weights.items()
        ]
        try:
            with untouched(self._model):
                with Linearised(self._norm, self._model):
                    outputs = tensors_in(self._probe(self._inputs))
                if not outputs:
                    raise Invalid(f"{type(self._model).__name__} gives no floating-point tensors, so no flow")
                flow = torch.stack([t.sum() for t in outputs]).sum()
                if flow.requires_grad:
                    flow.backward()
            return float(flow.detach())
        finally:
            for hook in hooks:
                hook.remove()
            for weight in self.weights.values():
                weight.grad = None
                weight.requires_grad_(False)

    def scores(self) -> dict[str, Tensor]:
        """The flow through each weight, in tensors of the weights' shapes."""
        found = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}

        def keep(name: str, weight: Tensor, gradient: Tensor) -> None:
            torch.mul(weight, gradient, out=found[name])

        self.run(keep)
        return found

    def drop(self, name: str, positions: Tensor) -> None:
        """Take weights away for good, by their positions in row-major order."""
        self.weights[name].view(-1).index_fill_(0, positions.long(), 0.0)


def _once(name: str, each: Each) -> Callable[[Tensor], None]:
    def hook(weight: Tensor) -> None:
        gradient, weight.grad = weight.grad, None
        assert gradient is not None
        with torch.no_grad():
            each(name, weight.detach(), gradient)

    return hook


def _absolute(weight: Tensor, mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    there = torch.empty(weight.shape, dtype=dtype, device=weight.device)  # contiguous, whatever the weight's layout
    torch.abs(weight.detach(), out=there) if weight.dtype == dtype else there.copy_(weight.detach()).abs_()
    return there if mask is None else there.mul_(mask.to(there.device))


def _positive(buffer: Tensor) -> Tensor:
    """The absolute values, but for what is so far below zero that it is there to mask attention."""
    return torch.where(buffer < MASKED, buffer, buffer.abs())


def _ones(given: Tensor) -> Tensor:
    one = given[:1] if given.dim() else given
    return torch.ones_like(one) if one.is_floating_point() else one


def _added(name: str) -> bool:
    return name.rpartition(".")[-1].endswith("bias")
