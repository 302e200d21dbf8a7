"""What is inside the wrappers that trainings put around models and optimizers."""

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel


def model_in(model: nn.Module) -> nn.Module:
    """The model inside `torch.compile`, DDP and moving averages: its parameters have their own names."""
    while True:
        if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        elif isinstance(model, DataParallel | DistributedDataParallel | AveragedModel):
            model = model.module
        else:
            return model


def optimizer_in(optimizer: Optimizer) -> Optimizer:
    """The optimizer inside those of accelerate and Lightning, whose steps it takes."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer
