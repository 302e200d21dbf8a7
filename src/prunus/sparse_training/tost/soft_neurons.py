"""Soft neurons: smooth activations that sharpen into ReLU."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from prunus.core.errors import Invalid, nearest
from prunus.sparse_training.tost.phase import Dial, Phase, check_number

#: Smooth functions f with f(β x) / β → ReLU(x) as β grows; the distance is at most 0.28 / β and 0.31 / β.
KINDS: dict[str, Callable[[Tensor], Tensor]] = {"swish": F.silu, "mish": F.mish}


class SoftNeurons(Phase):
    """Puts a soft neuron in the place of each `nn.ReLU` and `nn.ReLU6` of a model, and takes it out again.

    A soft neuron is s(x) = f(β x) / β, where f is Swish, f(x) = x σ(x), so s(x) = x σ(β x), or Mish,
    f(x) = x tanh(softplus(x)). For ReLU6 it is s(x) − s(x − 6). β goes from `start` to `end` by a constant factor a
    step during the first `until` of the training; then the modules that were there come back, which is exact ReLU.
    Their forward hooks rest meanwhile. Other activations stay as they are, and so do subclasses of ReLU.

    Jaiswal, Ma, Chen, Ding and Wang, "Training your sparse neural network better with any mask", 2022, ICML. The
    paper's ghost neurons are there early in training only; the authors' released code leaves a fixed activation in
    (Swish, Mish, or Swish with β = 2 or 3) through all of it and has no schedule, so the one here is our own. Theirs
    is `until=1.0` with `start` and `end` both at the fixed β, but that ReLU is back after the last step.

    A copy of the model shares β and becomes ReLU with it, though the copy's modules keep the class `SoftNeuron`.

    Args:
        model: any `nn.Module`. An activation that several modules share is replaced in all of them.
        total_steps: see `Phase`.
        kind: "swish" or "mish". Default: "mish", which was better at both densities that we measured.
        start: β at the beginning, above 0. Default: 1.
        end: β just before ReLU comes back, at least `start`. Default: 10.
        until: see `Phase`. Default: 0.2.

    Raises:
        Invalid: if an option is outside its range, or the model has no such module (`F.relu` cannot be seen).
    """

    def __init__(
        self,
        model: nn.Module,
        total_steps: int,
        *,
        kind: Literal["swish", "mish"] = "mish",
        start: float = 1.0,
        end: float = 10.0,
        until: float = 0.2,
    ) -> None:
        super().__init__(total_steps, until)
        if kind not in KINDS:
            raise Invalid(f"kind is {kind!r}; {nearest(str(kind), KINDS)}")
        check_number("start", start, lambda b: 0 < b < float("inf"), "a number above 0")
        check_number("end", end, lambda b: start <= b < float("inf"), f"a number of at least start={start:g}")
        if not any(_relus(model)):
            name = type(model).__name__
            raise Invalid(
                f"{name} has no nn.ReLU module inside to make soft; one called as a function cannot be seen "
                "(ToST goes without: soft_neurons=False)"
            )
        self.model, self.kind = model, kind
        self.start, self.end = float(start), float(end)
        self.dial = Dial(start)
        self._begin()

    def _begin(self) -> None:
        self.dial.off = False
        soft: dict[nn.Module, SoftNeuron] = {}
        for parent, name, relu in list(_relus(self.model)):
            parent._modules[name] = soft.setdefault(relu, SoftNeuron(relu, self.kind, self.dial))

    def _go_on(self) -> None:
        self.dial.turn(self.start * (self.end / self.start) ** self.progress)

    def _end(self) -> None:
        self.dial.off = True
        for parent in self.model.modules():
            for name, child in parent._modules.items():
                if isinstance(child, SoftNeuron) and child.dial is self.dial:
                    parent._modules[name] = child.sharp(child.training)

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "kind": self.kind, "start": self.start, "end": self.end}


class SoftNeuron(nn.Module):
    """f(β x) / β, in the place of a ReLU.

    Args:
        relu: what it stands for.
        kind: which f, of `KINDS`.
        dial: β.
    """

    def __init__(self, relu: nn.Module, kind: str, dial: Dial) -> None:
        super().__init__()
        self.kind, self.dial = kind, dial
        self.top = 6.0 if type(relu) is nn.ReLU6 else None
        self._relu = [relu]  # in a list it is no submodule
        self.training = relu.training

    def forward(self, x: Tensor) -> Tensor:
        """The activations [any shape]."""
        if self.dial.off:
            return F.relu(x) if self.top is None else F.relu6(x)
        return self._soft(x) if self.top is None else self._soft(x) - self._soft(x - self.top)

    def sharp(self, training: bool) -> nn.Module:
        """The module that it stands for."""
        return self._relu[0].train(training)

    def extra_repr(self) -> str:
        """Its kind and β."""
        return f"{self.kind}, sharpness={float(self.dial.value):g}"

    def _soft(self, x: Tensor) -> Tensor:
        sharpness = self.dial.value
        return KINDS[self.kind](sharpness * x) / sharpness


def _relus(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    for parent in model.modules():
        for name, child in parent._modules.items():
            if type(child) in (nn.ReLU, nn.ReLU6):
                yield parent, name, child  # type: ignore[misc]
