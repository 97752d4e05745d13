"""The data that leaves the machine, by kind and destination."""

from dataclasses import replace

from batchrunner.plan.egress import Egress, collect
from tests.conftest import make_job


def test_inputs_are_counted_as_data_or_by_host() -> None:
    job = make_job("a")
    local = job.inputs["video"]._replace(uri=None, size_bytes=70)
    inline = job.inputs["image"]._replace(uri="DATA:image/png;base64,AAAA", size_bytes=3)
    remote = job.inputs["image"]._replace(uri="https://b.example.com/x.png?sig=1", size_bytes=None)
    jobs = [
        replace(job, inputs={"video": local, "image": inline}),
        replace(job, inputs={"video": local, "image": remote}),
    ]
    egress = collect(jobs, "api.example.com", ["RES"], "hooks.example.com")
    assert egress == Egress("api.example.com", 2, 3, 143, 1, ("b.example.com",), ("RES",), "hooks.example.com")
    assert egress.as_facts()["url_hosts"] == ("b.example.com",)


def test_a_plan_without_submissions_sends_nothing() -> None:
    assert collect([], "api.example.com", [], None) == Egress("api.example.com")
