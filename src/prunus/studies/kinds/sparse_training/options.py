"""The options of methods of sparse training, as a study's file gives them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import Field, fields
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from torch import nn

from prunus.core.errors import Invalid, nearest
from prunus.sparse_training import METHODS, SparseTraining
from prunus.studies.explain import explain
from prunus.training.recipe import in_iterations

#: What a study gives to a method itself.
_GIVEN = ("model", "optimizer", "density", "total_steps", "start", "seed")

#: What a file can say.
_PLAIN = (int, float, str, bool, list[str])


def options_of(kind: type[SparseTraining]) -> Mapping[str, Field[Any]]:
    """The options that a study's file may give to a method, by name."""
    return {field.name: field for field in fields(kind) if field.init and field.name not in _GIVEN}


def resolved(name: str, given: Mapping[str, Any], iterations: int, epoch: int) -> dict[str, Any]:
    """All that determines a method beside its density and seed.

    Args:
        name: of the method.
        given: its options; a number of steps may be said as a length.
        iterations: of the whole training.
        epoch: iterations of an epoch.

    Raises:
        Invalid: if the method has no such option, or it is not of its type.
    """
    kind = METHODS.look_up(name, "method")
    known = options_of(kind)
    options: dict[str, Any] = {}
    for option, value in given.items():
        if option not in known:
            raise Invalid(f"{option!r} is no option of {name}; {nearest(option, known)}")
        steps = isinstance(value, str) and known[option].type in (int, int | None)
        options[option] = in_iterations(value, epoch, option) if steps else value
    try:
        _model_of(kind).model_validate_json(json.dumps(options), strict=True)
    except ValidationError as error:
        raise Invalid(explain(error, kind, alone=False)) from error
    total = {"total_steps": iterations} if any(field.name == "total_steps" for field in fields(kind)) else {}
    return {**options, **total}


def make(identity: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> SparseTraining:
    """The method that a cell's identity says, on a model.

    Raises:
        Invalid: if it refuses an option's value, or a layer cannot have its density.
    """
    kind: Any = METHODS.look_up(identity["name"], "method")
    return kind(model, optimizer, **identity["options"], seed=seed)


@cache
def _model_of(kind: type[SparseTraining]) -> type[BaseModel]:
    hints = get_type_hints(kind)
    known: dict[str, Any] = {name: (_said(hints[name]), None) for name in options_of(kind)}
    return create_model(kind.__name__, __config__=ConfigDict(extra="forbid"), **known)


def _said(hint: Any) -> Any:
    """Those of the types of an option that a file can say."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    said = [list[str] if get_origin(part) is Sequence else part for part in parts]
    return Union[(None, *(part for part in said if part in _PLAIN or get_origin(part) is Literal))]
