"""The part of a run in its account: open it at the start, close it at the end, and say what the user should know.

A run without an account (the embedded sandbox), or without a usable state folder, gets a session that grants every
claim. If config.yaml limits the account, an unusable state folder ends the run before anything is submitted.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from batchrunner.account import config, journals, older_copy, runs_log, summary, transactions
from batchrunner.account.base import AccountSession, Hold, NoAccount, Reuse
from batchrunner.account.folders import config_file, state_folder
from batchrunner.account.index import Index
from batchrunner.account.limits import NO_LIMITS, AccountBudgets, Limits, limits_for, require_no_limits
from batchrunner.account.names import Account, account_of
from batchrunner.account.older_copy import Lost
from batchrunner.account.pace import SharedPace
from batchrunner.account.presence import Presence
from batchrunner.account.rows import BatchRow
from batchrunner.account.run_directories import require_found
from batchrunner.account.session import Session
from batchrunner.app.setup import Setup
from batchrunner.errors import LocalFault
from batchrunner.events import Listener, Noticed
from batchrunner.formatting import count_text
from batchrunner.job import Snapshot
from batchrunner.journal.journal import Journal
from batchrunner.providers.endpoint import Endpoint, service_name

if TYPE_CHECKING:
    from batchrunner.app.environment import Environment


@dataclass(frozen=True, slots=True)
class Shared:
    """Where a user's batches meet: the state folder, and the limits of each account. executor: one thread."""

    state: Path
    executor: Executor
    limits: Mapping[str, Limits] = field(default_factory=lambda: NO_LIMITS)


@dataclass(frozen=True, slots=True)
class Joined:
    """A run in its account. pace: of all calls, or None. budgets: of the account, as they were at the start.

    lost: the work of the batch that the index knows and a recovered journal lacks.
    """

    session: AccountSession = field(default_factory=NoAccount)
    pace: SharedPace | None = None
    budgets: AccountBudgets = field(default_factory=AccountBudgets)
    lost: Lost = field(default_factory=Lost)


@contextmanager
def shared_of(environment: Mapping[str, str]) -> Iterator[Shared]:
    """Start the thread of the index, in this user's folders.

    Raises ManifestError, UsageError for a config.yaml that cannot be used.
    """
    limits = config.load(config_file(environment))
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="account") as executor:
        yield Shared(state_folder(environment), executor, limits)


@asynccontextmanager
async def joined(
    setup: Setup,
    endpoint: Endpoint,
    journal: Journal,
    before: Snapshot | None,
    outside: "Environment",
    listener: Listener,
) -> AsyncIterator[Joined]:
    """Join the account with an open journal, before its run begins. before: what the journal holds.

    A journal that lacks work of its batch that the index knows is refused, or marked as stale with --recover.
    Raises JournalError, UsageError, LocalFault.
    """
    shared, now, warn = outside.shared, outside.clock.now, _warner(outside, listener)
    if shared is None or setup.sandbox is not None:
        yield Joined()
        return
    account = account_of(endpoint.base_url, setup.settings.account)
    limits = limits_for(shared.limits, account)
    async with AsyncExitStack() as stack:
        in_thread = partial(asyncio.get_running_loop().run_in_executor, shared.executor)
        try:
            index = await in_thread(Index, shared.state)
            stack.callback(index.close)
            _warn_of_rebuilding(index, warn, reuse=setup.settings.reuse)
            presence, batch, lost = await in_thread(_enlist, index, account, setup, endpoint, journal, before, now())
        except (LocalFault, OSError) as error:
            require_no_limits(limits, account, error)
            warn(
                f"the account's index cannot be used ({error}): what other batches have paid for is not known to this "
                "one. Make the state folder writable, or move it with BATCHRUNNER_STATE"
            )
            yield Joined()
            return
        stack.enter_context(presence)
        names = await in_thread(journals.file_names, setup.batch.entries)
        session = Session(index, shared.executor, batch, limits, now, names, reuse=setup.settings.reuse)
        sequence = lost.sequence if lost else journal.mark.sequence
        await session.register(list(before.records.values()) if before else [], sequence)
        pace = _shared_pace(shared.state, account, limits, stack)
        budgets = await in_thread(index.read, partial(summary.budgets, account=account.key, limits=limits, now=now()))
        yield Joined(session, pace, budgets, lost or Lost())
        with suppress(LocalFault):  # the next run brings the index in line with the journal
            await session.close(journal.mark.sequence)


def _shared_pace(state: Path, account: Account, limits: Limits, stack: AsyncExitStack) -> SharedPace | None:
    if limits.calls_per_s is None:
        return None
    pace = SharedPace(state / f"pace-{_digest(account)}", limits.calls_per_s)
    stack.callback(pace.close)
    return pace


def overview(found: Mapping[str, Reuse | Hold]) -> list[str]:
    """Return a message for each batch that has jobs of this one."""
    messages: dict[tuple[str, str], list[int]] = {}
    for answer in found.values():
        counts = messages.setdefault((answer.source.name, answer.source.directory), [0, 0])
        counts[isinstance(answer, Hold)] += 1
    texts = []
    for (name, directory), (reused, waiting) in messages.items():
        counts_text = [f"{count_text(reused, 'job')} paid for there will be delivered here at no charge"] * bool(reused)
        counts_text += [f"{count_text(waiting, 'job')} will wait for it"] * bool(waiting)
        texts.append(f"the batch {name} is in {directory}: {'; '.join(counts_text)}")
    return texts


def _lost_work(index: Index, setup: Setup, journal: Journal, before: Snapshot | None) -> Lost | None:
    """Return what the index knows and the journal lacks. Raises JournalError unless the run recovers the journal."""
    stored = journals.Stored(journal.mark, before)
    lost: Lost | None = index.read(partial(older_copy.lost_work, stored=stored, is_stale=journal.is_stale))
    if lost is not None:
        if not setup.recover:
            raise lost.error(setup.rundir.path)
        journal.mark_stale(lost.sequence or 0)
    return lost


def _enlist(
    index: Index,
    account: Account,
    setup: Setup,
    endpoint: Endpoint,
    journal: Journal,
    before: Snapshot | None,
    now: float,
) -> tuple[Presence, BatchRow, Lost | None]:
    """Give a copied run directory an id of its own, and list the directory. Returns also what its journal lacks.

    Raises JournalError if that is not recovered, UsageError if the index had to be made again without a run directory:
    what was paid for there is unknown.
    """
    own_id = journal.mark.journal_id
    if setup.settings.reuse:
        index.read(partial(require_found, state=index.state, account=account.key, own_id=own_id))
    directory = setup.rundir.path.resolve()
    listed, lost = index.read(partial(transactions.batch_row, batch_id=own_id)), None
    if listed is not None and older_copy.is_copy(listed, directory):
        journal.renew_id()
    elif listed is not None:
        lost = _lost_work(index, setup, journal, before)
    batch = BatchRow(
        journal.mark.journal_id,
        account.key,
        str(directory),
        setup.batch.name,
        service_name(setup.settings, endpoint.base_url),
        setup.settings.priority,
        now,
    )
    line = runs_log.Line(batch.batch_id, batch.account, batch.directory, batch.name, batch.service)
    runs_log.append(index.state, [line])
    return Presence(index.state, batch.batch_id), batch, lost


def _warner(outside: "Environment", listener: Listener) -> Callable[[str], None]:
    return lambda message: listener(Noticed(outside.clock.now(), (), message, urgent=True))


def _warn_of_rebuilding(index: Index, warn: Callable[[str], None], *, reuse: bool) -> None:
    """Warn of a rebuilt index, and of missing run directories unless these end the run (`require_found`)."""
    rebuilt = index.rebuilt
    if rebuilt is None:
        return
    for path in rebuilt.renamed:
        warn(f"the account's index was broken: it was made again from the run directories, and is kept as {path}")
    if rebuilt.unread and not reuse:
        listed = "; ".join(f"{directory} ({why})" for directory, why in rebuilt.unread[:5])
        more = f"; and {len(rebuilt.unread) - 5} more" if len(rebuilt.unread) > 5 else ""
        warn(f"the account's index was made again without these run directories: {listed}{more}")


def _digest(account: Account) -> str:
    import hashlib

    return hashlib.sha256(account.key.encode()).hexdigest()[:16]
