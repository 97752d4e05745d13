"""How long a submission in doubt holds its slot: as long as generations of its kind take, as far as is known now."""

from collections.abc import Callable, Iterable, Mapping

from batchrunner.engine.generation_times import GenerationTimes
from batchrunner.engine.in_doubt import longest_s
from batchrunner.engine.policy import Policy
from batchrunner.job import Record, State
from batchrunner.plan.duration_estimate import Kind, kind_of

_FEWEST_POLLS = 3  # a slot is held for at least so many poll intervals, because durations are not known more precisely


def slot_times(
    records: Mapping[str, Record], followed: Iterable[str], times: GenerationTimes, policy: Policy
) -> Callable[[str], float]:
    """Return a function from a fingerprint to the time that its slot is held, s, by what is known now.

    followed: the generations in flight that this run polls.
    """
    known: dict[Kind, float] = {}

    def slot_s(fingerprint: str) -> float:
        job = records[fingerprint].job
        kind = kind_of(job)
        if kind not in known:
            ages_s = _unfinished_s(kind, (records[name] for name in followed), times)
            least_s = _FEWEST_POLLS * policy.poll_interval_s
            known[kind] = longest_s(times.known_s(job), ages_s, least_s, policy.doubt_s)
        return known[kind]

    return slot_s


def _unfinished_s(kind: Kind, followed: Iterable[Record], times: GenerationTimes) -> list[float]:
    """Return how long the generations of one kind have been running that are not complete, s."""
    return [
        times.age_s(record)
        for record in followed
        if record.state is State.IN_FLIGHT and record.last.completed_at is None and kind_of(record.job) == kind
    ]
