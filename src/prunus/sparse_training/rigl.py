"""`RigL`: drop the smallest weights, grow where the gradient is largest."""

from dataclasses import dataclass
from typing import ClassVar

from prunus.sparse_training.dynamic import ByGradient


@dataclass(eq=False)
class RigL(ByGradient):
    """Drop the smallest weights of each layer, grow those of the largest gradient.

    Evci, Gale, Menick, Castro and Elsen, "Rigging the lottery: making all tickets winners", 2020, ICML. At an update
    the k = ⌊f · A⌋ active weights of the smallest |θ| go, and the k of the largest |∂L/∂θ| come, among all that are
    then inactive; a weight that goes and comes at once keeps its value. New weights begin at 0. Every 100 steps, f
    falls from 0.3 by a cosine to 0 at three quarters of the training; densities by the Erdős–Rényi kernel.

    The update takes the place of a step of the optimizer, as in the paper. The authors' code adds tiny noise to |θ| to
    break ties and its step does not count as one; here ties go by position, and every call of `step()` counts.

    Example:
        >>> import torch, prunus
        >>> model = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.ReLU(), torch.nn.Linear(30, 2))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> rigl = prunus.RigL(model, optimizer, density=0.1, total_steps=400)
        >>> for _ in range(400):
        ...     loss = model(torch.randn(16, 20)).square().mean()
        ...     optimizer.zero_grad(); loss.backward(); optimizer.step(); rigl.step()
        >>> rigl.masks.kept
        66

    The arguments are those of `Dynamic` and `SparseTraining`.
    """

    name: ClassVar[str] = "rigl"
