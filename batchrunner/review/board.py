"""The state of the review page: rows of the batch with their verdicts, and what changed since a version.

Each change gets the next number, its version. A page that knows the state of a version is sent the rows that changed
since. A page whose list of rows is out of date loads it again.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from batchrunner.review.catalogue import Catalogue, PageRow, clips_of
from batchrunner.review.verdicts import NONE, REJECT, VERDICTS, Verdict

# Reasons in the order of the keys 1 to 9.
REASONS = ("identity", "face", "hands", "flicker", "background", "colour", "motion", "sound", "other")
PAGE_ROWS = 1000

ByClip = Mapping[tuple[str, str], Verdict]  # by the row's id and the SHA-256 of its clip


class Board:
    """The rows that pages show. It belongs to one event loop."""

    def __init__(self, catalogue: Catalogue, verdicts: ByClip) -> None:
        self.catalogue = catalogue
        self.version = 1
        self.list_version = 1  # the version in which the list of rows last changed
        self._verdicts = dict(verdicts)
        self._ids = tuple(catalogue.rows)
        self._changed_in = dict.fromkeys(self._ids, 1)

    def update(self, catalogue: Catalogue) -> bool:
        """Take a newer catalogue. Return whether a page shows something else now."""
        before, self.catalogue = self.catalogue, catalogue
        ids = tuple(catalogue.rows)
        changed = [name for name, row in catalogue.rows.items() if before.rows.get(name) != row]
        if not changed and ids == self._ids and before.head == catalogue.head:
            return False
        self.version += 1
        if ids != self._ids:
            self._ids, self.list_version = ids, self.version
        self._changed_in.update(dict.fromkeys(changed, self.version))
        return True

    def put(self, verdict: Verdict) -> None:
        """Take a verdict that is on the disk."""
        self.put_all({**self._verdicts, (verdict.id, verdict.sha256): verdict})

    def put_all(self, verdicts: ByClip) -> bool:
        """Take all verdicts that are on the disk. Return whether a page shows something else now."""
        before, self._verdicts = self._verdicts, dict(verdicts)
        changed = {name for (name, sha256), verdict in verdicts.items() if before.get((name, sha256)) != verdict}
        changed |= {name for name, sha256 in before.keys() - verdicts.keys()}
        changed &= self._changed_in.keys()
        if changed:
            self.version += 1
            self._changed_in.update(dict.fromkeys(changed, self.version))
        return bool(changed)

    def head(self) -> dict[str, Any]:
        """Return the facts about the batch."""
        return {**self.catalogue.head, "total": len(self._ids)}

    def page(self, start: int, count: int = PAGE_ROWS) -> list[PageRow]:
        """Return rows in manifest order."""
        return [self.row(name) for name in self._ids[start : start + count]]

    def since(self, version: int) -> list[PageRow]:
        """Return the rows that changed after `version`."""
        return [self.row(name) for name in self._ids if self._changed_in[name] > version]

    def row(self, name: str) -> PageRow:
        """Return a row with its verdict. A verdict on another clip does not count."""
        row = self.catalogue.rows[name]
        verdict = self.verdict_on(row)
        return row if verdict is None else {**row, "verdict": as_json(verdict)}

    def verdict_on(self, row: PageRow) -> Verdict | None:
        """Return the verdict on the clip of a row, or None."""
        return self._verdicts.get((row["id"], row.get("sha256", "")))

    def tally(self) -> dict[str, int]:
        """Count the clips by their verdict. A clip that a quality mark rejects counts as rejected."""
        counts = dict.fromkeys(VERDICTS, 0)
        for row in clips_of(self.catalogue.rows.values()):
            verdict = self.verdict_on(row)
            counts[verdict.verdict if verdict else REJECT if row["is_refused"] else NONE] += 1
        return counts


def as_json(verdict: Verdict) -> dict[str, Any]:
    """Return the values of a verdict that the page uses."""
    return {
        "verdict": verdict.verdict,
        "reasons": list(verdict.reasons),
        "rating": verdict.rating,
        "note": verdict.note,
        "at": verdict.at,
        "by": verdict.by,
    }


def reasons_of(values: Iterable[str]) -> tuple[str, ...]:
    """Return reasons, each once: first those of the page, in their order."""
    wanted = dict.fromkeys(values)
    others = [reason for reason in wanted if reason not in REASONS]
    return (*(reason for reason in REASONS if reason in wanted), *others)
