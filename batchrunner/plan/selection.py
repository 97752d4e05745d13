"""Choose jobs by id: `run --only ID|GLOB` and `run --retry-failed=KIND`. Pure."""

from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from batchrunner.errors import UsageError
from batchrunner.job import Entry, Record, State

NOT_SELECTED = "not_selected"  # the reason of a waiting job that `--only` does not name
RetryFailed = bool | tuple[str, ...]  # all failed jobs, none, or those that failed with one of these kinds


def chosen(
    entries: Sequence[Entry], patterns: Sequence[str], is_elsewhere: Callable[[str], bool] = lambda _: False
) -> Sequence[Entry]:
    """Return the entries whose id matches one of the patterns, in manifest order; all of them without patterns.

    patterns: ids, or shell patterns with ``*``, ``?`` and ``[...]``. An id that equals the pattern always matches.
    A pattern that matches a job matches all of its takes. is_elsewhere: whether a pattern names a job of another shard.
    Raises UsageError for a pattern that matches no entry, unless it names one elsewhere.
    """
    if not patterns:
        return entries
    by_id = {entry.id: entry for entry in entries}
    bases = {entry.base for entry in entries}
    found: set[str] = set()
    for pattern in patterns:
        if pattern in bases:
            matched = {entry.id for entry in entries if entry.base == pattern}
        elif pattern in by_id:
            matched = {pattern}
        else:
            matched = {entry.id for entry in entries if selects(entry.id, entry.base, (pattern,))}
        if not matched and not is_elsewhere(pattern):
            close = get_close_matches(pattern, by_id, n=1, cutoff=0.6)
            guess = f"; did you mean {close[0]}?" if close else ""
            hint = "Name ids as plan shows them, or a pattern such as 'hero-*' in quotes. Nothing was submitted."
            raise UsageError(f"--only {pattern}: no job of the manifest has this id{guess}", hint)
        found |= matched
    return tuple(entry for entry in entries if entry.id in found)


def selects(name: str, base: str, patterns: Sequence[str]) -> bool:
    """Return whether one of the patterns names an entry; without patterns every entry is named.

    name: its id. base: the id that all takes of its job share.
    """
    names = dict.fromkeys((name, base))
    return not patterns or any(one == pattern or fnmatchcase(one, pattern) for pattern in patterns for one in names)


def retries(record: Record, retry_failed: RetryFailed) -> bool:
    """Return whether a failed job is submitted again."""
    if isinstance(retry_failed, bool):
        return retry_failed
    return record.error is not None and record.error.kind in retry_failed


def unmatched_notices(records: Iterable[Record], retry_failed: RetryFailed) -> tuple[str, ...]:
    """Return a notice about the kinds of ``--retry-failed=KIND`` that no failed job has, or ()."""
    if isinstance(retry_failed, bool):
        return ()
    kinds = {record.error.kind for record in records if record.state is State.FAILED and record.error is not None}
    unknown = [kind for kind in retry_failed if kind not in kinds]
    if not unknown:
        return ()
    found = f"; the failed jobs have {', '.join(sorted(kinds))}" if kinds else ""
    return (f"--retry-failed: no failed job has the kind {', '.join(unknown)}{found}",)
