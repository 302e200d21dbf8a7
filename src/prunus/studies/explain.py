"""What is wrong with a study, in one line: the key's path, the value, and what is allowed."""

from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from prunus.core.errors import nearest
from prunus.studies.config import Study

#: What pydantic's kinds of errors mean for the reader of a YAML file; their context fills the braces.
ALLOWED = {
    "bool_type": "true or false",
    "dataclass_type": "a mapping of keys",
    "dict_type": "a mapping of keys",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "int_type": "a whole number",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "model_type": "a mapping of keys",
    "string_pattern_mismatch": "letters, digits, _, - and ., beginning with a letter, digit or _",
    "string_type": "text",
    "tuple_type": "a list",
}


def explain(error: ValidationError, config: type, alone: bool) -> str:
    """The first thing that is wrong with a study.

    Args:
        error: what pydantic found.
        config: the model of the study, or the class of a part of it.
        alone: whether the study has one setting, whose keys stand at the top of its file.
    """
    first, *others = error.errors()
    path, kind = _path(first), first["type"]
    shown = ".".join(path[2:] if alone and path[:1] == ["variants"] else path)
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{shown}: no such key; {nearest(path[-1], _keys_at(config, path[:-1]))}"
    if kind == "missing":
        return f"{shown} is missing"
    if kind == "value_error":
        said = first["msg"].removeprefix("Value error, ")
        return said if not shown or said.startswith(f"{path[-1]} is") else f"{shown}: {said}"
    # a value that may be of several types has an error for each of them
    types = dict.fromkeys(e["type"] for e in [first, *others] if _path(e) == path)
    if list(types) == ["int_type", "string_type"]:
        allowed = "iterations as 500 or '500it', or epochs as '160ep'"
    else:
        allowed = " or ".join(_allowed(e) for e in [first, *others] if _path(e) == path)
    return f"{shown} is {first['input']!r}; allowed: {allowed}"


def _path(error: Any) -> list[str]:
    path = [str(part) for part in error["loc"]]
    return path[:-1] if path[-1:] and path[-1] in ("int", "float", "str") else path


def _allowed(error: Any) -> str:
    kind = error["type"]
    return ALLOWED[kind].format(**error.get("ctx", {})) if kind in ALLOWED else error["msg"]


def _keys_at(config: type, path: list[str]) -> list[str]:
    """The keys that a study may have at `path`."""
    at: Any = config
    for part in path:
        if isinstance(at, type) and issubclass(at, BaseModel) and part in at.model_fields:
            at = at.model_fields[part].annotation
        elif get_args(at):
            at = get_args(at)[-1]
    if isinstance(at, type) and issubclass(at, BaseModel):
        own = list(at.model_fields)
        return [*own, *at.setting().model_fields] if issubclass(at, Study) else own
    return list(getattr(at, "__dataclass_fields__", {}))
