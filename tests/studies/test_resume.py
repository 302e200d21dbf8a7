"""A run is killed, interrupted, or finds the disk full; the same command goes on to the same results."""

import resource
import shlex
import signal
import time
from contextlib import contextmanager

import pytest

from prunus.cli import main
from prunus.core.files import read_tensors
from small_study import contents, finished, left_over, options, small, start

LONGER = {"train__iterations": 24, "train__evaluate_every": 7}


def cells(out):
    return {path.name for path in out.glob("cells/[!.]*")}


def under_way(out):
    """The keys of the cells that have left a checkpoint."""
    return {path.stem for path in out.glob("partial/[!.]*.safetensors")} - cells(out)


def stop(process, signal_, moment):
    """Send the signal once the moment has come; the exit code and what was said on stderr."""
    for _ in range(60_000):
        if moment():
            break
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    process.send_signal(signal_)
    _, said = process.communicate()
    return process.returncode, said


def test_a_run_that_is_killed_or_interrupted_goes_on_to_the_same_results(tmp_path):
    out = tmp_path / "out"
    command = ["run", "lottery-ticket", *options(**LONGER), "--out", str(out), "--checkpoint-every", "0", "--quiet"]

    # while the first cell is trained
    code, _ = stop(start(*command), signal.SIGKILL, lambda: under_way(out))
    assert (code, cells(out)) == (-signal.SIGKILL, set())
    (first,) = under_way(out)
    checkpoint = out / "partial" / f"{first}.safetensors"
    read_tensors(checkpoint)  # is whole

    # as soon as a few are finished: a cell is complete or absent
    code, _ = stop(start(*command), signal.SIGKILL, lambda: len(cells(out)) >= 2)
    assert code == -signal.SIGKILL
    assert first in cells(out)
    assert not checkpoint.exists()
    kept = contents(out)

    # while a control near the end is trained
    code, _ = stop(start(*command), signal.SIGKILL, lambda: len(cells(out)) >= 5 and under_way(out))
    assert code == -signal.SIGKILL
    assert {name: contents(out)[name] for name in kept} == kept

    # and an interrupt, which is told in one line
    code, said = stop(start(*command), signal.SIGINT, lambda: len(cells(out)) >= 6)
    done = len(cells(out))
    again = shlex.join(["prunus", *command])
    assert code == 130
    assert said == f"error: interrupted; {done} of 7 cells are finished and kept in {out}; to go on: {again}\n"

    process = start(*command)
    assert process.communicate() == ("", "")
    assert process.returncode == 0
    whole = finished(small(**LONGER), tmp_path / "uninterrupted")
    assert len(cells(out)) == len(whole.cells) == 7
    assert contents(out) == contents(tmp_path / "uninterrupted")
    assert under_way(out) == set()
    assert (out / "lottery-ticket-quick" / "report.html").is_file()


@contextmanager
def small_disk(size):
    """No file can grow beyond `size` bytes, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def prunus(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return caught.value.code, capsys.readouterr().err


# a cell's records are some 2,500 bytes, its tensors 12,000, a checkpoint 30,000, the figure more
@pytest.mark.parametrize(("size", "arguments"), [(1_000, []), (8_000, []), (16_000, ["--checkpoint-every", "0"])])
def test_a_disk_that_is_full_keeps_what_is_finished(tmp_path, capsys, size, arguments):
    out = tmp_path / "out"
    finished(small(prune__rounds=0), out)
    before = contents(out)
    command = ["run", "lottery-ticket", *options(prune__rounds=1), "--out", str(out), "--quiet", *arguments]
    with small_disk(size):
        code, said = prunus(capsys, *command)
    assert code == 2
    assert len(said.splitlines()) == 1
    assert said.startswith(f"error: writing failed: {out}")
    assert "File too large" in said
    assert "1 of 4 cells are finished and kept" in said
    assert "to go on: " in said
    assert contents(out) == before
    assert left_over(out) == []

    assert prunus(capsys, *command) == (0, "")
    finished(small(prune__rounds=1), tmp_path / "roomy")
    assert contents(out) == contents(tmp_path / "roomy")


def test_a_disk_that_is_full_when_the_report_is_written_keeps_the_old_one(tmp_path, capsys):
    out = tmp_path / "out"
    command = ["run", "lottery-ticket", *options(prune__rounds=1), "--out", str(out), "--quiet"]
    assert prunus(capsys, *command) == (0, "")
    page = out / "lottery-ticket-quick" / "report.html"
    before = page.read_bytes()
    with small_disk(10_000):
        code, said = prunus(capsys, "report", str(out))
    assert (code, len(said.splitlines())) == (2, 1)
    assert "File too large" in said
    assert page.read_bytes() == before
    assert left_over(out) == []


def test_results_that_cannot_be_written_are_said_in_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    for out, says in [(tmp_path / "file", "is a file"), (tmp_path / "file" / "out", "Not a directory")]:
        code, said = prunus(capsys, "run", "lottery-ticket", *options(), "--out", str(out), "--quiet")
        assert (code, len(said.splitlines())) == (2, 1)
        assert str(tmp_path / "file") in said
        assert says in said


def test_a_checkpoint_that_is_damaged_is_named(tmp_path, capsys):
    plan = finished(small(prune__rounds=0), tmp_path / "done")
    key = plan.cells[0].key
    partial = tmp_path / "out" / "partial" / f"{key}.safetensors"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"half")
    code, said = prunus(capsys, "run", "lottery-ticket", *options(), "--out", str(tmp_path / "out"), "--quiet")
    assert (code, len(said.splitlines())) == (2, 1)
    assert str(partial) in said
