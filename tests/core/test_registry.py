"""Tables of names, also with rows that other installed packages bring."""

import sys
from pathlib import Path

import pytest

from prunus.core.errors import Invalid
from prunus.core.registry import Table

ROWS = {"magnitude": 1, "random": 2}


@pytest.fixture
def another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with entry points, as pip would have installed it."""
    group = "prunus.test_rows"
    (tmp_path / "other_rows.py").write_text("wanda = 3\nmagnitude = 'not this one'\n")
    info = tmp_path / "other_rows-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-rows\nVersion: 1.0\n")
    points = "wanda = other_rows:wanda\nmagnitude = other_rows:magnitude\nbroken = no_such_module:x\n"
    (info / "entry_points.txt").write_text(f"[{group}]\n{points}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "other_rows", raising=False)
    return group


def test_a_table_is_a_mapping() -> None:
    table = Table("criterion", ROWS, group="prunus.nothing")
    assert dict(table) == ROWS
    assert table["random"] == 2
    assert table.get("grasp") is None
    assert len(table) == 2


def test_an_unknown_name_gets_the_nearest() -> None:
    table = Table("criterion", ROWS, group="prunus.nothing")
    assert table.look_up("random") == 2
    with pytest.raises(Invalid, match=r"^criterion is 'magnitud'; did you mean 'magnitude'\?$"):
        table.look_up("magnitud")
    with pytest.raises(Invalid, match=r"^method is 'zzz'; allowed: magnitude, random$"):
        table.look_up("zzz", "method")
    with pytest.raises(Invalid, match=r"^criterion is \['random'\]; "):
        table.look_up(["random"])  # type: ignore[arg-type]  # as a YAML file may have it


def test_names_by_glob() -> None:
    table = Table("criterion", ROWS, group="prunus.nothing")
    assert table.names() == ["magnitude", "random"]
    assert table.names("*nd*") == ["random"]
    assert table.names("snip*") == []


def test_other_packages_add_rows_and_are_imported_when_asked_for(another_package: str) -> None:
    table = Table("criterion", ROWS, group=another_package)
    assert table.names() == ["magnitude", "random", "wanda", "broken"]
    assert "wanda" in table
    assert "other_rows" not in sys.modules
    assert table.look_up("wanda") == 3
    assert "other_rows" in sys.modules
    assert len(table) == 4


def test_other_packages_do_not_replace_rows(another_package: str) -> None:
    assert Table("criterion", ROWS, group=another_package).look_up("magnitude") == 1


def test_a_row_that_cannot_be_imported_says_so(another_package: str) -> None:
    table = Table("criterion", ROWS, group=another_package)
    with pytest.raises(Invalid, match=r"the criterion 'broken' of no_such_module:x cannot be imported: No module"):
        table.look_up("broken")
