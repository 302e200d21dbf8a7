"""The pages of the documentation, and what stands in them."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/**/*.md"))]

_FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the words after it, what is in it, and the line it begins at."""

    language: str
    info: str
    code: str
    line: int


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page."""
    return [
        Block(found[1], found[2].strip(), found[3], text.count("\n", 0, found.start()) + 2)
        for found in _FENCE.finditer(text)
    ]


def prose(text: str) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", text)


def rows(text: str) -> Iterator[list[str]]:
    """The cells of each row of the tables of a page, without code marks."""
    for line in text.splitlines():
        if line.startswith("|") and not set(line) <= set("|- "):
            yield [cell.strip().strip("`") for cell in line.strip().strip("|").split("|")]


def run_examples(text: str, name: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the Python blocks of a page, in order and in one namespace; how many there were.

    A block of `text` right after one is what it prints. A block marked `no-run` is not run.
    """
    module = ModuleType("example")  # dataclasses look up the module that they are defined in
    monkeypatch.setitem(sys.modules, "example", module)
    count, printed = 0, ""
    with torch.random.fork_rng(devices=[]):
        for block in blocks(text):
            if block.language == "python" and block.info != "no-run":
                # the newlines put errors on the page's own lines
                code = compile("\n" * (block.line - 1) + block.code, name, "exec")
                exec(code, module.__dict__)
                printed, count = capsys.readouterr().out, count + 1
            elif block.language == "text" and printed:
                assert printed.strip() == block.code.strip(), f"{name}, line {block.line}: this is not what is printed"
                printed = ""
            else:
                printed = ""
    return count
