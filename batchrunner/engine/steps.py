"""The steps of a job: each makes one call, stores what it learned, and says what should follow.

Rules: a record is stored before anything that follows from it is done, and announced after that. Steps decide about
one job; when the next one runs, and in which slot, is the engine's business. A submission in doubt is never repeated
here: the only ways out are evidence (`review`) and the user.
"""

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from batchrunner.engine import backoff as retry
from batchrunner.engine.calls import CallHealth, watched
from batchrunner.engine.confirmation import TERMINAL, Confirmations, unnamed
from batchrunner.engine.evidence import LOG_LACKS_IT, NOT_ACCEPTED, SEARCHED, Evidence, plausible_s
from batchrunner.engine.generation_times import GenerationTimes
from batchrunner.engine.in_doubt import InDoubtJobs
from batchrunner.engine.ports import Dependencies, Policy
from batchrunner.errors import AccountFault, CallError, JobFault, LocalFault, NetworkFault, Problem, ServiceFault
from batchrunner.events import CallFailed, JobMoved, JobSeen, Noticed
from batchrunner.job import Move, Record, Result, State, TimelineEvent, advance
from batchrunner.plan.admission import Admission
from batchrunner.plan.resume import IN_DOUBT_HINT, LATER_LOST, fail
from batchrunner.providers.base import GenerationStatus, Phase, Submissions
from batchrunner.transfer.expectations import expectation_warnings

_DAY_S = 86_400.0
REFUSED_POLLS = 3  # in a row: then a poll counts as refused for good
FOREIGN_POLLS = 40  # replies in a row about another generation: then the next run continues
POLL_REFUSED_HINT = (
    "It is paid for, and every run polls it again, at no charge. Ask the service's support with this id; "
    "--retry-failed pays for another generation."
)
REFUSED_HINT = "Nothing was charged for it. Look at what is special about it; --retry-failed submits it again."


@dataclass(frozen=True, slots=True)
class Submit:
    """Nothing is in flight for it: submit it, in so many seconds. last: after all other jobs that wait."""

    wait_s: float = 0.0
    last: bool = False


@dataclass(frozen=True, slots=True)
class PollAgain:
    """In flight: look again, in so many seconds, or after the usual interval. over: the service is done with it."""

    wait_s: float | None = None
    over: bool = False


@dataclass(frozen=True, slots=True)
class Download:
    """Completed: download this."""

    url: str


@dataclass(frozen=True, slots=True)
class HoldInDoubt:
    """It may be in flight, and its id is not known."""


@dataclass(frozen=True, slots=True)
class Finish:
    """Succeeded or failed."""


@dataclass(frozen=True, slots=True)
class LeaveInFlight:
    """Still in flight, and nothing more to be done in this run. why: for people."""

    why: str


@dataclass(frozen=True, slots=True)
class Settled:
    """Submissions that are in doubt no more.

    adopted: found in the log. freed: to be submitted again in spite of the doubt. disproved: not accepted, by the log.
    searched: whether the log was read to its end.
    """

    adopted: Sequence[str] = ()
    freed: Sequence[str] = ()
    disproved: Sequence[str] = ()
    searched: bool = False


Next = Submit | PollAgain | Download | HoldInDoubt | Finish | LeaveInFlight


class Steps:
    """The steps, and the records they bring up to date (by fingerprint), with what follows from those: `admission`.

    log_offered: whether the service offers its log, as far as is known.
    ticket: of the gate that let a call in (`batchrunner.engine.circuit_breaker`).
    """

    def __init__(
        self,
        deps: Dependencies,
        policy: Policy,
        run_id: str,
        records: dict[str, Record],
        health: CallHealth,
        admission: Admission,
    ) -> None:
        self.records = records
        self.admission = admission
        self._deps = deps
        self._policy = policy
        self._run_id = run_id
        self._health = health
        self._linkless: Counter[str] = Counter()
        self._generating_since: dict[str, float] = {}  # monotonic, s
        self._missing_since: dict[str, float] = {}  # monotonic, s: the first 404 since the service last knew it
        self._failing_since: dict[str, float] = {}  # monotonic, s: the first failed poll since one was answered
        self._refused_polls: dict[str, tuple[int, int]] = {}  # refusals for good, and the job's own failures then
        self._foreign: Counter[str] = Counter()  # replies in a row about another generation
        self._confirmations = Confirmations()
        unseen_s = 3 * policy.poll_interval_s + 60  # longer than that was an outage
        self.times = GenerationTimes(deps.clock, admission.forecast, deps.durations, unseen_s)
        self._warned: set[str] = set()
        self._evidence = Evidence(deps.timeline)
        self.log_offered = deps.provider.capabilities.find_submissions

    def notice(self, fingerprint: str, message: str, *, once: bool = False) -> None:
        """Announce something about a job; with `once`, only the first time that it is said of any."""
        if not once or message not in self._warned:
            self._warned.add(message)
            self._deps.announce(Noticed(self._deps.clock.now(), self._deps.ids(fingerprint), message))

    async def submit(self, fingerprint: str, breaker_generation: int) -> Next:
        """Intent on disk, POST, outcome on disk. Raises LocalFault where the disk refuses."""
        clock = self._deps.clock
        record = self.records[fingerprint]
        self._forget_generation(fingerprint)
        request_id = f"{self._run_id}.{record.job.key}.{len(record.attempts) + 1}"
        estimate = self.admission.prices.estimate(record.job).credits
        intent: dict[str, Any] = {"request_id": request_id, "submitted_at": clock.now(), "estimate": estimate}
        try:
            record = await self._move(fingerprint, Move.BEGIN_SUBMIT, **intent)
        except LocalFault as fault:
            await self._not_sent(advance(record, Move.BEGIN_SUBMIT, **intent), fault)
            raise
        try:
            made = self._deps.provider.submit(record.job, request_id)
            accepted = await self._health.call("submit", fingerprint, breaker_generation, made)
        except CallError as error:
            return await self._not_accepted(fingerprint, error)
        self.times.accepted(fingerprint)
        await self._accepted(fingerprint, Move.ACCEPT, accepted.generation_id, accepted.credits)
        return PollAgain()

    def _forget_generation(self, fingerprint: str) -> None:
        """Another generation begins: what is known of the one before does not count against it."""
        self.times.submitting(fingerprint)
        self._confirmations.forget(fingerprint)
        per_generation: tuple[dict[str, Any], ...] = (
            self._linkless,
            self._generating_since,
            self._missing_since,
            self._failing_since,
            self._refused_polls,
            self._foreign,
        )
        for known in per_generation:
            known.pop(fingerprint, None)

    async def _not_sent(self, record: Record, fault: LocalFault) -> None:
        """Take back an intent that was perhaps stored, so that the next run does not hold it in doubt."""
        record = advance(record, Move.REFUSE, error=fault.problem, ended_at=self._deps.clock.now())
        with suppress(LocalFault):
            await self._deps.journal.save(record)
        self._put(record)

    async def poll(self, fingerprint: str, breaker_generation: int) -> Next:
        """Look at the generation once."""
        record = self.records[fingerprint]
        assert record.generation_id is not None
        try:
            made = self._deps.provider.status(record.generation_id, record.job.input_urls)
            seen = await self._health.call("poll", fingerprint, breaker_generation, made)
        except CallError as error:
            return await self._poll_failed(fingerprint, record, error)
        for known in (self._missing_since, self._failing_since, self._refused_polls, self._foreign):
            known.pop(fingerprint, None)
        credits_ = record.last.credits if seen.credits is None else seen.credits
        record = record.with_attempt(polls=record.last.polls + 1, credits=credits_)
        self._put(record)
        if not seen.known:
            self.notice(fingerprint, f"an unknown status, taken for pending: {seen.status_text!r}", once=True)
        if seen.notice:
            self.notice(fingerprint, seen.notice, once=True)
        if seen.phase not in TERMINAL:
            self._confirmations.forget(fingerprint)
        elif not self._confirmations.confirms(fingerprint, seen):
            return PollAgain(min(self._policy.confirm_s, self._policy.poll_interval_s))
        if seen.phase is Phase.FAILED:
            return await self._failed(fingerprint, seen.error)
        if seen.phase is Phase.COMPLETED:
            return await self._completed(fingerprint, record, seen)
        return await self._still_working(fingerprint, record, seen.phase)

    async def download(self, fingerprint: str, url: str, breaker_generation: int) -> Next:
        """Download, check, and deliver under the final names. Raises LocalFault where the disk refuses."""
        record = self.records[fingerprint]
        try:
            made = self._deps.clips.fetch(url, record.job.key, watched(self._deps, fingerprint))
            fetched = await self._health.call("download", fingerprint, breaker_generation, made)
        except LocalFault:
            raise
        except CallError as error:
            return await self._download_failed(fingerprint, error)
        await self._deps.store.deliver(record.job, fetched)
        await self._delivered(fingerprint, fetched.result)
        return Finish()

    async def settle(self, news: Mapping[str, Result | None]) -> None:
        """Take in what the run directory shows at the start (`batchrunner.transfer.delivery.Store.settle`)."""
        for fingerprint, result in news.items():
            if self.records[fingerprint].state is State.IN_FLIGHT and result is not None:
                await self._delivered(fingerprint, result)
            elif self.records[fingerprint].state is State.SUCCEEDED:
                await self._move(fingerprint, Move.FILE_MISSING)

    async def flush(self) -> None:
        """Store what was learned of generations in flight since they last moved."""
        for record in list(self.records.values()):
            if record.state is State.IN_FLIGHT:
                await self._deps.journal.save(record)

    async def _delivered(self, fingerprint: str, result: Result) -> None:
        """Record a clip that stands under its final names."""
        self._confirmations.forget(fingerprint)
        record = self.records[fingerprint]
        result = replace(result, warnings=(*result.warnings, *expectation_warnings(record.job, result)))
        self._put(replace(record, result=result))
        await self._move(fingerprint, Move.DELIVER, ended_at=self._deps.clock.now())
        for warning in result.warnings:
            self.notice(fingerprint, warning)

    async def reconcile(self, in_doubt: InDoubtJobs) -> Settled:
        """Search the service's log for submissions in doubt, and settle what it shows.

        Those found are adopted. One that is not found stays in doubt, as whether unfinished generations show there,
        and how late, is not known. It is freed only where the provider states that its log lists what it accepts, or
        by the user's choice (`Policy.in_doubt`). A service that does not offer its log (403, 404) is asked once a
        run; a provider without the capability to search is never asked.
        """
        names, now = sorted(in_doubt), self._deps.clock.monotonic()
        can_search = self._deps.provider.capabilities.find_submissions
        if not names or (can_search and not self.log_offered):
            return Settled()
        in_time = frozenset(name for name in names if in_doubt.is_settled(name, now))
        asked = [name for name in names if self._policy.in_doubt == "resubmit" and in_doubt.is_earlier(name)]
        asked = [name for name in asked if self._deps.ids(name)]
        if not can_search:
            return await self._release(asked)
        earliest = min(self.records[name].last.submitted_at for name in names)
        frees = self._deps.provider.capabilities.lists_on_acceptance or self._policy.in_doubt != "hold"
        try:
            # A row counts as missing only if the log was read from well before its submission: clocks differ.
            listed = await self._deps.provider.find_submissions(earliest - (_DAY_S if frees else 0.0))
        except CallError as error:
            self.log_offered = error.status not in {403, 404, 405}
            return await self._release(asked if error.status in {403, 404} else [])
        adopted = [name for name in names if self.records[name].last.request_id in listed.ids]
        for name in adopted:
            await self._accepted(name, Move.ADOPT, listed.ids[self.records[name].last.request_id], None)
        lacking = [name for name in names if self.records[name].last.request_id not in listed.requests]
        await self._note_search(lacking, listed, in_doubt, now)
        return Settled(adopted, *await self._free(lacking, listed, in_time, asked), searched=listed.ended)

    async def _release(self, names: Sequence[str]) -> Settled:
        """Free submissions that the user asked for again, where no list can tell what became of them."""
        for name in names:
            await self._move(name, Move.RELEASE)
        return Settled(freed=names)

    async def _free(
        self, lacking: Sequence[str], listed: Submissions, in_time: Container[str], asked: Container[str]
    ) -> tuple[list[str], list[str]]:
        """Free what the log lacks, as far as that may be: against the doubt, and because the log disproves it."""
        freed, disproved = [], []
        self._evidence.finished(listed)
        for name in lacking:
            record = self.records[name]
            if not self._deps.ids(name):
                continue  # the manifest names it no more: nobody asks for its clip
            failed = record.error is not None and record.error.kind == LATER_LOST
            if failed and not (name in asked and listed.ended):
                continue  # only the user may ask for another generation
            if listed.complete and name in in_time and self._deps.provider.capabilities.lists_on_acceptance:
                await self._move(name, Move.CLEAR, error=NOT_ACCEPTED)
                disproved.append(name)
            elif name in asked and listed.ended:
                await self._move(name, Move.RELEASE)
                freed.append(name)
            elif self._is_disproved(record, listed):
                await self._move(name, Move.RELEASE, error=LOG_LACKS_IT)
                freed.append(name)
        return freed, disproved

    async def _note_search(
        self, lacking: Sequence[str], listed: Submissions, in_doubt: InDoubtJobs, now: float
    ) -> None:
        """Remember when the service's clock first showed that the log lacks a submission, for later runs too."""
        for name in lacking:
            request_id = self.records[name].last.request_id
            kept = self._evidence.searched(request_id, in_doubt.age_s(name, now), self._policy.settle_s, listed)
            if kept is not None:
                with suppress(LocalFault):  # the next run searches again
                    event = TimelineEvent(self._deps.clock.now(), SEARCHED, request_id, *kept)
                    await self._deps.journal.note(event)

    def _is_disproved(self, record: Record, listed: Submissions) -> bool:
        if self._policy.in_doubt != "evidence" or not listed.complete:
            return False
        seen_s = [*self.times.known_s(record.job), *self.times.all_batches_s(record.job)]
        attempts = (attempt for each in self.records.values() for attempt in each.attempts)
        return self._evidence.disproves(record.last, attempts, listed, plausible_s(seen_s, self._policy.doubt_s))

    async def _accepted(self, fingerprint: str, move: Move, generation_id: str, credits_: float | None) -> None:
        """Store the id: the one fact that must not be lost. While the disk refuses, it is tried again and again."""
        clock = self._deps.clock
        now, since, wait_s = clock.now(), clock.monotonic(), 1.0
        while True:
            try:
                await self._move(fingerprint, move, generation_id=generation_id, accepted_at=now, credits=credits_)
                return
            except LocalFault as fault:
                told = f"{fault.message}; generation {generation_id} was accepted and is not recorded yet: note it down"
                self.notice(fingerprint, told)
                if clock.monotonic() - since > self._policy.record_retry_s:
                    raise LocalFault(fault.kind, told, fault.hint) from fault
                await clock.sleep(wait_s)
                wait_s = min(2 * wait_s, 30.0)

    async def _not_accepted(self, fingerprint: str, error: CallError) -> Next:
        if error.in_doubt:
            await self._move(fingerprint, Move.DOUBT, error=replace(error.problem, hint=IN_DOUBT_HINT))
            return HoldInDoubt()
        await self._move(fingerprint, Move.REFUSE, error=error.problem, ended_at=self._deps.clock.now())
        if isinstance(error, AccountFault):
            if not self._health.is_at_fault(fingerprint, error):
                return Submit(last=True)  # when the gate opens, and the next try is another job's
            told = f"{error.message}; it was refused again and again while other jobs were accepted"
            await self._move(fingerprint, Move.GIVE_UP, error=Problem(error.kind, told, REFUSED_HINT))
            return Finish()
        if isinstance(error, LocalFault) and error.kind != "input_changed":
            raise error  # no job's fault
        # An input that changed or vanished concerns this job alone; so does a request that the service refuses.
        own = isinstance(error, LocalFault)
        wait_s = None if own else self._wait("submit", fingerprint, error, retry.SUBMISSIONS)
        if wait_s is not None:
            return Submit(wait_s)
        problem = error.problem
        if isinstance(error, ServiceFault | NetworkFault):
            tries = f"{error.message}; it was refused {retry.SUBMISSIONS.tries} times while other jobs were accepted"
            problem = replace(problem, message=tries, hint=REFUSED_HINT)
        await self._move(fingerprint, Move.GIVE_UP, error=problem)
        return Finish()

    async def _poll_failed(self, fingerprint: str, record: Record, error: CallError) -> Next:
        now, whose = self._deps.clock.monotonic(), f"(generation {record.generation_id})"
        failing_s = now - self._failing_since.setdefault(fingerprint, now)
        if error.kind == "foreign_reply":
            return self._foreign_reply(fingerprint, error)
        if error.kind == "unknown_generation":
            missing_s = now - self._missing_since.setdefault(fingerprint, now)
            if missing_s > self._policy.not_found_grace_s:
                told = f"{error.message}, for {missing_s:.0f} s now {whose}"
                return await self._spoil(fingerprint, replace(error.problem, message=told))
        elif self._is_refused_for_good(fingerprint, error):
            told = f"{error.message}; {REFUSED_POLLS} polls were refused that way {whose}"
            return await self._spoil(fingerprint, Problem("poll_refused", told, POLL_REFUSED_HINT, "service"))
        elif failing_s > self._policy.job_timeout_s and self._health.failures("poll", fingerprint) > REFUSED_POLLS:
            return LeaveInFlight(
                f"{error.message}; no usable reply for {failing_s:.0f} s {whose}: the next run polls it again"
            )
        return PollAgain(self._wait("poll", fingerprint, error, retry.POLLS))

    def _foreign_reply(self, fingerprint: str, error: CallError) -> Next:
        """The reply is ignored and the generation polled again soon: something in between mixes up the replies."""
        self._confirmations.forget(fingerprint)
        self._foreign[fingerprint] += 1
        if self._foreign[fingerprint] >= FOREIGN_POLLS:
            return LeaveInFlight(f"{error.message}, {FOREIGN_POLLS} times in a row; the next run polls it again")
        interval_s = max(self._policy.confirm_s, self._policy.poll_interval_s)
        return PollAgain(self._wait("poll", fingerprint, error, retry.Backoff(interval_s, interval_s)))

    def _is_refused_for_good(self, fingerprint: str, error: CallError) -> bool:
        """Whether so many polls in a row were refused with a 4xx that concerns this generation alone.

        What the account is refused counts only where another generation's poll was answered in between.
        """
        if not isinstance(error, JobFault | AccountFault):
            return False
        refused, counted = self._refused_polls.get(fingerprint, (0, 0))
        failures = self._health.failures("poll", fingerprint)
        if failures > counted:
            refused += 1
        self._refused_polls[fingerprint] = refused, failures
        return refused >= REFUSED_POLLS

    async def _still_working(self, fingerprint: str, record: Record, phase: Phase) -> Next:
        self.times.unfinished(fingerprint)
        if phase is not Phase.GENERATING:
            return PollAgain()
        if record.last.generating_at is None:
            record = record.with_attempt(generating_at=self._deps.clock.now())
            self._put(record)
            await self._deps.journal.save(record)
            self._deps.announce(JobSeen(self._deps.clock.now(), self._deps.ids(fingerprint), record))
        # Counted on the clock that never jumps, from the first sight in this run.
        now = self._deps.clock.monotonic()
        since = self._generating_since.setdefault(fingerprint, now)
        if now - since > self._policy.job_timeout_s:
            return LeaveInFlight(f"still generating after {now - since:.0f} s; the next run looks again")
        return PollAgain()

    async def _completed(self, fingerprint: str, record: Record, seen: GenerationStatus) -> Next:
        if record.last.completed_at is None:
            self._put(self.times.completed(record))
        if seen.result_url is not None:
            return Download(seen.result_url)
        self._linkless[fingerprint] += 1
        if self._linkless[fingerprint] <= self._policy.linkless_polls:
            return PollAgain(over=True)
        return await self._spoil(fingerprint, seen.error)

    async def _download_failed(self, fingerprint: str, error: CallError) -> Next:
        """Look at the generation again: that gives a fresh link, and never another generation."""
        final = error.kind == "check_limit"  # the same bytes take the same check to the same bound
        wait_s = None if final else self._wait("download", fingerprint, error, retry.DOWNLOADS)
        if wait_s is not None:
            return PollAgain(wait_s, over=True)
        if final or error.kind == "bad_file":
            return await self._spoil(fingerprint, error.problem)
        return LeaveInFlight(f"{error.message}; it is paid for, and the next run fetches it")

    async def _failed(self, fingerprint: str, problem: Problem | None) -> Next:
        """The service said that the generation failed: another one, where the fault is its own and policy allows it."""
        may_pay = self._confirmations.may_pay(fingerprint)
        self._confirmations.forget(fingerprint)
        following = await self._spoil(fingerprint, problem if may_pay else unnamed(problem))
        record = self.records[fingerprint]
        failed = sum(attempt.outcome == "failed" for attempt in record.attempts)
        service_s = problem is not None and problem.fault == "service"
        if record.state is not State.FAILED or not may_pay or not service_s or not self._deps.ids(fingerprint):
            return following
        if failed > self._policy.generation_retries:
            return Finish()
        await self._move(fingerprint, Move.RETRY)
        return Submit()

    async def _spoil(self, fingerprint: str, problem: Problem | None) -> Next:
        now, before = self._deps.clock.now(), self.records[fingerprint]
        record = fail(before, problem, self._run_id, now, self.admission.prices.estimate(before.job).credits)
        if record.state is State.FAILED:
            await self._store(Move.FAIL, record)
            return Finish()
        self._forget_generation(fingerprint)
        await self._store(Move.DOUBT, record, attempts=2)
        return HoldInDoubt()

    async def _move(self, fingerprint: str, move: Move, *, error: Problem | None = None, **attempt: Any) -> Record:
        return await self._store(move, advance(self.records[fingerprint], move, error=error, **attempt))

    async def _store(self, move: Move, record: Record, *, attempts: int = 1) -> Record:
        """Store a record, whose so many latest attempts changed, and announce its last move."""
        await self._deps.journal.save(record, attempts=attempts)
        self._put(record)
        deps = self._deps
        deps.announce(JobMoved(deps.clock.now(), deps.ids(record.job.fingerprint), move, record))
        return record

    def _put(self, record: Record) -> None:
        self.records[record.job.fingerprint] = record
        self.admission.ledger.update(record)

    def _wait(self, call: str, fingerprint: str, error: CallError, backoff: retry.Backoff) -> float | None:
        """Seconds until the call may be made again, announced; None to give up."""
        deps, failures = self._deps, self._health.failures(call, fingerprint)
        wait_s = retry.wait_s(backoff, failures, error, deps.rng)
        if wait_s is not None and self._health.breakers[call].open:  # else it is no news about this job
            now, ids = deps.clock.now(), deps.ids(fingerprint)
            deps.announce(CallFailed(now, ids, call, error.problem, wait_s, failures, backoff.tries))
        return wait_s
