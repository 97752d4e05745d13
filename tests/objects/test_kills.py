"""Runs with inputs and results in a bucket that are killed at random moments: CI's share of the soak in a bucket.

``python -m tests.soak --buckets --kills 100`` runs more of them.
"""

import signal
from pathlib import Path

from tests.objects.s3_server import Server
from tests.soak.buckets import soak_buckets
from tests.soak.soak import Plan

KILLS = 10


def test_kills_during_uploads_upload_nothing_twice_lose_nothing_and_pay_for_nothing_twice(
    server: Server, tmp_path: Path
) -> None:
    figures = soak_buckets(Plan(signal.SIGKILL, stops=KILLS, jobs=16), server, tmp_path)
    table = figures.table("SIGKILL")
    assert not figures.wrong, table
    assert figures.stops == KILLS, table
    assert figures.paid_twice == figures.lost == figures.bad_files == figures.twice == figures.missing == 0, table
    assert figures.in_doubt <= figures.active, table
    assert figures.accepted + figures.in_doubt >= figures.jobs, table
    assert figures.staging, "no kill met the upload of an input"
    assert figures.delivering, "no kill met the upload of a result"
