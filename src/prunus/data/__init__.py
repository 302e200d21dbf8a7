"""Images and labels as tensors that stay on the device: built-in sets, folders and hub ids."""

from prunus.data.batches import augment, normalise
from prunus.data.dataset import DataSet, Split
from prunus.data.loading import DATASETS, BuiltIn, load

__all__ = ["DATASETS", "BuiltIn", "DataSet", "Split", "augment", "load", "normalise"]
