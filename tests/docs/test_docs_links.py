"""Links lead somewhere, and the text says nothing of the machine it was written on."""

import re
from pathlib import Path

import pytest
from pages import PAGES, ROOT, prose

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_MACHINE = re.compile(r"/(?:work|home|root|Users|tmp)/|localhost|127\.0\.0\.1|file://")


def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken(page: Path, text: str) -> list[str]:
    """The relative links of `text`, which stands in `page`, that lead nowhere."""
    found = []
    for link in _LINK.findall(prose(text)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        inside = target.is_relative_to(ROOT / "docs") or not page.is_relative_to(ROOT / "docs")
        if not target.is_file() or not inside or (anchor and anchor not in slugs(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_and_images_resolve(page):
    assert broken(page, page.read_text(encoding="utf-8")) == []


def test_a_link_that_leads_nowhere_is_found():
    page = ROOT / "docs" / "index.md"
    text = (
        "[a](first-steps.md) [b](no.md) [c](words.md#scopes) [d](words.md#no) ![e\nf](images/no.png) [g](../README.md)"
    )
    assert broken(page, text) == ["no.md", "words.md#no", "images/no.png", "../README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_path_of_a_machine(page):
    assert _MACHINE.findall(page.read_text(encoding="utf-8")) == []


def test_every_page_is_in_the_navigation():
    listed = set(
        re.findall(r"^\s+- .*: ([\w./-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert listed == {path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")}
