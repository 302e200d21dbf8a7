"""Every Python example of the documentation runs as it stands, in a folder of its own."""

import pytest
from pages import PAGES, ROOT, blocks, run_examples

WITH_EXAMPLES = [p for p in PAGES if any(b.language == "python" for b in blocks(p.read_text(encoding="utf-8")))]


# What Lightning warns of, itself or of a small example's loader.
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers:UserWarning")
@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_examples_of_a_page_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_examples(page.read_text(encoding="utf-8"), str(page), capsys, monkeypatch)


def test_few_examples_are_not_run():
    marked = [b.info for page in PAGES for b in blocks(page.read_text(encoding="utf-8")) if b.language == "python"]
    assert set(marked) <= {"", "no-run"}
    assert marked.count("no-run") <= 1


# The collector itself


def test_blocks_share_a_namespace_and_those_marked_are_left_out(capsys, monkeypatch):
    page = "```python\na = 1\n```\n\n```python no-run\na = 2\n```\n\n```python\nassert a == 1\n```\n"
    assert run_examples(page, "page", capsys, monkeypatch) == 2


def test_an_example_that_fails_says_where(capsys, monkeypatch):
    page = "# Page\n\n```python\na = 1\n\nassert a == 2\n```\n"
    with pytest.raises(AssertionError) as caught:
        run_examples(page, "page", capsys, monkeypatch)
    assert caught.traceback[-1].lineno == 5  # counted from 0: line 6 of the page


def test_what_is_printed_must_be_what_is_shown(capsys, monkeypatch):
    page = "```python\nprint(1)\n```\n\n```text\n{}\n```\n"
    assert run_examples(page.format(1), "page", capsys, monkeypatch) == 1
    with pytest.raises(AssertionError, match="not what is printed"):
        run_examples(page.format(2), "page", capsys, monkeypatch)
