"""`STR`: weights below a threshold are absent, and each layer learns its threshold."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from math import isfinite
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.sparse_training.layer import SparseLayer
from prunus.sparse_training.schedule import check_count, is_number
from prunus.sparse_training.shadow import Shadowed, change


@dataclass(eq=False)
class STR(Shadowed):
    """The network has sign(θ) · ReLU(|θ| − g(σ)), with a σ that each layer learns and g the logistic function.

    Kusupati, Ramanujan, Somani, Wortsman, Jain, Kakade and Farhadi, "Soft threshold weight reparameterization for
    learnable sparsity", 2020, ICML. Weights with |θ| > g(σ) are active; the gradient reaches θ through them alone, and
    σ as −g'(σ) · Σ ∂L/∂w · sign(θ) over them, after any clipping. A weight that is not active may become so again as
    the threshold falls, or as momentum carries it.

    The budget is learned: there is no density to ask for. It comes from weight decay, which pulls σ to 0 and so the
    threshold up to 1/2, and which makes θ small; the paper's ResNet-50 has 90.2 % sparsity by a weight decay of 2.25e-5
    with σ from −3200 in 100 epochs. In float32, g(σ) is 0 below −104: there only weight decay moves σ, and in short
    trainings it never comes to anything. Then begin near the threshold that is wanted: −5 is 0.0067, −7 is 0.0009. A
    layer whose last weight goes has no gradient any more, and stays empty. The densities that were learned
    (`masks.layers`) can be given to other methods.

    Each σ joins the optimizer, in the group of its layer's weight, with which it shares learning rate and weight
    decay, or in one more group if `weight_decay` is given: make STR before the learning-rate scheduler then. They are
    not among the model's parameters; `state_dict()` has them, and the model's has not. Masks change with each step of
    the optimizer; every so many, what has become of them is recorded.

    Args:
        initial: σ at the beginning. The paper's −3200 is for ResNet-50 on ImageNet; see above.
        every: steps from one record of the masks to the next.
        weight_decay: of σ, at least 0. Default: that of the layer's weight.
        density: None, and no other. The same goes for `start` and `pattern`; `scope` has no part.

    The other arguments are those of `SparseTraining`.

    Attributes:
        sigmas: σ of each layer, by name.
    """

    name: ClassVar[str] = "str"
    patterned: ClassVar[bool] = False

    _: KW_ONLY
    initial: float = -3200.0
    every: int = 100
    weight_decay: float | None = None

    sigmas: dict[str, nn.Parameter] = field(init=False, repr=False)

    _recorded: dict[str, Tensor] = field(init=False, repr=False)  # the masks of the last record

    def __post_init__(self) -> None:
        check_count("every", self.every)
        if self.density is not None:
            raise Invalid(f"density is {self.density!r}; allowed with STR: None, since its layers learn theirs")
        if self.start is not None:
            raise Invalid("start is given; allowed with STR: None, since the weights and `initial` say what is active")
        if not is_number(self.initial) or not isfinite(self.initial):
            raise Invalid(f"initial is {self.initial!r}; allowed: a finite number")
        if self.weight_decay is not None and not 0 <= self.weight_decay < float("inf"):
            raise Invalid(f"weight_decay is {self.weight_decay!r}; allowed: None, or a number of at least 0")
        super().__post_init__()
        self._recorded = dict(self.masks)
        self._join()

    @property
    def thresholds(self) -> dict[str, float]:
        """g(σ) of each layer, by name."""
        return {name: float(sigma.detach().sigmoid()) for name, sigma in self.sigmas.items()}

    def begin_with(self, weights: Mapping[str, nn.Parameter], axes: Mapping[str, int]) -> Masks:  # noqa: ARG002
        """The weights above the first threshold."""
        self.sigmas = {name: nn.Parameter(self._sigma(weight)) for name, weight in weights.items()}
        masks = {name: weight.detach().abs() > self._threshold(name) for name, weight in weights.items()}
        for name, mask in masks.items():
            if not mask.any():
                raise Invalid(
                    f"initial is {self.initial:g}, a threshold of {self.thresholds[name]:.3g}, which no weight of "
                    f"{name} is above; allowed: a lower one"
                )
        return Masks._made(masks)

    def adjust(self, layer: SparseLayer) -> None:
        """Give σ its gradient."""
        sigma, gradient = self.sigmas[layer.name], layer.weight.grad
        if gradient is None:
            sigma.grad = None
            return
        gradient = gradient.to_dense() if gradient.is_sparse else gradient
        threshold = self._threshold(layer.name)
        slope = threshold * (1 - threshold)
        sigma.grad = -slope * (gradient * layer.weight.sign()).sum(dtype=sigma.dtype)

    def shown(self, layer: SparseLayer) -> Tensor:
        """sign(θ) · (|θ| − g(σ))."""
        dense = self.dense[layer.name]
        return (dense.abs() - self._threshold(layer.name)).copysign_(dense)

    def hidden(self, layer: SparseLayer, shown: Tensor) -> Tensor:
        """Each weight farther from 0 by the threshold."""
        return shown + shown.sign() * self._threshold(layer.name)

    def show(self, layer: SparseLayer) -> None:
        """Write the sparse weights, and hold them under the mask that belongs to them."""
        self.hold(layer, self.dense[layer.name].abs() > self._threshold(layer.name))
        super().show(layer)

    def stepped(self) -> None:
        """Record what has become of the masks where that is due."""
        for sigma in self.sigmas.values():
            sigma.grad = None
        if self.steps % self.every == 0:
            self._check_held()
            changes = {name: change(self._recorded[name], layer.mask) for name, layer in self.layers.items()}
            self._recorded = dict(self.masks)
            for name, layer in self.layers.items():
                layer.kept = int(self._recorded[name].sum())
            self.record(self.steps, 0.0, changes)

    def remove(self) -> None:
        """Take the hooks and σ off the optimizer. The sparse weights stay, and so do the masks."""
        super().remove()
        ours = {id(sigma) for sigma in self.sigmas.values()}
        for group in list(self.optimizer.param_groups):
            theirs = [i for i, parameter in enumerate(group["params"]) if id(parameter) not in ours]
            for entry in ("params", "param_names"):
                if entry in group:
                    group[entry] = [group[entry][i] for i in theirs]
            if not theirs:
                self.optimizer.param_groups.remove(group)
        for sigma in self.sigmas.values():
            self.optimizer.state.pop(sigma, None)

    def own_state(self) -> dict[str, Any]:
        """σ of each layer and what the optimizer remembers of it, and the masks of the last record."""
        recorded = Masks._made(self._recorded).packed()
        remembered = {name: self.optimizer.state.get(sigma, {}) for name, sigma in self.sigmas.items()}
        return {
            **super().own_state(),
            **{f"recorded/{name}": packed for name, packed in recorded.items()},
            **{
                f"sigma-{entry}/{name}": value.clone()
                for name, entries in remembered.items()
                for entry, value in entries.items()
                if isinstance(value, Tensor)
            },
            "sigmas": {name: float(sigma.detach()) for name, sigma in self.sigmas.items()},
        }

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        super().load_own_state(state)
        self._recorded = dict(self.masks_in(state, "recorded"))
        for name, sigma in self.sigmas.items():
            sigma.fill_(state["sigmas"][name])
            self._remember(name, sigma, state)

    def _unpacked(self, state: Mapping[str, Any]) -> Masks:
        masks = super()._unpacked(state)
        self.masks_in(state, "recorded")
        if not isinstance(sigmas := state.get("sigmas"), Mapping) or sigmas.keys() != self.sigmas.keys():
            raise Invalid("the state has no sigmas of this model's layers")
        return masks

    def _remember(self, name: str, sigma: nn.Parameter, state: Mapping[str, Any]) -> None:
        """Give the optimizer what it remembered of σ: not all loops save that with the rest of its state."""
        (group,) = (g for g in self.optimizer.param_groups if any(p is sigma for p in g["params"]))
        for key, value in state.items():
            kind, _, of = key.partition("/")
            if kind.startswith("sigma-") and of == name:
                entry = kind.removeprefix("sigma-")
                on_device = entry != "step" or group.get("fused") or group.get("capturable")
                self.optimizer.state[sigma][entry] = value.clone().to(sigma.device if on_device else "cpu")

    def _sigma(self, weight: nn.Parameter) -> Tensor:
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return torch.full((), self.initial, dtype=dtype, device=weight.device)

    def _threshold(self, name: str) -> Tensor:
        return self.sigmas[name].detach().sigmoid()

    def _join(self) -> None:
        """Have the optimizer train σ."""
        homes = {id(p): group for group in self.optimizer.param_groups for p in group["params"]}
        if self.weight_decay is not None:
            one: dict[str, Any] = {**homes[id(next(iter(self.layers.values())).weight)]}
            one |= {entry: [] for entry in ("params", "param_names") if entry in one}
            one["weight_decay"] = self.weight_decay
            self.optimizer.param_groups.append(one)
            homes = {id(layer.weight): one for layer in self.layers.values()}
        for name, layer in self.layers.items():
            group = homes[id(layer.weight)]
            group["params"].append(self.sigmas[name])
            if "param_names" in group:
                group["param_names"].append(f"{name}/sigma")
