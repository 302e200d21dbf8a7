"""BatchNorm over a batch whose parts lie in several processes: mean and deviation are those of the total batch.

On a GPU PyTorch's own `SyncBatchNorm` does it, which there is for no CPU; there it is done here. The processes' parts
may differ in size.

    x̂ = (x − μ) / √(σ² + ε),    y = γ x̂ + β
    ∂L/∂x = γ / √(σ² + ε) · (g − mean(g) − x̂ · mean(g x̂)),    g = ∂L/∂y

All means are over the total batch. Batch normalization: accelerating deep network training by reducing internal
covariate shift, 2015, ICML.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import Function
from torch.nn.modules.batchnorm import _BatchNorm

from prunus.core.errors import Invalid
from prunus.training.processes import Processes

_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def over_the_total_batch(model: nn.Module, processes: Processes) -> ExitStack:
    """Let each BatchNorm layer of `model` use the statistics of all processes' parts while it trains.

    The layers stay the modules that they are; closing what is returned makes them as before.

    Raises:
        Invalid: if there is a kind of BatchNorm that is not PyTorch's own.
    """
    undo = ExitStack()
    if processes.world == 1:
        return undo
    for name, module in model.named_modules():
        if not isinstance(module, _BatchNorm):
            continue
        if type(module) not in _KINDS:
            raise Invalid(
                f"{name} is a {type(module).__name__}, a BatchNorm of its own kind, which cannot be trained by several "
                "processes; allowed: PyTorch's BatchNorm1d, BatchNorm2d and BatchNorm3d"
            )
        in_training = _synchronised(module) if processes.device.type != "cpu" else partial(_forward, module, processes)
        setattr(module, "forward", partial(_either, module, module.forward, in_training))  # noqa: B010
        undo.callback(delattr, module, "forward")
    return undo


def _either(
    module: _BatchNorm, plain: Callable[[Tensor], Tensor], in_training: Callable[[Tensor], Tensor], x: Tensor
) -> Tensor:
    return in_training(x) if module.training else plain(x)


def _synchronised(module: _BatchNorm) -> Callable[[Tensor], Tensor]:
    """PyTorch's layer with this one's own parameters and statistics."""
    return nn.SyncBatchNorm.convert_sync_batchnorm(module).train()


def _forward(module: _BatchNorm, processes: Processes, x: Tensor) -> Tensor:
    module._check_input_dim(x)
    y, mean, variance, count = _Normalise.apply(x, module.weight, module.bias, module.eps, processes)
    if module.track_running_stats and module.running_mean is not None and module.running_var is not None:
        assert module.num_batches_tracked is not None
        module.num_batches_tracked.add_(1)
        rate = 1 / float(module.num_batches_tracked) if module.momentum is None else module.momentum
        module.running_mean.mul_(1 - rate).add_(mean, alpha=rate)
        module.running_var.mul_(1 - rate).add_(variance * (count / (count - 1)), alpha=rate)
    return y


class _Normalise(Function):
    """See the module; also gives mean, variance and number of values of the total batch, [C], [C] and [1]."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, processes: Processes
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        own = x.float()
        variance, mean = torch.var_mean(own, _all_but_channels(x), correction=0)
        size = mean.new_full((1,), x.numel() / x.shape[1])
        parts = processes.gather(torch.cat([mean, variance, size]))
        means, variances, sizes = parts.split([len(mean), len(mean), 1], 1)
        count = sizes.sum(0)
        mean = (sizes * means).sum(0) / count
        variance = (sizes * (variances + (means - mean).square())).sum(0) / count
        scale = (variance + eps).rsqrt()
        normalised = (own - _spread(mean, x)) * _spread(scale, x)
        y = normalised if weight is None else normalised * _spread(weight, x)
        y = y if bias is None else y + _spread(bias, x)
        ctx.save_for_backward(normalised, weight, scale, count)
        ctx.processes = processes
        ctx.mark_non_differentiable(mean, variance, count)
        return y.to(x.dtype), mean, variance, count

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> tuple[Tensor | None, ...]:
        normalised, weight, scale, count = ctx.saved_tensors
        dims, gradient = _all_but_channels(normalised), upstream[0].float()
        sums = torch.stack([gradient.sum(dims), (gradient * normalised).sum(dims)])
        # these are averaged with all other parameters' gradients
        bias, own = sums.clone()
        plain, along = ctx.processes.sum(sums) / count
        factor = scale if weight is None else scale * weight
        x = (gradient - _spread(plain, gradient) - normalised * _spread(along, gradient)) * _spread(factor, gradient)
        needs = ctx.needs_input_grad
        return x.to(upstream[0].dtype), own if needs[1] else None, bias if needs[2] else None, None, None


def _all_but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]


def _spread(channels: Tensor, x: Tensor) -> Tensor:
    """[C] so shaped that it is broadcast over [N, C, …]."""
    return channels.view(-1, *[1] * (x.dim() - 2))
