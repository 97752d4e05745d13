"""The sandbox's pure modules: validation, faults, the world, ranges, log pages."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from batchrunner.errors import UsageError
from batchrunner.sandbox import Fault, SandboxConfig, inputs, logs
from batchrunner.sandbox.clips import marks
from batchrunner.sandbox.faults.file import parse
from batchrunner.sandbox.faults.rules import KINDS, OTHERS, REFUSED, UNREPLIED, Faults
from batchrunner.sandbox.file_host import CHANGED, _zeroed, plan
from batchrunner.sandbox.models import MODELS
from batchrunner.sandbox.replies import BENT, GENERATION_ERRORS, INSTEAD, Call, problem
from batchrunner.sandbox.validation import Order, check
from batchrunner.sandbox.world import Event, Generation, Rules, World, price

CLIP = "data:video/mp4;base64," + base64.b64encode(b"clip").decode()
PICTURE = "data:image/png;base64," + base64.b64encode(b"picture").decode()
VALID = {"model": MODELS[0].names[0], "video_url": CLIP, "image_url": "https://example.com/hero.png"}


def order(**changes: Any) -> Order:
    result = check(json.dumps(VALID | changes).encode())
    assert isinstance(result, Order), result
    return result


def issues(**changes: Any) -> list[dict[str, Any]]:
    result = check(json.dumps(VALID | changes).encode())
    assert isinstance(result, list), result
    return result


# Validation


def test_a_valid_request_has_the_documented_defaults() -> None:
    assert order().params == {
        "resolution": "480p",
        "num_inference_steps": 20,
        "shift": 5,
        "video_quality": "high",
        "video_write_mode": "balanced",
    }
    assert order().inputs["video"].data == b"clip"
    assert order().inputs["image"].data is None


@pytest.mark.parametrize(
    ("field", "value", "code", "message"),
    [
        ("model", "kling", "invalid_enum_value", "received 'kling'"),
        ("model", None, "invalid_type", "received null"),
        ("video_url", 3, "invalid_type", "Expected string, received number"),
        ("video_url", "clip.mp4", "invalid_string", "Invalid url"),
        ("video_url", "ftp://example.com/a.mp4", "invalid_string", "Invalid url"),
        ("video_url", "https://", "invalid_string", "Invalid url"),
        ("video_url", "https://[::1/a", "invalid_string", "Invalid url"),
        ("video_url", "https://a.example/\ud800", "invalid_string", "Invalid url"),
        ("video_url", PICTURE, "custom", "data:video/"),
        ("video_url", "data:video/mp4;base64,a?b=", "custom", "cannot be decoded"),
        ("video_url", "data:video/mp4;base64,YWJ", "custom", "cannot be decoded"),
        ("video_url", "data:video/mp4;base64,é", "custom", "cannot be decoded"),
        ("video_url", "data:video/mp4;base64,", "custom", "empty"),
        ("video_url", "data:video/mp4,abc", "custom", "base64"),
        ("image_url", CLIP, "custom", "data:image/"),
        ("image_url", [], "invalid_type", "received array"),
        ("resolution", "480P", "invalid_enum_value", "Expected '480p' | '580p' | '720p', received '480P'"),
        ("resolution", 480, "invalid_type", "received number"),
        ("num_inference_steps", "20", "invalid_type", "Expected number, received string"),
        ("num_inference_steps", 2.5, "invalid_type", "Expected integer, received float"),
        ("num_inference_steps", True, "invalid_type", "received boolean"),
        ("shift", {}, "invalid_type", "received object"),
        ("shift", 10**400, "invalid_type", "received number"),
        ("enable_safety_checker", "yes", "invalid_type", "Expected boolean, received string"),
        ("video_quality", "best", "invalid_enum_value", "received 'best'"),
        ("video_write_mode", "", "invalid_enum_value", "received ''"),
    ],
)
def test_an_invalid_field_is_one_issue_with_its_path(field: str, value: Any, code: str, message: str) -> None:
    (issue,) = issues(**{field: value})
    assert issue["code"] == code
    assert issue["path"] == [field]
    assert message in issue["message"]


def test_an_enum_issue_has_the_captured_shape() -> None:
    (issue,) = issues(resolution="768P")
    assert list(issue) == ["received", "code", "options", "path", "message"]
    assert issue["options"] == ["480p", "580p", "720p"]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"shift": NaN}', b"[" * 100_000, b'{"shift": 1' + b"0" * 9999])
def test_invalid_json_is_one_issue(body: bytes) -> None:
    (issue,) = check(body)  # type: ignore[misc]
    assert "JSON" in issue["message"]


def test_all_missing_fields_are_reported_together() -> None:
    found = check(b"{}")
    assert isinstance(found, list)
    assert [(issue["path"], issue["message"]) for issue in found] == [
        ([name], "Required") for name in ("model", "video_url", "image_url")
    ]
    assert isinstance(check(b"[]"), list)


def test_unknown_keys_are_dropped_and_whole_floats_are_integers() -> None:
    assert order(seed=3).fingerprint == order().fingerprint
    assert order(num_inference_steps=20.0).fingerprint == order().fingerprint


@pytest.mark.parametrize(
    "query",
    ["X-Amz-Date=1&X-Amz-Signature={}", "x-goog-signature={}&X-Goog-Expires=1", "sv=1&sig={}"],
)
def test_links_to_one_object_have_one_fingerprint_however_often_they_are_signed(query: str) -> None:
    link = "https://store.example.com/clips/walk.mp4"
    signed = [order(video_url=f"{link}?{query.format(number)}") for number in ("a1", "b2")]
    assert {item.fingerprint for item in signed} == {order(video_url=link).fingerprint}
    assert order(video_url=f"{link}?take=1").fingerprint != order(video_url=link).fingerprint


def test_the_fingerprint_depends_on_the_content() -> None:
    other = "data:video/quicktime;base64," + base64.b64encode(b"clip").decode()
    assert order(video_url=other).fingerprint == order().fingerprint
    changes: list[dict[str, Any]] = [{"shift": 6}, {"image_url": PICTURE}, {"model": MODELS[1].names[0]}]
    changed = {order(**change).fingerprint for change in changes}
    assert len(changed | {order().fingerprint}) == 4


# Faults


def test_draws_do_not_depend_on_the_order_of_calls() -> None:
    rules = [Fault("poll", "unavailable", rate=0.5)]
    calls = [f"id-{number % 20}" for number in range(200)]

    def befallen(sequence: list[str]) -> set[tuple[str, int]]:
        faults, seen, hit = Faults(rules, seed=7), dict.fromkeys(calls, 0), set()
        for identity in sequence:
            seen[identity] += 1
            if faults.decide("poll", identity, 0):
                hit.add((identity, seen[identity]))
        return hit

    assert befallen(calls) == befallen(sorted(calls))
    assert 60 < len(befallen(calls)) < 140


def test_all_conditions_of_a_rule_must_be_met() -> None:
    faults = Faults([Fault("poll", "cut", first=2, each_first=1, between_s=(10, 20))])
    fired = [
        bool(faults.decide("poll", identity, at))
        for identity, at in [("a", 9.9), ("a", 10), ("a", 11), ("b", 12), ("c", 13), ("d", 20)]
    ]
    assert fired == [False, True, False, True, False, False]


def test_a_kind_waits_for_a_generation_in_its_state() -> None:
    faults = Faults([Fault("poll", "no_url", first=1)])
    assert faults.decide("poll", "a", 0, "pending") is None
    assert faults.decide("poll", "a", 0, "completed")
    assert faults.decide("submit", "a", 0) is None


def test_every_kind_has_an_effect() -> None:
    ways = {"hang", "hang_before", "cut", "cut_before", "lost_reply"}
    downloads = {"truncated", "short", "zeros", "slow", "no_range", "changed_etag", *CHANGED}
    downloads |= {"signed_redirect", "cookie_redirect"}
    known = (
        set(INSTEAD) | set(BENT) | set(GENERATION_ERRORS) | {"stuck", "odd_length", "overcharged"} | ways | downloads
    )
    known |= OTHERS | {"unfiltered"} | set(inputs.STATUSES)
    assert {kind for kinds in KINDS.values() for kind in kinds} == known
    assert set(KINDS["submit"]) >= REFUSED | UNREPLIED
    assert not REFUSED & UNREPLIED


def test_a_faults_file_is_read(tmp_path: Any) -> None:
    path = tmp_path / "faults.yaml"
    path.write_text(
        "- {on: submit, kind: lost_reply, rate: 0.05}\n"
        "- {on: download, kind: slow, first: 3, each: 1, between: [60s, 1.5m], delay: 500ms}\n"
    )
    rules = (
        Fault("submit", "lost_reply", rate=0.05),
        Fault("download", "slow", first=3, each_first=1, between_s=(60, 90), delay_s=0.5),
    )
    assert SandboxConfig(seed=5).with_faults(path) == SandboxConfig(seed=5, faults=rules)
    path.write_text("")
    assert SandboxConfig(seed=5).with_faults(path) == SandboxConfig(seed=5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("poll", "list of rules"),
        ("outage: []", "key: 'outage' is not known"),
        ("- poll", "faults 1: this is a mapping of on, kind"),
        ("- {on: [", "f.yaml:1:"),
        ("- {on: poll, kind: cut}\n- {on: polls, kind: cut}", "faults 2: on: 'polls'"),
        ("- {on: poll}", "kind is missing"),
        ("- {on: poll, kind: truncated}", "kind: 'truncated'"),
        ("- {on: poll, kind: cut, rates: 1}", "key: 'rates'"),
        ("- {on: poll, kind: cut, 3: 1}", "key: 3"),
        ("- {on: poll, kind: cut, rate: 1.5}", "rate: 1.5"),
        ("- {on: poll, kind: cut, rate: true}", "rate: True"),
        ("- {on: poll, kind: cut, first: 0}", "first: 0"),
        ("- {on: poll, kind: cut, between: [60, 90]}", "between: 60 is not a duration"),
        ("- {on: poll, kind: cut, between: [9s]}", "between: a window is two"),
        ("- {on: poll, kind: cut, between: [9s, 3s]}", "ends after it begins"),
        ("- {on: poll, kind: cut, delay: 3s}", "cut takes no delay"),
        ("- !!python/name:os.system x", "not YAML"),
    ],
)
def test_a_mistake_in_a_faults_file_is_reported_with_its_place(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text, "f.yaml")
    assert caught.value.message.startswith("f.yaml")
    assert message in caught.value.message


@pytest.mark.parametrize("content", [None, b"\xff\xfe\xfa"])
def test_an_unreadable_faults_file_is_a_usage_error(tmp_path: Any, content: bytes | None) -> None:
    path = tmp_path / "faults.yaml"
    if content:
        path.write_bytes(content)
    with pytest.raises(UsageError, match="cannot be read"):
        SandboxConfig().with_faults(path)


# The world

CONSTANT = Rules(capacity=2, queue_limit=1, queue_wait_s=1, duration_s=10, spread=0)


class Run:
    """Make a world that keeps its events, as the ledger does."""

    def __init__(self, rules: Rules = CONSTANT) -> None:
        self.world = World(rules)
        self.events: list[Event] = []

    def record(self, event: Event) -> None:
        self.events.append(event)
        self.world.apply(event)

    def accept(self, now: float, request_id: str | None = None, frames: int | None = 32, **more: Any) -> Generation:
        event = self.world.accept(order(), now, request_id=request_id, frames=frames)
        event |= {"request_id": "q", "fault": None} | more
        self.record(event)
        return self.world.generations[event["generation_id"]]

    def settle(self, now: float) -> list[str]:
        before = len(self.events)
        while event := self.world.next_event(now):
            self.record(event)
        return [event["event"] for event in self.events[before:]]


def test_a_generation_waits_runs_and_ends_when_it_is_also_rendered() -> None:
    run = Run()
    one = run.accept(100)
    assert (one.status, run.world.next_due()) == ("queued", 101)
    assert run.settle(100.9) == []
    assert run.settle(101) == ["started"]
    assert run.settle(111) == []  # its time is over, its clip is missing
    assert run.world.next_due() is None
    run.world.decide(one, {"event": "completed", "file": one.file})
    assert run.world.next_due() == 111
    assert run.settle(112) == ["completed"]
    assert one.status == "completed"


def test_capacity_and_queue_limit_apply() -> None:
    run = Run()
    generations = [run.accept(0) for _ in range(3)]
    assert not run.world.has_room()
    assert run.settle(5) == ["started", "started"]
    assert [one.status for one in generations] == ["generating", "generating", "queued"]
    for one in generations:
        run.world.decide(one, {"event": "completed"})
    assert run.settle(15) == ["completed", "completed", "started"]
    assert run.world.has_room()


def test_a_stuck_generation_never_ends() -> None:
    run = Run()
    one = run.accept(0, fault="stuck")
    run.settle(1)
    run.world.decide(one, {"event": "completed"})
    assert run.settle(1e9) == []
    assert run.world.next_due() is None


def test_money_is_held_then_charged_or_rolled_back() -> None:
    run = Run()
    good, bad = run.accept(0), run.accept(0)
    assert run.world.credits_held == 2 * price("480p", 32)
    run.settle(1)
    run.world.decide(good, {"event": "completed"})
    run.world.decide(bad, {"event": "failed", "error": {}})
    run.settle(11)
    assert (run.world.credits_held, run.world.credits_charged) == (0, price("480p", 32))


def test_a_second_of_sixteen_frames_has_the_price() -> None:
    assert price("720p", 32) == 2 * price("720p", 16) > price("480p", 32)
    assert price("480p", None) > 0


def test_ids_and_durations_depend_on_the_request_and_not_on_its_order() -> None:
    rules = Rules(seed=5)

    def drawn(request_ids: list[str]) -> dict[str, tuple[str, float]]:
        run = Run(rules)
        accepted = [run.accept(0, request_id).accepted for request_id in request_ids]
        return {one["client_request_id"]: (one["generation_id"], one["duration_s"]) for one in accepted}

    assert drawn(["a", "b", "c"]) == drawn(["c", "a", "b"])
    assert len(set(drawn(["a", "b", "c"]).values())) == 3
    run = Run(rules)
    assert run.accept(0).id != run.accept(0).id


def test_a_world_restored_from_its_events_is_equal() -> None:
    run = Run()
    ended, running, waiting = (run.accept(at) for at in (0, 0.1, 0.2))
    run.settle(3)
    run.world.decide(ended, {"event": "completed", "sha256": "x"})
    assert run.settle(13) == ["completed", "started"]
    other = World(CONSTANT)
    for event in json.loads(json.dumps(run.events)):
        other.apply(event)
    assert [one.status for one in other.generations.values()] == [one.status for one in (ended, running, waiting)]
    assert [one.ends_at for one in other.running()] == [one.ends_at for one in run.world.running()] == [13, 23]
    assert other.credits_held == run.world.credits_held > 0
    assert other.accept(order(), 9, request_id=None, frames=1) == run.world.accept(
        order(), 9, request_id=None, frames=1
    )


# Replies, ranges, logs


def test_the_problem_envelope_has_the_captured_fields() -> None:
    reply = problem(Call("/v2/video/generations?", "r", "2026-01-22T07:20:46.273Z"), 400, "m", [])
    assert reply.content_type == "application/problem+json"
    assert list(reply.body) == ["title", "status", "message", "instance", "requestId", "timestamp", "error"]
    assert reply.body["title"] == "Bad Request"
    assert reply.body["error"] == {"name": "BadRequestException", "message": "m", "data": []}


@pytest.mark.parametrize(
    ("range_header", "if_range", "expected"),
    [
        (None, None, (200, 0, 100)),
        ("bytes=0-9", None, (206, 0, 10)),
        ("bytes=90-", None, (206, 90, 10)),
        ("bytes=90-500", None, (206, 90, 10)),
        ("bytes=-5", None, (206, 95, 5)),
        ("bytes=-500", None, (206, 0, 100)),
        ("bytes=100-", None, (416, 0, 0)),
        ("bytes=-0", None, (416, 0, 0)),
        ("bytes=9-3", None, (200, 0, 100)),
        ("bytes=-", None, (200, 0, 100)),
        ("bytes=" + "9" * 5000 + "-", None, (200, 0, 100)),
        ("bytes=0-1,3-4", None, (200, 0, 100)),
        ("items=0-1", None, (200, 0, 100)),
        ("bytes=90-", '"e"', (206, 90, 10)),
        ("bytes=90-", '"old"', (200, 0, 100)),
    ],
)
def test_ranges_are_parsed(range_header: str | None, if_range: str | None, expected: tuple[int, int, int]) -> None:
    what = plan(100, '"e"', range_header, if_range)
    assert (what.status, what.start, what.length) == expected


def test_zeros_cover_the_same_bytes_in_every_range() -> None:
    whole = b"x" * 10_000
    pieces = b"".join(_zeroed(whole[at : at + 1000], at, 10_000) for at in range(0, 10_000, 1000))
    assert pieces == _zeroed(whole, 0, 10_000) == b"x" * 4000 + bytes(2000) + b"x" * 4000


def test_a_resumed_download_is_never_damaged_by_a_few_bytes_only() -> None:
    tail = b"x" * 4050
    assert _zeroed(tail, 5950, 10_000) == tail
    assert _zeroed(tail + b"x" * 50, 5900, 10_000).count(0) == 100


def paged(**query: str) -> list[str | None]:
    run = Run(Rules(queue_limit=9))
    for number in range(5):
        run.accept(number * 60, f"r{number}")
    first = run.world.generations
    if "cursor" in query:
        query["cursor"] = next(one.id for one in first.values() if one.accepted["client_request_id"] == query["cursor"])
    rows, _ = logs.page(list(first.values()), query, 240, SandboxConfig())
    return [row.accepted["client_request_id"] for row in rows]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ["r4", "r3", "r2", "r1", "r0"]),
        ({"period": "2m"}, ["r4", "r3", "r2"]),
        ({"limit": "2"}, ["r4", "r3"]),
        ({"limit": "2", "cursor": "r3"}, ["r2", "r1"]),
        ({"client_request_id": "r2"}, ["r2"]),
        ({"client_request_id": "r9"}, []),
    ],
)
def test_log_pages_are_filtered_and_limited(query: dict[str, str], expected: list[str]) -> None:
    assert paged(**query) == expected


@pytest.mark.parametrize("query", [{"period": "1y"}, {"limit": "0"}, {"limit": "101"}, {"limit": "²"}])
def test_an_unusable_log_query_names_its_parameter(query: dict[str, str]) -> None:
    with pytest.raises(logs.BadQuery, match=next(iter(query))):
        paged(**query)


def test_logs_can_be_late_and_can_omit_unfinished_generations() -> None:
    run = Run()
    run.accept(0)
    generations = list(run.world.generations.values())
    page: Callable[[float, SandboxConfig], Any] = lambda now, config: logs.page(generations, {}, now, config)[0]  # noqa: E731 (short)
    late, finished = SandboxConfig(log_delay_s=30), SandboxConfig(logs_in_flight=False)
    assert (len(page(29, late)), len(page(30, late)), len(page(30, finished))) == (0, 1, 0)
    row = logs.row(generations[0], "now")
    assert row["status"] == "processing"
    assert row["cost"] == {"usd": 0, "credits": 0}


def test_the_log_rate_limit_is_two_hundred_a_minute() -> None:
    rate = logs.CallRate()
    assert [rate.take(0) for _ in range(201)] == [True] * 200 + [False]
    assert rate.take(60)


# Marks


def test_a_clips_mark_identifies_it() -> None:
    marked = b"clip" + marks.mark("gen:model", "f" * 64, "run.job.1")
    mark = {"generation_id": "gen:model", "fingerprint": "f" * 64, "client_request_id": "run.job.1"}
    assert marks.read(marked) == mark
    assert int.from_bytes(marked[4:8], "big") == len(marked) - 4, "a complete box, which players skip"


def test_an_incomplete_mark_is_ignored() -> None:
    marked = b"clip" + marks.mark("gen:model", "f" * 64, None)
    assert [marks.read(content) for content in (b"", b"clip", marked[:-1], marked + b"x")] == [None] * 4
    assert marks.read(marked[:30].ljust(len(marked), b"\0")) is None
