"""From a study's name or file, and what the command line adds, to a checked study.

Later words win: the preset, then the file, then its variants, then `--set` and the options.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from prunus.core.errors import Invalid, nearest
from prunus.studies.config import Study
from prunus.studies.explain import explain
from prunus.studies.kinds import KINDS, STUDIES
from prunus.studies.kinds.kind import Kind

Raw = dict[str, Any]


def resolve(study: str, overrides: Iterable[tuple[str, Any]] = (), *, elsewhere: bool = False) -> Study[Any]:
    """The study called `study`, or the one in that YAML file, with dotted `overrides` such as `("train.lr", 0.1)`.

    Args:
        study: a built-in study's name, or a file.
        overrides: keys and values that win over those of the study.
        elsewhere: whether other machines will train it; a GPU need not be here then.

    Raises:
        Invalid: naming the key and what is allowed.
    """
    raw, source = _read(study)
    assignments = dict(overrides)
    for option in ("study", "preset"):
        if option in assignments:
            raw[option] = assignments.pop(option)
    name = raw.setdefault("study", "lottery-ticket")
    if name not in list(STUDIES):
        raise Invalid(f"{source}: study is {name!r}; {nearest(str(name), STUDIES)}")
    kind = KINDS[name]
    preset = raw.setdefault("preset", next(iter(kind.presets)))
    if preset not in list(kind.presets):
        raise Invalid(f"{source}: preset is {preset!r}; {nearest(str(preset), kind.presets)}")
    under = {"name": f"{name}-{preset}", **_load(kind.preset(preset))}
    said = {key.split(".")[0] for key in (*raw, *assignments)}
    context = {"elsewhere": elsewhere, "inherited": frozenset(under.keys() - said)}
    return _checked(kind, _merged(under, raw), assignments, source, context)


def parse_assignment(text: str) -> tuple[str, Any]:
    """`train.lr=0.1` as `("train.lr", 0.1)`; the value is read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise Invalid(f"--set {text!r}; allowed: key=value, such as train.iterations=500")
    try:
        return key.strip(), _load(value)
    except _UNREADABLE as error:
        raise Invalid(f"--set {text!r}: the value is not YAML ({_one_line(error)})") from error


def to_yaml(study: Study[Any]) -> str:
    """The resolved study as a file that `prunus run` takes."""
    plain = study.model_dump(mode="json")
    plain["variants"] = plain.pop("variants")  # last, since they are long
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=110)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes `1e-3` for text; here it is the number that it is everywhere else. A key stands once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """The mapping, unless a key is there twice: which of the two is meant is not for us to say."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"the key {key!r} is there twice")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)

_UNREADABLE = (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError)


def _load(text: str) -> Any:
    """The YAML in `text`, which may say no more than JSON can: no dates, no loops."""
    return json.loads(json.dumps(yaml.load(text, _Loader)))  # noqa: S506 - a safe loader


def _read(study: str) -> tuple[Raw, str]:
    if study in STUDIES:
        return {"study": study}, study
    path = Path(study)
    if path.is_dir() or not path.exists():
        what = "a folder" if path.is_dir() else "neither a YAML file nor a built-in study"
        raise Invalid(f"study is {study!r}: {what}; {nearest(study, STUDIES)}")
    try:
        raw = _load(path.read_text(encoding="utf-8"))
    except _UNREADABLE as error:
        raise Invalid(f"{path}: cannot be read as YAML ({_one_line(error)})") from error
    if not isinstance(raw, dict):
        raise Invalid(f"{path}: holds no study; allowed: a mapping of keys such as study, trials, train")
    # a file's results have a folder of their own, named like the file
    raw.setdefault("name", re.sub(r"[^\w.-]+", "-", path.stem).lstrip("-.") or "study")
    return raw, str(path)


def _checked(kind: Kind, raw: Raw, assignments: Raw, source: str, context: Raw) -> Study[Any]:
    fields = kind.setting.model_fields
    of_settings = {key: value for key, value in assignments.items() if key.split(".")[0] in fields}
    for key, value in assignments.items():
        if key not in of_settings:
            _assign(raw, key, value)
    shared = {key: raw.pop(key) for key in fields if key in raw}
    variants = raw.get("variants")
    alone = not variants
    if not isinstance(variants or {}, dict):
        raise Invalid(f"{source}: variants is {variants!r}; allowed: a mapping of names to settings")
    raw["variants"] = {}
    for name, variant in (variants or {"": {}}).items():
        if not isinstance(variant or {}, dict):
            raise Invalid(f"{source}: variants.{name} is {variant!r}; allowed: a mapping of keys")
        setting = _merged(shared, variant or {})
        for key, value in of_settings.items():
            _assign(setting, key, value)
        raw["variants"][name or _model_name(setting)] = setting
    try:
        # as JSON, pydantic is strict about types and still takes a list for a tuple
        return kind.config.model_validate_json(json.dumps(raw), context=context)
    except ValidationError as error:
        raise Invalid(f"{source}: {explain(error, kind.config, alone)}") from error


def _model_name(setting: Raw) -> str:
    model = setting.get("model")
    return str(model.get("name", "model")) if isinstance(model, dict) else "model"


def _assign(raw: Raw, key: str, value: Any) -> None:
    *path, last = key.split(".")
    for depth, part in enumerate(path, 1):
        if raw.get(part) is None:
            raw[part] = {}
        raw = raw[part]
        if not isinstance(raw, dict):
            raise Invalid(f"--set {key}: {'.'.join(path[:depth])} is {raw!r}, which has no keys")
    raw[last] = _copied(value)


def _merged(under: Raw, over: Raw) -> Raw:
    """A new mapping: keys of `over` win, mappings in both are merged, and an empty section says nothing."""
    both = dict(under)
    for key, value in over.items():
        old = both.get(key)
        if isinstance(old, dict) and (value is None or isinstance(value, dict)):
            value = _merged(old, value or {})
        both[key] = value
    return {key: _copied(value) for key, value in both.items()}


def _copied(value: Any) -> Any:
    return {key: _copied(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
