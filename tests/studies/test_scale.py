"""The numbers of the page on large studies and large models: worked out, or measured on what was really made."""

import builtins
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import log2
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunus.core.masks import Masks
from prunus.core.params import prunable
from prunus.core.seeds import generator
from prunus.core.select import select_count
from prunus.core.sharded import selection
from prunus.data import load
from prunus.models import build
from prunus.studies.cells import Cell
from prunus.studies.kinds import expand
from prunus.studies.resolve import resolve, to_yaml
from prunus.studies.runner import Plan, prepare, run
from prunus.studies.store import Store
from prunus.tickets import Ticket
from small_study import finished, small

PAGE = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")


def row(start: str) -> list[str]:
    """The cells of the row of the page's tables that starts so."""
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def gb(size: float, digits: int = 2) -> str:
    return f"{size / 1e9:.{digits}f} GB"


def mb(size: float, digits: int = 0) -> str:
    return f"{size / 1e6:.{digits}f} MB"


# A study of 10⁵ cells


@pytest.fixture(scope="module")
def large() -> list[Cell]:
    """The cells of the page's study, laid out as `prunus run` does; on another data set, which changes only hashes."""
    variants = {f"lr-{i}": {"train": {"lr": 1e-4 * (1 + i)}} for i in range(41)}
    settings = {"preset": "paper", "data.name": "digits", "data.validation": 0.2, "trials": 40, "variants": variants}
    study = resolve("lottery-ticket", settings.items())
    return expand(study, dict.fromkeys(study.variants, load("digits", validation=0.2)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A small study, really trained, with 40 evaluations in each cell."""
    more = {"train__iterations": 40, "train__evaluate_every": 1, "prune__rounds": 1, "arms": ["reinit"]}
    return finished(small(**more), tmp_path_factory.mktemp("trained"))


def folder_of(plan: Plan, arm: str, round_: int = 1) -> Path:
    (cell,) = [cell for cell in plan.cells if (cell.arm, cell.round) == (arm, round_)]
    return plan.store.root / "cells" / cell.key


def payload(path: Path) -> int:
    """The bytes of the tensors in a safetensors file: what is left after the length of the header, and the header."""
    return path.stat().st_size - 8 - int.from_bytes(path.read_bytes()[:8], "little")


def weight_bytes(model: nn.Module) -> int:
    return sum(4 * tensor.numel() for tensor in model.state_dict().values())


def mask_bytes(weights: Mapping[str, Tensor]) -> int:
    return sum((tensor.numel() + 7) // 8 for tensor in weights.values())


def test_the_plan_has_the_cells_the_folders_and_the_files_of_the_page(large: list[Cell], trained: Plan) -> None:
    arms = Counter(cell.arm for cell in large)
    tickets, controls = arms.pop("ticket"), sum(arms.values())
    assert len({cell.key for cell in large}) == len(large) == tickets + controls
    assert f"{len(large):,} cells" in PAGE
    assert row("cells") == ["", "", f"{tickets:,} tickets, {controls:,} controls"]
    of_ticket, of_control = (len(list(folder_of(trained, arm).iterdir())) for arm in ("ticket", "reinit"))
    files = tickets * of_ticket + controls * of_control
    assert row("files") == [str(of_ticket), str(of_control), f"{files:,}"]
    assert row("folders") == ["1", "1", f"{len(large):,}, all in `cells/`"]
    assert f"{round(files + len(large), -3):,} files" in PAGE


def test_a_cell_weighs_what_the_page_says(large: list[Cell], trained: Plan) -> None:
    width, shape = trained.cells[0].setting.model.width, trained.data["lenet-300-100"].input_shape
    little = build("lenet-300-100", shape, 10, width=width, generator=generator(0))
    whole = build("lenet-300-100", (1, 28, 28), 10, generator=generator(0))
    ticket, control = folder_of(trained, "ticket"), folder_of(trained, "reinit")
    weights, masks = weight_bytes(little), mask_bytes(prunable(little))
    assert payload(ticket / "ticket.safetensors") == weights + masks
    assert payload(ticket / "trained.safetensors") == weights
    assert payload(control / "ticket.safetensors") == masks
    for folder in (ticket, control):
        others = sum(file.stat().st_size for file in folder.iterdir() if file.name != "records.json")
        assert others - sum(payload(file) for file in folder.glob("*.safetensors")) < 6_000
    of_ticket, of_control = 2 * weight_bytes(whole) + mask_bytes(prunable(whole)), mask_bytes(prunable(whole))
    tickets = sum(cell.arm == "ticket" for cell in large)
    total = tickets * of_ticket + (len(large) - tickets) * of_control
    assert row("weights and masks, bytes") == [f"{of_ticket:,}", f"{of_control:,}", gb(total, 1)]
    moments = sum(4 * parameter.numel() for parameter in whole.parameters())
    assert f"Adam's two moments: {mb(weight_bytes(whole) + 2 * moments, 1)}" in PAGE


def test_an_evaluation_takes_as_many_bytes_as_the_page_says(large: list[Cell], trained: Plan) -> None:
    least, most = 210, 270
    for arm in ("ticket", "reinit"):
        text = (folder_of(trained, arm) / "records.json").read_text(encoding="utf-8")
        records = json.loads(text)
        without = json.dumps({**records, "evaluations": []}, indent=1)
        assert least <= (len(text) - len(without)) / len(records["evaluations"]) <= most
    assert f"takes {least} to {most} bytes in `records.json`" in PAGE
    one = f"{500 * least / 1e3:.0f} to {500 * most / 1e3:.0f} kB"
    every = f"{500 * least * len(large) / 1e9:.1f} to {gb(500 * most * len(large), 1)}"
    assert row("records, at 500 evaluations") == [one, one, every]


def test_the_list_of_the_cells_is_as_large_as_the_page_says(large: list[Cell], tmp_path: Path) -> None:
    Store(tmp_path).plan("study", "", "", "", large)
    assert f"`cells.json`,\nis {mb((tmp_path / 'study' / 'cells.json').stat().st_size, 1)}" in PAGE


# What the file system is asked


@contextmanager
def asked() -> Iterator[list[str]]:
    """What the file system is asked meanwhile, by name: looks, listings, files opened, renames, synchronisations."""
    calls: list[str] = []

    def noted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*given: Any, **more: Any) -> Any:
            calls.append(name)
            return call(*given, **more)

        return noting

    with pytest.MonkeyPatch.context() as patch:
        for name in ("stat", "scandir", "listdir", "open", "rename", "replace", "fsync"):
            patch.setattr(os, name, noted(name, getattr(os, name)))
        opened = noted("open", io.open)
        patch.setattr(io, "open", opened)
        patch.setattr(builtins, "open", opened)
        yield calls


def study_of(trials: int) -> dict[str, Any]:
    """Settings of a study with 25 cells in each trial."""
    return {"trials": trials, "prune__rounds": 8, "arms": ["reinit", "shuffle"]}


def filled(plan: Plan, source: Plan, without: int) -> Plan:
    """The plan with all its cells finished but those of the last round in the first trials.

    The files are links to those of two cells that were really trained, with the same network.
    """
    kinds = {arm: list(folder_of(source, arm).iterdir()) for arm in ("ticket", "reinit")}
    for cell in plan.cells:
        if cell.trial >= without or cell.round < 8:
            folder = plan.store.root / "cells" / cell.key
            folder.mkdir(parents=True)
            for file in kinds["ticket" if cell.arm == "ticket" else "reinit"]:
                os.link(file, folder / file.name)
    return plan


def asked_by_a_run(trials: int, without: int, source: Plan, out: Path) -> int:
    """How often the file system is asked by a run that trains the last round of the first trials."""
    plan = filled(prepare(small(**study_of(trials)), out), source, without)
    assert len(plan.missing) == 3 * without
    with asked() as calls:
        run(plan, "prunus run", quiet=True)
    assert plan.finished == len(plan.cells)
    return len(calls)


def test_what_training_a_cell_asks_does_not_grow_with_the_study(trained: Plan, tmp_path: Path) -> None:
    counts = {
        (trials, without): asked_by_a_run(trials, without, trained, tmp_path / f"{trials}-{without}")
        for trials in (8, 80)
        for without in (1, 4)
    }
    # nine cells more are trained in either; asking for every cell at each of them would be 16,200 requests more
    assert abs((counts[80, 4] - counts[80, 1]) - (counts[8, 4] - counts[8, 1])) < 100
    # and a cell that was there already is looked for once or twice
    assert (counts[80, 1] - counts[8, 1]) <= 2 * (80 - 8) * 25


def test_looking_for_what_is_finished_is_one_look_a_cell(trained: Plan, tmp_path: Path) -> None:
    plan = filled(prepare(small(**study_of(8)), tmp_path), trained, 0)
    for look in (lambda: plan.missing, lambda: plan.finished):
        with asked() as calls:
            look()
        assert calls == ["stat"] * len(plan.cells)


def test_results_open_two_files_a_cell(trained: Plan, tmp_path: Path) -> None:
    plan = filled(prepare(small(**study_of(8)), tmp_path), trained, 0)
    plan.store.plan(plan.study.name, to_yaml(plan.study), "", "", plan.cells)
    with asked() as calls:
        assert len(plan.store.results(plan.study.name).cells) == len(plan.cells)
    # the study's own two files come on top
    assert Counter(calls)["open"] == 2 * len(plan.cells) + 2


def test_filing_a_cell_synchronises_as_often_as_the_page_says(trained: Plan, tmp_path: Path) -> None:
    times = []
    for arm, weights in (("ticket", {"w": torch.ones(3)}), ("reinit", {})):
        (cell,) = [cell for cell in trained.cells if (cell.arm, cell.round) == (arm, 1)]
        ticket = Ticket(Masks({"w": torch.ones(3)}), weights)
        with asked() as calls:
            Store(tmp_path).add(cell, ticket, _history(trained), {}, weights or None)
        times.append(Counter(calls)["fsync"])
    assert f"synchronises {times[0]} times and a control {times[1]}\ntimes" in PAGE


def _history(plan: Plan) -> Any:
    from prunus.training import History

    return History(plan.store.results(plan.study.name).cells[0].evaluations, 0.5)


# A model of 10⁹ parameters


def transformer(width: int, words: int, device: str) -> nn.ModuleDict:
    """Twenty layers; on the device `meta` it has shapes and no numbers."""
    with torch.device(device):
        layer = nn.TransformerEncoderLayer(width, 16, 4 * width)
        blocks = nn.TransformerEncoder(layer, 20, enable_nested_tensor=False)
        return nn.ModuleDict({"words": nn.Embedding(words, width), "blocks": blocks})


def test_sizes_of_the_large_model() -> None:
    model = transformer(2048, 32_000, "meta")
    weights = prunable(model)
    n, every = (sum(p.numel() for p in parameters) for parameters in (weights.values(), model.parameters()))
    assert f"{n:,} prunable weights in {len(weights)} tensors, {every:,} parameters in all" in " ".join(PAGE.split())
    assert row("weights")[1] == gb(4 * every)
    assert row("checkpoint for Adam")[1] == gb(12 * every)
    assert row("training with Adam, in memory")[1].startswith(f"{gb(16 * every)}; {gb(16 * every / 8)} on each of 8")
    assert row("masks in a file")[1] == mb(mask_bytes(weights))
    assert row("masks in memory")[1] == f"{gb(n)}; {mb(n / 8)} on each of 8 GPUs"
    assert row("ticket")[1] == gb(mask_bytes(weights) + 4 * every)
    bits = {d: -d * log2(d) - (1 - d) * log2(1 - d) for d in (0.2, 0.05)}
    said = f"{bits[0.2]:.2f} bits a weight at density 0.2, {bits[0.05]:.2f} at 0.05"
    assert row("masks at the entropy bound") == [said, ", ".join(mb(b * n / 8) for b in bits.values())]


def test_a_small_model_of_the_kind_has_those_bytes(tmp_path: Path) -> None:
    model = transformer(32, 500, "cpu")
    weights, every = prunable(model), sum(p.numel() for p in model.parameters())
    assert 4_096 * sum(p.numel() for p in weights.values()) == sum(
        p.numel() for p in prunable(transformer(2048, 1, "meta")).values()
    )
    Ticket(Masks.full(model), model.state_dict()).save(tmp_path / "ticket.safetensors")
    assert payload(tmp_path / "ticket.safetensors") == mask_bytes(weights) + 4 * every
    assert sum(mask.nbytes for mask in Masks.full(model).values()) == sum(p.numel() for p in weights.values())
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moments = [t for state in optimizer.state.values() for t in state.values() if t.ndim]
    assert sum(moment.nbytes for moment in moments) == 8 * every


def test_eight_processes_send_what_the_page_says_and_select_as_one() -> None:
    # a 1024th of the model's weights, in its 80 tensors, cut by rows as `fully_shard` does
    draws = torch.Generator().manual_seed(0)
    shapes = {name: p.shape for name, p in prunable(transformer(64, 1, "meta")).items()}
    # coarse enough that of the scores that equal the smallest kept some are not kept
    scores = {name: torch.randn(shape, generator=draws).abs().round(decimals=4) for name, shape in shapes.items()}
    pieces = [{name: tensor.chunk(8)[rank] for name, tensor in scores.items()} for rank in range(8)]
    keep = round(0.2 * sum(tensor.numel() for tensor in scores.values()))
    runs = [selection(own, keep, None, rank, 8) for rank, own in enumerate(pieces)]
    masks, sent = [], 0
    asked = [next(run) for run in runs]
    while asked:
        sent, total, steps, asked = sent + asked[0].nbytes, torch.stack(asked).sum(0), runs, []
        for run_ in steps:
            try:
                asked.append(run_.send(total.clone()))
            except StopIteration as ended:
                masks.append(ended.value)
    assert Masks({name: torch.cat([own[name] for own in masks]) for name in scores}) == select_count(scores, keep)
    assert row("sent by each process, float32") == [f"{sent:,} bytes, for any number of weights"]
    n = sum(p.numel() for p in prunable(transformer(2048, 1, "meta")).values())
    assert row("the same if the scores were gathered") == [f"{4 * n // 8:,} bytes"]
    assert f"they would be\n{gb(4 * n)}" in PAGE
    assert f"keeping {round(0.2 * n):,} of {n:,}" in PAGE
