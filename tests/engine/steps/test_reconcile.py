"""The reconcile step: a provider that cannot search is not asked. The scenarios test what a search settles."""

import asyncio

import pytest

from batchrunner.engine.in_doubt import InDoubtJobs
from batchrunner.engine.steps.reconcile import Reconciler, Settled
from batchrunner.job import State
from tests.conftest import make_record
from tests.engine.steps.stepping import Service, Stepping


@pytest.mark.parametrize(("in_doubt", "freed"), [("hold", []), ("resubmit", [make_record("a").job.fingerprint])])
def test_a_provider_without_a_search_is_never_searched(in_doubt: str, freed: list[str]) -> None:
    """A submission in doubt stays in doubt, unless the user asks to submit it again."""
    stepping = Stepping(make_record("a", State.IN_DOUBT), Service(find_submissions=False), in_doubt=in_doubt)
    jobs = InDoubtJobs(15.0, 600.0, 10.0)
    jobs.found(stepping.fingerprint, 0.0, 0.0)
    reconciler = Reconciler(stepping.context)
    assert asyncio.run(reconciler.reconcile(jobs)) == Settled(freed=freed)
    assert stepping.record.state is (State.PENDING if freed else State.IN_DOUBT)
    assert not reconciler.log_offered
