"""Which arms of a preset a study has."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from prunus.core.errors import Invalid, nearest

Config = TypeVar("Config")


def chosen(configs: Mapping[str, Config], arms: Sequence[str] | None) -> dict[str, Config]:
    """The configurations of `arms`, by default of all.

    Raises:
        Invalid: if there is none of that name, or one is named twice.
    """
    if arms is None:
        return dict(configs)
    for arm in arms:
        if arm not in configs:
            raise Invalid(f"arms has {arm!r}; {nearest(arm, configs)}")
    if len(set(arms)) < len(arms):
        raise Invalid(f"arms is {list(arms)}; allowed: each once")
    return {arm: configs[arm] for arm in arms}
