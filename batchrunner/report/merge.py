"""Merge the reports of several run directories to one report. Pure: dicts in, a dict out.

The result has the keys of `batchrunner.report.build`, so page, table and sentences are those of any report. ``sources``
describes the run directories, and each row has the index of its own. Rules: an id and its job have one row; each
generation is counted once, whatever directories know of it; all paid work counts, also that of rows left out.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from batchrunner.errors import ExitStatus, Problem, UsageError
from batchrunner.job import REUSED, Attempt, Job, Record
from batchrunner.plan.ledger import total_of
from batchrunner.report.build import MOST_TAGS, SCHEMA_VERSION, SHOWN, Report, money, overrun_of, usage
from batchrunner.report.rows import complete, cost_kinds

BUDGETS = ("max_cost", "max_credits", "max_generations")
_BEST_FIRST = ("succeeded", "in_flight", "in_doubt", "failed", "pending")
_WORST_FIRST = (130, 143, ExitStatus.NEEDS_ACTION, ExitStatus.STOPPED, ExitStatus.USAGE, ExitStatus.FAILED)
_SHARD = re.compile(r"([0-9]{1,5})/([0-9]{1,5})")
_NO_JOB = Job("", "", {}, {})
_OF_SOURCE = (
    *("name", "provider", "service", "manifest", "run_id", "concurrency", "started_at", "finished_at"),
    *("exit_status", "stopped", "stop_kind", "settings"),
)


@dataclass(frozen=True, slots=True)
class Source:
    """A report to merge. folder: its run directory, relative to the merged report, with ``/``; as in a link."""

    report: Report
    folder: str

    def path_of(self, file: str) -> str:
        """Return the path of a file of this directory, relative to the merged report."""
        return f"{self.folder}/{file}" if self.folder not in {"", "."} else file


class MergedRow(Mapping[str, Any]):
    """A row of a source, with `file` relative to the merged report, and the number of the source."""

    __slots__ = ("_number", "_row", "_source")

    def __init__(self, row: Mapping[str, Any], number: int, source: Source) -> None:
        self._row = row
        self._number = number
        self._source = source

    def __getitem__(self, key: str) -> Any:
        if key == "source":
            return self._number
        value = self._row[key]
        return self._source.path_of(value) if key == "file" and value is not None else value

    def __iter__(self) -> Iterator[str]:
        yield from self._row
        yield "source"

    def __len__(self) -> int:
        return len(self._row) + 1

    def complete(self) -> dict[str, Any]:
        """Return all values."""
        values = complete(self._row)
        file = values["file"]
        return {**values, "file": None if file is None else self._source.path_of(file), "source": self._number}


@dataclass(frozen=True, slots=True)
class MergedRows:
    """The rows of a merged report, created on access. places: source and place of each."""

    sources: Sequence[Source]
    key: str
    places: Sequence[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> MergedRow:
        source, place = self.places[number]
        return MergedRow(self.sources[source].report[self.key][place], source, self.sources[source])

    def __iter__(self) -> Iterator[MergedRow]:
        return map(self.__getitem__, range(len(self.places)))


@dataclass(slots=True)
class _Attempts:
    """The attempts of rows, each once: by its generation, and by its request while it has none."""

    found: list[Attempt] = field(default_factory=list)
    _known: set[str] = field(default_factory=set)

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            for item in row["attempts"]:
                # The generation of a reused attempt counts where it was submitted.
                is_reused = item["request_id"].startswith(REUSED)
                names = {item["request_id"], item["request_id" if is_reused else "generation_id"]} - {None}
                if not names & self._known:
                    self.found.append(_attempt(item))
                self._known |= names

    @property
    def records(self) -> list[Record]:
        return [Record(_NO_JOB, attempts=(item,)) for item in self.found]


def merge(sources: Sequence[Source]) -> Report:
    """Return one report of all sources. Raises UsageError if their rows or kinds do not fit together."""
    _require_one_kind(sources)
    chosen, others = _choose(sources)
    jobs = MergedRows(sources, "jobs", chosen)
    named = {row["fingerprint"] for row in jobs}
    earlier = MergedRows(sources, "earlier_jobs", list(_earlier(sources, named)))
    known, every = _Attempts(), _Attempts()
    # The best row of a job comes first: it knows most of its attempts.
    for attempts in (known, every):
        attempts.add(jobs)
        attempts.add(others)
    every.add(row for source in sources for row in source.report["earlier_jobs"])
    settings = _settings(sources)
    records = every.records
    return {
        **_head(sources, settings),
        **_asked(sources),
        "totals": {**_totals(jobs), **usage(known.records), **cost_kinds(total_of(known.records)), **_verdicts(jobs)},
        "money": {
            **money(total_of(records), settings, overrun_of(records)),
            "settle_command": _first(source.report["money"].get("settle_command") for source in sources),
        },
        "runs": sorted((run for source in sources for run in source.report["runs"]), key=_started_at),
        "timeline": _timeline(sources),
        "sources": [_source(source) for source in sources],
        "jobs": jobs,
        "earlier_jobs": earlier,
    }


def missing_shards(sources: Sequence[Source]) -> list[str]:
    """Return the shards that are not among the sources, if all of these are shards of one number."""
    found = [_shard_of(source) for source in sources]
    counts = {shard[1] for shard in found if shard is not None}
    if None in found or len(counts) != 1:
        return []
    (count,) = counts
    known = {shard[0] for shard in found if shard is not None}
    return [f"{index}/{count}" for index in range(1, count + 1) if index not in known]


def _shard_of(source: Source) -> tuple[int, int] | None:
    """Return the shard of a source and the number of shards; None for another report, or for text of another form."""
    found = _SHARD.fullmatch(source.report["settings"].get("shard") or "")
    return (int(found[1]), int(found[2])) if found else None


def _require_one_kind(sources: Sequence[Source]) -> None:
    rehearsals = {source.report["provider"] == "sandbox" for source in sources}
    if len(rehearsals) > 1:
        raise UsageError("a rehearsal and a real batch cannot be in one report", "Merge them apart.")


def _choose(sources: Sequence[Source]) -> tuple[list[tuple[int, int]], list[Mapping[str, Any]]]:
    """Return the places of the rows of the report, in order, and the rows left out, whose id has a better one."""
    best: dict[str, tuple[tuple[int, int], str, int, int]] = {}
    others: list[Mapping[str, Any]] = []
    for number, source in enumerate(sources):
        for place, row in enumerate(source.report["jobs"]):
            name = row["id"]
            rank = (_BEST_FIRST.index(row["state"]), -len(row["attempts"]))
            before = best.get(name)
            if before is not None and before[1] != row["fingerprint"]:
                raise _two_jobs(name, sources[before[2]], source)
            if before is None or rank < before[0]:
                if before is not None:
                    others.append(sources[before[2]].report["jobs"][before[3]])
                best[name] = (rank, row["fingerprint"], number, place)
            else:
                others.append(row)
    order = _order(sources)
    return [best[name][2:] for name in sorted(best, key=order.__getitem__)], others


def _order(sources: Sequence[Source]) -> dict[str, tuple[int, int, int]]:
    """Return the order of the ids. Shards of one number are in the order of their manifest, with the takes of a job
    behind its first one; other reports follow each other.
    """
    shards = [_shard_of(source) for source in sources]
    is_one_manifest = None not in shards and len({shard[1] for shard in shards if shard is not None}) == 1
    order: dict[str, tuple[int, int, int]] = {}
    for number, source in enumerate(sources):
        firsts: dict[str, int] = {}  # the positions of the first takes
        for place, row in enumerate(source.report["jobs"]):
            position = firsts.setdefault(row.get("job", row["id"]), row.get("position", place))
            order.setdefault(row["id"], (position if is_one_manifest else 0, number, place))
    return order


def _two_jobs(name: str, one: Source, two: Source) -> UsageError:
    return UsageError(
        f"the id {name[:100]} is one job in {one.folder} and another job in {two.folder}",
        "If they are shards, an edit of the manifest came between their runs: run each shard again, then merge. "
        "Reports of batches that share ids cannot be merged.",
    )


def _earlier(sources: Sequence[Source], named: set[str]) -> Iterator[tuple[int, int]]:
    """Yield the places of former jobs that no row of the report has, each job once."""
    known = set(named)
    for number, source in enumerate(sources):
        for place, row in enumerate(source.report["earlier_jobs"]):
            if row["fingerprint"] not in known:
                known.add(row["fingerprint"])
                yield number, place


def _attempt(item: Mapping[str, Any]) -> Attempt:
    """Return an attempt with the values that its cost and the totals depend on."""
    error = item["error"]
    return Attempt(
        number=item["number"],
        request_id=item["request_id"],
        submitted_at=0.0,
        generation_id=item["generation_id"],
        outcome=item["outcome"],
        error=Problem(error["kind"], error["message"], error["hint"], error["fault"]) if error else None,
        completed_at=0.0 if item["completed_at"] else None,
        credits=item["credits"],
        estimate=item["estimate"],
        polls=item["polls"],
        settled=item.get("settled"),
    )


def _totals(jobs: Iterable[Mapping[str, Any]]) -> Report:
    counts, size_bytes = Counter[str](), 0
    for row in jobs:
        counts[row["state"]] += 1
        size_bytes += row["bytes"] or 0
    return {"jobs": counts.total(), **{state: counts[state] for state in SHOWN}, "bytes": size_bytes}


def _verdicts(jobs: Iterable[Mapping[str, Any]]) -> Report:
    counts = Counter((row["verdict"] or {}).get("verdict") for row in jobs)
    return {"accepted": counts["accept"], "rejected": counts["reject"]}


def _settings(sources: Sequence[Source]) -> Report:
    """Return the settings that all sources share, and the sums of their budgets."""
    first, *more = (source.report["settings"] for source in sources)
    shared = {name: value for name, value in first.items() if all(value == other.get(name) for other in more)}
    for name in BUDGETS:
        limits = [source.report["settings"].get(name) for source in sources]
        is_limited = all(isinstance(limit, int | float) for limit in limits)
        shared[name] = sum(limits) if is_limited else None
    return shared


def _head(sources: Sequence[Source], settings: Report) -> Report:
    reports = [source.report for source in sources]
    latest = max(reports, key=_started_at)
    status, stopped, stop_kind = _ending(sources)
    names = list(dict.fromkeys(report["name"] for report in reports))
    return {
        "schema_version": SCHEMA_VERSION,
        "batchrunner_version": latest["batchrunner_version"],
        "name": " + ".join(names[:3]) + (f" + {len(names) - 3} more" if len(names) > 3 else ""),
        "provider": latest["provider"],
        "service": ", ".join(dict.fromkeys(report["service"] for report in reports if report["service"])),
        "manifest": latest["manifest"],
        "run_id": latest["run_id"],
        "concurrency": sum(report["concurrency"] for report in reports),
        "started_at": min(run["started_at"] for report in reports for run in report["runs"]),
        "finished_at": _none_or(max, [report["finished_at"] for report in reports]),
        "exit_status": status,
        "stopped": stopped,
        "stop_kind": stop_kind,
        "first_submitted_at": min(filter(None, (report["first_submitted_at"] for report in reports)), default=None),
        "settings": settings,
        "dataset": latest.get("dataset"),
    }


def _ending(sources: Sequence[Source]) -> tuple[int | None, str | None, str | None]:
    """Return the exit status of all, why they stopped, and the kind of the most urgent reason."""
    reports = [source.report for source in sources]
    statuses = [report["exit_status"] for report in reports]
    worst = next((int(one) for one in _WORST_FIRST if one in statuses), 0)
    status = None if None in statuses else worst
    reasons = [f"{source.folder}: {source.report['stopped']}" for source in sources if source.report["stopped"]]
    if absent := missing_shards(sources):
        names = ", ".join(absent[:8]) + (f" and {len(absent) - 8} more" if len(absent) > 8 else "")
        reasons.insert(0, f"not in this report: {'shard' if len(absent) == 1 else 'shards'} {names}")
    stopped = [report for report in reports if report.get("stop_kind")]
    first = next((report for report in stopped if report["exit_status"] == worst), stopped[0] if stopped else {})
    return status, "; ".join(reasons) or None, first.get("stop_kind")


def _none_or(choose: Callable[[list[Any]], Any], values: list[Any]) -> Any:
    return None if None in values else choose(values)


def _first(values: Iterable[Any]) -> Any:
    return next(filter(None, values), None)


def _started_at(item: Mapping[str, Any]) -> str:
    return str(item["started_at"])


def _asked(sources: Sequence[Source]) -> Report:
    reports = [source.report for source in sources]
    columns = [report["columns"] for report in reports if "columns" in report]

    def union(values: Iterable[Iterable[str]]) -> list[str]:
        return list(dict.fromkeys(name for value in values for name in value))

    tags = sorted(union(item["tags"] for item in columns))
    return {
        "models": sorted(union(report.get("models") or () for report in reports)),
        "price_basis": union(report.get("price_basis") or () for report in reports),
        "columns": {
            "tags": tags[:MOST_TAGS],
            "parameters": sorted(union(item["parameters"] for item in columns)),
            "inputs": sorted(union(item["inputs"] for item in columns)),
            "tags_left_out": len(tags[MOST_TAGS:]) + max((item["tags_left_out"] for item in columns), default=0),
        },
    }


def _source(source: Source) -> Report:
    report = source.report
    kept = {name: report.get(name) for name in _OF_SOURCE}
    return {"path": source.folder, "shard": report["settings"].get("shard"), **kept, "totals": report["totals"]}


def _timeline(sources: Sequence[Source]) -> list[Report]:
    """Return the events of all sources in order. Calls are fine again when they are in every source.

    Changes of the working cap are left out: each source has its own.
    """
    events = sorted(
        ((item, number) for number, source in enumerate(sources) for item in source.report["timeline"]),
        key=lambda event: str(event[0]["at"]),
    )
    impaired: dict[tuple[str, int], str] = {}  # call and source, since the event at this time
    found = []
    for item, number in events:
        if item["kind"] == "cap":
            continue
        if item["kind"] == "call_health":
            impaired.pop((item["call"], number), None)
            if item["status"] != "fine":
                impaired[item["call"], number] = item["at"]
            elif any(
                call == item["call"] and not _ended_between(sources[other], since, item["at"])
                for (call, other), since in impaired.items()
            ):
                continue
        found.append(item)
    return found


def _ended_between(source: Source, since: str, at: str) -> bool:
    """Return whether a run of a source ended, or another one began, in this time."""
    moments = [run[key] for run in source.report["runs"] for key in ("started_at", "finished_at")]
    return any(moment is not None and since < moment <= at for moment in moments)
