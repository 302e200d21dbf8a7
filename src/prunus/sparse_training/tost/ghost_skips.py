"""Ghost skip connections: shortcuts around layers that fade away."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from prunus.core.errors import Invalid, nearest
from prunus.core.params import Globs, patterns_of, weight_names
from prunus.sparse_training.tost.phase import Dial, Phase, check_count, check_number
from prunus.sparse_training.tost.projection import Projection, Projections

Conv = nn.modules.conv._ConvNd
_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class GhostSkips(Phase):
    """Adds α g(x) to what a layer makes of its input x; α falls linearly from `strength` to 0, then all is gone.

    The shortcut g is one of

    - "identity": x itself, without parameters. A stride becomes average pooling, sides are cropped or zero-padded
      around the middle, features (channels) are cut off or zero-padded at the end;
    - "projection": a learned matrix over the features behind a learned scalar gate that begins at 0: a 1 × 1
      convolution with the layer's stride, or for a linear layer a product of two matrices of rank at most `rank`, since
      a full one would be as large as the dense layer. Its parameters are trained by `optimizer`, in its last group
      (they take that group's options, and learning-rate schedulers see no new group), and leave it, moments and all,
      at the end. A state holds them and their moments; load it before the optimizer's own.

    Jaiswal, Ma, Chen, Ding and Wang, "Training your sparse neural network better with any mask", 2022, ICML. There α
    falls linearly over a first part of the training, whose length is not known to us. The authors' released code keeps
    α = 1 to the end and never removes its 1 × 1 convolutions. It starts them at 1e-4, followed by BatchNorm, which
    undoes that, so that they begin at full strength with all channels alike; hence the gate here. In the paper and the
    code g is added after the BatchNorm behind a convolution; here it is added to the convolution's own output, the only
    place that works for any model.

    Left out are transposed convolutions and attention's input projections and, unless `include` names it, the last
    layer that the model has: the units of an output layer have a meaning, and those before it are in no such order.
    A copy of the model shares α and becomes plain with it. Layers that are never called as modules get none.

    Args:
        model: any `nn.Module`.
        total_steps: see `Phase`.
        kind: "identity" or "projection". Default: "identity".
        strength: α at the beginning, above 0. Default: 1.
        until: see `Phase`. Default: 0.2.
        optimizer: the optimizer of the training; needed for "projection" only.
        rank: of a linear layer's projection. Default: 8.
        seed: of the projections' first weights.
        include: glob patterns on the names of the weights whose layers get a shortcut. Default: all but the last.
        exclude: glob patterns on names to leave out.

    Raises:
        Invalid: if an option is outside its range, no layer is left, a projection has no optimizer, or there are
            several processes (DDP averages the gradients of the model's own parameters only).
    """

    def __init__(
        self,
        model: nn.Module,
        total_steps: int,
        *,
        kind: Literal["identity", "projection"] = "identity",
        strength: float = 1.0,
        until: float = 0.2,
        optimizer: torch.optim.Optimizer | None = None,
        rank: int = 8,
        seed: int = 0,
        include: Globs | None = None,
        exclude: Globs | None = None,
    ) -> None:
        super().__init__(total_steps, until)
        if kind not in ("identity", "projection"):
            raise Invalid(f"kind is {kind!r}; {nearest(str(kind), ('identity', 'projection'))}")
        check_number("strength", strength, lambda a: 0 < a < float("inf"), "a number above 0")
        check_count("rank", rank)
        self.kind, self.strength = kind, float(strength)
        self.layers = _layers(model, include, exclude)
        self.dial = Dial(strength)
        self.projections: Projections | None = None
        if kind == "projection":
            self.projections = Projections(self.layers, optimizer, rank, seed)
        self._handles: list[RemovableHandle] = []
        self._begin()

    def step(self) -> None:
        """Go on by one step of the training."""
        super().step()
        if self.projections:
            self.projections.forget_gradients()

    def _begin(self) -> None:
        self.dial.off = False
        if self.projections:
            self.projections.join()
        every = self.projections.of if self.projections else {}
        for name, layer in self.layers.items():
            ghost = Ghost(self.dial, every.get(name))
            self._handles.append(layer.register_forward_hook(ghost, with_kwargs=True))

    def _go_on(self) -> None:
        self.dial.turn(self.strength * (1 - self.progress))

    def _end(self) -> None:
        self.dial.off = True
        while self._handles:
            self._handles.pop().remove()
        if self.projections:
            self.projections.leave()

    def _settings(self) -> dict[str, Any]:
        own = {"kind": self.kind, "strength": self.strength, "layers": " ".join(self.layers)}
        return {**super()._settings(), **own}

    def _kept(self) -> dict[str, Any]:
        return self.projections.state_dict() if self.projections and not self.ended else {}

    def _check(self, state: Mapping[str, Any]) -> None:
        super()._check(state)
        if self.projections and not state["ended"]:
            self.projections.check(state)

    def _take(self, state: Mapping[str, Any]) -> None:
        if self.projections:
            self.projections.load_state_dict(state)


class Ghost:
    """The forward hook of one layer.

    Args:
        dial: α.
        projection: what g is; None is the identity.
    """

    def __init__(self, dial: Dial, projection: Projection | None) -> None:
        self.dial, self.projection = dial, projection

    def __call__(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor | None:
        """The layer's output with the shortcut's added."""
        if self.dial.off:
            return None
        x = args[0] if args else next(iter(kwargs.values()))
        sides = len(layer.kernel_size) if isinstance(layer, Conv) else 0
        shortcut = self.projection(x) if self.projection else _pooled(x, layer)
        return output + self.dial.value * fitted(shortcut, output, sides).to(output.dtype)


def fitted(x: Tensor, like: Tensor, sides: int) -> Tensor:
    """`x` [..., features, *sides] cropped or zero-padded to the sizes of `like`.

    Sides (the last `sides` dimensions) change around the middle, features at the end.
    """
    pads: list[int] = []
    for dimension in range(-1, -sides - 1, -1):
        more = like.shape[dimension] - x.shape[dimension]
        pads += [more // 2, more - more // 2]
    features = -sides - 1
    return F.pad(x, [*pads, 0, like.shape[features] - x.shape[features]])


def _pooled(x: Tensor, layer: nn.Module) -> Tensor:
    if not isinstance(layer, Conv) or set(layer.stride) == {1}:
        return x
    return _POOLS[len(layer.stride)](x, layer.stride, ceil_mode=True)


def _layers(model: nn.Module, include: Globs | None, exclude: Globs | None) -> dict[str, nn.Module]:
    every = {f"{path}.weight".lstrip("."): module for path, module in model.named_modules() if _takes(module)}
    for option, globs in (("include", include), ("exclude", exclude)):
        for pattern in patterns_of(globs or ()):
            if not any(fnmatchcase(name, pattern) for name in every):
                raise Invalid(f"{option}={pattern!r} matches no weight of such a layer; {nearest(pattern, every)}")
    chosen = list(every)[:-1] if include is None else [name for name in every if _matches(name, include)]
    found = {name: every[name] for name in chosen if not _matches(name, exclude or ())}
    if not found:
        raise Invalid(f"{type(model).__name__} has no linear or convolution layer to put a shortcut around")
    return found


def _takes(layer: nn.Module) -> bool:
    return weight_names(layer) == ("weight",) and not isinstance(layer, nn.modules.conv._ConvTransposeNd)


def _matches(name: str, globs: Globs) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns_of(globs))
