import shutil
import subprocess
import sys

import pytest
import torch

from prunus.core.apply import masks_of
from prunus.core.errors import Invalid
from prunus.sparse_training import SET, RigL, Static

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from prunus.sparse_training.adapters.transformers import FILE, SparseCallback  # noqa: E402

STEPS, SAVED = 12, 5
RIGL = {"density": 0.1, "every": 2}  # updates at 2, 4, 6 and 8: before three quarters of 12 steps


def bert(seed=0):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=40, max_position_embeddings=16, num_labels=3, **sizes)
    return transformers.BertForSequenceClassification(config)


def examples(count=64):
    draws = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, 40, (count, 8), generator=draws)
    return [{"input_ids": row, "labels": int(row[0]) % 3} for row in tokens]


def trainer_of(folder, callback, *others, model=None, **options):
    given = {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_grad_norm": 0.5,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        "save_steps": SAVED,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        **options,
    }
    return transformers.Trainer(
        model=bert() if model is None else model,
        args=transformers.TrainingArguments(**given),
        train_dataset=examples(),
        eval_dataset=examples(8),
        callbacks=[callback, *others],
    )


def trained(folder, callback, *others, resume=None, **options):
    trainer = trainer_of(folder, callback, *others, **options)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def same_tensors(these, those):
    return these.keys() == those.keys() and all(torch.equal(these[name], those[name]) for name in these)


class Watch(transformers.TrainerCallback):
    """Notes after each step how many weights are kept, and whether the others are 0."""

    def __init__(self):
        self.kept, self.held = [], []

    def on_step_end(self, args, state, control, *, model, **_):
        masks, weights = masks_of(model), dict(model.named_parameters())
        self.kept.append(masks.kept)
        self.held.append(all(not weights[name][~mask].any() for name, mask in masks.items()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training without a stop: its folder, its callback, what was watched, and the trainer."""
    folder, callback, watch = tmp_path_factory.mktemp("whole"), SparseCallback(RigL, **RIGL), Watch()
    return folder, callback, watch, trained(folder, callback, watch)


def test_the_density_is_exact_after_each_step_and_updates_are_where_they_are_due(whole):
    _, callback, watch, trainer = whole
    assert watch.kept == [round(0.1 * callback.method.masks.total)] * STEPS
    assert all(watch.held)
    assert callback.method.steps == STEPS == callback.method.total_steps
    assert [update.step for update in callback.method.updates] == [2, 4, 6, 8]
    assert sum(sum(update.grown.values()) for update in callback.method.updates) > 0
    logged = [entry["density"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == [callback.method.masks.density] * STEPS


def test_masks_are_on_linear_layers_alone(whole):
    model = whole[3].model
    linear = {f"{path}.weight" for path, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert set(masks_of(model)) == linear
    for name, parameter in model.named_parameters():
        if "embeddings" in name or "LayerNorm.weight" in name:
            assert parameter.count_nonzero() > 0.9 * parameter.numel()


@pytest.mark.parametrize("moved", [False, True])
def test_a_resumed_training_is_the_same_bit_for_bit(whole, tmp_path, moved):
    folder, callback, _, trainer = whole
    name = "elsewhere" if moved else f"checkpoint-{SAVED}"
    shutil.copytree(folder / f"checkpoint-{SAVED}", tmp_path / name)
    again = SparseCallback(RigL, checkpoint=tmp_path / name if moved else None, **RIGL)
    resumed = trained(tmp_path, again, resume=str(tmp_path / name), model=bert(seed=7))
    assert again.method.steps == STEPS
    assert again.method.masks == callback.method.masks
    assert same_tensors(resumed.model.state_dict(), trainer.model.state_dict())
    assert [u.to_json() for u in again.method.updates] == [u.to_json() for u in callback.method.updates]
    before, after = trainer.optimizer.optimizer.state_dict(), resumed.optimizer.optimizer.state_dict()
    assert all(same_tensors(before["state"][i], after["state"][i]) for i in before["state"])


def test_the_same_trainer_goes_back_to_its_checkpoint(whole, tmp_path):
    callback = SparseCallback(RigL, **RIGL)
    trainer = trained(tmp_path, callback)
    trainer.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{SAVED}"))
    assert callback.method.masks == whole[1].method.masks
    assert same_tensors(trainer.model.state_dict(), whole[3].model.state_dict())


def test_the_best_checkpoint_comes_back_with_its_masks(tmp_path):
    def best_is_first(prediction):
        best_is_first.calls += 1
        return {"rank": best_is_first.calls}

    best_is_first.calls = 0
    trainer = trainer_of(
        tmp_path,
        callback := SparseCallback(RigL, density=0.1, every=1, until=1.0),
        save_steps=4,
        eval_steps=4,
        eval_strategy="steps",
        load_best_model_at_end=True,
        metric_for_best_model="rank",
        greater_is_better=False,
    )
    trainer.compute_metrics = best_is_first
    trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-4")
    saved = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "checkpoint-4")
    assert same_tensors(trainer.model.state_dict(), saved.state_dict())
    assert callback.method.steps == 4
    assert masks_of(trainer.model) == callback.method.masks


@pytest.mark.parametrize(("make", "options"), [(Static, {}), (SET, {"every": 3})])
def test_any_method_goes_on_from_a_checkpoint(make, options, tmp_path):
    first = SparseCallback(make, density=0.2, **options)
    weights = trained(tmp_path, first).model.state_dict()
    again = SparseCallback(make, density=0.2, **options)
    resumed = trained(tmp_path, again, resume=str(tmp_path / f"checkpoint-{SAVED}"), model=bert(seed=7))
    assert same_tensors(resumed.model.state_dict(), weights)
    assert again.method.masks == first.method.masks


def test_a_function_may_make_the_method(tmp_path):
    def make(model, optimizer, total_steps):
        return RigL(model, optimizer, 0.3, total_steps=2 * total_steps, every=4, exclude="classifier.*")

    trained(tmp_path, callback := SparseCallback(make))
    assert callback.method.total_steps == 2 * STEPS
    assert "classifier.weight" not in callback.method.masks


def test_a_second_training_of_the_same_model_is_refused(tmp_path):
    trainer = trained(tmp_path, SparseCallback(Static, density=0.2), max_steps=2)
    weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    with pytest.raises(Invalid, match="has trained this model"):
        trainer.train()
    assert same_tensors(trainer.model.state_dict(), weights)


def test_a_checkpoint_without_a_state_or_with_another_is_refused(whole, tmp_path):
    folder = tmp_path / f"checkpoint-{SAVED}"
    shutil.copytree(whole[0] / folder.name, folder)
    other = tmp_path / "other"
    trained(other, SparseCallback(RigL, seed=1, **RIGL), max_steps=SAVED)
    with pytest.raises(Invalid, match="of another time"):
        trained(tmp_path, SparseCallback(RigL, checkpoint=other / folder.name, **RIGL), resume=str(folder))
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-100])
    with pytest.raises(Invalid, match="cut short"):
        trained(tmp_path, SparseCallback(RigL, **RIGL), resume=str(folder))
    (folder / FILE).unlink()
    with pytest.raises(Invalid, match=f"has no {FILE}"):
        trained(tmp_path, SparseCallback(RigL, **RIGL), resume=str(folder))


def test_prunus_imports_neither_transformers_nor_lightning():
    found = "[m for m in ('transformers', 'accelerate', 'lightning', 'pytorch_lightning') if m in sys.modules]"
    code = f"import sys, prunus, prunus.sparse_training, prunus.sparse_training.adapters; assert not {found}, {found}"
    subprocess.run([sys.executable, "-c", code], check=True)
