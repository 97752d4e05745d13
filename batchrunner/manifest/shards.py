"""Shards: parts of one manifest for several machines, each with a run directory, caps and budgets of its own. Pure.

A job belongs to a shard by the hash of its own fingerprint, so an edit of other jobs moves it to no other shard. All
takes of a job, and all entries with the same job, are in one shard. Which shards a folder has is decided in
`batchrunner.app.shards`.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from batchrunner.errors import UsageError
from batchrunner.job import Entry, named_take
from batchrunner.manifest.diagnostics.diagnostic import nearest
from batchrunner.plan.selection import selects
from batchrunner.providers.base import CREDITS_PER_USD
from batchrunner.settings import SETTINGS, Settings, Share, parse

MOST = 10_000  # shards
# The settings that limit the whole batch. Each shard gets its part.
DIVIDED = (
    *("concurrency", "requests_per_second", "max_cost", "max_credits", "max_generations"),
    "stop_after_failures",
)
_AUTO = "auto"
_OPTION = re.compile(rf"(?P<index>{_AUTO}|[0-9]{{1,6}})/(?P<count>[0-9]{{1,6}})")
_FOLDER = re.compile(r"shard-([1-9][0-9]{0,5})-of-([1-9][0-9]{0,5})")
_NOTHING_SUBMITTED = "Nothing was submitted."
_ID, _FIRST, _LAST = (f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "MAX"))
_COMPLETION = "JOB_COMPLETION_INDEX"


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` shards. index: from 1."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def folder(self) -> str:
        """The name of its run directory, in that of the batch."""
        return f"shard-{self.index}-of-{self.count}"

    def has(self, fingerprint: str) -> bool:
        """Return whether a job belongs to this shard. fingerprint: of the job's first take."""
        return int(fingerprint.removeprefix("sha256:"), 16) % self.count == self.index - 1

    def share_of(self, whole: int) -> int:
        """Return this shard's share of a whole number. The first shards get what is left over."""
        return whole // self.count + (self.index <= whole % self.count)


@dataclass(frozen=True, slots=True)
class Others:
    """The ids of the entries that other shards have."""

    ids: Collection[str] = ()

    def have(self, name: str) -> bool:
        """Return whether another shard has the job with this id. A run there may have added takes of it."""
        take = named_take(name)
        return name in self.ids or (take is not None and take[0] in self.ids)

    def match(self, pattern: str) -> bool:
        """Return whether an id or a pattern names a job of another shard."""
        return self.have(pattern) or any(selects(name, name, (pattern,)) for name in self.ids)


def read_option(text: str, environment: Mapping[str, str]) -> Shard:
    """Return the shard that ``--shard`` names: ``2/4``, or ``auto/4`` for the number of an array's task.

    Raises UsageError.
    """
    found = _OPTION.fullmatch(text.strip())
    count = int(found["count"]) if found else 0
    if not found or not 1 <= count <= MOST:
        hint = f"Write it as --shard 2/4, or --shard auto/4 in an array of tasks. {_NOTHING_SUBMITTED}"
        raise UsageError(f"--shard {text[:80]}: this is not a shard and the number of shards", hint)
    index = _number_of_task(count, environment) if found["index"] == _AUTO else int(found["index"])
    if not 1 <= index <= count:
        raise UsageError(
            f"--shard {text[:80]}: there is no shard {index} of {count}",
            f"The shards of {count} are 1/{count} to {count}/{count}. {_NOTHING_SUBMITTED}",
        )
    return Shard(index, count)


def _number_of_task(count: int, environment: Mapping[str, str]) -> int:
    """Return the number of this task of an array of Slurm, or of an Indexed Job of Kubernetes, from 1."""
    step = f"Write the number, as in --shard 1/{count}. {_NOTHING_SUBMITTED}"
    numbers = {name: environment.get(name, "").strip() for name in (_ID, _FIRST, _LAST, _COMPLETION)}
    for name, text in numbers.items():
        if text and not (text.isascii() and text.isdigit() and len(text) <= 9):
            raise UsageError(f"--shard auto/{count}: {name} is not a whole number", step)
    found = {name: int(text) for name, text in numbers.items() if text}
    if _ID not in found:
        if _COMPLETION not in found:
            message = f"--shard auto/{count}: neither {_ID} nor {_COMPLETION} is set"
            raise UsageError(message, step)
        return found[_COMPLETION] + 1
    if _FIRST not in found:
        raise UsageError(f"--shard auto/{count}: {_ID} is set, but not {_FIRST}", step)
    tasks = found.get(_LAST, found[_FIRST] + count - 1) - found[_FIRST] + 1
    if tasks != count:
        # An array of fewer tasks may be a second start of some tasks. Their numbers do not say which shards they are.
        all_tasks = f"{found[_FIRST]} to {found[_LAST]}"
        message = f"--shard auto/{count}: the array has the tasks {all_tasks}, which are not {count}"
        raise UsageError(message, f"For a second start of single tasks, w{step.removeprefix('W')}")
    return found[_ID] - found[_FIRST] + 1


def read_folder(name: str) -> Shard | None:
    """Return the shard whose run directory has this name; None for another name."""
    found = _FOLDER.fullmatch(name)
    shard = Shard(int(found[1]), int(found[2])) if found else None
    return shard if shard is not None and shard.index <= shard.count else None


def split(entries: Sequence[Entry], shard: Shard) -> tuple[tuple[Entry, ...], Others]:
    """Return the entries of a shard, with their positions in the manifest, and the ids of the other shards' jobs.

    entries: of the whole manifest.
    """
    own = {entry.id for entry in entries if entry.take == 1 and shard.has(entry.job.fingerprint)}
    others = frozenset(entry.id for entry in entries if entry.base not in own)
    return tuple(entry for entry in entries if entry.base in own), Others(others)


def read_own_values(texts: Sequence[str]) -> dict[str, object]:
    """Return the settings that ``--per-shard NAME=VALUE`` gives to each shard, parsed. Raises UsageError."""
    rows = {setting.name: setting for setting in SETTINGS if setting.name in DIVIDED}
    values: dict[str, object] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if name not in rows or not sign:
            near = nearest(name, sorted(rows))
            guess = f"Did you mean {near}?" if near and near != name else f"The settings are {', '.join(rows)}."
            what = "no setting that shards divide has this name" if name not in rows else "it has no value"
            raise UsageError(f"--per-shard {text[:80]}: {what}", f"Write NAME=VALUE. {guess} {_NOTHING_SUBMITTED}")
        values[name] = parse(rows[name], value, f"--per-shard {name}")
    return values


def divide(settings: Settings, shard: Shard, own: Mapping[str, object]) -> Settings:
    """Return the settings of a shard: its parts of the caps and budgets. The parts of all shards add up to the whole.

    own: values of `read_own_values`, which are not divided. Raises UsageError if a part would be less than 1.
    """
    values: dict[str, Any] = dict(own)
    for name in DIVIDED:
        whole = getattr(settings, name)
        if name in own or whole is None or (isinstance(whole, Share) and whole.percent):
            continue
        values[name] = _DIVISIONS.get(name, _whole_number)(whole, shard)
        if values[name] is None:
            raise _too_small(name, whole, shard)
    return replace(settings, **values)


def with_own_bucket(settings: Settings, shard: Shard) -> Settings:
    """Return the settings with a place of the shard's own in the bucket: each shard delivers its reports too."""
    if settings.deliver is None:
        return settings
    return replace(settings, deliver=f"{settings.deliver.rstrip('/')}/{shard.folder}/")


def _too_small(name: str, whole: object, shard: Shard) -> UsageError:
    text = f"{whole.number:.12g}" if isinstance(whole, Share) else f"{whole:.12g}"
    unit = " credits" if name == "max_credits" else " USD" if name == "max_cost" else ""
    least = "1 credit" if unit else "1"
    return UsageError(
        f"{name} ({text}{unit}) is too small for {shard.count} shards: each gets at least {least}",
        f"Raise it, use fewer shards, or name each shard's own with --per-shard {name}=VALUE. {_NOTHING_SUBMITTED}",
    )


def _whole_number(whole: Any, shard: Shard) -> int | None:
    return shard.share_of(int(whole)) if whole >= shard.count else None


def _failures(whole: Share, shard: Shard) -> Share | None:
    number = _whole_number(whole.number, shard)
    return None if number is None else Share(float(number), percent=False)


def _credits(whole: float, shard: Shard) -> float | None:
    credits_ = _exact_credits(Decimal(repr(float(whole))), shard)
    return None if credits_ is None else float(credits_)


def _usd(whole: float, shard: Shard) -> float | None:
    credits_ = _exact_credits(Decimal(repr(float(whole))) * CREDITS_PER_USD, shard)
    return None if credits_ is None else float(credits_ / CREDITS_PER_USD)


def _exact_credits(whole: Decimal, shard: Shard) -> Decimal | None:
    """Return a shard's credits: whole ones if the budget is a whole number, else in its smallest decimal place."""
    if whole < shard.count:
        return None
    exponent = whole.normalize().as_tuple().exponent
    unit = Decimal(1).scaleb(min(0, exponent if isinstance(exponent, int) else 0))
    return shard.share_of(int(whole / unit)) * unit


_DIVISIONS: Mapping[str, Any] = {
    "requests_per_second": lambda whole, shard: whole / shard.count,
    "max_cost": _usd,
    "max_credits": _credits,
    "stop_after_failures": _failures,
}
