"""``account --scan`` and ``--forget``: tell the account's index where run directories are, or that they are gone."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from batchrunner.account import index, journals, runs_log, transactions
from batchrunner.account.folders import state_folder
from batchrunner.account.names import Account, account_of
from batchrunner.account.run_directories import missing
from batchrunner.errors import BatchrunnerError, LocalFault, UsageError
from batchrunner.formatting import count_text
from batchrunner.providers.endpoint import address_of, service_name
from batchrunner.settings import resolve


def scan(environment: Mapping[str, str], name: str | None, folders: Sequence[Path]) -> list[str]:
    """Add the run directories in these folders, and directly below them, to the index. Return a line for each.

    Raises UsageError, LocalFault.
    """
    state, account = state_folder(environment), _account(environment, name)
    service = service_name(resolve({}, environment, {}), address_of(environment))
    lines, texts = [], []
    for path in _run_directories(folders):
        try:
            stored = journals.read(path)
        except BatchrunnerError as error:
            texts.append(f"{path}: not added: {error.message}")
            continue
        if stored is None or stored.snapshot is None or stored.snapshot.run.service != service:
            owner = stored.snapshot.run.service if stored and stored.snapshot else "no service"
            texts.append(f"{path}: not added: it is a batch of {owner}, not of {service}")
            continue
        run = stored.snapshot.run
        lines.append(runs_log.Line(stored.mark.journal_id, account.key, str(path.resolve()), run.name, run.service))
        texts.append(f"{path}: {count_text(len(stored.snapshot.records), 'job')} of the batch {run.name}")
    if lines:
        with _writing(state):
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
            runs_log.append(state, lines)
        with closing(index.Index(state)) as opened:  # which adds what it lacks
            opened.write([partial(_move, line=line) for line in lines], durable=True)
    return texts


def _move(connection: sqlite3.Connection, line: runs_log.Line) -> None:
    """Record the new place of a batch that the index has at another one. Its journal is read again before it counts."""
    batch = transactions.batch_row(connection, line.batch_id)
    if batch is not None and batch.directory != line.directory:
        transactions.put_batch(connection, batch._replace(directory=line.directory, sequence=None))


def forget(environment: Mapping[str, str], name: str | None, folders: Sequence[Path]) -> list[str]:
    """Remove run directories that the index lacks, in these folders or below, from runs.jsonl. Return a line for each.

    Raises UsageError, LocalFault.
    """
    state, account = state_folder(environment), _account(environment, name)
    with index.viewed(state) as connection:
        gone = [item.line for item in missing(connection, state, account.key)]
    places = [place for folder in folders for place in (folder.absolute(), folder.resolve())]
    found = [line for line in gone if any(Path(line.directory).is_relative_to(place) for place in places)]
    if not found:
        raise UsageError(
            f"no run directory that the account's index lacks is in {', '.join(map(str, folders))}",
            "batchrunner account lists those that are not found. One that the index has need not be forgotten.",
        )
    with _writing(state):
        runs_log.forget(state, found)
    return [f"{line.directory}: forgotten; what was paid for there may be paid for again" for line in found]


@contextmanager
def _writing(state: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LocalFault("account_index", f"{state} cannot be written: {error.strerror or error}") from error


def _account(environment: Mapping[str, str], name: str | None) -> Account:
    return account_of(address_of(environment), resolve({"account": name}, environment, {}).account)


def _run_directories(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"{folder} is not a folder", "Name a run directory, or a folder of run directories.")
        candidates = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
        yield from (path for path in candidates if (path / ".batchrunner" / "journal.db").is_file())
