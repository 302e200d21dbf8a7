import json
from math import inf, isnan, nan

import pytest
import torch

from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.studies import store as module
from prunus.studies.kinds import expand
from prunus.studies.store import Store
from prunus.tickets import Ticket
from prunus.training import Evaluation, History
from small_study import by_place, contents, finished, left_over, small

WEIGHTS = {"fc1.weight": torch.arange(6.0).view(2, 3), "fc1.bias": torch.ones(2)}
MASKS = Masks({"fc1.weight": torch.tensor([[True, False, True], [False, True, True]])})
ABOUT = {"seconds": 1.5, "environment": {"torch": "2"}}


def history(loss=0.5):
    evaluations = (
        Evaluation(10, 0.1 + 0.2, 0.5, 0.7, 0.6, 0.8, 1 / 3),
        Evaluation(20, loss, 0.5, loss, 0.1, loss, 0.1),
    )
    return History(evaluations, 2 / 3)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "out")


@pytest.fixture(scope="module")
def cell():
    from prunus.data import load

    return expand(small(), {"lenet-300-100": load("digits", validation=0.2)})[0]


@pytest.fixture(scope="module")
def study_out(tmp_path_factory):
    """A results folder with a finished study, to look at only."""
    out = tmp_path_factory.mktemp("finished")
    finished(small(), out)
    return out


@pytest.fixture
def damaged(tmp_path, study_out):
    """A copy of a finished study, and a function that spoils a file of it."""
    import shutil

    out = tmp_path / "copy"
    shutil.copytree(study_out, out)

    def spoil(pattern, how):
        path = next(out.glob(pattern))
        path.write_bytes(how(path.read_bytes()))
        return out, path

    return spoil


def test_a_cell_is_there_as_it_was_filed(store, cell):
    ticket = Ticket(MASKS, WEIGHTS, 3, {"study": "lottery-ticket"})
    assert not store.has(cell.key)
    store.add(cell, ticket, history(), ABOUT, WEIGHTS)
    assert store.has(cell.key)
    back = store.ticket(cell.key)
    assert (back.masks, back.round, back.provenance) == (MASKS, 3, {"study": "lottery-ticket"})
    for tensors in (back.weights, store.trained(cell.key)):
        assert tensors.keys() == WEIGHTS.keys()
        assert all(torch.equal(tensors[name], WEIGHTS[name]) for name in WEIGHTS)
    assert json.loads((store.root / "cells" / cell.key / "cell.json").read_text()) == json.loads(
        json.dumps(cell.identity)
    )


@pytest.mark.parametrize("loss", [0.1, nan, inf, -inf, 5e-324, 1 / 3])
def test_records_come_back_bit_for_bit_also_where_they_are_no_numbers(store, cell, loss):
    store.add(cell, Ticket(MASKS, WEIGHTS), history(loss), ABOUT, None)
    store.plan("s", "study: lottery-ticket\n", "A title", "prunus run s", [cell])
    (result,) = store.results("s").cells
    assert result.evaluations[0] == history().evaluations[0]
    assert repr(result.evaluations) == repr(history(loss).evaluations)
    assert repr((result.early_stop, result.final)) == repr((history(loss).early_stop, history(loss).final))
    assert result.early_stop.iteration == (10 if isnan(loss) or loss > 0.7 else 20)
    assert (result.kept, result.total, result.seconds) == (4, 6, 1.5)
    text = (store.root / "cells" / cell.key / "records.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_filing_a_cell_removes_its_checkpoint(store, cell):
    partial = store.partial(cell.key)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"half-way")
    store.add(cell, Ticket(MASKS, WEIGHTS), history(), ABOUT, None)
    assert not partial.exists()


@pytest.mark.parametrize("failing", ["write_json", "write_tensors"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_no_cell_and_keeps_the_checkpoint(store, cell, monkeypatch, failing, error):
    partial = store.partial(cell.key)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"half-way")

    def fail(*_):
        raise error

    monkeypatch.setattr(module, failing, fail)
    with pytest.raises(type(error)):
        store.add(cell, Ticket(MASKS, WEIGHTS), history(), ABOUT, WEIGHTS)
    assert not store.has(cell.key)
    assert not (store.root / "cells" / cell.key).exists()
    assert left_over(store.root) == []
    assert partial.read_bytes() == b"half-way"


def test_a_cell_that_has_lost_its_records_is_made_again(store, cell):
    store.add(cell, Ticket(MASKS, WEIGHTS), history(), ABOUT, WEIGHTS)
    (store.root / "cells" / cell.key / "records.json").unlink()
    assert not store.has(cell.key)
    store.add(cell, Ticket(MASKS, {}), history(), ABOUT, None)
    assert store.has(cell.key)
    assert not (store.root / "cells" / cell.key / "trained.safetensors").exists()


def test_the_first_to_file_a_cell_keeps_its_place(store, cell):
    store.add(cell, Ticket(MASKS, WEIGHTS), history(), ABOUT, None)
    store.add(cell, Ticket(MASKS, WEIGHTS), history(0.1), {**ABOUT, "seconds": 9}, None)
    assert json.loads((store.root / "cells" / cell.key / "about.json").read_text()) == ABOUT
    assert left_over(store.root) == []


CUT = lambda data: data[: len(data) // 2]  # noqa: E731
NOTHING = lambda data: b""  # noqa: E731
BINARY = lambda data: b"\xff\x00" + data  # noqa: E731
LIST = lambda data: b"[1, 2]"  # noqa: E731
TEXT = lambda data: b'"text"'  # noqa: E731
EMPTY = lambda data: b"{}"  # noqa: E731
DEEP = lambda data: b"[" * 3_000  # noqa: E731


JSON_FILES = ("cells/*/records.json", "cells/*/about.json", "*/cells.json")


@pytest.mark.parametrize(
    ("pattern", "how"),
    # half a YAML file is one, and so is an empty mapping
    [(pattern, how) for pattern in JSON_FILES for how in (CUT, NOTHING, BINARY, LIST, TEXT, EMPTY, DEEP)]
    + [("*/study.yaml", how) for how in (NOTHING, BINARY, LIST, TEXT, DEEP)],
)
def test_a_damaged_file_is_named_in_one_line_with_what_to_do(damaged, pattern, how):
    out, path = damaged(pattern, how)
    with pytest.raises(Invalid) as caught:
        Store(out).results("lottery-ticket-quick")
    line = " ".join(str(caught.value).split())
    assert str(path.parent) in line
    assert "damaged" in line
    assert "remove it, and `prunus run` makes it again" in line


@pytest.mark.parametrize("how", [CUT, NOTHING, BINARY, lambda data: data[:-1] + bytes([data[-1] ^ 1])])
@pytest.mark.parametrize("name", ["trained", "ticket"])
def test_going_on_from_damaged_tensors_says_what_to_remove_and_then_heals(damaged, study_out, name, how):
    plan_of_all = by_place(_plan(study_out).cells)
    parent = plan_of_all[0, 2, "ticket"].key
    out, path = damaged(f"cells/{parent}/{name}.safetensors", how)
    more = small(prune__rounds=3, arms=[])
    with pytest.raises(Invalid, match="remove it, and `prunus run` makes it again") as caught:
        finished(more, out)
    assert str(path.parent) in str(caught.value)
    for file in path.parent.iterdir():
        file.unlink()
    path.parent.rmdir()
    finished(more, out)
    healed, sound = contents(out), contents(study_out)
    assert {name: healed[name] for name in sound} == sound


def test_a_study_that_is_not_there_is_named_with_the_nearest(study_out):
    with pytest.raises(Invalid, match="holds no study 'lottery-ticket-quik'; did you mean 'lottery-ticket-quick'"):
        Store(study_out).results("lottery-ticket-quik")
    assert Store(study_out / "nowhere").studies() == []


def _plan(out):
    from prunus.studies.runner import prepare

    return prepare(small(), out)
