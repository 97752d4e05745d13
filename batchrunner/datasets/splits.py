"""Splits of a data set: a group's split depends on the salt and the group only. Pure.

All items of a group are in one split, so no reference video is in both training and test data. Adding items
moves no item.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from batchrunner.errors import UsageError

_NAME = re.compile(r"\w+(\.\w+)*", re.ASCII)  # what Hugging Face takes for a split's name
_MOST_CHARS = 60
_RESERVED = {"all"}
_HINT = "Write it as --split train=.8,val=.1,test=.1"


@dataclass(frozen=True, slots=True)
class Splits:
    """Named splits and their shares, in order. The shares sum to 1."""

    shares: Mapping[str, Fraction]

    @classmethod
    def parse(cls, text: str) -> "Splits":
        """Read ``train=.8,val=.1,test=.1``. Raises UsageError."""
        shares: dict[str, Fraction] = {}
        for pair in text.split(","):
            name, equals, share = (item.strip() for item in pair.partition("="))
            if not equals:
                raise UsageError(f"--split: {pair.strip()!r} is not a name and a share", _HINT)
            check_name(name)
            if name.casefold() in {known.casefold() for known in shares}:
                raise UsageError(f"--split names {name} twice", _HINT)
            shares[name] = _share(name, share)
        if (total := sum(shares.values())) != 1:
            raise UsageError(f"--split: the shares sum to {float(total):.6g} instead of 1", _HINT)
        return cls(shares)

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the order of the command."""
        return tuple(self.shares)

    def of(self, group: str, salt: str = "") -> str:
        """Return the split of a group: the position of sha256("salt:group") among the shares."""
        digest = hashlib.sha256(f"{salt}:{group}".encode("utf-8", "surrogatepass")).digest()
        place, end = Fraction(int.from_bytes(digest[:16], "big"), 1 << 128), Fraction(0)
        for name, share in self.shares.items():
            end += share
            if place < end:
                return name
        raise AssertionError("the shares sum to 1")


def check_name(name: str, where: str = "--split") -> None:
    """Refuse a name that cannot be a folder and a split everywhere. Raises UsageError."""
    if not _NAME.fullmatch(name) or len(name) > _MOST_CHARS or name.casefold() in _RESERVED:
        hint = "Use letters, digits, _ and single dots between them; 'all' is reserved."
        raise UsageError(f"{where}: {name!r} cannot be the name of a split", hint)


def _share(name: str, text: str) -> Fraction:
    if not re.fullmatch(r"\d*\.?\d+%?|\d+\.%?", text, re.ASCII) or len(text) > 30:
        raise UsageError(f"--split: the share of {name}, {text!r}, is not a number from 0 to 1", _HINT)
    share = Fraction(text.rstrip("%")) / (100 if text.endswith("%") else 1)
    if share > 1:
        raise UsageError(f"--split: the share of {name}, {text}, is above 1", _HINT)
    return share
