"""From a study's name or file, and what the command line adds, to a checked study.

Later words win: the preset, then the file, then its variants, then `--set` and the options.
"""

from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from prunus.core.errors import Invalid, nearest
from prunus.studies.config import LotteryTicket, Setting

#: The studies by name, with their presets: the YAML files under `presets/<name>/`. The first preset is the default.
STUDIES: Mapping[str, Mapping[str, str]] = {
    "lottery-ticket": {
        "quick": "LeNet-300-100 on digits, in a minute",
        "paper": "LeNet-300-100 on MNIST, as published",
        "paper-conv": "Conv-2, Conv-4 and Conv-6 on CIFAR-10, as published",
    }
}

Raw = dict[str, Any]


def resolve(study: str, overrides: Iterable[tuple[str, Any]] = ()) -> LotteryTicket:
    """The study called `study`, or the one in that YAML file, with dotted `overrides` such as `("train.lr", 0.1)`.

    Raises:
        Invalid: naming the key and what is allowed.
    """
    raw, source = _read(study)
    assignments = dict(overrides)
    for option in ("study", "preset"):
        if option in assignments:
            raw[option] = assignments.pop(option)
    kind = raw.setdefault("study", "lottery-ticket")
    if kind not in STUDIES:
        raise Invalid(f"{source}: study is {kind!r}; {nearest(str(kind), STUDIES)}")
    preset = raw.setdefault("preset", next(iter(STUDIES[kind])))
    if preset not in STUDIES[kind]:
        raise Invalid(f"{source}: preset is {preset!r}; {nearest(str(preset), STUDIES[kind])}")
    return _checked(_merged(_preset(kind, preset), raw), assignments, source)


def parse_assignment(text: str) -> tuple[str, Any]:
    """`train.lr=0.1` as `("train.lr", 0.1)`; the value is read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise Invalid(f"--set {text!r}: allowed: key=value, such as train.iterations=500")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise Invalid(f"--set {text!r}: the value is not YAML ({_one_line(error)})") from error


def to_yaml(study: LotteryTicket) -> str:
    """The resolved study as a file that `prunus run` takes."""
    plain = study.model_dump(mode="json", exclude_none=True)
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=110)


def _read(study: str) -> tuple[Raw, str]:
    if study in STUDIES:
        return {"study": study}, study
    path = Path(study)
    if not path.exists():
        raise Invalid(f"study is {study!r}: neither a YAML file nor a built-in study; {nearest(study, STUDIES)}")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Invalid(f"{path}: cannot be read as YAML ({_one_line(error)})") from error
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise Invalid(f"{path}: a study is a mapping of keys such as study, trials, train")
    return raw, str(path)


def _preset(kind: str, preset: str) -> Raw:
    path = files("prunus.studies") / "presets" / kind / f"{preset}.yaml"
    return {"name": f"{kind}-{preset}", **yaml.safe_load(path.read_text(encoding="utf-8"))}


def _checked(raw: Raw, assignments: Raw, source: str) -> LotteryTicket:
    of_settings = {key: value for key, value in assignments.items() if key.split(".")[0] in Setting.model_fields}
    for key in assignments.keys() - of_settings:
        _assign(raw, key, assignments[key])
    shared = {key: raw.pop(key) for key in Setting.model_fields if key in raw}
    variants = raw.get("variants")
    alone = not variants
    if not isinstance(variants or {}, dict):
        raise Invalid(f"{source}: variants is {variants!r}; allowed: a mapping from names to settings")
    raw["variants"] = {}
    for name, variant in (variants or {"": {}}).items():
        setting = _merged(shared, variant) if isinstance(variant, dict) else variant
        for key, value in of_settings.items():
            _assign(setting, key, value)
        raw["variants"][name or _model_name(setting)] = setting
    try:
        return LotteryTicket.model_validate(raw)
    except ValidationError as error:
        raise Invalid(f"{source}: {_explain(error, alone)}") from error


def _model_name(setting: Raw) -> str:
    model = setting.get("model")
    return str(model.get("name", "model")) if isinstance(model, dict) else "model"


def _assign(raw: Any, key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        if not isinstance(raw, dict):
            raise Invalid(f"--set {key}: {part!r} is inside a value, not a key")
        raw = raw.setdefault(part, {})
    if not isinstance(raw, dict):
        raise Invalid(f"--set {key}: {last!r} is inside a value, not a key")
    raw[last] = value


def _merged(under: Raw, over: Raw) -> Raw:
    """A new mapping: keys of `over` win, mappings in both are merged."""
    both = dict(under)
    for key, value in over.items():
        old = both.get(key)
        both[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else _copied(value)
    return {key: _copied(value) for key, value in both.items()}


def _copied(value: Any) -> Any:
    return {key: _copied(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def _explain(error: ValidationError, alone: bool) -> str:
    """The first thing wrong, as the key's path, the value, and what is allowed."""
    problem = error.errors()[0]
    path = [str(part) for part in problem["loc"]]
    shown = ".".join(path[2:] if alone and path[:1] == ["variants"] else path)
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{shown}: no such key; {nearest(path[-1], _keys_at(path[:-1]))}"
    if problem["type"] in ("value_error",):
        where = f"{shown}: " if shown else ""
        return where + problem["msg"].removeprefix("Value error, ")
    value = problem.get("input")
    given = "" if problem["type"] == "missing" else f" is {value!r}"
    return f"{shown}{given}; {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _keys_at(path: list[str]) -> list[str]:
    """The keys that a study may have at `path`."""
    at: Any = LotteryTicket
    for part in path:
        if isinstance(at, type) and issubclass(at, BaseModel) and part in at.model_fields:
            at = at.model_fields[part].annotation
        elif get_args(at):
            at = get_args(at)[-1]
    if isinstance(at, type) and issubclass(at, BaseModel):
        own = list(at.model_fields)
        return [*own, *Setting.model_fields] if at is LotteryTicket else own
    return list(getattr(at, "__dataclass_fields__", {}))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
