import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from prunus.core.apply import masks_of
from prunus.core.errors import Invalid
from prunus.sparse_training import METHODS, SET, RigL, Static
from toy import MLP, batch, build

lightning = pytest.importorskip("pytorch_lightning")

from pytorch_lightning.callbacks import ModelCheckpoint  # noqa: E402

from prunus.sparse_training.adapters.lightning import SparseCallback  # noqa: E402

pytestmark = [  # what Lightning says of itself
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning"),
]

# Of 9 batches an epoch the last is a step by itself under an accumulation of 2: 5 steps an epoch.
BATCHES, EPOCHS, STEPS = 9, 4, 20
RIGL = {"density": 0.3, "every": 3}  # updates at 3, 6, 9 and 12: before three quarters of 20 steps


def data():
    return TensorDataset(*batch(MLP, size=4 * BATCHES))


class Module(lightning.LightningModule):
    """Automatic optimization of a small MLP by SGD with momentum and weight decay."""

    def __init__(self, seed=0):
        super().__init__()
        self.net = build(MLP, seed=seed)

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch):
        pass

    def test_step(self, batch):
        self.tested = {name: value.clone() for name, value in self.state_dict().items()}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5, momentum=0.9, weight_decay=1e-2)


class Watch(lightning.Callback):
    """Notes after each batch how many weights are kept, and whether the others are 0."""

    def __init__(self):
        self.kept, self.held = [], []

    def on_train_batch_end(self, trainer, module, *_):
        masks, weights = masks_of(module), dict(module.named_parameters())
        self.kept.append(masks.kept)
        self.held.append(all(not weights[name][~mask].any() for name, mask in masks.items()))


class Log(lightning.loggers.Logger):
    """Keeps what is logged."""

    name = version = "log"

    def __init__(self):
        super().__init__()
        self.logged = []

    def log_hyperparams(self, *_):
        pass

    def log_metrics(self, metrics, step):
        self.logged.append((step, metrics))


def trainer_of(folder, *callbacks, epochs=EPOCHS, saved_weights_only=False, **options):
    saved = ModelCheckpoint(folder, "{epoch}", save_top_k=-1, every_n_epochs=1, save_weights_only=saved_weights_only)
    given = {
        "max_epochs": epochs,
        "accumulate_grad_batches": 2,
        "gradient_clip_val": 0.5,
        "accelerator": "cpu",
        "logger": False,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
        **options,
    }
    return lightning.Trainer(callbacks=[*callbacks, saved], **given)


def trained(folder, *callbacks, module=None, resume=None, **options):
    trainer = trainer_of(folder, *callbacks, **options)
    fit(trainer, Module() if module is None else module, resume)
    return trainer


def fit(trainer, module, resume=None):
    trainer.fit(module, DataLoader(data(), 4), DataLoader(data(), 4), ckpt_path=resume)


def by_hand(make=RigL, **options):
    """The same training in a plain loop."""
    module = Module()
    optimizer = module.configure_optimizers()
    method = make(module, optimizer, **options)
    for _ in range(EPOCHS):
        for position, (x, y) in enumerate(DataLoader(data(), 4)):
            (module.training_step((x, y), position) / 2).backward()
            if position % 2 or position == BATCHES - 1:
                nn.utils.clip_grad_norm_(module.parameters(), 0.5)
                optimizer.step()
                method.step()
                optimizer.zero_grad()
    return module, method


def same_tensors(these, those):
    return these.keys() == those.keys() and all(torch.equal(these[name], those[name]) for name in these)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training without a stop: its folder, its callback, what was watched and logged, and the module."""
    folder, callback, watch, log = tmp_path_factory.mktemp("whole"), SparseCallback(RigL, **RIGL), Watch(), Log()
    trained(folder, callback, watch, module=(module := Module()), logger=log)
    return folder, callback, watch, log, module


def test_the_density_is_exact_after_each_batch_and_updates_are_where_they_are_due(whole):
    _, callback, watch, log, _ = whole
    assert watch.kept == [round(0.3 * callback.method.masks.total)] * BATCHES * EPOCHS
    assert all(watch.held)
    assert callback.method.steps == STEPS == callback.method.total_steps
    assert [update.step for update in callback.method.updates] == [3, 6, 9, 12]
    assert sum(sum(update.grown.values()) for update in callback.method.updates) > 0
    logged = [(step, metrics) for step, metrics in log.logged if "density" in metrics]
    assert logged == [(step, {"density": callback.method.masks.density}) for step in (3, 6, 9, 12)]


@pytest.mark.parametrize(("make", "options"), [(RigL, RIGL), (SET, RIGL), (Static, {"density": 0.3})])
def test_it_is_the_plain_loop_bit_for_bit(make, options, tmp_path):
    callback, module = SparseCallback(make, **options), Module()
    trained(tmp_path, callback, module=module)
    plain, method = by_hand(make, **options, **({} if make is Static else {"total_steps": STEPS}))
    assert callback.method.masks == method.masks
    assert same_tensors(module.state_dict(), plain.state_dict())


@pytest.mark.parametrize("name", METHODS)
def test_every_method_goes_on_from_a_checkpoint(name, tmp_path):
    fields = METHODS[name].__dataclass_fields__
    wanted = {"initial": -3.0} if name == "str" else {"density": 0.3, "every": 3}
    options = {option: value for option, value in wanted.items() if option in fields}
    first, module = SparseCallback(METHODS[name], **options), Module()
    trained(tmp_path, first, module=module)
    again, other = SparseCallback(METHODS[name], **options), Module(seed=7)
    trained(tmp_path, again, module=other, resume=tmp_path / "epoch=1.ckpt")
    assert again.method.masks == first.method.masks
    assert same_tensors(other.state_dict(), module.state_dict())


@pytest.mark.parametrize("stopped", [0, 1, 2])
def test_a_resumed_training_is_the_same_bit_for_bit(whole, tmp_path, stopped):
    folder, callback, _, _, module = whole
    again, other = SparseCallback(RigL, **RIGL), Module(seed=7)
    trained(tmp_path, again, module=other, resume=folder / f"epoch={stopped}.ckpt")
    assert again.method.steps == STEPS
    assert again.method.masks == callback.method.masks
    assert same_tensors(other.state_dict(), module.state_dict())
    assert [u.to_json() for u in again.method.updates] == [u.to_json() for u in callback.method.updates]


def test_the_same_trainer_goes_back_to_its_checkpoint(whole, tmp_path):
    callback, module = SparseCallback(RigL, **RIGL), Module()
    trainer = trained(tmp_path, callback, module=module)
    fit(trainer, module, tmp_path / "epoch=1.ckpt")
    assert callback.method.masks == whole[1].method.masks
    assert same_tensors(module.state_dict(), whole[4].state_dict())


def test_a_second_fit_goes_on_with_the_masks_of_the_first(tmp_path):
    callback, module = SparseCallback(RigL, total_steps=40, **RIGL), Module()
    trainer = trained(tmp_path, callback, module=module)
    first = callback.method.masks
    trainer.fit_loop.max_epochs = EPOCHS + 1
    fit(trainer, module)
    assert callback.method.steps == STEPS + 5
    changed = callback.method.updates[-2:]
    assert [update.step for update in changed] == [21, 24]
    most = sum(sum(update.grown.values()) for update in changed)
    assert sum(int((mask & ~first[name]).sum()) for name, mask in callback.method.masks.items()) <= most


def test_a_checkpoint_is_tested_under_its_own_masks(whole, tmp_path):
    callback, module = SparseCallback(RigL, **RIGL), Module()
    trainer = trained(tmp_path, callback, module=module)
    trainer.test(module, DataLoader(data(), 4), ckpt_path=tmp_path / "epoch=0.ckpt", verbose=False)
    saved = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)["state_dict"]
    assert same_tensors(module.tested, saved)
    trainer.test(fresh := Module(), DataLoader(data(), 4), ckpt_path=tmp_path / "epoch=0.ckpt", verbose=False)
    assert same_tensors(fresh.tested, saved)


def test_weights_alone_are_not_tested_under_masks_of_another_time(tmp_path):
    module = Module()
    trainer = trained(tmp_path, SparseCallback(RigL, **RIGL), module=module, saved_weights_only=True)
    with pytest.raises(Invalid, match="weights without their masks"):
        trainer.test(module, DataLoader(data(), 4), ckpt_path=tmp_path / "epoch=0.ckpt", verbose=False)
    trainer.test(module, DataLoader(data(), 4), ckpt_path=tmp_path / "epoch=3.ckpt", verbose=False)


def test_a_checkpoint_without_a_state_is_refused(tmp_path):
    trained(tmp_path, epochs=1)
    with pytest.raises(Invalid, match="has no state of sparse training"):
        trained(tmp_path, SparseCallback(Static, density=0.3), resume=tmp_path / "epoch=0.ckpt")


def test_several_optimizers_are_refused(tmp_path):
    class Two(Module):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def configure_optimizers(self):
            return [torch.optim.SGD(self.net[i].parameters(), lr=0.1) for i in (0, 2)]

    module = Two()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(Invalid, match="has 2 optimizers; allowed with SparseCallback: 1"):
        trained(
            tmp_path,
            SparseCallback(Static, density=0.3),
            module=module,
            accumulate_grad_batches=1,
            gradient_clip_val=None,
        )
    assert same_tensors(module.state_dict(), before)


@pytest.mark.parametrize("steps", [1, 2])
def test_manual_optimization_takes_one_step_a_batch(steps, tmp_path):
    class Manual(Module):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, position):
            for _ in range(steps):
                self.optimizers().zero_grad()
                self.manual_backward(super().training_step(batch, position))
                self.optimizers().step()

    callback = SparseCallback(RigL, density=0.3, every=3)
    options = {"module": Manual(), "accumulate_grad_batches": 1, "gradient_clip_val": None, "epochs": 1}
    if steps == 1:
        trained(tmp_path, callback, **options)
        assert callback.method.steps == BATCHES
    else:
        with pytest.raises(Invalid, match="took 2 steps in one batch"):
            trained(tmp_path, callback, **options)


def test_a_training_without_an_end_needs_total_steps(tmp_path):
    with pytest.raises(Invalid, match="total_steps is inf"):
        trained(tmp_path, SparseCallback(RigL, **RIGL), epochs=-1)
