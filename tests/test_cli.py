import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from fcntl import ioctl
from io import BytesIO, TextIOWrapper

import pytest

from prunus import __version__
from prunus.cli import main
from prunus.core.files import read_tensors, write_tensors
from prunus.data import DATASETS
from prunus.models import MODELS
from prunus.studies.runner import prepare
from small_study import contents, finished, options, plain, small, start


@pytest.fixture
def cli(capsys):
    """`prunus …` in this process: exit code, output, errors."""

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return run


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A results folder with a finished study, to look at only."""
    out = tmp_path_factory.mktemp("results")
    finished(small(), out)
    return out


@pytest.fixture
def ticket(results):
    return min(results.glob("cells/*/ticket.safetensors"))


# --- bad input -------------------------------------------------------------------------------------------------


def refused(answer, *says):
    """That the command ended with exit code 2 and said one line."""
    code, out, err = answer
    assert code == 2
    assert len(err.splitlines()) == 1, err
    assert err.startswith("error: ")
    assert "Traceback" not in out + err
    for words in says:
        assert words in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rum"], "rum"),
        (["run"], "study"),
        (["run", "lottery-ticket", "--sett", "a=1"], "--sett"),
        (["run", "lottery-ticket", "--threads", "two"], "--threads"),
        (["run", "lottery-ticket", "--checkpoint-every", "-1"], "--checkpoint-every"),
        (["run", "lotery-ticket"], "did you mean 'lottery-ticket'?"),
        (["run", "lottery-ticket", "--set", "trials"], "allowed: key=value"),
        (["run", "lottery-ticket", "--set", "trails=3"], "trails: no such key; did you mean 'trials'?"),
        (["run", "lottery-ticket", "--set", "train.lr=fast"], "train.lr is 'fast'; allowed: a number"),
        (["run", "lottery-ticket", "--set", "model.name=lenet"], "did you mean 'lenet-5'?"),
        (["run", "lottery-ticket", "--set", "prune.rate=1.5"], "prune.rate is 1.5; allowed: below 1"),
        (["run", "lottery-ticket", "--set", "model.name=conv-8"], "conv-8"),
        (["run", "lottery-ticket", "--threads", "0"], "threads is 0; allowed: at least 1"),
        (["run", "lottery-ticket", "--device", "cuda:99"], "device is 'cuda:99'; here there is: auto, cpu"),
        (["run", "lottery-ticket", "--data", "digit"], "did you mean 'digits'?"),
        (["run", "lottery-ticket", "--data", "/nowhere/at/all"], "/nowhere/at/all"),
        (["run", "nowhere.yaml"], "nowhere.yaml"),
        (["run", "."], "a folder"),
        (["report", "nowhere"], "nowhere: holds no study"),
        (["show", "nowhere"], "nowhere: holds no study"),
        (["inspect", "nowhere.safetensors"], "nowhere.safetensors: no such file"),
        (["inspect", "."], "no such file"),
        (["list", "model"], "did you mean 'models'?"),
        (["list", "models", "none-*"], "no name of models matches 'none-*'"),
    ],
)
def test_bad_input_gets_one_line_and_writes_nothing(cli, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    refused(cli(*arguments), says)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"a: [", b"- 1", b"\x00\x01\x02", bytes(range(256)), b"words"])
def test_a_file_that_is_no_study_gets_one_line(cli, tmp_path, content):
    path = tmp_path / "study.yaml"
    path.write_bytes(content)
    refused(cli("run", path, "--out", tmp_path / "out"), str(path))
    assert not (tmp_path / "out").exists()


def test_a_data_folder_without_images_gets_one_line(cli, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(cli("run", "lottery-ticket", "--data", tmp_path / "empty"), str(tmp_path / "empty"))
    table = tmp_path / "table"
    table.mkdir()
    for split in ("train", "test"):
        (table / f"{split}.csv").write_text("size,label\n1,0\n2,1\n")
    refused(cli("run", "lottery-ticket", "--data", table), "holds no images; its columns are size")


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_cut_off_ticket_gets_one_line(cli, tmp_path, ticket, keep):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(ticket.read_bytes()[:keep])
    refused(cli("inspect", path), f"{path}: cut short or not a safetensors file")


def test_an_altered_ticket_gets_one_line(cli, tmp_path, ticket):
    path = tmp_path / "altered.safetensors"
    data = bytearray(ticket.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    refused(cli("inspect", path), f"{path}: altered since it was written")


def test_a_file_of_other_tensors_is_no_ticket(cli, tmp_path, ticket):
    path = tmp_path / "other.safetensors"
    tensors, metadata = read_tensors(ticket)
    write_tensors(path, tensors, {**metadata, "format": "something else"})
    refused(cli("inspect", path), f"{path}: not a ticket")


def test_a_study_that_is_not_in_the_results_gets_one_line(cli, results):
    for command in ("show", "report"):
        refused(cli(command, results, "--study", "other"), "holds no study 'other'; allowed: lottery-ticket-quick")


def test_a_study_of_which_nothing_is_finished_has_no_report(cli, tmp_path, results):
    (tmp_path / "s").mkdir()
    for name in ("cells.json", "study.yaml"):
        (tmp_path / "s" / name).write_bytes((results / "lottery-ticket-quick" / name).read_bytes())
    refused(cli("report", tmp_path), "no finished cell")
    code, out, err = cli("show", tmp_path)
    assert (code, err) == (0, "")
    assert "0 of 7 cells" in out


# --- what it prints --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [[], ["--help"], *([c, "--help"] for c in ("run", "report", "show", "list", "inspect"))]
)
def test_there_is_help(cli, arguments):
    code, out, err = cli(*arguments)
    assert (code, err) == (0, "")
    assert "Usage" in out
    if arguments in ([], ["--help"]):
        assert all(command in out for command in ("run", "report", "show", "list", "inspect"))


def test_help_imports_nothing_heavy():
    script = (
        "import sys\n"
        "from prunus.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'numpy', 'datasets', 'matplotlib', 'pydantic', 'sklearn', 'yaml', 'jinja2', 'safetensors'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_version(cli):
    assert cli("--version") == (0, f"prunus {__version__}\n", "")


def test_list_names_all_there_is(cli):
    code, out, err = cli("list")
    assert (code, err) == (0, "")
    for name in (*MODELS, *DATASETS, "lottery-ticket (preset paper)", "magnitude", "erk"):
        assert name in out
    assert "cosine" in out


def test_list_takes_a_kind_and_a_pattern(cli):
    _, out, _ = cli("list", "models", "conv-*")
    assert re.findall(r"^ +((?:conv|lenet)-\S+)", out, re.MULTILINE) == ["conv-2", "conv-4", "conv-6", "conv-8"]
    assert "digits" not in out


def test_inspect_prints_the_layers_and_the_origin_of_a_ticket(cli, results):
    plan = prepare(small(), results)
    cell = next(cell for cell in plan.cells if (cell.round, cell.arm) == (1, "ticket"))
    code, out, err = cli("inspect", results / "cells" / cell.key / "ticket.safetensors")
    assert (code, err) == (0, "")
    # 30 × 64, 10 × 30 and 10 × 10 weights; a fifth of each layer goes, and a tenth of the last
    for kept in ("1,536", "240", "90", "1,866"):
        assert re.search(rf"\b{kept}\b", out)
    assert "round 1" in out
    assert str(cell.seed) in out


def test_show_prints_the_numbers_of_the_records(cli, results):
    code, out, err = cli("show", results)
    assert (code, err) == (0, "")
    assert "7 of 7 cells" in out
    rows = [line.split() for line in out.splitlines()]
    plan = prepare(small(), results)
    for cell in plan.cells:
        records = json.loads((results / "cells" / cell.key / "records.json").read_text())
        density = f"{100 * records['kept'] / records['total']:.1f}" if cell.round else "100"
        at_stop, at_end = (f"{100 * records[when]['test_accuracy']:.2f}" for when in ("early_stop", "final"))
        assert [cell.arm, density, "1", str(records["early_stop"]["iteration"]), at_stop, at_end] in rows


def test_report_draws_the_figure_again(cli, results):
    code, out, err = cli("report", results)
    assert (code, err) == (0, "")
    folder = results / "lottery-ticket-quick"
    assert str(folder / "figure.png") in out
    assert str(folder / "report.html") in out
    assert (folder / "figure.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_dry_run_lists_the_cells_and_writes_nothing(cli, tmp_path, results):
    code, out, err = cli("run", "lottery-ticket", *options(trials=2), "--out", tmp_path / "out", "--dry-run")
    assert (code, err) == (0, "")
    # two trials of one dense network and two rounds of three arms, of 20 iterations each
    assert re.search(r"14 cells to train, 280 iterations, about \d+\.\d s on this machine", out)
    assert list(tmp_path.iterdir()) == []
    before = contents(results)
    assert "nothing is left to train" in cli("run", "lottery-ticket", *options(), "--out", results, "--dry-run")[1]
    assert contents(results) == before


def test_options_are_keys_of_the_study(cli, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nseed: 3\nthreads: 2\n")
    flags = ["--seed", 5, "--threads", 1, "--device", "cpu", "--data", "digits", "--quiet"]
    assert cli("run", path, *options(prune__rounds=0), "--out", tmp_path / "out", *flags) == (0, "", "")
    written = (tmp_path / "out" / "mine" / "study.yaml").read_text()
    for line in ("seed: 5", "threads: 1", "device: cpu", "name: digits"):
        assert line in written


def test_quiet_prints_nothing(cli, tmp_path):
    assert cli("run", "lottery-ticket", *options(prune__rounds=0), "--out", tmp_path, "--quiet") == (0, "", "")


def test_plain_lines_where_there_is_no_terminal(cli, tmp_path):
    code, out, err = cli("run", "lottery-ticket", *options(), "--out", tmp_path)
    assert (code, err) == (0, "")
    first, *cells, figure, page = out.splitlines()
    assert first.endswith("7 cells, 7 to train")
    assert "\x1b" not in out
    for number, line in enumerate(cells, 1):
        assert re.fullmatch(
            rf"\[{number}/7\] lenet-300-100 trial 0 round \d \w+: early stop at \d+ "
            r"\(loss \d\.\d{4}, test \d+\.\d\d%\), test \d+\.\d\d% at the end, about \d+(\.\d)? s left",
            line,
        )
    assert len(cells) == 7
    assert figure == f"figure: {tmp_path}/lottery-ticket-quick/figure.png"
    assert page == f"page:   {tmp_path}/lottery-ticket-quick/report.html"
    _, out, _ = cli("run", "lottery-ticket", *options(), "--out", tmp_path)
    assert out.splitlines() == [first.replace("7 to train", "0 to train"), figure, page]


# --- a terminal, and other places that output goes to ----------------------------------------------------------


def test_on_a_terminal_bars_show_loss_accuracy_and_time_left_and_an_interrupt_clears_them(tmp_path):
    settings = options(train__iterations=100_000, train__evaluate_every=100)
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {**{k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}, "TERM": "xterm"}
    command = ["run", "lottery-ticket", *settings, "--out", str(tmp_path)]
    process = start(
        *command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, text=False, start_new_session=True,
        preexec_fn=lambda: ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    whole = r"0/7 cells, 1 at once +[━╸╺]+ +\d+% \d:\d\d:\d\d"
    cell = r"trial 0 round 0 ticket +[━╸╺]+ +\d+% \d:\d\d:\d\d loss \d\.\d{4} acc\. \d+\.\d\d%"
    try:
        while not (re.search(whole, text := plain(seen.decode(errors="ignore"))) and re.search(cell, text)):
            seen += _read(ours)
        os.write(ours, b"\x03")  # ctrl-c
        while part := _read(ours):
            seen += part
    finally:
        process.kill()
        os.close(ours)
    assert process.wait() == 130
    text = seen.decode()
    assert "Traceback" not in text
    assert text.count("\x1b[?25h") == text.count("\x1b[?25l") > 0  # the cursor is back
    last = text.rsplit("\x1b[2K", 1)[1].strip()  # what is printed once the bars are cleared
    assert last.startswith("error: interrupted; 0 of 7 cells are finished and kept in ")
    assert "to go on: prunus run lottery-ticket" in last
    assert "\n" not in last
    assert max(len(line.rstrip("^C")) for line in re.split(r"[\r\n]+", plain(text)) if "━" in line) == 80


def _read(terminal):
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end is closed
        return b""


def test_a_reader_that_has_seen_enough_is_no_error():
    read, write = os.pipe()
    os.close(read)
    process = start("--help", stdout=write)
    os.close(write)
    _, err = process.communicate()
    assert (process.returncode, err) == (1, "")


def test_a_run_whose_reader_has_seen_enough_stops_without_a_word(tmp_path, monkeypatch, capsys):
    read, write = os.pipe()
    os.close(read)
    monkeypatch.setattr(sys, "stdout", os.fdopen(write, "w"))
    with pytest.raises(SystemExit) as caught:
        main(["run", "lottery-ticket", *options(), "--out", str(tmp_path)])
    with suppress(BrokenPipeError):
        sys.stdout.close()
    assert (caught.value.code, capsys.readouterr().err) == (1, "")


def test_output_that_cannot_be_written_gets_one_line():
    with open("/dev/full", "w") as full:
        process = start("--help", stdout=full)
        _, err = process.communicate()
    assert (process.returncode, err) == (2, "error: No space left on device\n")


def test_letters_that_the_output_cannot_show_are_no_error(monkeypatch):
    output = TextIOWrapper(BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    with pytest.raises(SystemExit) as caught:
        main(["list", "models"])
    assert caught.value.code == 0
    assert "5 ? 5" in output.buffer.getvalue().decode("ascii")


def test_without_its_extras_the_command_line_says_what_to_install():
    code = "import sys; sys.modules['typer'] = None; from prunus.__main__ import main; main()"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert answer.returncode == 2
    assert answer.stderr == "error: the command line needs typer: install prunus[study]\n"


def test_a_files_results_have_a_folder_named_like_the_file(tmp_path):
    from prunus.studies.resolve import resolve

    (tmp_path / "my wide study.yaml").write_text("trials: 1\n")
    (tmp_path / "named.yaml").write_text("trials: 1\nname: other\n")
    assert resolve(str(tmp_path / "my wide study.yaml")).name == "my-wide-study"
    assert resolve(str(tmp_path / "named.yaml")).name == "other"
