"""The training of an arm that differs from that of the dense network."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from prunus.core.errors import Invalid
from prunus.studies.config import TrainConfig
from prunus.studies.explain import explain
from prunus.training import Recipe

_TRAINING = TypeAdapter(TrainConfig)


def trained_otherwise(dense: Any, changes: Mapping[str, Any]) -> Recipe:
    """The training of the dense network with some of its keys changed.

    Raises:
        Invalid: if that is no training.
    """
    try:
        found = _TRAINING.validate_json(json.dumps({**dense.__dict__, **changes}))
    except ValidationError as error:
        raise Invalid(f"train.{explain(error, TrainConfig, alone=False)}") from error
    return Recipe(**found.__dict__)
