"""``review`` without a page: give verdicts on clips by id, for scripts.

Rules: all ids are checked before anything is stored, so a command stores all of its verdicts or none. The run's lock is
not taken: a run may go on. A verdict is bound to the clip that the journal records for the job.
"""

import getpass
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from batchrunner.app.status import read_snapshot
from batchrunner.clock import wall_time
from batchrunner.errors import UsageError
from batchrunner.formatting import count_text, printable, rfc3339, shell_line
from batchrunner.job import Entry, Result, Snapshot, State
from batchrunner.manifest.diagnostics.diagnostic import nearest
from batchrunner.redaction import Redactor
from batchrunner.report.build import states
from batchrunner.review.verdicts import (
    ACCEPT,
    AUTOMATIC,
    HIGHEST_RATING,
    LOWEST_RATING,
    NONE,
    REJECT,
    Verdict,
    VerdictLines,
    VerdictLog,
)
from batchrunner.storage.run_directory import RunDir, RunDirectoryClips

_MOST_CHARS = 10_000  # of a reason or a note
_MOST_NAMED = 5
OPTIONS = {"accept": ACCEPT, "reject": REJECT, "clear": NONE}
_DONE = {ACCEPT: "accepted", REJECT: "rejected", NONE: "verdict withdrawn"}
_NOTHING_STORED = "No verdict was stored."


@dataclass(frozen=True, slots=True)
class VerdictRequest:
    """The verdicts of one command: ids by verdict, and remarks that apply to all of them."""

    ids: Mapping[str, Sequence[str]]
    reasons: tuple[str, ...] = ()
    rating: int | None = None
    note: str = ""

    def __bool__(self) -> bool:
        return any(self.ids.values())

    @property
    def lacks_ids(self) -> bool:
        """Whether there are remarks, but no clip to which they apply."""
        return not self and (bool(self.reasons) or bool(self.note) or self.rating is not None)


def give(rundir: RunDir, request: VerdictRequest, environment: Mapping[str, str]) -> list[str]:
    """Store the verdicts, and return the lines to print. Raises BatchrunnerError; before it stores anything, if it can.

    A verdict that is in the file already is not stored again.
    """
    _check_remarks(request)
    clean = Redactor.of(environment).text
    request = replace(request, reasons=tuple(map(clean, request.reasons)), note=clean(request.note))
    snapshot = read_snapshot(rundir)
    by_id = _one_verdict_each(request.ids)
    clips = _clips(rundir, snapshot, by_id)
    at, by = rfc3339(wall_time()), reviewer(environment)
    lines, standing = [], VerdictLines(rundir.path)
    with VerdictLog(rundir.path) as log:
        standing.refresh()
        for name, to in by_id.items():
            entry, result = clips[name]
            job = entry.job
            wanted = Verdict(
                name,
                entry.take,
                job.fingerprint,
                result.sha256,
                to,
                request.reasons,
                request.rating,
                request.note,
                at,
                by,
            )
            known = standing.by_clip.get((name, result.sha256))
            is_new = known is None or replace(known, at=at) != wanted
            if is_new:
                log.append(wanted)
            lines.append(f"{printable(name)}: {_DONE[to]}{'' if is_new else ' already'}")
    foreign = [f"warning: {printable(standing.warning)}"] if standing.warning else []
    return [*lines, *foreign, _closing(rundir, len(by_id))]


def reviewer(environment: Mapping[str, str]) -> str:
    """Return the name of the person who gives verdicts: that of the user account."""
    try:
        name = printable(getpass.getuser())
    except (OSError, KeyError, ImportError):  # a container's user without a name
        name = printable(environment.get("USER", "")) or "unknown"
    return f"{name} (a person)" if name in AUTOMATIC else name


def _check_remarks(request: VerdictRequest) -> None:
    if request.rating is not None and not LOWEST_RATING <= request.rating <= HIGHEST_RATING:
        raise UsageError(f"--rating {request.rating} is not from {LOWEST_RATING} to {HIGHEST_RATING}", _NOTHING_STORED)
    for flag, texts in (("--reason", request.reasons), ("--note", (request.note,))):
        if any(len(text) > _MOST_CHARS for text in texts):
            raise UsageError(f"{flag} has more than {_MOST_CHARS:,} characters", _NOTHING_STORED)


def _one_verdict_each(ids: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the verdict of each id. Raises UsageError for an id with two verdicts."""
    found: dict[str, str] = {}
    for to, names in ids.items():
        for name in names:
            if found.setdefault(name, to) != to:
                raise UsageError(f"{printable(name)} has two verdicts in one command", _NOTHING_STORED)
    return found


def _clips(rundir: RunDir, snapshot: Snapshot, wanted: Mapping[str, str]) -> dict[str, tuple[Entry, Result]]:
    """Return the entry and the clip of each wanted id. Raises UsageError, which names all ids that cannot be used."""
    entries = {entry.id: entry for entry in snapshot.entries}
    problems = [_unknown(name, entries) for name in wanted if name not in entries]
    if problems:
        raise _refusal(problems, f"To list the ids: batchrunner status {shell_line([str(rundir.path)])} --json")
    shown = dict(zip(entries, states(snapshot), strict=True))
    found: dict[str, tuple[Entry, Result]] = {}
    for name, to in wanted.items():
        record = snapshot.records.get(entries[name].job.fingerprint)
        if record is None or record.state is not State.SUCCEEDED or record.result is None:
            problems.append(f"{printable(name)} has no clip: it is {shown[name].replace('_', ' ')}")
        elif to == ACCEPT and (why := _unusable(rundir, entries[name], record.result)):
            problems.append(f"{printable(name)} cannot be accepted: {why}")
        else:
            found[name] = entries[name], record.result
    if problems:
        raise _refusal(problems, "A verdict needs a finished clip.")
    return found


def _unknown(name: str, known: Iterable[str]) -> str:
    guess = nearest(name, known)
    return f"the batch has no job {printable(name)}" + (f"; did you mean {printable(guess)}?" if guess else "")


def _unusable(rundir: RunDir, entry: Entry, result: Result) -> str:
    """Return why the file of a clip cannot be accepted, or ""."""
    try:
        with RunDirectoryClips(rundir).open(entry.file) as file:
            size_bytes = file.seek(0, 2)
    except FileNotFoundError:
        if result.objects:  # only the bucket has it
            return ""
        return f"{entry.file} is missing; run the batch again to fetch it, at no charge"
    except OSError as error:
        return f"{entry.file} cannot be read: {error.strerror or error}"
    return (
        "" if size_bytes == result.size_bytes else f"{entry.file} is not the clip that was delivered: its size differs"
    )


def _refusal(problems: Sequence[str], hint: str) -> UsageError:
    shown = "; ".join(problems[:_MOST_NAMED])
    more = f"; and {len(problems) - _MOST_NAMED:,} more" if len(problems) > _MOST_NAMED else ""
    return UsageError(f"{shown}{more}", f"{_NOTHING_STORED} {hint}")


def _closing(rundir: RunDir, number: int) -> str:
    where = f"{count_text(number, 'verdict')} in {printable(str(rundir.review))}."
    if rundir.holder() is not None:
        return f"{where} The run writes them to the reports at its end."
    return f"{where} To write them to the reports: batchrunner report {shell_line([str(rundir.path)])}"
