"""Progress output: lines without a terminal, a screen on one, and no effect on the run."""

import io
import os
import re
import select
import sys
import termios
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import pytest

from batchrunner.errors import Problem
from batchrunner.events import (
    Alive,
    CallFailed,
    CallHealthChanged,
    CapChanged,
    Event,
    JobMoved,
    Noticed,
    RunEnding,
    RunFinished,
    RunStarted,
    Stopping,
)
from batchrunner.job import TRANSITIONS, Job, Media, Move, Record, Result, State, advance
from batchrunner.progress.progress import Progress, make_progress

NOW = 1_795_384_500.0
JOB = Job("sha256:" + "0" * 64, "wan", {"video": Media("video", "a.mp4"), "image": Media("image", "a.png")}, {})
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


WAITS = "; jobs wait, and the run tries again by itself"


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "30")


def moved(at: float, name: str, record: Record, move: Move, **fields: object) -> tuple[JobMoved, Record]:
    after = advance(record, move, **fields)  # type: ignore[arg-type]  # fields of an attempt
    return JobMoved(NOW + at, (name,) if name else (), move, after), after


def started(count: int = 4) -> RunStarted:
    return RunStarted(NOW, "heroes", "sandbox", "output/heroes", 4, {State.PENDING: count})


def finished(status: int = 0) -> RunFinished:
    states = {State.SUCCEEDED: 1, State.FAILED: 1, State.IN_DOUBT: 1, State.PENDING: 1}
    return RunFinished(NOW + 12, status, states, ("output/heroes/report.html",), "1 of 4 jobs succeeded.")


def failed(at: float, name: str, message: str = "no face") -> JobMoved:
    job = replace(JOB, fingerprint=f"sha256:{name}")
    return JobMoved(NOW + at, (name,), Move.FAIL, Record(job, State.FAILED, (), Problem("face", message)))


def story(status: int = 1) -> list[Event]:
    """One job succeeds, one fails, one is left in doubt, one is not submitted."""
    clip = Result(1_200_000, "ab" * 32, 480, 480, 2.4, ("it is longer than its reference",))
    events: list[Event] = [started()]
    records = {}
    for name in ("hero", "villain", "extra"):
        job = replace(JOB, fingerprint=f"sha256:{name}")
        event, records[name] = moved(1, name, Record(job), Move.BEGIN_SUBMIT, request_id="r", submitted_at=NOW)
        events.append(event)
    event, hero = moved(2, "hero", records["hero"], Move.ACCEPT, generation_id="id:1/x", accepted_at=NOW)
    event2, villain = moved(2, "villain", records["villain"], Move.ACCEPT, generation_id="id:2", accepted_at=NOW)
    event3, _ = moved(3, "hero", replace(hero, result=clip), Move.DELIVER)
    event4, _ = moved(4, "villain", villain, Move.FAIL, error=Problem("face", "no face", "Use another image."))
    event5, _ = moved(5, "extra", records["extra"], Move.DOUBT, error=Problem("timeout", "no answer"))
    refused = CallFailed(NOW + 6, ("late",), "submit", Problem("rate_limited", "Too Many Requests"), 2.3)
    events += [event, event2, event3, event4, event5, refused]
    events += [Noticed(NOW + 7, ("hero",), "unknown status word 'dreaming'"), Stopping(NOW + 8, "out of credits")]
    return [*events, finished(status)]


def lines(events: Sequence[Event], *, quiet: bool = False, plain: bool = False) -> list[str]:
    stream = io.StringIO()
    with make_progress(stream=stream, quiet=quiet, plain=plain) as progress:
        for event in events:
            progress(event)
    return stream.getvalue().splitlines()


def said(events: Sequence[Event]) -> list[str]:
    """Return lines without their time."""
    return [line.split(" ", 1)[1] for line in lines(events)]


def test_without_a_terminal_each_event_is_a_plain_line_with_its_time() -> None:
    assert lines(story()) == [
        "2026-11-22T21:55:00.000Z heroes: 4 jobs on sandbox (4 waiting), at most 4 in flight, into output/heroes",
        "2026-11-22T21:55:02.000Z hero: accepted: generation id:1/x",
        "2026-11-22T21:55:02.000Z villain: accepted: generation id:2",
        "2026-11-22T21:55:03.000Z hero: succeeded: 1.2 MB, 480x480, 2.4 s; it is longer than its reference",
        "2026-11-22T21:55:04.000Z villain: failed: no face (Use another image.)",
        "2026-11-22T21:55:05.000Z extra: in doubt: no answer",
        "2026-11-22T21:55:06.000Z late: submit failed: Too Many Requests; again in 2.3 s",
        "2026-11-22T21:55:07.000Z hero: unknown status word 'dreaming'",
        "2026-11-22T21:55:08.000Z stopping: out of credits",
        "2026-11-22T21:55:12.000Z 1 of 4 jobs succeeded.",
    ]


def test_quiet_prints_only_events_that_need_a_person() -> None:
    shown = [line.split(" ", 1)[1] for line in lines(story(), quiet=True)]
    assert shown == ["stopping: out of credits", "1 of 4 jobs succeeded."]
    retried: list[Event] = [started(), failed(1, "villain"), Alive(NOW + 900), finished(0)]
    assert lines(retried, quiet=True) == [], "it recovered, so nobody has to act"


def test_quiet_prints_refusals_of_the_account_and_of_the_webhook() -> None:
    paused = CallHealthChanged(NOW + 1, "submit", "paused", "out of credits", NOW + 60)
    shown = lines([started(), paused, finished(0), Noticed(NOW + 13, (), "the summary was not posted")], quiet=True)
    assert [line.split(" ", 1)[1] for line in shown] == [
        f"submissions paused: out of credits{WAITS}",
        "the summary was not posted",
    ]


def test_an_outage_is_printed_when_it_begins_and_when_it_ends() -> None:
    events: list[Event] = [started(), CallHealthChanged(NOW + 1, "poll", "down", "502", NOW + 6)]
    events += [
        CallHealthChanged(NOW + n, call, "down", "502", NOW + n + 9)
        for n in range(2, 90)
        for call in ("poll", "submit")
    ]
    events += [CallHealthChanged(NOW + 91, "poll", "fine", ""), CallHealthChanged(NOW + 100, "submit", "fine", "")]
    events += [CallHealthChanged(NOW + 101, "download", "fine", "")]
    assert said(events)[1:] == [f"polls down: 502{WAITS}", "the service answers again, after 1 min 39 s"]


def test_the_end_of_a_bucket_outage_names_the_bucket() -> None:
    events: list[Event] = [started(), CallHealthChanged(NOW + 1, "deliver", "unreachable", "no route", NOW + 6)]
    events += [CallHealthChanged(NOW + 100, "deliver", "fine", "")]
    assert said(events)[2:] == ["the bucket answers again, after 1 min 39 s"]


def test_an_outage_that_becomes_an_account_failure_is_printed_again() -> None:
    events: list[Event] = [started(), CallHealthChanged(NOW + 1, "poll", "down", "502", NOW + 6)]
    events += [CallHealthChanged(NOW + 2, "submit", "paused", "out of credits", NOW + 60)] * 3
    assert said(events)[1:] == [f"polls down: 502{WAITS}", f"submissions paused: out of credits{WAITS}"]


def test_each_warning_is_printed_once_and_then_counted() -> None:
    events: list[Event] = [started(200)]
    events += [failed(n / 10, f"villain-{n}") for n in range(100)]
    events += [failed(11, "odd", "something else"), Alive(NOW + 400), failed(401, "villain-again")]
    assert said(events)[1:] == [
        "villain-0: failed: no face",
        "odd: failed: something else",
        "99 more like this: villain-99: failed: no face",
        "101 of 301 done, 0 in flight, 101 failed",
    ]
    assert said([*events, Alive(NOW + 800)])[-2] == "1 more like this: villain-again: failed: no face"
    assert said([*events[:90], finished(1)])[-2] == "88 more like this: villain-88: failed: no face"


def test_a_hint_and_a_notice_about_the_run_are_printed_once() -> None:
    def failure(at: float, message: str) -> JobMoved:
        return JobMoved(NOW + at, ("a",), Move.FAIL, Record(JOB, State.FAILED, (), Problem("face", message, "Look.")))

    full = Noticed(NOW, (), "the disk is nearly full")
    shown = said([started(), failure(1, "no face"), failure(2, "two faces"), full, full, Alive(NOW + 9), full])
    assert shown[1:] == ["a: failed: no face (Look.)", "a: failed: two faces", "the disk is nearly full"]


LONG = "park-in-the-morning-with-long-shadows-and-mist-over-the-water-480p-astronaut"


def plain_lines(events: Sequence[Event], stream: io.StringIO | None = None) -> list[str]:
    stream = stream or Terminal()
    with make_progress(stream=stream, quiet=False, plain=True) as progress:
        for event in events:
            progress(event)
    return ESCAPES.sub("", stream.getvalue()).splitlines()


def named(*ids: str) -> RunStarted:
    return started()._replace(ids={f"sha256:{name}": (name,) for name in ids})


def test_on_a_terminal_lines_have_local_times_marks_and_short_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Vienna")
    time.tzset()
    ids = (f"{LONG}-1.t2", f"{LONG}-2.t2", "short")
    try:
        shown = plain_lines(
            [
                named(*ids),
                failed(1, ids[0]),
                JobMoved(NOW + 2, (ids[1],), Move.DELIVER, Record(JOB, State.SUCCEEDED)),
                failed(3, "short", "another"),
                Noticed(NOW + 2 * 3600, (), "the disk is nearly full"),
                finished(0),
            ]
        )
    finally:
        monkeypatch.undo()
        time.tzset()
    assert shown == [
        "Sun 22 Nov 2026, CET",
        "22:55:00   heroes: 4 jobs on sandbox (4 waiting), at most 4 in flight, into output/heroes",
        "22:55:01 ✗ park-in-the-morning-…480p-astronaut-1.t2: failed: no face",
        "22:55:02 ✓ park-in-the-morning-…480p-astronaut-2.t2: succeeded",
        "22:55:03 ✗ short: failed: another",
        "Mon 23 Nov 2026, CET",
        "00:55:00 ! the disk is nearly full",
        "",
        "1 of 4 jobs succeeded.",
    ]


def test_on_a_terminal_lines_are_broken_between_their_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    _, record = moved(1, "", Record(JOB), Move.BEGIN_SUBMIT, request_id="r", submitted_at=NOW)
    accepted, _ = moved(1, f"{LONG}-1", record, Move.ACCEPT, generation_id="g" * 30 + "-end", accepted_at=NOW)
    _, *shown = plain_lines([named(f"{LONG}-1"), accepted])
    assert all(len(line) <= 50 for line in shown)
    assert " ".join(line[11:] for line in shown).split()[-3:] == [
        "accepted:",
        "generation",
        "gggggggggggg…ggggggg-end",
    ]


def test_files_have_whole_ids_and_utc_only() -> None:
    events: list[Event] = [named(f"{LONG}-1"), failed(1, f"{LONG}-1")]
    assert plain_lines(events, io.StringIO())[-1] == f"2026-11-22T21:55:01.000Z {LONG}-1: failed: no face"


class AsciiTerminal(Terminal):
    encoding = "ascii"


@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
@pytest.mark.parametrize("stream", [AsciiTerminal, Terminal])
def test_marks_are_ascii_where_the_terminal_lacks_them(
    stream: type[Terminal], term: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term)
    shown = plain_lines([named(f"{LONG}-1", f"{LONG}-2"), failed(1, f"{LONG}-1")], stream())[-1]
    is_plain = stream is AsciiTerminal or term == "dumb"
    assert ("x park-in-the-morning-~er-480p-astronaut-1" in shown) is is_plain
    assert shown.isascii() is is_plain


def test_a_heartbeat_is_printed_every_five_minutes() -> None:
    ticks: list[Event] = [Alive(NOW + n / 4) for n in range(4 * 1000)]
    event, _ = moved(1, "hero", Record(JOB), Move.BEGIN_SUBMIT, request_id="r", submitted_at=NOW)
    assert said([started(), event, *ticks])[1:] == ["0 of 4 done, 1 in flight"] * 3
    assert said([*ticks]) == [], "before the start there is nothing to print"


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_heartbeat_follows_the_end_of_the_run(form: str) -> None:
    stream = io.StringIO()
    with make_progress(stream=stream, quiet=False, plain=True, log_format=form) as progress:
        for event in (started(), Alive(NOW + 301), RunEnding(NOW + 302), Alive(NOW + 700), finished()):
            progress(event)
        progress(Alive(NOW + 1400))
    shown = stream.getvalue().splitlines()
    assert "1 of 4 jobs succeeded." in shown[-1]
    assert len(shown) == 3, "the report is written after the end of the run; no heartbeat follows that end"


def test_a_clock_that_is_set_back_does_not_stop_the_heartbeat() -> None:
    ticks: list[Event] = [Alive(NOW - 7200 + n) for n in range(700)]
    assert len(said([started(), *ticks])) == 1 + 3


def test_reductions_of_the_cap_and_its_full_recovery_are_printed() -> None:
    caps = [CapChanged(NOW + n, cap, 8) for n, cap in enumerate([4, 5, 6, 7, 8])]
    assert said([started(), CapChanged(NOW, 8, 8), *caps])[2:] == [
        "at most 4 of 8 in flight from now on",
        "at most 8 of 8 in flight from now on",
    ]


def test_every_move_can_be_printed_without_optional_values() -> None:
    for (state, move), after in TRANSITIONS.items():
        event = JobMoved(NOW, (), move, Record(JOB, after))
        printed = lines([RunStarted(NOW, "n", "p", "d", 1, {state: 1}), event])[1:]
        assert len(printed) == (move not in {Move.BEGIN_SUBMIT, Move.REFUSE}), move


def test_a_notice_about_the_run_names_no_job() -> None:
    assert lines([Noticed(NOW, (), "the disk is nearly full")]) == ["2026-11-22T21:55:00.000Z the disk is nearly full"]


def test_long_lines_are_not_broken_and_long_lists_of_names_are_cut() -> None:
    ids = tuple(f"hero-{number}" for number in range(10))
    assert lines([Noticed(NOW, ids, "x" * 400)]) == [
        "2026-11-22T21:55:00.000Z hero-0, hero-1, hero-2 and 7 more: " + "x" * 400
    ]
    assert len(lines([Noticed(NOW, ids, "x" * 4000)])[0]) < 600


EVIL = "\x1b[2J\x1b]0;title\x07\r\nroot# \u202e[bold red]\x9b31m\ud800"


def evil_events() -> list[Event]:
    problem = Problem("bad", EVIL, EVIL)
    return [
        RunStarted(NOW, EVIL, EVIL, EVIL, 4, {State.PENDING: 1}),
        JobMoved(NOW, (EVIL,), Move.DOUBT, Record(JOB, State.IN_DOUBT, (), problem)),
        CallFailed(NOW, (EVIL,), "poll", problem, 1.0),
        Noticed(NOW, (EVIL,), EVIL),
        Stopping(NOW, EVIL),
        CallHealthChanged(NOW, "poll", "down", EVIL, NOW + 9),
        Alive(NOW + 2),
        RunFinished(NOW, 1, {}, (EVIL,), EVIL),
    ]


@pytest.mark.parametrize("terminal", [False, True])
def test_hostile_text_is_escaped_in_lines(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    stream = Terminal() if terminal else io.StringIO()
    with make_progress(stream=stream, quiet=False, plain=True) as progress:
        for event in evil_events():
            progress(event)
    printed = ESCAPES.sub("", stream.getvalue()).splitlines()
    assert len(printed) == (9 if terminal else 7)  # the day, and a blank line before the closing block
    assert all(line.isprintable() for line in printed)
    assert "\\x1b[2J\\x1b]0;title\\x07\\r\\nroot# \\u202e[bold red]\\x9b31m\\ud800" in printed[4 if terminal else 3]


def test_hostile_text_is_escaped_on_the_screen() -> None:
    stream = Terminal()
    with make_progress(stream=stream, quiet=False, plain=False) as progress:
        for event in evil_events():
            progress(event)
    text = stream.getvalue()
    assert "\\x1b[2J" in text
    assert not re.search("\x1b\\[2J|\x07|\x9b|\u202e|\ud800|\x1b\\]", text)


def test_a_links_secret_is_not_shown() -> None:
    printed = lines([Noticed(NOW, (), "GET https://user:pass@cdn.example/clip.mp4?sig=SECRET failed")])[0]
    assert "SECRET" not in printed
    assert "pass" not in printed
    assert "cdn.example/clip.mp4" in printed


def live(events: Sequence[Event]) -> tuple[Terminal, Progress]:
    stream = Terminal()
    progress = make_progress(stream=stream, quiet=False, plain=False)
    for event in events:
        progress(event)
    return stream, progress


def test_a_terminal_shows_a_screen_and_then_the_final_lines() -> None:
    before = threading.active_count()
    stream, progress = live([*story()[:-1], Alive(NOW + 9)])
    assert threading.active_count() == before, "it starts no thread"
    shown = ESCAPES.sub("", stream.getvalue())
    assert "3 of 4" in shown
    assert "1 succeeded, 1 failed, 1 in doubt" in shown
    assert "stopping: out of credits" in shown
    assert "villain: no face" in shown
    progress(finished(1))
    text = stream.getvalue()
    assert ESCAPES.sub("", text).rstrip().endswith("1 of 4 jobs succeeded.")
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is visible again
    progress(Noticed(NOW + 13, (), "the summary was not posted"))
    assert ESCAPES.sub("", stream.getvalue()).rstrip().endswith("the summary was not posted")


def test_a_run_that_raises_restores_the_terminal() -> None:
    stream = Terminal()
    stderr = sys.stderr
    with suppress(KeyboardInterrupt), make_progress(stream=stream, quiet=False, plain=False) as progress:
        progress(started())
        raise KeyboardInterrupt
    assert "\x1b[?25h" in stream.getvalue().rpartition("\x1b[?25l")[2]
    assert sys.stderr is stderr


def test_frames_follow_the_time_and_not_the_events() -> None:
    record = Record(JOB, State.SUBMITTING)
    many: list[Event] = [JobMoved(NOW + n / 1000, ("hero",), Move.BEGIN_SUBMIT, record) for n in range(1, 1000)]
    stream, progress = live([started(2000), *many])
    assert stream.getvalue().count("of 2,000") == 1
    for tick in range(1, 5):
        progress(Alive(NOW + 1 + tick / 4))  # one frame shows the event, and the frame a second later shows the time
    assert stream.getvalue().count("of 2,000") == 2
    progress(Alive(NOW + 2.25))
    assert stream.getvalue().count("of 2,000") == 3
    with progress:
        pass


def test_jobs_of_earlier_manifests_do_not_count() -> None:
    stream, progress = live(
        [started(1), JobMoved(NOW + 1, (), Move.DELIVER, Record(JOB, State.SUCCEEDED)), Alive(NOW + 2)]
    )
    with progress:
        pass
    shown = ESCAPES.sub("", stream.getvalue())
    assert "0 of 1" in shown
    assert "1 of 1" not in shown
    assert "of 2" not in shown


@pytest.mark.parametrize(
    ("quiet", "plain", "term"), [(True, False, "xterm"), (False, True, "xterm"), (False, False, "dumb")]
)
def test_the_screen_can_be_switched_off(quiet: bool, plain: bool, term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", term)
    stream = Terminal()
    with make_progress(stream=stream, quiet=quiet, plain=plain) as progress:
        for event in story():
            progress(event)
    assert "\x1b[?25l" not in stream.getvalue()
    assert "stopping: out of credits" in stream.getvalue()


def test_colour_follows_the_usual_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any("\x1b" in line for line in lines(story()))
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert any("\x1b[1;31m" in line for line in lines(story()))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not any("31m" in line for line in lines(story()))
    stream, progress = live(story()[:-1])
    with progress:
        pass
    assert not re.search("\x1b\\[[0-9;]*3[0-7]m", stream.getvalue())


def test_a_stream_without_terminal_methods_gets_the_text() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    with make_progress(stream=stream, quiet=False, plain=False) as progress:
        progress(Noticed(NOW, ("hero",), "Straße 漢"))
    stream.flush()
    assert b"Stra\\xdfe \\u6f22" in raw.getvalue()


class Broken(Terminal):
    """A terminal that disappears after the given number of writes."""

    def __init__(self, error: Exception, good: int) -> None:
        super().__init__()
        self.error = error
        self.good = good
        self.failed = 0

    def write(self, text: str) -> int:
        if self.good:
            self.good -= 1
            return len(text)
        self.failed += 1
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(5, "gone"), ValueError("closed")])
@pytest.mark.parametrize("good", [0, 1, 4])
@pytest.mark.parametrize("form", ["plain", "live", "json"])
def test_a_terminal_that_disappears_does_not_affect_the_run(error: Exception, form: str, good: int) -> None:
    stderr = sys.stderr
    stream = Broken(error, good)
    log_format = "json" if form == "json" else "text"
    with make_progress(stream=stream, quiet=False, plain=form == "plain", log_format=log_format) as progress:
        for event in [*story()[:-1], Alive(NOW + 9), finished(1)]:
            progress(event)
    assert 1 <= stream.failed < 6
    assert sys.stderr is stderr


def test_a_stopped_terminal_skips_frames_and_blocks_nothing() -> None:
    """Ctrl-S blocks writes until Ctrl-Q. A run must not wait for that."""
    master, slave = os.openpty()
    termios.tcflow(slave, termios.TCOOFF)
    with os.fdopen(slave, "w", encoding="utf-8") as stream:
        view = make_progress(stream=stream, quiet=False, plain=False)
        ended = threading.Event()

        def run() -> None:
            events: list[Event] = [started(), *(Alive(NOW + n) for n in range(1, 9))]
            for event in events:
                view(event)
            ended.set()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        held_up = not ended.wait(10)
        termios.tcflow(slave, termios.TCOON)
        thread.join()
        assert not held_up
        view(Alive(NOW + 20))
        drawn = b""
        while select.select([master], [], [], 0)[0]:
            drawn += os.read(master, 65536)
        assert b"heroes on sandbox" in drawn
        with view:
            pass
    os.close(master)
