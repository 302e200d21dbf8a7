"""Every public name has its entry in the pages of the API, and the site is built with it."""

import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from pages import ROOT

import prunus

ROOMS = [
    "models",
    "data",
    "training",
    "tickets",
    "supermasks",
    "sparse_training",
    "pruning",
    "pruning.criteria",
    "analysis",
    "studies.report",
]
PUBLIC = [f"prunus.{name}" for name in prunus.__all__]
OF_ROOMS = [f"prunus.{room}.{name}" for room in ROOMS for name in import_module(f"prunus.{room}").__all__]

_ENTRY = re.compile(r"^(?:\[\]\(\)\{#(?P<anchor>[\w.]+)\}\n\n)?::: (?P<path>[\w.]+)$", re.MULTILINE)


def entries(pages: str) -> dict[str, str]:
    """The entries of the API pages: the name that each goes by, and the path that it is read from."""
    return {found["anchor"] or found["path"]: found["path"] for found in _ENTRY.finditer(pages)}


def located(path: str) -> object:
    """The object at a dotted path; where a module and a name in it are called alike, the path says which."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError:
        return getattr(located(module), name)


def missing(names: list[str], listed: dict[str, str]) -> list[str]:
    """Those of `names` that have no entry, under their own name or that of the front door."""
    there = [located(path) for path in listed.values()]
    return [name for name in names if name not in listed and not any(located(name) is each for each in there)]


@pytest.fixture(scope="module")
def listed() -> dict[str, str]:
    return entries("\n".join(page.read_text(encoding="utf-8") for page in sorted(ROOT.glob("docs/api/*.md"))))


def test_every_public_name_has_an_entry_under_that_name(listed):
    assert [name for name in PUBLIC if name not in listed] == []


def test_an_entry_is_of_what_its_name_says(listed):
    assert [name for name, path in listed.items() if located(path) is not located(name)] == []


def test_every_public_name_of_a_room_has_an_entry(listed):
    assert missing(OF_ROOMS, listed) == []


def test_a_public_name_without_an_entry_is_found(listed, monkeypatch):
    monkeypatch.setattr(prunus, "made_up", object(), raising=False)
    assert missing([*OF_ROOMS, "prunus.made_up"], listed) == ["prunus.made_up"]
    without = {name: path for name, path in listed.items() if name != "prunus.Masks"}
    assert missing(PUBLIC, without) == ["prunus.Masks"]


def test_every_public_name_is_in_the_overview():
    overview = (ROOT / "docs/api/index.md").read_text(encoding="utf-8")
    assert [name for name in PUBLIC if f"[{name}]" not in overview] == []


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built in strict mode from a copy, so that nothing is written beside the sources."""
    pytest.importorskip("zensical")
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=200)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "site"


def test_the_site_has_an_anchor_for_every_entry(site, listed):
    html = "".join(page.read_text(encoding="utf-8") for page in (site / "api").glob("*.html"))
    anchors = set(re.findall(r'id="(prunus[\w.]*)"', html))
    assert set(listed) <= anchors


def test_the_site_has_every_page(site):
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in ROOT.glob("docs/**/*.md")}
    assert pages <= {path.relative_to(site) for path in site.glob("**/*.html")}


def test_pages_load_nothing_from_elsewhere(site):
    # <a href> is for the reader to follow; what the browser fetches by itself has to be here
    loaded = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?(https?:)?//|<link\b[^>]*\bhref=\"?(https?:)?//")
    assert [page.name for page in site.glob("**/*.html") if loaded.search(page.read_text(encoding="utf-8"))] == []
