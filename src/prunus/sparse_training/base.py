"""`SparseTraining`: what all methods of this room share. A network that is sparse from the first step to the last.

A method is made of a model and its optimizer, holds the model's masks, and changes them in `step()`, which follows
`optimizer.step()`, or right before that, where it looks at the gradients.
"""

from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.utils.hooks import RemovableHandle

from prunus.core.allocation import Allocation
from prunus.core.apply import apply
from prunus.core.errors import Invalid, check_density
from prunus.core.held import every
from prunus.core.masks import Masks
from prunus.core.params import Globs
from prunus.core.seeds import generator
from prunus.sparse_training.beginning import given_masks, output_axes, random_masks, trained_weights
from prunus.sparse_training.hooks import before_steps
from prunus.sparse_training.layer import Change, SparseLayer, clear_moments
from prunus.sparse_training.pattern import Pattern, pattern_of, positions_of
from prunus.sparse_training.record import Update
from prunus.sparse_training.wrapped import model_in, optimizer_in


@dataclass(eq=False)
class SparseTraining:
    """A network held sparse, at first by random masks. Methods change them.

    To go on from a checkpoint, make it first, then load the states of the model, the optimizer and itself in any order.

    Args:
        model: any `nn.Module`, also one wrapped by DDP or `torch.compile`. Names are those without the wrapper.
        optimizer: a `torch.optim.Optimizer` that holds the weights, also one that accelerate or Lightning wraps.
        density: the fraction of the prunable weights that is active, in (0, 1]. Frozen weights are left alone. With a
            pattern n:m it need not be said.
        start: the masks to begin with, instead of random ones of a density: a ticket's, those of `prunus.prune`.
        scope: how the density is shared among the layers, as in `prunus.select`. Under "uniform" RigL's authors leave
            the first layer dense and outside the count: name it in `exclude`.
        pattern: which masks a layer may have: None any, "n:m" (as "2:4") or "fan-in" (see `prunus.sparse_training.NM`,
            `ConstantFanIn`). Under "n:m" every layer has the density n/m, whatever the scope; with a constant fan-in as
            many weights as it allows and the scope gives the layer at most.
        include: glob patterns on names (see `prunable`).
        exclude: glob patterns on names to leave out; those layers stay dense.
        seed: of all random choices. They depend on it, the step and the layer alone, so that all processes of a
            distributed training make the same ones.

    Attributes:
        steps: how many steps the optimizer has taken.
        started: how many weights each layer had active at the beginning, by name.
        updates: a record of each change of the topology.
        latest: which weights the last one dropped and grew, by name.

    Raises:
        Invalid: if the optimizer does not hold a weight, a layer cannot have its density or pattern, or an option is
            out of its range. Nothing has been changed then.
    """

    #: Its name in the table of methods.
    name: ClassVar[str] = ""
    #: When the gradients of inactive weights are needed.
    dense_gradients: ClassVar[Literal["never", "updates", "always"]] = "never"
    #: Whether each layer keeps its number of weights, so that it may have a pattern.
    patterned: ClassVar[bool] = True

    model: nn.Module = field(repr=False)
    optimizer: Optimizer = field(repr=False)
    density: float | None = None
    _: KW_ONLY
    start: Masks | None = field(default=None, repr=False)
    scope: str | Allocation = "erk"
    pattern: str | Pattern | None = None
    include: Globs | None = None
    exclude: Globs | None = None
    seed: int = 0

    layers: dict[str, SparseLayer] = field(init=False, repr=False)
    steps: int = field(init=False, default=0)
    started: dict[str, int] = field(init=False, repr=False)
    updates: list[Update] = field(init=False, repr=False, default_factory=list)
    latest: dict[str, Change] = field(init=False, repr=False, default_factory=dict)

    _hook: RemovableHandle = field(init=False, repr=False)
    _taken: bool = field(init=False, repr=False, default=False)  # whether the optimizer has taken a step since `step()`
    _saved_active: int | None = field(init=False, repr=False, default=None)  # weights other than 0 in a loaded state

    def __post_init__(self) -> None:
        for given, kind in ((self.model, nn.Module), (self.optimizer, Optimizer)):
            if not isinstance(given, kind):
                called = "model" if kind is nn.Module else "optimizer"
                raise Invalid(f"{called} is of type {type(given).__name__}; allowed: a torch {kind.__name__}")
        self.model, self.optimizer = model_in(self.model), optimizer_in(self.optimizer)
        self.pattern = pattern_of(self.pattern)
        self._check()
        weights = trained_weights(self.model, self.optimizer, self.start, self.include, self.exclude)
        axes = output_axes(self.model, weights)
        masks = self.first_masks(weights, axes)
        apply(self.model, masks)
        self.started = {layer.name: layer.kept for layer in masks.layers}
        self.layers = {n: SparseLayer(n, every[id(w)], axes[n], self.started[n]) for n, w in weights.items()}
        self._hook = before_steps(self.optimizer, self._ready)
        self.begin()
        self.forget()

    # What a method says otherwise.

    def first_masks(self, weights: Mapping[str, nn.Parameter], axes: Mapping[str, int]) -> Masks:
        """The masks to begin with, of weights whose outputs lie along `axes`."""
        if self.start is not None:
            if self.density is not None:
                raise Invalid(f"density is {self.density} beside start; allowed: one of the two")
            return given_masks(self.start, weights, axes, self._pattern)
        density = self.density if self.density is not None or self._pattern is None else self._pattern.density
        if density is None:
            raise Invalid("density is None; allowed: a number in (0, 1], or masks as start")
        return random_masks(weights, axes, check_density(density), self.scope, self._pattern, self.stream)

    def begin(self) -> None:
        """Called when the model holds its first masks, and again when a state was loaded."""

    def forget(self) -> None:
        """Clear what the optimizer remembers of weights that it does not train: those outside the masks."""
        for layer in self.layers.values():
            clear_moments(self.optimizer, layer.weight, layer.mask)

    def gradients_ready(self) -> None:
        """Called right before each step of the optimizer, when all gradients are there."""

    def stepped(self) -> None:
        """Called after each step of the optimizer."""

    def own_state(self) -> dict[str, Any]:
        """What `state_dict` has of a method beside masks and records: tensors by name, and what JSON can hold."""
        return {}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """The inverse."""

    # What users call.

    @torch.no_grad()
    def step(self) -> None:
        """To be called after each `optimizer.step()`.

        A step that the optimizer did not take, because a GradScaler skipped it or accelerate accumulates gradients,
        does not count, and nothing is done.

        Raises:
            Invalid: if no weight has had a gradient yet, or a weight was replaced.
        """
        if not any(layer.held.keep.met for layer in self.layers.values()):
            self._check_held()  # by masks that another method holds, no gradient has come here
            raise Invalid("step() came before any gradient: call loss.backward() and optimizer.step() first")
        if not self._taken:
            return
        self._taken = False
        self.steps += 1
        self.stepped()
        for layer in self.layers.values():
            layer.held.zeroed = None

    @property
    def masks(self) -> Masks:
        """A copy of the masks now."""
        return Masks._made({name: layer.mask for name, layer in self.layers.items()})

    @torch.no_grad()
    def follow(self, copy: nn.Module) -> None:
        """Have a copy of the model, such as a moving average of its weights, hold the same masks from now on.

        Args:
            copy: with the model's parameters; an `AveragedModel` has them, and others by the same names.

        Raises:
            Invalid: if it has not one of the masked weights for its own. Nothing has been changed then.
        """
        if not isinstance(copy, nn.Module):
            raise Invalid(f"copy is of type {type(copy).__name__}; allowed: a torch.nn.Module")
        copy = model_in(copy)
        there = dict(copy.named_parameters())
        for name, layer in self.layers.items():
            own = there.get(name)
            if own is None or own.shape != layer.weight.shape or own is layer.weight:
                raise Invalid(f"copy has no {name} of shape {tuple(layer.weight.shape)} for its own")
        apply(copy, self.masks)
        for name, layer in self.layers.items():
            layer.copies.append(every[id(there[name])])
            layer.copies[-1].moving = True

    def remove(self) -> None:
        """Take the hook off the optimizer. The masks stay, and change no more; `prunus.release` takes them away."""
        self._hook.remove()
        for layer in self.layers.values():
            for held in (layer.held, *layer.copies):
                held.moving = held.keep.dense = False

    def state_dict(self) -> dict[str, Any]:
        """Masks, step and records: tensors by name, and numbers and words that JSON can hold."""
        return {
            **{f"mask/{name}": tensor for name, tensor in self.masks.packed().items()},
            "method": self.name,
            "steps": self.steps,
            "started": dict(self.started),
            "updates": [update.to_json() for update in self.updates],
            "active": sum(int(layer.weight.count_nonzero()) for layer in self.layers.values()),
            **self.own_state(),
        }

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`.

        Raises:
            Invalid: if the state is of another method or model. Nothing has been changed then.
        """
        if not isinstance(state_dict, Mapping):
            raise Invalid(f"the state is of type {type(state_dict).__name__}; allowed: what state_dict() gave")
        if (method := state_dict.get("method")) != self.name:
            raise Invalid(f"the state is of the method {method!r}; allowed: {self.name!r}")
        for needed in ("steps", "started", "updates", "active", *self.own_state()):
            if needed not in state_dict:
                raise Invalid(f"the state has no {needed!r}: it is cut short, or of another version")
        masks = self._unpacked(state_dict)
        kept = {row.name: row.kept for row in masks.layers}
        for name, layer in self.layers.items():
            layer.take(masks[name], kept[name])
        self.steps, self.latest = int(state_dict["steps"]), {}
        self.started = {name: int(count) for name, count in state_dict["started"].items()}
        self.updates = [Update.from_json(update) for update in state_dict["updates"]]
        self._saved_active = int(state_dict["active"])
        self.load_own_state(state_dict)
        self.begin()
        self.forget()

    # What methods share.

    def stream(self, *names: object) -> torch.Generator:
        """The generator of the random choice that `names` say."""
        return generator(self.seed, self.name, *names)

    def groups(self, layer: SparseLayer) -> Tensor | None:
        """The positions of a layer's weights by the groups of the pattern, [groups, width]; None without pattern."""
        if self._pattern is None:
            return None
        width = self._pattern.width(layer.name, layer.weight, layer.axis)
        return positions_of(layer.weight.shape, layer.axis, width, layer.weight.device)

    def rewire(self, step: int, fraction: float, choices: Iterable[tuple[str, tuple[Tensor, Tensor]]]) -> None:
        """Carry out an update and keep a record of it.

        Args:
            step: its number.
            fraction: of the active weights that was to be dropped.
            choices: names of layers, each with the positions kept and grown; they are asked for one by one, so that
                what is computed for a choice is gone before the next. A layer that is not named stays as it is.

        Raises:
            Invalid: if a parameter was replaced, or other masks were applied.
        """
        self._check_held()
        self.record(step, fraction, {n: self.layers[n].rewire(*chosen, self.optimizer) for n, chosen in choices})

    def record(self, step: int, fraction: float, changes: dict[str, Change]) -> None:
        """Keep a record of an update: what it did to each layer, by name."""
        self.latest = changes
        dropped = {name: len(change.dropped) for name, change in self.latest.items()}
        grown = {name: len(change.grown) for name, change in self.latest.items()}
        kept = {name: layer.kept for name, layer in self.layers.items()}
        self.updates.append(Update(step, fraction, dropped, grown, kept))

    @property
    def _pattern(self) -> Pattern | None:
        assert not isinstance(self.pattern, str)
        return self.pattern

    def _check(self) -> None:
        called = type(self).__name__
        if self.pattern and not self.patterned:
            raise Invalid(f"pattern is {self.pattern}; allowed with {called}: None, since layers change their density")
        if self.dense_gradients != "never" and isinstance(self.optimizer, LBFGS):
            raise Invalid(f"optimizer is LBFGS; allowed with {called}: one that takes one gradient a step")

    def _ready(self) -> None:
        self._taken = True
        with torch.no_grad():
            self._check_loaded()
            self.gradients_ready()

    def _check_held(self) -> None:
        there = dict(self.model.named_parameters())
        for name, layer in self.layers.items():
            if there.get(name) is not layer.weight:
                raise Invalid(f"{name} was replaced since {type(self).__name__} was made: make a new one")
            if every.get(id(layer.weight)) is not layer.held:
                raise Invalid(f"the mask of {name} was taken away or replaced: make a new {type(self).__name__}")

    def _check_loaded(self) -> None:
        saved, self._saved_active = self._saved_active, None
        now = 0 if saved is None else sum(int(layer.weight.count_nonzero()) for layer in self.layers.values())
        if saved and 2 * now < saved:
            raise Invalid(
                f"{now:,} weights are other than 0, and {saved:,} were when the state was saved: load the model's "
                f"state_dict after making {type(self).__name__}, which masks the model"
            )

    def _unpacked(self, state: Mapping[str, Any]) -> Masks:
        packed = {name.removeprefix("mask/"): t for name, t in state.items() if name.startswith("mask/")}
        for name in sorted(packed.keys() ^ self.layers.keys()):
            raise Invalid(f"the state is of another model: only one of the two has a mask of {name!r}")
        masks = Masks.unpacked(packed, {name: tuple(layer.weight.shape) for name, layer in self.layers.items()})
        return Masks._made({name: mask.to(self.layers[name].weight.device) for name, mask in masks.items()})
