"""The values of a YAML file: mappings and lists that know the places of their keys and items. Pure.

Tables of other kinds are read without YAML, so this module does not import its library.
"""

from array import array
from typing import Any


class YamlMapping(dict[str, Any]):
    """A mapping that records where it starts and where each key and each value starts (marks)."""

    __slots__ = ("_key_marks", "mark", "value_marks")

    def __init__(self, place: int) -> None:
        super().__init__()
        self.mark = place
        self._key_marks = array("Q")  # rarely read, so it is compact
        self.value_marks: dict[str, int] = {}

    def put(self, key: str, value: object, key_mark: int, value_mark: int) -> None:
        """Add a new `key` with the places of the key and of its value."""
        self[key] = value
        self._key_marks.append(key_mark)
        self.value_marks[key] = value_mark

    def drop(self, key: str) -> None:
        """Remove `key` and its places."""
        del self._key_marks[list(self).index(key)]
        del self.value_marks[key]
        del self[key]

    @property
    def key_marks(self) -> dict[str, int]:
        """The place of each key, computed on access."""
        return dict(zip(self, self._key_marks, strict=True))


class YamlList(list[Any]):
    """A list that records where it starts and where each item starts (marks)."""

    __slots__ = ("mark", "marks")

    def __init__(self, place: int) -> None:
        super().__init__()
        self.mark = place
        self.marks: list[int] = []


def plain(value: Any) -> Any:
    """Return a value without places: mappings as dict, lists as list."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value
