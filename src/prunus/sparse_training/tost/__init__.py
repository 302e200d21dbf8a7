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

The timing of the paper's switches is not published; defaults were chosen by short runs: LeNet-300-100 on MNIST, random
masks, ERK densities, 1,200 steps of SGD (0.1, momentum 0.9, weight decay 1e-4, cosine to 0, batch 100), mean validation
accuracy in %. Standard deviations over the seeds were 0.2 to 0.5 at 2 % density and 0.1 to 1.5 at 1 %.

| run | 2 % (3 seeds) | 1 % (2 seeds) |
| --- | --- | --- |
| plain | 90.8 | 80.1 |
| soft neurons: swish, until 0.2 / 0.5 / 1 | 90.9 / 90.3 / – | 81.3 / 79.7 / 77.3 |
| soft neurons: swish, β from 3 to 30, until 0.5 | 90.7 | – |
| soft neurons: mish, until 0.2 / 0.5 | – / 91.1 | 82.9 / 82.8 |
| ghost skips: identity, until 0.1 / 0.2 / 0.5 | 91.3 / 90.9 / – | 84.5 / 84.9 / 82.1 |
| ghost skips: projection, until 0.2 / 0.5 | – | 80.8 / 77.3 |
| label smoothing, until 0.5 / 1 | 90.5 / 90.3 | 78.6 / 78.4 |
| rescaled initialisation | 92.0 | 85.4 |
| swish and identity skips, until 0.2 | – | 86.2 |
| these and label smoothing | – | 84.9 |
| these and rescaled initialisation, without / with label smoothing | – | 87.1 / 86.2 |

So in training this short label smoothing costs accuracy, and switches that end early gain most.
"""

from prunus.sparse_training.tost.ghost_skips import GhostSkips
from prunus.sparse_training.tost.label_smoothing import LabelSmoothing
from prunus.sparse_training.tost.rescaled import rescale_init
from prunus.sparse_training.tost.soft_neurons import SoftNeurons
from prunus.sparse_training.tost.tost import ToST

__all__ = ["GhostSkips", "LabelSmoothing", "SoftNeurons", "ToST", "rescale_init"]
