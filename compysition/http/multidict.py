# SPDX-License-Identifier: Apache-2.0
"""Names with several values each, such as the fields of a query.

Must not know what the names mean. Read next: `headers`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Self, TypeVar, overload

DefaultT = TypeVar("DefaultT")


class MultiDict(Mapping[str, str]):
    """A frozen mapping in which a name may have several values.

    As a mapping it shows the **first** value of each name; `get_all` and `pairs` show every one, in the order given.

    >>> query = MultiDict([("tag", "red"), ("page", "2"), ("tag", "blue")])
    >>> query["tag"], query.get_all("tag"), len(query)
    ('red', ['red', 'blue'], 2)

    Args:
        pairs: Names and values, a repeated name in as many pairs.
    """

    __slots__ = ("_index", "_pairs")

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._pairs: list[tuple[str, str]] = list(pairs) if pairs else []
        self._index: dict[str, list[str]] = {}
        for name, value in self._pairs:
            self._index.setdefault(self._key(name), []).append(value)

    @staticmethod
    def _key(name: str) -> str:
        """What two spellings of the same name have in common."""
        return name

    def __getitem__(self, name: str) -> str:
        values = self._index.get(self._key(name))
        if values is None:
            raise KeyError(name)
        return values[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._key(name) in self._index

    @overload
    def get(self, name: str, default: None = None) -> str | None: ...

    @overload
    def get(self, name: str, default: str) -> str: ...

    @overload
    def get(self, name: str, default: DefaultT) -> str | DefaultT: ...

    def get(self, name: str, default: object = None) -> object:
        """The first value of `name`, or `default`."""
        # That of `Mapping` goes through a KeyError.
        values = self._index.get(self._key(name))
        return default if values is None else values[0]

    def get_all(self, name: str) -> list[str]:
        """Every value of `name`, in order; an empty list if there is none."""
        return list(self._index.get(self._key(name), ()))

    def pairs(self) -> list[tuple[str, str]]:
        """Every name with every value, in order."""
        return list(self._pairs)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, MultiDict):
            return self._index == other._index
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # `Headers` changes, and equal things must hash alike

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._pairs!r})"
