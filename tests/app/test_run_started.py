"""The start of a run says when it stops at the latest."""

import json

import pytest

from batchrunner.app.run_started import planned_end
from batchrunner.events import PlannedEnd
from tests.conftest import NOW, make_run


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, None),
        ({"max_runtime_s": 3600.0, "deadline": None}, PlannedEnd(NOW + 3600.0, "max_runtime")),
        ({"max_runtime_s": 10.0, "deadline": "2099-01-31T06:00:00+00:00"}, PlannedEnd(NOW + 10.0, "max_runtime")),
        ({"deadline": "2099-01-31T06:00:00+00:00"}, PlannedEnd(4_073_522_400.0, "deadline")),
    ],
)
def test_the_nearer_limit_is_the_planned_end(settings: dict[str, object], expected: PlannedEnd | None) -> None:
    run = make_run(settings_json=json.dumps(settings))
    assert run.started_at == NOW
    assert planned_end(run) == expected
