"""Loss and accuracy of a network on a split."""

import torch
from torch import nn
from torch.nn import functional as F

from prunus.data import DataSet, Split

#: Images at a time: enough to fill the machine, few enough that activations stay in the cache.
BATCH = 500


@torch.no_grad()
def evaluate(model: nn.Module, data: DataSet, split: Split) -> tuple[float, float]:
    """Mean cross-entropy and accuracy (a fraction) of `model` on `split`, without augmentation, in evaluation mode.

    Args:
        model: from images [B, C, H, W] to logits [B, classes]; its mode is put back.
        data: whose mean and deviation normalise the images.
        split: one of `data`'s splits, on the model's device.
    """
    training = model.training
    model.eval()
    sums = torch.zeros(2, dtype=torch.float64, device=split.images.device)
    for images, labels in zip(split.images.split(BATCH), split.labels.split(BATCH), strict=True):
        logits = model(data.normalise(images))
        sums[0] += F.cross_entropy(logits, labels, reduction="sum")
        sums[1] += (logits.argmax(1) == labels).sum()
    model.train(training)
    loss, correct = (sums / len(split)).tolist()
    return loss, correct
