"""Sparse training under the `Trainer` of Hugging Face transformers."""

# ruff: noqa: ARG002 - a callback takes what the trainer gives

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from prunus.core.errors import Invalid
from prunus.core.files import read_tensors, write_tensors
from prunus.sparse_training.adapters.carried import Carried
from prunus.sparse_training.base import SparseTraining

#: The file that each checkpoint has of the method.
FILE = "sparse_training.safetensors"


class SparseCallback(Carried, TrainerCallback):
    """Train sparsely under `transformers.Trainer`.

    The method is made when training begins, and steps after each step of the optimizer. Each checkpoint gets its state
    as one more file, with which training goes on bit for bit, and `load_best_model_at_end` brings the masks of the
    best checkpoint. The density is in the trainer's `state.log_history`.

    Not covered: DeepSpeed; FSDP; checkpoints of a hyperparameter search, which get no file; going on from a checkpoint
    of STR, since the trainer loads the optimizer before STR could join it.

    Args:
        make: the method's class, such as `prunus.RigL`, or any function that makes one of a model, an optimizer and
            options.
        checkpoint: the folder to go on from. Default: `resume_from_checkpoint` of the arguments, else the one in their
            `output_dir` that has the number of the step; name it where it is neither.
        options: of the method. `total_steps` is the trainer's own number unless it is given.

    Attributes:
        method: the method; None until training begins.

    Example:
        >>> from prunus import RigL
        >>> callback = SparseCallback(RigL, density=0.1)
        >>> # trainer = Trainer(model, arguments, train_dataset=…, callbacks=[callback])
        >>> # trainer.train(); print(callback.method.masks.summary())
    """

    def __init__(
        self, make: Callable[..., SparseTraining], *, checkpoint: str | Path | None = None, **options: Any
    ) -> None:
        super().__init__(make, **options)
        self.checkpoint = checkpoint

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        **_: Any,
    ) -> None:
        """Make the method, or go on from a checkpoint.

        Raises:
            Invalid: if the checkpoint has no state of the method, or that of other weights, or the callback has
                trained this model already.
        """
        before = self.method
        if not state.global_step and before and before.model is model and before.steps:
            raise Invalid("this callback has trained this model: go on with a new one, start=callback.method.masks")
        if not state.global_step:
            self.begin(model, optimizer, state.max_steps)
            return
        saved = read(self._folder(args, state))
        moments = deepcopy(optimizer.state_dict())
        self.load(model, saved)
        self.begin(model, optimizer, state.max_steps, saved)
        optimizer.load_state_dict(moments)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Step."""
        assert self.method
        self.method.step()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Note the density beside the loss."""
        if "loss" in state.log_history[-1]:
            state.log_history[-1]["density"] = self.density

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the method's state into the checkpoint."""
        if args.should_save and not state.is_hyper_param_search:
            assert self.method
            write(own_folder(args, state), self.method.state_dict())

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module,
        **_: Any,
    ) -> None:
        """Take the masks of the best checkpoint, where its weights were loaded."""
        if args.load_best_model_at_end and state.best_model_checkpoint and not state.is_hyper_param_search:
            self.load(model, read(Path(state.best_model_checkpoint)))

    def _folder(self, args: TrainingArguments, state: TrainerState) -> Path:
        named = self.checkpoint or args.resume_from_checkpoint
        return Path(named) if isinstance(named, str | Path) else own_folder(args, state)


def own_folder(args: TrainingArguments, state: TrainerState) -> Path:
    """The folder in which a trainer saves its checkpoint of a step."""
    assert args.output_dir
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def write(folder: Path, state: dict[str, Any]) -> None:
    """Write a method's state into a checkpoint."""
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    rest = {name: value for name, value in state.items() if name not in tensors}
    write_tensors(folder / FILE, tensors, {"state": json.dumps(rest)})


def read(folder: Path) -> dict[str, Any]:
    """The inverse.

    Raises:
        Invalid: if there is none, or it was cut short or altered.
    """
    if not (folder / FILE).is_file():
        raise Invalid(f"{folder} has no {FILE}; if training goes on from another folder, give it as checkpoint")
    tensors, metadata = read_tensors(folder / FILE)
    if "state" not in metadata:
        raise Invalid(f"{folder / FILE}: not the state of a sparse training")
    return {**json.loads(metadata["state"]), **tensors}
