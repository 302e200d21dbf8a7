"""Every command line of the documentation is one that works: its command, options, study and keys exist."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pages import PAGES, ROOT, blocks, prose, rows

from prunus.cli import app, main
from prunus.core.errors import Invalid
from prunus.core.registry import Table
from prunus.studies.kinds import KINDS
from prunus.studies.resolve import STUDIES, parse_assignment, resolve
from prunus.studies.show import CATALOGUE
from prunus.training import Recipe

ROOT_COMMAND: Any = typer.main.get_command(app)
TEXT = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
#: Pages on which a study's file is written out, by the file's name.
FILES = {
    b.info.removeprefix('title="').rstrip('"'): b.code for t in TEXT.values() for b in blocks(t) if b.language == "yaml"
}


def shell_lines(text: str) -> list[str]:
    joined = [b.code.replace("\\\n", " ") for b in blocks(text) if b.language == "sh"]
    lines = [line for code in joined for line in code.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def lines_of(program: str) -> list[str]:
    """The command lines of `program`, those in the text too where they are whole."""
    found: list[str] = []
    for text in TEXT.values():
        inline = re.findall(rf"`({program} [a-z][^`]* [^`]*)`", prose(text))
        found += [line for line in [*shell_lines(text), *inline] if line.split()[0] == program and "…" not in line]
    return list(dict.fromkeys(found))


def parse(line: str) -> tuple[str, dict[str, Any]]:
    """The sub-command of a `prunus` line and what it is given."""
    _, command, *arguments = shlex.split(line, comments=True)
    with ROOT_COMMAND.make_context("prunus", [command, *arguments]) as context:
        name, sub, rest = ROOT_COMMAND.resolve_command(context, [command, *arguments])
        with sub.make_context(name, rest, parent=context) as parsed:
            return name, parsed.params


def check(line: str) -> None:
    command, given = parse(line)
    if command == "list" and given["what"]:
        assert given["what"] in CATALOGUE
    if command == "run":
        study = given["study"]
        if study not in STUDIES:
            Path(study).write_text(FILES[study], encoding="utf-8")
        resolve(study, [parse_assignment(text) for text in given["sets"] or []])


@pytest.mark.parametrize("line", lines_of("prunus"))
def test_a_command_line_is_one_that_prunus_takes(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check(line)


def test_a_command_that_the_text_speaks_of_is_there():
    named = {name for text in TEXT.values() for name in re.findall(r"`prunus ([a-z]+)`", prose(text))}
    assert named
    assert named <= ROOT_COMMAND.commands.keys()


@pytest.mark.parametrize(
    "line",
    [
        "prunus run",
        "prunus bench",
        "prunus run lottery-ticket --no-such-option",
        "prunus report results --threads 2",
        "prunus run lottery-ticket --set train.rate=1",
        "prunus run lottery-ticket --set preset=papre",
        "prunus list metods",
    ],
)
def test_the_check_refuses(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    usage: type[Exception] = typer.BadParameter.__bases__[0]
    with pytest.raises((usage, Invalid, AssertionError)):
        check(line)


def test_the_study_that_is_written_out_can_be_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("my-study.yaml").write_text(FILES["my-study.yaml"], encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main(["run", "my-study.yaml", "--dry-run"])
    assert ended.value.code == 0
    # per variant: five tickets, and two controls in each of two rounds; two trials
    assert f"{2 * 2 * (5 + 2 * 2)} cells" in capsys.readouterr().out


@pytest.mark.parametrize("line", lines_of("make"))
def test_a_make_target_is_there(line):
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    asked = [word for word in shlex.split(line)[1:] if "=" not in word]
    assert asked
    assert set(asked) <= set(targets)


@pytest.mark.parametrize("line", lines_of(".venv/bin/python"))
def test_a_script_is_there(line):
    assert (ROOT / shlex.split(line)[1]).is_file()


def test_the_command_page_lists_every_command_and_option_with_its_default():
    sections = TEXT["docs/command-line.md"].split("\n## ")
    by_name = {section.split("\n", 1)[0]: section for section in sections}
    for name, command in ROOT_COMMAND.commands.items():
        listed = {row[0]: row[1] for row in rows(by_name[name]) if row[0].startswith("--")}
        options = {p.opts[0]: p.default for p in command.params if p.param_type_name == "option"}
        expected = {option: "" if value in (None, False) else str(value) for option, value in options.items()}
        expected = {option: value.removesuffix(".0") for option, value in expected.items()}
        assert listed == expected


def test_the_table_of_keys_is_every_key_with_its_value_in_the_quick_preset():
    study = resolve("lottery-ticket")
    values = study.model_dump(mode="json")
    setting = next(iter(values["variants"].values()))
    keys = {key: value for key, value in values.items() if key not in ("variants", "device")}
    keys |= {f"{part}.{key}": value for part in ("model", "data", "prune") for key, value in setting[part].items()}
    keys |= {f"train.{key}": setting["train"][key] for key in Recipe.__dataclass_fields__}
    listed = {row[0]: row[1] for row in rows(TEXT["docs/studies.md"].split("## All keys")[1].split("\n## ")[0])}
    del listed["key"]
    assert listed.pop("variants") == ""
    assert listed.pop("device") == "auto"
    assert listed.keys() == keys.keys()
    assert {key: parse_assignment(f"x={text}")[1] for key, text in listed.items()} == keys


def test_the_tables_of_names_are_complete():
    words = [cell for row in rows(TEXT["docs/words.md"]) for cell in re.split(r"[`,\s]+", row[0])]
    for kind in ("scopes", "schedules"):
        assert set(CATALOGUE[kind]) <= set(words)
    presets = {row[0] for row in rows(TEXT["docs/studies.md"].split("## Presets")[1])}
    assert set(STUDIES["lottery-ticket"]) <= presets
    elsewhere = TEXT["docs/adding-a-method.md"].split("## From a package of your own")[1].split("\n## ")[0]
    groups = {row[0] for row in rows(elsewhere)} - {"group"}
    tables = [KINDS, *(table for table in CATALOGUE.values() if isinstance(table, Table))]
    assert groups == {table.group for table in tables}


def test_every_study_with_its_presets_and_every_list_has_its_row():
    said = {row[0]: row[-1] for row in rows(TEXT["docs/studies.md"].split("## All keys")[0])}
    assert {name: re.findall(r"`?([a-z-]+)`?", said[name]) for name in STUDIES} == {
        n: list(p) for n, p in STUDIES.items()
    }
    listed = [row[0] for row in rows(TEXT["docs/command-line.md"].split("\n## list")[1].split("\n## ")[0])]
    assert listed[1:] == list(CATALOGUE)


def test_yaml_blocks_are_yaml():
    assert FILES
    assert all(isinstance(yaml.safe_load(text), dict) for text in FILES.values())
