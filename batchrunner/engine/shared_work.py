"""What a run has to do with other batches of its account: jobs to take over, jobs that are held, waits. Pure.

Moments are of the monotonic clock, in seconds.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping

from batchrunner.account.base import Hold, Reuse
from batchrunner.engine.confirmation import TERMINAL, Confirmation
from batchrunner.providers.base import GenerationStatus

WAIT_S = 1.0  # until a claim is made again that waits for a slot of the account
BUDGET_WAIT_S = 30.0  # the same for a budget, which jobs that fail give back
RECHECK_S = 30.0  # between two surveys of the jobs that are held
DENIALS = 3  # replies in a row that deny a generation of another batch, before it counts as ended


class SharedWork:
    """The jobs that other batches know, and what the account's limits make this run wait for.

    reuses: jobs to take over. held_jobs: jobs that another batch has. blocked_until: when the next claim is made.
    blocked_by: why claims wait, for people. budget: the kind of the account's budget that is reached, or "".
    orphans: generations that hold slots for which this run waits, and that no process polls.
    """

    def __init__(self) -> None:
        self.reuses: deque[tuple[str, Reuse]] = deque()
        self.held_jobs: dict[str, None] = {}
        self.blocked_until: float | None = None
        self.blocked_by = ""
        self.budget = ""
        self.orphans: tuple[str, ...] = ()
        self._orphans_at = float("-inf")
        self._denials: Counter[str] = Counter()
        self._confirmations: defaultdict[str, Confirmation] = defaultdict(Confirmation)
        self._recheck_at: float | None = None
        self._last_done = False
        self._announced: set[str] = set()  # reasons to wait

    def begin(self, found: Mapping[str, Reuse | Hold], now: float) -> None:
        """Take in what other batches have at the start."""
        for fingerprint, answer in found.items():
            if isinstance(answer, Reuse):
                self.reuses.append((fingerprint, answer))
            else:
                self.hold(fingerprint, now)

    def hold(self, fingerprint: str, now: float) -> None:
        """Hold a job that another batch has."""
        self.held_jobs[fingerprint] = None
        self._last_done = False
        self._recheck_at = now + RECHECK_S if self._recheck_at is None else min(self._recheck_at, now + RECHECK_S)

    def block(self, why: str, until: float, *, budget: str = "", orphans: tuple[str, ...] = ()) -> bool:
        """Make no claim before `until`. Return whether the reason is new in this run."""
        self.blocked_by, self.blocked_until, self.budget, self.orphans = why, until, budget, orphans
        is_new = why not in self._announced
        self._announced.add(why)
        return is_new

    def unblock(self) -> None:
        """Make the next claim at once: one was granted, or a slot of this run became free.

        The answer to that claim names the orphans that still hold slots. A run whose claims do not wait polls none.
        """
        self.blocked_by, self.blocked_until, self.budget, self.orphans = "", None, "", ()

    def is_blocked(self, now: float) -> bool:
        """Return whether a claim has to wait."""
        return self.blocked_until is not None and now < self.blocked_until

    @property
    def recheck_at(self) -> float | None:
        """When the jobs that are held are surveyed again; None if none are held."""
        return self._recheck_at if self.held_jobs else None

    def start_recheck(self, now: float, *, at_the_end: bool) -> bool:
        """Return whether to survey the jobs that are held now; this counts as done then.

        at_the_end: nothing else is left to do. One more survey is made then.
        """
        last = bool(self.held_jobs) and at_the_end and not self._last_done
        if not last and (self.recheck_at is None or now < self.recheck_at):
            return False
        self._last_done = last
        self._recheck_at = now + RECHECK_S
        return True

    def start_orphans(self, now: float, every_s: float) -> tuple[str, ...]:
        """Return the generations of other batches to poll now, at most once in `every_s` seconds."""
        if not self.orphans or now < self._orphans_at + every_s:
            return ()
        self._orphans_at = now
        return self.orphans

    def ended(self, generation_id: str, status: GenerationStatus) -> bool:
        """Take in a reply about a generation of another batch. Return whether its end is confirmed."""
        self._denials.pop(generation_id, None)
        if status.phase in TERMINAL:
            return self._confirmations[generation_id].confirms(status)
        self._confirmations.pop(generation_id, None)
        return False

    def denied(self, generation_id: str) -> bool:
        """Take in that the service denies a generation. Return whether it counts as ended."""
        self._denials[generation_id] += 1
        return self._denials[generation_id] >= DENIALS

    def __iter__(self) -> Iterator[str]:
        return iter(self.held_jobs)
