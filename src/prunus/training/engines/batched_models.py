"""Which lanes can be computed as one, and in which ways: tried, not looked up.

Two networks compute the same function of their parameters if all else about them is equal: their modules, one by one,
and what these remember in plain attributes. Whether vmap can compute it is found out by computing a step of two small
lanes with it and by autograd one after the other.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.training.engines.batched_gradients import Gradients, apart, by_hand, grouped, logits_of
from prunus.training.engines.batched_state import Bank, Layout, tensors_of
from prunus.training.engines.draws import draws
from prunus.training.gradients import fully_connected
from prunus.training.lane import Lane

#: From model, bank and precision to gradients: see `prunus.training.engines.batched_gradients`.
Way = Callable[[Any, Bank, str], Gradients]

#: Examples of each lane of a trial.
_EXAMPLES = 8
#: How far gradients may be from those of autograd, as a fraction of their norm: products on tensor cores are rounded.
_TOLERANCE = {"float32": 1e-2, "bfloat16": 0.5}

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Pattern:
    """What lanes have in common that are computed as one.

    Attributes:
        data: their data set.
        recipe: of one of them; others differ in learning rate, length, amount of decay and momentum at most.
        model: a copy of one of their networks, whose parameters are not used.
        layout: of the parameters that are trained.
        ways: how a step can be computed, by name.
        activations: bytes that one example leaves in the layers of one lane.
    """

    def __init__(self, lane: Lane) -> None:
        self.data, self.recipe = lane.data, lane.recipe
        self.model = deepcopy(lane.model)
        self._key, self._structure = _key(lane), _structure(lane.model)
        one, other = _Trial(lane, 0), _Trial(lane, _EXAMPLES)
        self.activations = one.activations
        there = tensors_of(self.model)
        self.layout = Layout({name: there[name].shape for name in one.gradients})
        self._rest = {name: tensor for name, tensor in there.items() if name not in one.gradients}
        if not _same(_structure(one.model), self._structure):
            raise ValueError("the network changes itself while it is computed")
        _try(self, grouped, [one, other], "float32")
        self.ways: dict[str, Way] = {"batched": by_hand}
        if fully_connected(self.model) is None:
            precision = self.recipe.precision
            ways = {"grouped": grouped, "apart": apart}
            self.ways = {name: way for name, way in ways.items() if _works(self, way, [one, other], precision)}

    @classmethod
    def of(cls, lane: Lane) -> "Pattern | None":
        """The pattern of a lane; None if it cannot be computed with others."""
        if lane.method is not None or _hooked(lane.model) or draws(lane):
            return None
        if any(p.dtype != torch.float32 or p.device != lane.device for p in lane.model.parameters()):
            return None
        try:
            pattern = cls(lane)
        except Exception:  # the model may be any code, and vmap refuses with whatever its parts raise
            return None
        return pattern if pattern.ways else None

    def fits(self, lane: Lane) -> bool:
        """Whether `lane` can be computed with those of the pattern."""
        return (
            lane.data is self.data
            and lane.method is None
            and _key(lane) == self._key
            and not _hooked(lane.model)
            and _same(_structure(lane.model), self._structure)
        )

    def bank(self, moments: tuple[str, ...]) -> Bank:
        """An empty bank for lanes of the pattern."""
        return Bank(self.layout, moments, self._rest, self.data.train.images.device)


class _Trial:
    """A few examples, and what autograd makes of them with a copy of a lane's network."""

    def __init__(self, lane: Lane, first: int) -> None:
        split = lane.data.train
        rows = torch.arange(first, first + min(_EXAMPLES, lane.recipe.batch), device=lane.device) % len(split)
        self.images, self.labels = lane.data.normalise(split.images[rows]), split.labels[rows]
        self.model = deepcopy(lane.model).train()
        self.activations = 0
        watched = [module for module in self.model.modules() if not list(module.children())]
        hooks = [module.register_forward_hook(self._count) for module in watched]
        with torch.enable_grad():
            self.loss = F.cross_entropy(self.model(self.images), self.labels)
            self.loss.backward()
        for hook in hooks:
            hook.remove()
        self.activations = -(-self.activations // len(rows))
        named = self.model.named_parameters()
        #: of the parameters that are trained: torch's optimizers leave alone what has no gradient
        self.gradients = {name: p.grad for name, p in named if p.requires_grad and p.grad is not None}
        self.buffers = dict(self.model.named_buffers())
        self.initial = lane.model

    def _count(self, _module: nn.Module, _given: object, output: object) -> None:
        if isinstance(output, Tensor):
            self.activations += output.nbytes


def _works(pattern: Pattern, way: Way, trials: list[_Trial], precision: str) -> bool:
    try:
        _try(pattern, way, trials, precision)
    except Exception:  # see `Pattern.of`
        return False
    return True


def _try(pattern: Pattern, way: Way, trials: list[_Trial], precision: str) -> None:
    """Compute the trials together.

    Raises:
        Exception: if that cannot be done, or gives something else.
    """
    bank = pattern.bank(())
    bank.resize([], len(trials), masked=False)
    for row, trial in enumerate(trials):
        bank.load(row, trial.initial, {}, {})
    model = pattern.model.train()
    images, labels = (torch.stack([getattr(t, part) for t in trials]) for part in ("images", "labels"))
    with _without_fallback(), torch.no_grad():
        loss, _ = way(model, bank, precision)(images, labels)
    gradients = pattern.layout.views(bank.gradients)
    for row, trial in enumerate(trials):
        found = {name: view[row] for name, view in gradients.items()} | {"": loss[row]}
        buffers = {name: bank.rest[name][row] for name in trial.buffers}
        _check(found, {**trial.gradients, "": trial.loss.detach()}, _TOLERANCE[precision])
        _check(buffers, trial.buffers, _TOLERANCE[precision])
    with _without_fallback(), torch.no_grad():
        # what evaluation needs: all lanes see the same images
        logits_of(model.eval(), precision)(*bank.chosen(range(len(bank))), images[0])


def _check(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float) -> None:
    norms = {name: float(tensor.double().norm()) for name, tensor in expected.items()}
    # rounding of large gradients is seen in small ones
    noise = 1e-2 * tolerance * max(norms.values(), default=0.0)
    for name, tensor in expected.items():
        if not float((found[name].double() - tensor.double()).norm()) <= tolerance * norms[name] + noise:
            raise ValueError(f"vmap gives another {name or 'loss'}")


@contextmanager
def _without_fallback() -> Iterator[None]:
    """Where vmap has no rule for an operation it would go lane by lane, slowly: that is an error here."""
    functorch: Any = torch._C._functorch  # type: ignore[attr-defined]
    before = functorch._is_vmap_fallback_enabled()
    functorch._set_vmap_fallback_enabled(False)
    try:
        yield
    finally:
        functorch._set_vmap_fallback_enabled(before)


def _key(lane: Lane) -> tuple:
    recipe = lane.recipe
    momentum, decay = bool(recipe.momentum), bool(recipe.weight_decay)
    return recipe.batch, recipe.optimizer, momentum, recipe.nesterov, decay, recipe.augment, recipe.precision


def _hooked(model: nn.Module) -> bool:
    of_parameters = any(p._backward_hooks or p._post_accumulate_grad_hooks for p in model.parameters())
    return of_parameters or any(getattr(module, hooks) for module in model.modules() for hooks in _HOOKS)


def _structure(model: nn.Module) -> list[tuple]:
    """All that there is about a network besides the values of its parameters and buffers."""
    tensors = [
        (name, t.shape, t.dtype, t.device, t.requires_grad, isinstance(t, nn.Parameter))
        for name, t in tensors_of(model).items()
    ]
    # the mode is set before each use
    skipped = {"training", "_parameters", "_buffers", "_modules"}
    modules = [
        (name, type(module), {k: v for k, v in vars(module).items() if k not in skipped})
        for name, module in model.named_modules(remove_duplicate=False)
    ]
    return [*tensors, *modules]


def _same(one: object, other: object) -> bool:
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and bool((one == other).all())
    if isinstance(one, dict | OrderedDict) and isinstance(other, dict | OrderedDict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    try:
        # objects without an equality of their own are equal if copies of them would be made of equal parts
        return bool(one == other) or _same(one.__reduce_ex__(2), other.__reduce_ex__(2))
    except Exception:  # what cannot be compared is not known to be equal
        return False
