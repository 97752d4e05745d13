"""The screen of a run in another process is the same as one computed from all of its records."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from batchrunner.app.run_started import opened, reopened
from batchrunner.job import Entry, JobNames, State
from batchrunner.journal import journal, live_view
from batchrunner.plan.prices import Prices
from batchrunner.progress.model import Model
from batchrunner.progress.screen import draw
from tests.conftest import NOW, make_job, make_record, make_run, remote
from tests.journal.test_summary import any_record, stored

PRICES = Prices({"480p": 1000.0})


def screen(model: Model) -> str:
    model.at = NOW + 40
    return "\n".join("".join(text for text, _ in spans) for spans in draw(model, 120, 60))


@pytest.mark.parametrize("latest", [1000, 2])
@pytest.mark.parametrize("seed", range(15))
def test_the_screen_is_the_same_as_from_all_records(
    tmp_path: Path, seed: int, latest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_view, "_MOVING", live_view._MOVING.replace("LIMIT 1000", f"LIMIT {latest}"))
    rng = Random(seed)
    names = [f"j{number}" for number in range(rng.choice([1, 8, 40]))]
    records = [any_record(rng, name) for name in names]
    lengths = [None, 2.0, 3.5]
    jobs = {name: make_job(name, video=remote()._replace(duration_s=rng.choice(lengths))) for name in names}
    records = [replace(record, job=jobs[name]) for name, record in zip(names, records, strict=True)]
    named = rng.sample(names, len(names) * 3 // 4 or 1) if seed % 2 else names
    entries = [Entry(place, f"id{place}", jobs[name]) for place, name in enumerate(named)]
    path = stored(tmp_path, make_run(settings_json=json.dumps({})), entries, records)
    snapshot, batch = journal.read(path), live_view.moving(path, 0.0)
    assert snapshot is not None
    assert batch is not None
    whole, partial = Model(), Model()
    whole.take(opened(snapshot.run, "out", JobNames(snapshot.entries), snapshot.records, PRICES))
    partial.take(reopened(batch, "out", PRICES))
    assert screen(partial) == screen(whole)
    assert partial.spend.worst == pytest.approx(whole.spend.worst)
    assert partial.expected_credits == pytest.approx(whole.expected_credits)
    assert partial.unpriced == whole.unpriced
    assert partial.per_hour() == whole.per_hour()
    assert len(partial.records) <= len(whole.records)


def test_few_rows_are_read_of_finished_and_waiting_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_view, "_MOVING", live_view._MOVING.replace("LIMIT 1000", "LIMIT 10"))
    done = [make_record(f"s{number:03d}", State.SUCCEEDED, 1) for number in range(100)]
    done = [record.with_attempt(outcome="succeeded", completed_at=NOW + 5, ended_at=NOW + 6) for record in done]
    waiting = [make_record(f"p{number:03d}") for number in range(100)]
    flying = [make_record("f", State.IN_FLIGHT)]
    records = [*done, *waiting, *flying]
    entries = [Entry(place, f"id{place}", record.job) for place, record in enumerate(records)]
    batch = live_view.moving(stored(tmp_path, make_run(), entries, records), 0.0)
    assert batch is not None
    assert len(batch.records) == 11
    assert [number for _, number in batch.waiting] == [100]
    assert len(batch.ended_at) == 90
    assert live_view.moving(tmp_path / "none.db", 0.0) is None
