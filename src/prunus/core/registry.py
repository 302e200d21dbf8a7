"""Tables of names: where a word of a YAML file or a command becomes a function, a class or a value."""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from prunus.core.errors import Invalid, nearest

T = TypeVar("T")


class Table(Mapping[str, T]):
    """A mapping from name to a row, with room for rows of other packages.

    Another package adds a row by an entry point named like the row in the table's group. It is imported only when
    its name is looked up, and never replaces a row of Prunus.

    Args:
        kind: what a row is, in the singular; messages use it (`"criterion"`).
        rows: the built-in rows, in the order in which they are listed.
        group: the entry point group of the table (`"prunus.criteria"`).
    """

    def __init__(self, kind: str, rows: Mapping[str, T], group: str) -> None:
        self.kind = kind
        self.group = group
        self._rows = dict(rows)
        self._found: dict[str, EntryPoint] | None = None

    def __getitem__(self, name: str) -> T:
        if name not in self._rows:
            if name not in self._entry_points():
                raise KeyError(name)
            self._rows[name] = self._load(self._entry_points()[name])
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._rows, *self._entry_points()]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in self._rows or name in self._entry_points()  # Mapping's own would import the row

    def look_up(self, name: str, option: str | None = None) -> T:
        """The row called `name`, which a user gave for `option` (default: the table's kind).

        Raises:
            Invalid: if there is none (the message has the nearest name), or its package cannot be imported.
        """
        if not isinstance(name, str) or name not in self:
            raise Invalid(f"{option or self.kind} is {name!r}; {nearest(name, self)}")
        return self[name]

    def names(self, pattern: str = "*") -> list[str]:
        """The names that match a glob pattern, in the table's order, those of other packages last."""
        return [name for name in self if fnmatchcase(name, pattern)]

    def _entry_points(self) -> dict[str, EntryPoint]:
        if self._found is None:
            self._found = {point.name: point for point in entry_points(group=self.group)}
        return self._found

    def _load(self, point: EntryPoint) -> T:
        try:
            return point.load()
        except Exception as error:
            message = f"the {self.kind} {point.name!r} of {point.value} cannot be imported: {error}"
            raise Invalid(message) from error
