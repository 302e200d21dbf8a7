"""ToST: training a network with a fixed mask better, whatever the mask.

| switch | what it does |
| --- | --- |
| `rescale_init` | before training: one learned scale for each parameter tensor |
| `SoftNeurons` | smooth activations that sharpen into ReLU |
| `GhostSkips` | shortcuts around layers that fade away |
| `LabelSmoothing` | softened targets |
| `ToST` | the last three together |

Each works alone and with any mask, and leaves nothing behind: at the end the model is the plain sparse one, with the
same classes, state_dict keys and logits.
"""

from prunus.sparse_training.tost.ghost_skips import GhostSkips
from prunus.sparse_training.tost.label_smoothing import LabelSmoothing
from prunus.sparse_training.tost.rescaled import rescale_init
from prunus.sparse_training.tost.soft_neurons import SoftNeurons
from prunus.sparse_training.tost.tost import ToST

__all__ = ["GhostSkips", "LabelSmoothing", "SoftNeurons", "ToST", "rescale_init"]
