"""The data that leaves the machine, by kind and destination."""

from dataclasses import replace

from batchrunner.plan import render
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


def test_hosts_and_buckets_of_urls_are_listed_once() -> None:
    image = make_job("a").inputs["image"]
    urls = (
        "https://B.example.com?x=a/b",
        "https://b.example.com:443/y",
        "https://u@c.example.com/z/",
        "S3://clips/a/b",
    )
    jobs = [replace(make_job("a"), inputs={"image": image._replace(uri=url)}) for url in urls]
    egress = collect(jobs, "api.example.com", [], None)
    assert (egress.urls, egress.url_hosts) == (4, ("b.example.com", "c.example.com", "s3://clips"))


def test_a_plan_without_submissions_sends_nothing() -> None:
    assert collect([], "api.example.com", [], None) == Egress("api.example.com")


def test_staged_inputs_are_counted_once_and_not_as_data() -> None:
    job = make_job("a")
    large = job.inputs["video"]._replace(uri=None, sha256="a" * 64, size_bytes=70)
    small = job.inputs["image"]._replace(uri=None, sha256="b" * 64, size_bytes=3)
    jobs = [replace(job, inputs={"video": large, "image": small}) for _ in range(2)]
    egress = collect(jobs, "api.example.com", [], None, "s3://clips/staged/", lambda media: media is large)
    assert (egress.stage, egress.staged, egress.staged_bytes) == ("s3://clips/staged/", 1, 70)
    assert (egress.files, egress.file_bytes) == (2, 6)
    assert egress.as_facts()["staged"] == 1
    assert "staged" not in collect(jobs, "api.example.com", [], None).as_facts()
    text = "\n".join(render._leaving(egress))
    assert "1 local input, 70 bytes, uploaded to s3://clips/staged/, except those that are there already" in text
