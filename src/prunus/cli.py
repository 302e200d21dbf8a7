"""`prunus …`: every command thin, over the studies and the library. Heavy imports wait until a command needs them."""

import os
import shlex
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from prunus._version import __version__
from prunus.core.errors import Invalid, nearest
from prunus.studies.launch import Lost, check_launch, in_group, start, started_here, tell_starter

if TYPE_CHECKING:
    from prunus.studies.crew import Where
    from prunus.studies.runner import Plan

app = typer.Typer(
    help="Find, train, measure and store the sparse subnetworks hidden inside neural networks.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

Out = Annotated[Path, typer.Option("--out", help="Folder of the results.")]


@app.command()
def run(
    study: Annotated[str, typer.Argument(help="A built-in study (see `prunus list`) or a YAML file.")],
    out: Out = Path("results"),
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a key of the study.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Built-in data, a Hugging Face folder or a hub id.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps or auto.")] = None,
    threads: Annotated[int | None, typer.Option(help="PyTorch's threads.")] = None,
    seed: Annotated[int | None, typer.Option(help="What all random numbers are derived from.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list the cells, and the time they would take.")
    ] = False,
    checkpoint_every: Annotated[float, typer.Option(help="Seconds between checkpoints of a cell.", min=0)] = 60.0,
    workers: Annotated[
        str | None,
        typer.Option(metavar="N|auto|ray://HOST:PORT", help="Train on N processes here, or on a Ray cluster."),
    ] = None,
    launch: Annotated[
        str | None, typer.Option(metavar="N|auto", help="Train each network by N processes together (DDP).")
    ] = None,
) -> None:
    """Run a study, or go on with it: finished cells are kept, only what is missing is computed."""
    from prunus.studies.resolve import parse_assignment, resolve

    where = _where(workers, launch)
    options = {"data.name": data, "device": device, "threads": threads, "seed": seed}
    overrides = [parse_assignment(text) for text in sets or []]
    overrides += [(key, value) for key, value in options.items() if value is not None]
    resolved = resolve(study, overrides, elsewhere=where is not None and where.address is not None and not dry_run)

    from prunus.studies.runner import prepare
    from prunus.studies.runner import run as run_plan

    processes = None if launch is None else check_launch(launch, resolved)
    plan = prepare(resolved, out)
    if dry_run:
        _print_plan(plan)
        return
    if processes and (plan.missing or in_group()):
        _run_by_processes(plan, processes, quiet, checkpoint_every)
        return
    _say(quiet, f"{resolved.title or resolved.name}: {len(plan.cells)} cells, {plan.left}")
    command = _command()
    with _kept(plan, command):
        if where is None:
            run_plan(plan, command, quiet=quiet, checkpoint_every=checkpoint_every)
        else:
            from prunus.studies.workers import run_on_workers

            run_on_workers(plan, command, where, quiet=quiet, checkpoint_every=checkpoint_every)
        _write_report(plan.store, resolved.name, quiet)


@app.command()
def report(
    results: Annotated[Path, typer.Argument(help="Folder of the results.")] = Path("results"),
    study: Annotated[str | None, typer.Option(help="Only this study of the folder.")] = None,
) -> None:
    """Draw the figures and write the page of each study in a results folder."""
    store = _store(results)
    for name in [study] if study else store.studies():
        _write_report(store, name, quiet=False)


@app.command()
def show(
    results: Annotated[Path, typer.Argument(help="Folder of the results.")] = Path("results"),
    study: Annotated[str | None, typer.Option(help="Only this study of the folder.")] = None,
) -> None:
    """Show the results as tables in the terminal."""
    from prunus.studies.show import print_results

    store = _store(results)
    for name in [study] if study else store.studies():
        print_results(store.results(name))


@app.command("list")
def list_(
    what: Annotated[
        str | None, typer.Argument(help="studies, models, data, criteria, supermasks, sparse-training, …; default all.")
    ] = None,
    pattern: Annotated[str, typer.Argument(help="Only names that match this glob pattern.")] = "*",
) -> None:
    """List studies, models, data and methods by name."""
    from prunus.studies.show import CATALOGUE, print_catalogue

    if what is not None and what not in CATALOGUE:
        raise Invalid(f"list {what!r}: {nearest(what, CATALOGUE)}")
    print_catalogue([what] if what else list(CATALOGUE), pattern)


@app.command()
def inspect(file: Annotated[Path, typer.Argument(help="A ticket or supermask file.")]) -> None:
    """Show what is in a ticket or supermask file, after checking that it is whole."""
    from prunus.studies.show import print_file

    print_file(file)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        print(f"prunus {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


def main(arguments: list[str] | None = None) -> NoReturn:
    """The command line: exit code 0, 2 on bad input, 130 when interrupted."""
    _print_any_letter()
    warnings.showwarning = _warn
    try:
        code = app(arguments, standalone_mode=False)
        sys.stdout.flush()
    except _UsageError as error:
        _fail(_usage_error(error), 2)
    except Invalid as error:
        _fail(str(error), 2)
    except BrokenPipeError:
        _drop_output()  # the reader of our output is gone: nobody is left to tell
        sys.exit(1)
    except OSError as error:
        _fail(_os_error(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:  # an interrupt, which new versions of typer catch
        _fail(f"interrupted; to go on: {_command()}", 130)
    sys.exit(code or 0)


#: What typer raises where the command line itself is wrong; old versions have it from click, new ones bring it along.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]


def _command() -> str:
    return shlex.join(["prunus", *sys.argv[1:]])


def _fail(message: str, code: int) -> NoReturn:
    if code == 130:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second ctrl-c would cut this short
    line = " ".join(message.split())
    if started_here():
        tell_starter(line, code)
    print("error: " + line, file=sys.stderr)
    _drop_output()
    sys.exit(code)


def _drop_output() -> None:
    """Write out what is printed if that can be done, and no more: at exit it would fail with a traceback."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _warn(message: Warning | str, *_: object) -> None:
    print("warning: " + " ".join(str(message).split()), file=sys.stderr)


def _print_any_letter() -> None:
    """A terminal that cannot show a letter gets a question mark for it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def _usage_error(error: Any) -> str:
    command = error.ctx.command_path if error.ctx else "prunus"
    return f"{error.format_message().rstrip('.')}; see `{command} --help`"


def _os_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return where + (error.strerror or str(error))


def _say(quiet: bool, text: str) -> None:
    if not quiet:
        print(text, flush=True)


def _store(root: Path) -> Any:
    from prunus.studies.store import Store

    store = Store(root)
    if not store.studies():
        raise Invalid(f"{root}: holds no study; allowed: the --out folder of a `prunus run`")
    return store


def _where(workers: str | None, launch: str | None) -> "Where | None":
    if workers is None:
        return None
    from prunus.studies.crew import where_to

    if launch is not None:
        raise Invalid(f"--workers is {workers!r} and --launch {launch!r}; allowed: one of them")
    return where_to(workers)


@contextmanager
def _kept(plan: "Plan", command: str) -> Iterator[None]:
    """Say what is kept, and how to go on, when a run ends early."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (KeyboardInterrupt, OSError, Lost) as error:
        what, code = str(error), 1
        if isinstance(error, KeyboardInterrupt):
            what, code = "interrupted", 130
        elif isinstance(error, OSError):
            what, code = f"writing failed: {_os_error(error)}", 2
        kept = f"{plan.finished} of {len(plan.cells)} cells are finished and kept in {plan.store.root}"
        _fail(f"{what}; {kept}; to go on: {command}", code)


def _run_by_processes(plan: "Plan", count: int, quiet: bool, checkpoint_every: float) -> None:
    """Start the processes; or, in one of them, do its part."""
    command = _command()
    with _kept(plan, command):
        if not in_group():
            start(count, plan.study.threads, sys.argv[1:])
            return
        from prunus.studies.rank import take_part

        take_part(plan, command, quiet=quiet, checkpoint_every=checkpoint_every)
        if os.environ["RANK"] == "0":
            _write_report(plan.store, plan.study.name, quiet)


def _write_report(store: Any, name: str, quiet: bool) -> None:
    from prunus.studies.report import write_report

    written = write_report(store.results(name), store.root / name)
    _say(quiet, f"figure: {written.png}\npage:   {written.html}")


def _print_plan(plan: "Plan") -> None:
    from prunus.studies.estimate import estimate
    from prunus.studies.show import print_plan

    print_plan(plan, estimate(plan))


if __name__ == "__main__":
    main()
