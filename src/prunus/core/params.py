"""Which parameters of a model masks act on."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from prunus.core.errors import Invalid, nearest

Globs = str | Sequence[str]

#: Module types and the names of their prunable weights. Attention's input projection is a linear layer too.
WEIGHTS: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (nn.Linear, ("weight",)),
    (nn.modules.conv._ConvNd, ("weight",)),
    (nn.MultiheadAttention, ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")),
)


def prunable(model: nn.Module, include: Globs | None = None, exclude: Globs | None = None) -> dict[str, nn.Parameter]:
    """The prunable parameters of `model` by state_dict name, in the model's own order.

    By default these are the weights of linear, convolution and transposed-convolution layers, of Hugging Face's
    `Conv1D`, and the input projections of `nn.MultiheadAttention`; never biases, norms or embeddings, also
    where a linear layer is tied to an embedding. Tied weights are listed once, under their first name.

    Args:
        model: any `nn.Module`.
        include: glob patterns on names (`"encoder.*"`); only what one of them matches is listed. A name written out
            in full may be any floating-point parameter of the model, also one that is not listed by default.
        exclude: glob patterns on names to leave out.

    Raises:
        Invalid: if a pattern matches nothing, or a weight is behind a parametrization or not initialised yet.
    """
    every = dict(model.named_parameters())  # tied parameters appear once
    found = {name: every[name] for name in _default_names(model, every)}
    if include is not None:
        chosen = {name for pattern in patterns_of(include) for name in _matching(pattern, found, every)}
        found = {name: parameter for name, parameter in every.items() if name in chosen}
    for pattern in patterns_of(exclude or ()):
        matched = [name for name in every if fnmatchcase(name, pattern)]
        if not matched:
            raise Invalid(f"exclude={pattern!r} matches no parameter of the model; {nearest(pattern, every)}")
        found = {name: parameter for name, parameter in found.items() if name not in matched}
    for name, parameter in found.items():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise Invalid(f"{name} is not initialised yet: run one batch through the lazy layer first")
    return found


def owners(model: nn.Module, parameter: nn.Parameter) -> Iterator[tuple[nn.Module, str]]:
    """Each module of `model` that holds `parameter` itself, with the attribute's name (several where it is tied)."""
    for module in model.modules():
        for attribute, held in module._parameters.items():
            if held is parameter:
                yield module, attribute


def _default_names(model: nn.Module, every: dict[str, nn.Parameter]) -> list[str]:
    names = {id(parameter): name for name, parameter in every.items()}
    embedded = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
    chosen: set[str] = set()
    for path, module in model.named_modules():
        for attribute in weight_names(module):
            if is_parametrized(module, attribute):
                where = f"{path}.{attribute}".lstrip(".")
                raise Invalid(f"{where} is behind a parametrization: remove it before masking the model")
            parameter = module._parameters.get(attribute)
            if attribute not in module._parameters and isinstance(getattr(module, attribute, None), torch.Tensor):
                # weight_norm, spectral_norm and torch.nn.utils.prune compute the weight from other parameters
                where = f"{path}.{attribute}".lstrip(".")
                raise Invalid(f"{where} is computed in a hook and no parameter: remove the hook before masking")
            if parameter is not None and id(parameter) not in embedded:
                chosen.add(names[id(parameter)])
    return [name for name in every if name in chosen]


def weight_names(module: nn.Module) -> tuple[str, ...]:
    """The names of the attributes of `module` that hold prunable weights, without those of its children."""
    if type(module).__name__ == "Conv1D" and type(module).__module__.startswith("transformers"):
        return ("weight",)
    return next((names for kind, names in WEIGHTS if isinstance(module, kind)), ())


def patterns_of(globs: Globs) -> tuple[str, ...]:
    """Glob patterns, one or several, as a tuple.

    Raises:
        Invalid: if they are none.
    """
    patterns = (globs,) if isinstance(globs, str) else globs
    if not isinstance(patterns, Sequence) or not all(isinstance(each, str) for each in patterns):
        raise Invalid(f"a pattern is {globs!r}; allowed: a glob pattern on names, or a list of them")
    return tuple(patterns)


def _matching(pattern: str, found: dict[str, nn.Parameter], every: dict[str, nn.Parameter]) -> list[str]:
    if pattern in every:
        if not every[pattern].is_floating_point():
            raise Invalid(f"include={pattern!r} is of type {every[pattern].dtype}; masks need floating point")
        return [pattern]
    matched = [name for name in found if fnmatchcase(name, pattern)]
    if not matched:
        raise Invalid(f"include={pattern!r} matches no prunable parameter; {nearest(pattern, found)}")
    return matched


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter (the CPU if it has none)."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))
