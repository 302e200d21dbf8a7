"""`prunus run … --launch N`: a study whose networks are each trained by several processes together."""

import os
import shlex
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
import torch

from prunus.cli import main
from prunus.core.errors import Invalid
from prunus.studies import launch, rank
from prunus.studies.launch import Lost, check_launch
from prunus.studies.store import Store
from prunus.training.cores import available_cores
from small_study import finished, left_over, options, small, start

# with SGD another order of sums changes no more than the last digits
STUDY = {
    "train__iterations": 120,
    "train__evaluate_every": 20,
    "train__optimizer": "sgd",
    "train__lr": 0.1,
    "prune__rounds": 1,
    "arms": ["reinit"],
    "device": "cpu",
}
NAME = "lottery-ticket-quick"
#: For processes too, a warning is an error.
STRICT = {**os.environ, "COLUMNS": "100", "PYTHONWARNINGS": "error"}

two_cores = pytest.mark.skipif(available_cores() < 2, reason="two processes need two cores")


def command(out, *more):
    return ["run", "lottery-ticket", *options(**STUDY), "--out", str(out), "--checkpoint-every", "0", *more]


def cells(out):
    return {path.name for path in out.glob("cells/[!.]*")}


def ranks(process):
    """The processes that it has started, by their place; one forked just now has not its own environment yet."""
    started = [(child, child.environ()) for child in psutil.Process(process.pid).children()]
    return {int(environment["RANK"]): child for child, environment in started if "RANK" in environment}


def at(process, moment):
    """What `moment()` gives, once it gives something."""
    for _ in range(6_000):
        if found := moment():
            return found
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("the moment did not come")


def newer(out, seconds):
    """A checkpoint that was left after that time."""
    return any(path.stat().st_mtime > seconds for path in out.glob("partial/[!.]*.safetensors"))


def ended(process, others):
    """The exit code, the one line on stderr; all processes are gone."""
    said, error = process.communicate(timeout=240)
    _, alive = psutil.wait_procs(others, timeout=5)
    assert not alive
    assert len(error.splitlines()) <= 1
    return process.returncode, said, error


def check_like_one_process(out, alone):
    study, one = Store(out).results(NAME), Store(alone).results(NAME)
    assert study.cells
    for ours, theirs in zip(study.cells, one.cells, strict=True):
        assert ours.key == theirs.key
        assert ours.layers == theirs.layers
        assert ours.early_stop.iteration == theirs.early_stop.iteration
        assert ours.final.test_accuracy == pytest.approx(theirs.final.test_accuracy, abs=1e-9)
        assert ours.final.validation_loss == pytest.approx(theirs.final.validation_loss, rel=1e-5)
        assert Store(out).ticket(ours.key).masks == Store(alone).ticket(ours.key).masks
        if ours.arm == "ticket":
            torch.testing.assert_close(Store(out).trained(ours.key), Store(alone).trained(ours.key), rtol=0, atol=1e-5)


@two_cores
def test_a_run_by_two_processes_goes_on_after_a_kill_and_an_interrupt_and_ends_as_one_process_does(tmp_path):
    out, arguments = tmp_path / "out", command(tmp_path / "out", "--launch", "2")
    again = shlex.join(["prunus", *arguments])

    # the death of a process is the end of all
    process, began = start(*arguments, env=STRICT), time.time()
    at(process, lambda: newer(out, began))
    others = ranks(process)
    others[1].kill()
    code, _, error = ended(process, others.values())
    assert code == 1
    assert error == (
        f"error: process 1 of 2 (counted from 0) was killed by SIGKILL; 0 of 3 cells are finished and kept in {out}; "
        f"to go on: {again}\n"
    )
    assert newer(out, began)

    # an interrupt is passed on
    process = start(*arguments, env=STRICT)
    at(process, lambda: len(cells(out)) >= 1 and newer(out, began))
    others = ranks(process)
    process.send_signal(signal.SIGINT)
    code, _, error = ended(process, others.values())
    done = len(cells(out))
    assert code == 130
    assert error == f"error: interrupted; {done} of 3 cells are finished and kept in {out}; to go on: {again}\n"
    assert left_over(out) == []

    # process 0 alone has something to say
    process = start(*arguments, env=STRICT)
    code, said, error = ended(process, [])
    assert (code, error) == (0, "")
    lines = said.splitlines()
    assert lines[0].endswith(f": 3 cells, {3 - done} to train")
    assert [line.split()[0] for line in lines[1:]] == [f"[{i + 1}/{3 - done}]" for i in range(3 - done)] + [
        "figure:",
        "page:",
    ]
    assert (out / NAME / "report.html").is_file()
    finished(small(**STUDY), tmp_path / "alone")
    check_like_one_process(out, tmp_path / "alone")
    assert all("by 2 processes" in path.read_text() for path in out.glob("cells/*/about.json"))


@two_cores
def test_bad_input_that_only_one_process_meets_ends_all_with_its_line(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('RANK') == '1':\n"
        "    from prunus.core.errors import Invalid\n"
        "    from prunus.studies.store import Store\n"
        "    def trained(store, key):\n"
        "        raise Invalid('this file\\nis damaged')\n"
        "    Store.trained = trained\n"
    )
    process = start(*command(tmp_path / "out", "--launch", "2"), env={**STRICT, "PYTHONPATH": str(tmp_path)})
    others = at(process, lambda: len(found := ranks(process)) == 2 and found)
    code, _, error = ended(process, others.values())
    assert (code, error) == (2, "error: this file is damaged\n")
    assert len(cells(tmp_path / "out")) == 1


@two_cores
def test_processes_that_torchrun_has_started_are_joined(tmp_path):
    out = tmp_path / "out"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "prunus"]
    arguments = command(out, "--launch", "auto", "--quiet")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, *torchrun, *arguments], env=environment, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr
    finished(small(**STUDY), tmp_path / "alone")
    check_like_one_process(out, tmp_path / "alone")


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    said = capsys.readouterr()
    assert caught.value.code == 2
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    return said.err


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--launch", "0"], "--launch is '0'; allowed: auto, or a number of processes of at least 1"),
        (["--launch", "-1"], "--launch is '-1'; allowed: "),
        (["--launch", "two"], "--launch is 'two'; allowed: "),
        (["--launch", "1.5"], "--launch is '1.5'; allowed: "),
        (["--launch", "9999"], "--launch 9999 with threads=1 needs 9999 cores; allowed: at most the "),
        (["--launch", "2", "--threads", "700"], "--launch 2 with threads=700 needs 1400 cores; allowed: at most the "),
        (["--launch", "auto", "--threads", "700"], "--launch auto with threads=700 needs 700 cores"),
        (["--launch", "2", "--workers", "2"], "--workers"),
    ],
)
def test_a_number_of_processes_that_there_cannot_be_is_refused(tmp_path, capsys, given, says):
    assert says in refused(capsys, *command(tmp_path / "out", *given))
    assert not (tmp_path / "out").exists()


@two_cores
def test_a_batch_that_has_no_row_for_each_process_is_refused(tmp_path, capsys):
    line = refused(capsys, *command(tmp_path, "--launch", "2", "--set", "train.batch=1"))
    assert "lenet-300-100: train.batch is 1; allowed with 2 processes: at least 2" in line


def test_what_accelerate_cannot_do_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert "ACCELERATE_USE_FSDP is set, but FSDP is not supported" in refused(
        capsys, *command(tmp_path, "--launch", "1")
    )
    monkeypatch.setattr("prunus.training.processes.find_spec", lambda name: None)
    assert "--launch needs accelerate: install prunus[train]" in refused(capsys, *command(tmp_path, "--launch", "1"))


@pytest.mark.parametrize("device", ["mps", "cuda:1"])
def test_one_device_for_all_is_refused(device):
    with pytest.raises(Invalid, match=f"device is '{device}' with --launch; allowed: cpu, or cuda"):
        check_launch("1", small().model_copy(update={"device": device}))


def test_there_is_a_gpu_for_each_process_or_it_is_refused(monkeypatch):
    study = small().model_copy(update={"device": "cuda"})
    monkeypatch.setattr(launch, "_gpus", lambda: 1)
    assert check_launch("auto", study) == 1
    with pytest.raises(Invalid, match="--launch 2 needs 2 GPUs on this machine; allowed: at most the 1 that"):
        check_launch("2", study)


def test_auto_is_a_process_for_each_share_of_the_cores():
    assert check_launch("auto", small(device="cpu")) == available_cores()


def test_what_is_started_from_outside_must_be_whole(tmp_path, capsys, monkeypatch):
    for name, value in {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}.items():
        monkeypatch.setenv(name, str(value))
    line = refused(capsys, *command(tmp_path, "--launch", "3"))
    assert "--launch is 3, but 2 processes were started from outside; allowed: auto" in line
    monkeypatch.setattr(rank, "_PATIENCE", 0)
    line = refused(capsys, *command(tmp_path, "--launch", "auto"))
    assert "MASTER_ADDR is not set, though RANK or WORLD_SIZE is; torchrun sets them all" in line


def test_nothing_is_started_to_look_ahead_or_where_nothing_is_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("prunus.cli.start", lambda *given: pytest.fail("processes were started"))
    study = {**STUDY, "prune__rounds": 0, "train__iterations": 20}
    arguments = ["run", "lottery-ticket", *options(**study), "--out", str(tmp_path), "--launch", "1"]
    for more in (["--dry-run"], []):
        with pytest.raises(SystemExit) as caught:
            main([*arguments, *more])
        assert caught.value.code == 0
        finished(small(**study), tmp_path)
    assert "1 cells, 0 to train" in capsys.readouterr().out


def test_storage_that_is_not_shared_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(rank, "SEEN_WITHIN", 0.3)
    plan = SimpleNamespace(store=Store(tmp_path))
    seen = iter([False, True])
    rank._see(plan, lambda: next(seen))
    with pytest.raises(Invalid, match="is not one folder for all processes; allowed: shared storage"):
        rank._see(plan, lambda: False)


def test_processes_that_were_given_different_studies_are_told():
    plan = SimpleNamespace(cells=(), missing=[])
    processes = SimpleNamespace(rank=1, agreed=lambda value: ["another"])
    with pytest.raises(Invalid, match="process 1 was given another study, or other data, than process 0"):
        rank._missing(plan, processes)


def failure(code, message=""):
    told = {"message": message, "extraInfo": {"timestamp": "0"}} if message else "see elsewhere"
    named = signal.Signals(-code).name if code < 0 else ""
    return SimpleNamespace(exitcode=code, message=told, signal_name=lambda: named)


@pytest.mark.parametrize(
    ("failures", "kind", "says"),
    [
        ({0: failure(-15), 1: failure(-9)}, Lost, "process 1 of 2 (counted from 0) was killed by SIGKILL"),
        ({1: failure(-15), 0: failure(-15)}, Lost, "process 1 of 2 (counted from 0) was killed by SIGTERM"),
        ({0: failure(-15), 1: failure(2, "no such file")}, Invalid, "no such file"),
        ({0: failure(1)}, Lost, "process 0 of 2 (counted from 0) ended with exit code 1"),
        ({1: failure(130, "interrupted")}, KeyboardInterrupt, ""),
    ],
)
def test_the_process_that_failed_first_is_named(tmp_path, capsys, failures, kind, says):
    with pytest.raises(kind) as caught:
        launch._ended(failures, 2, tmp_path)
    assert str(caught.value) == says
    assert capsys.readouterr().err == ""
