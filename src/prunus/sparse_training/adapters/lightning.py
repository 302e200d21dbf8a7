"""Sparse training under the `Trainer` of Lightning, imported as `lightning.pytorch` or as `pytorch_lightning`."""

# ruff: noqa: ARG002 - a hook takes what the trainer gives

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from prunus.core.errors import Invalid
from prunus.sparse_training.adapters.carried import Carried
from prunus.sparse_training.base import SparseTraining

if TYPE_CHECKING or find_spec("lightning") is None:
    from pytorch_lightning import Callback, LightningModule, Trainer
else:
    from lightning.pytorch import Callback, LightningModule, Trainer


class SparseCallback(Carried, Callback):
    """Train sparsely under Lightning's `Trainer`.

    The method is made when `fit` has its optimizer, and steps after each step of that, whatever
    `accumulate_grad_batches` is. Checkpoints hold its state: training goes on from them bit for bit, and
    `trainer.test(ckpt_path=…)` tests their weights under their masks. After each update the density goes to the
    trainer's loggers.

    Not covered: several optimizers, manual optimization that takes more than one step a batch, and sharded strategies.

    Args:
        make: the method's class, such as `prunus.RigL`, or any function that makes one of a model, an optimizer and
            options.
        options: of the method. `total_steps` is `trainer.estimated_stepping_batches` unless it is given.

    Attributes:
        method: the method; None until training begins.

    Example:
        >>> from prunus import RigL
        >>> callback = SparseCallback(RigL, density=0.1)
        >>> # trainer = Trainer(max_epochs=10, callbacks=[callback])
        >>> # trainer.fit(module, loader); print(callback.method.masks.summary())
    """

    def __init__(self, make: Callable[..., SparseTraining], **options: Any) -> None:
        super().__init__(make, **options)
        self._loaded: dict[str, Any] | None = None
        self._taken = 0  # steps of the optimizer, as the trainer counts them

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the method, or go on from a checkpoint, or from where the last `fit` of the module ended.

        Raises:
            Invalid: if there is not just one optimizer, or the checkpoint has no state of the method.
        """
        if len(trainer.optimizers) != 1:
            raise Invalid(f"the module has {len(trainer.optimizers)} optimizers; allowed with SparseCallback: 1")
        state, self._loaded = self._loaded, None
        if state is None and self.method and self.method.model is pl_module:
            state = self.method.state_dict()
        if state is None and trainer.ckpt_path:
            raise Invalid(f"{trainer.ckpt_path} has no state of sparse training: it was saved without SparseCallback")
        self.begin(pl_module, trainer.optimizers[0], trainer.estimated_stepping_batches, state)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count steps from here."""
        self._taken = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Step, if the optimizer did.

        Raises:
            Invalid: if it took several steps in one batch.
        """
        assert self.method
        taken, self._taken = trainer.global_step - self._taken, trainer.global_step
        if taken > 1:
            raise Invalid(f"the optimizer took {taken} steps in one batch; allowed with SparseCallback: 1")
        if not taken:
            return
        self.method.step()
        if self.method.updates and self.method.updates[-1].step == self.method.steps:
            for logger in trainer.loggers:
                logger.log_metrics({"density": self.density}, trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """The method's, for a checkpoint."""
        return self.method.state_dict() if self.method else {}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take the state of a checkpoint whose weights were just loaded: now, or when training begins."""
        state = checkpoint["callbacks"].get(self.state_key)
        if state:
            self.load(pl_module, state)
        self._loaded = state if trainer.state.fn == "fit" else None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See that the weights were loaded together with their masks.

        Raises:
            Invalid: if not, as from a checkpoint of weights alone.
        """
        layers = self.method.layers.values() if self.method and self.method.model is pl_module else ()
        if any(layer.held.zeroed and len(layer.held.zeroed[0]) for layer in layers):
            raise Invalid(f"{trainer.ckpt_path} has weights without their masks: load it into a module without masks")

    on_test_start = on_predict_start = on_validation_start
