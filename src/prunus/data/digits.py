"""The embedded default: scikit-learn's handwritten digits."""

from typing import Any

import torch

from prunus.core.seeds import generator
from prunus.data.dataset import Decoded, Split

TEST = 360


def read_digits() -> Decoded:
    """1,797 grey images of 8 × 8 pixels in 10 classes (Optical recognition of handwritten digits, UCI, 1998).

    The values 0 … 16 become 0 … 255, rounded. The set has no split of its own: 360 examples, drawn once and for
    all with a fixed seed, are the test split, the other 1,437 the training split.
    """
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    images = torch.from_numpy(digits.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
    every = Split(images, torch.from_numpy(digits.target).to(torch.int64))
    order = torch.randperm(len(every), generator=generator(0, "digits", "test split"))
    classes = tuple(str(label) for label in digits.target_names)
    return Decoded(classes, every[order[TEST:].sort().values], every[order[:TEST].sort().values])
