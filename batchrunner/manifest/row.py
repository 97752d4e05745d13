"""A job as the manifest writes it, defaults and matrix worked in: fields and their places. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batchrunner.manifest.fingerprint import PARAMETERS

# What a matrix row and the defaults may say; a job may have an id besides.
FIELDS = frozenset({"video", "image", "tags", *PARAMETERS})


@dataclass(frozen=True, slots=True)
class Row:
    """One job to be. `mark`: where its row starts; `marks`: where each field's value stands."""

    fields: Mapping[str, Any]
    marks: Mapping[str, int]
    mark: int

    def place(self, field: str) -> int:
        """Where the field stands, or the row if it does not say."""
        return self.marks.get(field, self.mark)
