"""`supermask`: masks that are learned over weights that are not.

A mask is a function of scores, or of the weights themselves, and lies in a `torch.nn.utils.parametrize` of each weight:
the model keeps its forward pass, and `layer.weight` is the masked weight. The state_dict has the weight under
`layer.parametrizations.weight.original` and the scores beside it.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, register_parametrization

from prunus.core.errors import Invalid, nearest
from prunus.core.learned import learned_masks
from prunus.core.params import Globs, owners, patterns_of, prunable
from prunus.core.seeds import generator
from prunus.supermasks.layer import MaskedWeight, masked_weights
from prunus.supermasks.method import Method
from prunus.supermasks.part import Part
from prunus.supermasks.statistics import fix_statistics
from prunus.supermasks.weights import WEIGHTS, Origin, draw_weights


class Supermask:
    """The masks of one model that are being learned.

    Attributes:
        method: how.
        origin: what the weights were drawn from; None where they are the model's own.
        layers: each masked weight by its name in the plain model.
        step_count: how many steps of an optimizer the scores have seen.
    """

    def __init__(self, method: Method, origin: Origin | None) -> None:
        self.method, self.origin = method, origin
        self.layers: dict[str, MaskedWeight] = {}
        self.step_count = 0
        self.counted_at: int | None = None  # the step whose counts the layers have, where they have such
        self.trained_before: dict[str, bool] = {}  # which parameters were trained, by name in the plain model

    @property
    def scores(self) -> list[nn.Parameter]:
        """What the optimizer is given."""
        return [layer.learned for layer in self.layers.values()]  # type: ignore[misc]

    @torch.inference_mode(False)
    @torch.no_grad()
    def refresh(self, layers: Sequence[MaskedWeight] | None = None) -> None:
        """Make the masks of layers anew, by default all of them."""
        self.method.write(list(self.layers.values()) if layers is None else layers)

    @torch.no_grad()
    def step(self) -> None:
        """Count a step and make the masks anew; an optimizer that is a `torch.optim.Optimizer` sees to it by itself."""
        self.step_count += 1
        self.method.stepped(self)
        self.refresh()

    @torch.no_grad()
    def masks(self) -> dict[str, Tensor]:
        """The masks now, bool tensors that nobody else holds."""
        return dict(zip(self.layers, self.method.masks(list(self.layers.values())), strict=True))

    @torch.no_grad()
    def parts(self) -> dict[str, Part]:
        """The masks now, each with how the values under it come from the weight."""
        return dict(zip(self.layers, self.method.parts(list(self.layers.values())), strict=True))

    def refresh_if_stale(self, layer: MaskedWeight) -> None:
        """Make the mask of a layer anew, or all of them where they are made together, if something was written to."""
        if torch.compiler.is_compiling():  # the hook after each step has seen to it
            return
        if self.method.joint:
            if any(each.stale for each in self.layers.values()):
                self.refresh()
        elif layer.stale:
            self.refresh([layer])


def supermask(
    model: nn.Module,
    method: Method,
    *,
    include: Globs | None = None,
    exclude: Globs | None = None,
    train: Globs = (),
    weights: str | None = None,
    seed: int = 0,
    scaled: bool = False,
) -> Supermask:
    """Learn masks over the weights of `model` in place: train `prunus.scores(model)` with any optimizer and loop.

    Unless the method trains the weights too, all parameters of the model are frozen and stay as they are to the last
    bit. The statistics of norm layers follow the data as usual. A norm's weight and bias are frozen with the others: at
    their initial 1 and 0, that is the affine-free norm of the papers.

    Args:
        model: any `nn.Module`; wrap it by DDP or `torch.compile` afterwards.
        method: `prunus.EdgePopup(density=0.5)`, …
        include: glob patterns on names of weights to mask (see `prunus.prunable`). Default: all prunable ones.
        exclude: glob patterns on names of weights to leave unmasked (and frozen).
        train: glob patterns on names of parameters that are neither masked nor frozen, such as a head. They are
            yours to give to the optimizer.
        weights: what to draw the weights from anew: a name of `prunus list weights`. Only then can `prunus.save` write
            a seed in place of them. Default: the model's own weights.
        seed: of these weights, and of the first scores.
        scaled: whether the weights drawn are multiplied by 1/√density, which keeps the size of the activations where
            only so many are left. Default: they are not.

    Returns:
        What holds the masks; `prunus.supermask_of(model)` gives it too.

    Raises:
        Invalid: if the model has no prunable weight, a pattern matches nothing, the density keeps no weight of a
            layer, an option does not fit, or the model holds masks already. Nothing has been changed then.
    """
    found = _chosen(model, method, include, exclude, train)
    origin = _origin(method, weights, seed, scaled)
    method.check(found)
    first = {name: method.begin(weight.detach(), generator(seed, "scores", name)) for name, weight in found.items()}
    plain = dict(model.named_parameters())
    learned = Supermask(method, origin)
    learned.trained_before = {name: p.requires_grad for name, p in plain.items()}
    if origin is not None:
        draw_weights(model, origin, list(found))
    if not method.learns_weights:
        kept_training = _matching(train, plain)
        for name, parameter in plain.items():
            parameter.requires_grad_(name in kept_training)
            if name not in kept_training:
                parameter.grad = None  # an optimizer that has all parameters would still take a step by it
    for name, weight in found.items():
        _attach(model, name, weight, learned, first[name])
    if method.fixes_statistics:
        fix_statistics(model)
    learned.refresh()
    return learned


def supermask_of(model: nn.Module) -> Supermask:
    """What `supermask` returned for this model, or for the one that it is a copy of.

    Raises:
        Invalid: if the model has no supermask, or parts of it have different ones.
    """
    each = [layer.supermask for layer in masked_weights(model).values()]
    found = list({id(whole): whole for whole in each if isinstance(whole, Supermask)}.values())
    if not found:
        raise Invalid(f"this {type(model).__name__} has no supermask: supermask(model, method) gives it one")
    if len(found) > 1:
        raise Invalid(f"this {type(model).__name__} has {len(found)} supermasks: ask for those of its parts one by one")
    return found[0]


def scores(model: nn.Module) -> list[nn.Parameter]:
    """What a supermask learns, for the optimizer: the scores of each layer, or its weights where those are the scores.

    Raises:
        Invalid: if the model has no supermask.
    """
    return supermask_of(model).scores


def _chosen(
    model: nn.Module, method: Method, include: Globs | None, exclude: Globs | None, train: Globs
) -> dict[str, nn.Parameter]:
    if not isinstance(model, nn.Module):
        raise Invalid(f"model is of type {type(model).__name__}; allowed: a torch.nn.Module")
    if not isinstance(method, Method):
        what = method.__name__ + " itself" if isinstance(method, type) else f"of type {type(method).__name__}"
        raise Invalid(f"method is {what}; allowed: a method made with its options, such as EdgePopup(density=0.5)")
    if any(True for _ in learned_masks(model)):
        raise Invalid(f"this {type(model).__name__} has a supermask already: bake(model) makes it plain again")
    if any("_prunus_slots" in vars(module) for module in model.modules()):
        raise Invalid(f"this {type(model).__name__} holds masks: release(model) takes them away")
    left_alone = _matching(train, dict(model.named_parameters()))
    found = {n: p for n, p in prunable(model, include, exclude).items() if n not in left_alone}
    if not found:
        raise Invalid(f"{type(model).__name__} has no maskable weight (see prunus.prunable)")
    for name, parameter in found.items():
        if parameter.is_meta:
            raise Invalid(f"{name} is on the meta device: it has no values to mask")
        if not parameter.is_floating_point():
            raise Invalid(f"{name} is of type {parameter.dtype}; masks need floating point")
    return found


def _matching(patterns: Globs, every: Mapping[str, nn.Parameter]) -> set[str]:
    chosen: set[str] = set()
    for pattern in patterns_of(patterns):
        matched = {name for name in every if fnmatchcase(name, pattern)}
        if not matched:
            raise Invalid(f"train={pattern!r} matches no parameter of the model; {nearest(pattern, every)}")
        chosen |= matched
    return chosen


def _origin(method: Method, weights: str | None, seed: int, scaled: bool) -> Origin | None:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise Invalid(f"seed is {seed!r}; allowed: a whole number from 0 to 2^64 − 1")
    if not isinstance(scaled, bool):
        raise Invalid(f"scaled is {scaled!r}; allowed: True or False")
    if weights is None:
        if scaled:
            raise Invalid("scaled is True with the model's own weights; allowed: with weights, which are then drawn")
        return None
    WEIGHTS.look_up(weights, "weights")
    if scaled and method.target is None:
        raise Invalid(f"scaled is True, and {type(method).__name__} has no density to scale by; allowed: False")
    return Origin(weights, seed, (method.target or 1.0) ** -0.5 if scaled else 1.0)


def _attach(model: nn.Module, name: str, weight: nn.Parameter, learned: Supermask, first: Tensor | None) -> None:
    with torch.no_grad():
        layer = MaskedWeight(name, learned, first)
    learned.layers[name] = layer
    for module, attribute in list(owners(model, weight)):
        order = tuple(module._parameters)
        register_parametrization(module, attribute, layer, unsafe=True)  # its own check would ask for a mask too soon
        home = module.parametrizations[attribute]  # type: ignore[index]
        assert isinstance(home, ParametrizationList)
        home.order = order  # type: ignore[assignment]
        layer.live_in(home)
    learned.method.join(layer)
