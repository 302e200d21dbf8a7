"""Cells trained by Ray's workers, on one machine. What needs no Ray is in test_worker, test_crew and test_dealing."""

import json
import os
import signal
import socket
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

from prunus.cli import main
from prunus.core.errors import Invalid
from prunus.core.files import read_tensors, write_tensors
from prunus.studies import workers
from prunus.studies.crew import Where
from prunus.studies.progress import Quiet
from prunus.studies.runner import prepare, run
from prunus.studies.workers import run_on_workers
from small_study import by_place, contents, finished, left_over, options, plain, small, start


@pytest.fixture(scope="module")
def cluster():
    """A cluster of one machine, this one, with two cores."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 100_000_000})
    yield made
    made.shutdown()


@pytest.fixture
def there(cluster):
    """Its address, as `--workers` takes it."""
    return Where(address=cluster.address)


class Watched(Quiet):
    """A display that counts, and does something at each evaluation."""

    def __init__(self, evaluated=None):
        self.begun, self.ended, self._evaluated = Counter(), Counter(), evaluated

    def begin(self, cell):
        self.begun[cell.key] += 1

    def evaluated(self, cell, evaluation):
        if self._evaluated:
            self._evaluated(self, cell, evaluation)

    def end(self, cell, history):
        self.ended[cell.key] += 1


@pytest.fixture
def watch(monkeypatch):
    """Sets what a run shows its progress on."""

    def set_display(shown):
        @contextmanager
        def display(*_):
            yield shown

        monkeypatch.setattr(workers, "display", display)
        return shown

    return set_display


def processes(name):
    """The running processes whose command line begins with `name`: each with its parent."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(name.encode()):
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    found[int(folder.name)] = int(parent)
        except OSError:
            pass
    return found


def workers_of(cluster):
    raylets = {node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()}
    return {process for process, parent in processes("ray::PrunusWorker").items() if parent in raylets}


def line(caught):
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_the_records_are_those_of_one_process_bit_for_bit(tmp_path, there, watch):
    variants = {"linear": {}, "conv": {"model": {"name": "conv-2"}}}
    study = small(variants=variants, arms=["reinit", "random"], prune__rewind=5, prune__rounds=1)
    shown, on_sigterm = watch(Watched()), signal.getsignal(signal.SIGTERM)
    plan = prepare(study, tmp_path / "workers")
    run_on_workers(plan, "prunus run", there)
    keys = {cell.key for cell in plan.cells}
    assert shown.begun == shown.ended == Counter(keys)  # each once
    finished(study, tmp_path / "alone")
    assert contents(tmp_path / "workers") == contents(tmp_path / "alone")
    assert left_over(tmp_path) == []
    environment = json.loads((tmp_path / "workers" / "cells" / min(keys) / "about.json").read_text())["environment"]
    assert environment["threads"] == study.threads

    # and what is filed is not trained again
    shown.begun.clear()
    run_on_workers(plan, "prunus run", there)
    assert not shown.begun
    assert signal.getsignal(signal.SIGTERM) is on_sigterm


LONG = {"train__iterations": 2000, "train__evaluate_every": 100, "prune__rounds": 1, "trials": 2}


def test_a_worker_that_is_killed_loses_only_what_it_held(tmp_path, cluster, there, watch, monkeypatch):
    killed, lost, lose = [], [], workers.RemoteRun._lose

    def kill_once(shown, cell, evaluation):
        if len(shown.ended) >= 2 and not killed and evaluation.iteration >= 500:
            killed.append(min(workers_of(cluster)))
            os.kill(killed[0], signal.SIGKILL)

    def noting(run, hand, error):
        # only now is it known: since that evaluation the worker may have finished one cell and begun another
        lost.append(set(hand.held))
        lose(run, hand, error)

    monkeypatch.setattr(workers.RemoteRun, "_lose", noting)

    shown = watch(Watched(kill_once))
    plan = prepare(small(**LONG), tmp_path / "workers")
    run_on_workers(plan, "prunus run", there, checkpoint_every=0)
    (held,) = lost  # one worker, and what it had and had not filed
    assert shown.ended == Counter({cell.key for cell in plan.cells})
    # at most once again, and only what that worker held: nothing of the other's, nothing that was filed
    assert max(shown.begun.values()) <= 2
    assert {key for key, count in shown.begun.items() if count == 2} <= held
    finished(small(**LONG), tmp_path / "alone")
    assert contents(tmp_path / "workers") == contents(tmp_path / "alone")


@pytest.mark.slow
def test_a_cell_that_always_loses_its_worker_is_named(tmp_path, cluster, there, watch):
    def kill(shown, cell, evaluation):
        for process in workers_of(cluster):
            os.kill(process, signal.SIGKILL)

    shown = watch(Watched(kill))
    # so far apart that no try is at its second evaluation before it is killed at its first: that would be further
    plan = prepare(small(train__iterations=200_000, train__evaluate_every=20_000, prune__rounds=0), tmp_path)
    with pytest.raises(Invalid) as caught:
        run_on_workers(plan, "prunus run", there)
    (cell,) = plan.cells
    assert line(caught).startswith(f"{cell.label}: its worker was lost 3 times and it got no further")
    assert list(shown.begun.values()) == [3]


def test_what_cannot_be_trained_is_told_as_in_one_process(tmp_path, there):
    study = small(prune__rounds=0, trials=2)
    more = small(prune__rounds=1, trials=2, arms=[])
    said = {}
    for name in ("alone", "workers"):
        plan = finished(study, tmp_path / name)
        file = plan.store.root / "cells" / by_place(plan.cells)[0, 0, "ticket"].key / "trained.safetensors"
        tensors, metadata = read_tensors(file)
        write_tensors(file, {n: tensor * float("nan") for n, tensor in tensors.items()}, metadata)
        plan = prepare(more, tmp_path / name)
        with pytest.raises(Invalid) as caught:
            run(plan, "", quiet=True) if name == "alone" else run_on_workers(plan, "", there, quiet=True)
        said[name] = line(caught)
        assert plan.finished == 3  # the other trial is
    assert said["workers"] == said["alone"]
    assert "was trained to NaN" in said["alone"]
    assert left_over(tmp_path) == []


def test_a_worker_that_is_not_like_the_driver_ends_the_run_at_once(tmp_path, there, monkeypatch):
    plan = prepare(small(prune__rounds=0), tmp_path / "out")
    monkeypatch.setattr(workers, "__version__", "0.0.0")
    with pytest.raises(Invalid) as caught:
        run_on_workers(plan, "prunus run", there, quiet=True)
    assert line(caught).startswith(f"worker on {socket.gethostname()}: has Prunus ")
    assert line(caught).endswith("; allowed: Prunus 0.0.0, as where the study was started")
    assert plan.finished == 0
    assert left_over(tmp_path) == []


def test_a_cluster_without_a_gpu_trains_no_study_for_one(tmp_path, cluster, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["run", "lottery-ticket", "--out", str(tmp_path / "o"), "--device", "cuda", "--workers", cluster.address])
    assert ended.value.code == 2
    says = f"error: device is 'cuda'; the cluster at {cluster.address} has no GPU; allowed: cpu\n"
    assert capsys.readouterr().err == says
    assert not (tmp_path / "o").exists()


def test_an_address_where_no_cluster_is_is_refused_within_seconds(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        silent = f"error: --workers {address}: no Ray cluster answers there that this machine can join"
        command = ["run", "lottery-ticket", "--out", str(tmp_path / "o"), "--workers", address]
        process = start(*command)
        _, said = process.communicate(timeout=60)
        assert (process.returncode, len(said.splitlines())) == (2, 1), said
        assert said.startswith(silent)
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: --workers {address}: nobody answers there (Connection refused)\n"
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--workers", "0"], "--workers is 0; allowed: a number of processes here (at least 1), auto, or"),
        (["--workers", "1000000"], "--workers is 1000000; allowed: up to"),
        (["--workers", "2", "--launch", "2"], "--workers is '2' and --launch '2'; allowed: one of them"),
    ],
)
def test_workers_that_there_cannot_be_are_refused_before_anything_is_done(tmp_path, capsys, arguments, says):
    with pytest.raises(SystemExit) as ended:
        main(["run", "lottery-ticket", "--out", str(tmp_path / "o"), *arguments])
    said = capsys.readouterr().err
    assert (ended.value.code, len(said.splitlines())) == (2, 1)
    assert said.startswith(f"error: {says}")
    assert not (tmp_path / "o").exists()


def moment(process, out, cells):
    """Wait until there are so many finished cells and another is under way."""
    for _ in range(60_000):
        done = {path.name for path in out.glob("cells/[!.]*")}
        if len(done) >= cells and {path.stem for path in out.glob("partial/[!.]*.safetensors")} - done:
            return len(done)
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    raise AssertionError(out)


def test_an_interrupt_is_told_in_one_line(tmp_path, cluster):
    out, long = tmp_path / "out", {**LONG, "train__iterations": 10_000}
    command = ["run", "lottery-ticket", *options(**long), "--out", str(out), "--checkpoint-every", "0", "--quiet"]
    process = start(*command, "--workers", cluster.address)
    moment(process, out, 1)
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate(timeout=60)
    done = len(list(out.glob("cells/[!.]*")))
    assert (process.returncode, printed) == (130, "")
    assert said.startswith(
        f"error: interrupted; {done} of 8 cells are finished and kept in {out}; to go on: prunus run"
    )
    assert len(said.splitlines()) == 1
    for _ in range(200):
        if not workers_of(cluster):
            break
        time.sleep(0.05)
    assert not workers_of(cluster)
    assert [path for path in left_over(out) if ".workers" in path] == []


@pytest.mark.slow
def test_a_driver_that_is_killed_takes_its_ray_along_and_the_same_command_goes_on(tmp_path):
    out = tmp_path / "out"
    command = ["run", "lottery-ticket", *options(**LONG), "--out", str(out), "--checkpoint-every", "0"]
    count = min(2, len(os.sched_getaffinity(0)))
    process = start(*command, "--workers", str(count))
    moment(process, out, 2)
    own = {child for child, parent in processes("").items() if parent == process.pid}
    mine = {child for child, parent in processes("ray::PrunusWorker").items() if parent in own}
    assert len(mine) == count
    kept = contents(out)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    for _ in range(400):
        if not mine & processes("ray::PrunusWorker").keys():
            break
        time.sleep(0.05)
    assert not mine & processes("ray::PrunusWorker").keys()
    whole = {name: value for name, value in contents(out).items() if "/." not in name}
    assert {name: whole[name] for name in kept} == kept

    process = start(*command, "--workers", "auto", env={**os.environ, "RAY_ADDRESS": ""})
    printed, said = process.communicate()
    assert (process.returncode, said) == (0, "")
    lines = plain(printed).splitlines()
    assert lines[0].startswith("Winning tickets in LeNet-300-100 on digits: 8 cells, ")
    # nothing but our own lines
    cells = [text for text in lines[1:] if text.startswith("[")]
    assert len(cells) == len(lines) - 3
    assert 0 < len(cells) <= 8 - len(kept) / 5
    finished(small(**LONG), tmp_path / "alone")
    assert {name: value for name, value in contents(out).items() if "/." not in name} == contents(tmp_path / "alone")
    assert [path for path in left_over(out) if ".workers" in path] == []


@pytest.mark.slow
def test_a_client_of_a_cluster_is_like_a_machine_of_it(tmp_path):
    pytest.importorskip("grpc")
    import subprocess
    import sys

    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        port, for_clients = one.getsockname()[1], other.getsockname()[1]
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--head", f"--port={port}", "--num-cpus=2", "--block"]
    more = [f"--ray-client-server-port={for_clients}", "--include-dashboard=false", "--disable-usage-stats"]
    with subprocess.Popen([*ray, *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as head:
        try:
            for _ in range(600):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", for_clients)) == 0:
                        break
                time.sleep(0.1)
            out = tmp_path / "out"
            command = [
                "run",
                "lottery-ticket",
                *options(**LONG),
                "--out",
                str(out),
                "--checkpoint-every",
                "0",
                "--quiet",
            ]
            process = start(*command, "--workers", f"ray://127.0.0.1:{for_clients}")
            moment(process, out, 1)
            parents = processes("")
            at_work = [w for w, raylet in processes("ray::PrunusWorker").items() if parents[raylet] == head.pid]
            os.kill(max(at_work), signal.SIGKILL)
            assert process.communicate() == ("", "")
            assert process.returncode == 0
        finally:
            head.terminate()
    finished(small(**LONG), tmp_path / "alone")
    assert contents(out) == contents(tmp_path / "alone")
