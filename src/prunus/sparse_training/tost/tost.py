"""The recipe: the three switches that act during training, together."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.core.errors import Invalid, nearest
from prunus.sparse_training.tost.ghost_skips import GhostSkips
from prunus.sparse_training.tost.label_smoothing import LabelSmoothing
from prunus.sparse_training.tost.phase import Phase
from prunus.sparse_training.tost.soft_neurons import SoftNeurons

#: On, off, or on with these options.
Switch = bool | Mapping[str, Any]


class ToST:
    """Trains a network with a fixed mask better: soft neurons, ghost skip connections and label smoothing.

    ```python
    prunus.apply(model, masks)
    rescale_init(model, batches)  # the fourth ingredient, before training
    tost = ToST(model, optimizer, total_steps=len(loader) * epochs)
    ...
    tost.loss(model(images), labels).backward()
    optimizer.step()
    tost.step()
    ```

    At the end the model is the plain sparse one. See `SoftNeurons`, `GhostSkips` and `LabelSmoothing` for what each
    does, its options and what is known of its timing; any mask will do. To go on from a checkpoint, make it anew and
    load its state before the optimizer's.

    Jaiswal, Ma, Chen, Ding and Wang, "Training your sparse neural network better with any mask", 2022, ICML.

    Args:
        model: see `SoftNeurons`.
        optimizer: of the training.
        total_steps: length of the training in steps of the optimizer.
        soft_neurons: True, False, or the options of `SoftNeurons` by name.
        ghost_skips: the same of `GhostSkips`.
        label_smoothing: the same of `LabelSmoothing`.

    Raises:
        Invalid: if a switch refuses its options or the model. The model is as it was then.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        total_steps: int,
        *,
        soft_neurons: Switch = True,
        ghost_skips: Switch = True,
        label_smoothing: Switch = True,
    ) -> None:
        self.switches: dict[str, Phase] = {}
        try:
            if label_smoothing is not False:
                options = _options("label_smoothing", label_smoothing, LabelSmoothing)
                self.switches["label_smoothing"] = LabelSmoothing(**options, total_steps=total_steps)
            if soft_neurons is not False:
                options = _options("soft_neurons", soft_neurons, SoftNeurons)
                self.switches["soft_neurons"] = SoftNeurons(model, total_steps, **options)
            if ghost_skips is not False:
                options = _options("ghost_skips", ghost_skips, GhostSkips)
                self.switches["ghost_skips"] = GhostSkips(model, total_steps, **options, optimizer=optimizer)
        except BaseException:
            self.finish()
            raise

    @property
    def loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The loss to train with: smoothed, or plain cross-entropy if that switch is off."""
        smoothed = self.switches.get("label_smoothing")
        return smoothed if isinstance(smoothed, LabelSmoothing) else F.cross_entropy

    def step(self) -> None:
        """Go on by one step of the training; call it after `optimizer.step()`."""
        for switch in self.switches.values():
            switch.step()

    def finish(self) -> None:
        """End all of it now: the model is the plain sparse one. Calling it again does nothing."""
        for switch in self.switches.values():
            switch.finish()

    def state_dict(self) -> dict[str, Any]:
        """Numbers, and tensors by flat names, of all switches."""
        every = self.switches.items()
        return {f"{name}/{key}": value for name, switch in every for key, value in switch.state_dict().items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a state, in a `ToST` made with the same arguments.

        Raises:
            Invalid: if the state is of other switches, or of another training. Nothing has been changed then.
        """
        parts = {name: _part(state_dict, name) for name in self.switches}
        for key in state_dict:
            if key.partition("/")[0] not in parts:
                raise Invalid(f"the state has {key!r}; allowed: a state of {', '.join(parts) or 'no switch'}")
        for name, switch in self.switches.items():
            switch._check(parts[name])
        for name, switch in self.switches.items():
            switch.load_state_dict(parts[name])


def _part(state: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key.removeprefix(f"{name}/"): value for key, value in state.items() if key.startswith(f"{name}/")}


def _options(name: str, given: Any, kind: type[Phase]) -> dict[str, Any]:
    if given is True:
        return {}
    if not isinstance(given, Mapping):
        raise Invalid(f"{name} is {given!r}; allowed: true, false, or options by name")
    allowed = [option for option in signature(kind).parameters if option not in ("model", "optimizer", "total_steps")]
    for option in given:
        if option not in allowed:
            raise Invalid(f"{name} has the option {option!r}; {nearest(option, allowed)}")
    return dict(given)
