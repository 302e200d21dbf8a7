"""Loss and accuracy of a network on a split."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.data import DataSet, Split
from prunus.training.precision import computing_in

#: Images at a time: enough to fill the machine, few enough that activations stay in the cache.
BATCH = 500


def evaluate(model: nn.Module, data: DataSet, split: Split, precision: str = "float32") -> tuple[float, float]:
    """Mean cross-entropy and accuracy (a fraction) of `model` on `split`, without augmentation, in evaluation mode.

    Args:
        model: from images [B, C, H, W] to logits [B, classes]; its mode is put back.
        data: whose mean and deviation normalise the images.
        split: one of `data`'s splits, on the model's device.
        precision: what the network is computed in, as in `Recipe.precision`. Default: "float32".
    """
    sums = torch.zeros(2, dtype=torch.float64, device=split.images.device)
    for batch in range(number_of_batches(split)):
        sums += batch_sums(model, data, split, batch, precision)
    loss, correct = (sums / len(split)).tolist()
    return loss, correct


def number_of_batches(split: Split) -> int:
    """How many batches `split` is evaluated in."""
    return -(-len(split) // BATCH)


@torch.no_grad()
def batch_sums(model: nn.Module, data: DataSet, split: Split, batch: int, precision: str = "float32") -> Tensor:
    """Cross-entropy and correct predictions summed over one of the batches of `split`: float64 [2]."""
    training = model.training
    model.eval()
    rows = slice(batch * BATCH, (batch + 1) * BATCH)
    labels = split.labels[rows]
    with computing_in(precision, labels.device):
        logits = model(data.normalise(split.images[rows]))
        loss = F.cross_entropy(logits, labels, reduction="sum")
    model.train(training)
    return torch.stack([loss.double(), (logits.argmax(1) == labels).sum().double()])
