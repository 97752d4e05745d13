"""Progress says what happened, shows no more than asked for, and never lets a terminal disturb the run."""

import io
import re
import sys
import threading
from contextlib import suppress

import pytest

from batchrunner.errors import Problem
from batchrunner.events import CallFailed, Event, JobMoved, Noticed, RunFinished, RunStarted, Stopping
from batchrunner.job import TRANSITIONS, Job, Media, Move, Record, Result, State, advance
from batchrunner.progress import Progress, make_progress

NOW = 1_795_384_500.0
JOB = Job("sha256:" + "0" * 64, "wan", Media("video", "a.mp4"), Media("image", "a.png"), {})
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


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


def moved(at: float, name: str, record: Record, move: Move, **fields: object) -> tuple[JobMoved, Record]:
    after = advance(record, move, **fields)  # type: ignore[arg-type]  # fields of an attempt
    return JobMoved(NOW + at, (name,) if name else (), move, after), after


def started(count: int = 4) -> RunStarted:
    return RunStarted(NOW, "heroes", "sandbox", "output/heroes", 4, {State.PENDING: count})


def finished(status: int = 0) -> RunFinished:
    states = {State.SUCCEEDED: 1, State.FAILED: 1, State.IN_DOUBT: 1, State.PENDING: 1}
    return RunFinished(NOW + 12, status, states, ("output/heroes/report.html",), "1 of 4 jobs succeeded.")


def story(status: int = 1) -> list[Event]:
    """One job succeeds, one fails, one is left in doubt, one is not submitted."""
    events: list[Event] = [started()]
    clip = Result(1_200_000, "ab" * 32, 480, 480, 2.4, ("it is longer than its reference",))
    event, record = moved(1, "hero", Record(JOB), Move.INTEND, request_id="r", submitted_at=NOW)
    sent = record
    event2, record = moved(2, "hero", record, Move.ACCEPT, generation_id="id:1/x")
    event3, _ = moved(3, "hero", Record(JOB, State.IN_FLIGHT, record.attempts, None, clip), Move.DELIVER)
    event4, _ = moved(4, "villain", record, Move.SPOIL, error=Problem("face", "no face", "Use another image."))
    event5, _ = moved(5, "extra", sent, Move.DOUBT, error=Problem("timeout", "no answer"))
    refused = CallFailed(NOW + 6, ("late",), "submit", Problem("rate_limited", "Too Many Requests"), 2.3)
    events += [event, event2, event3, event4, event5, refused]
    events += [Noticed(NOW + 7, ("hero",), "unknown status word 'dreaming'"), Stopping(NOW + 8, "out of credits")]
    return [*events, finished(status)]


def lines(events: list[Event], *, quiet: bool = False, plain: bool = False) -> list[str]:
    stream = io.StringIO()
    with make_progress(stream=stream, quiet=quiet, plain=plain) as progress:
        for event in events:
            progress(event)
    return stream.getvalue().splitlines()


def test_elsewhere_each_event_is_a_plain_line_with_its_time() -> None:
    assert lines(story()) == [
        "2026-11-22T21:55:00.000Z heroes: 4 jobs on sandbox (4 waiting), at most 4 in flight, into output/heroes",
        "2026-11-22T21:55:02.000Z hero: accepted: generation id:1/x",
        "2026-11-22T21:55:03.000Z hero: succeeded: 1.2 MB, 480x480, 2.4 s; it is longer than its reference",
        "2026-11-22T21:55:04.000Z villain: failed: no face (Use another image.)",
        "2026-11-22T21:55:05.000Z extra: in doubt: no answer",
        "2026-11-22T21:55:06.000Z late: submit failed: Too Many Requests; again in 2.3 s",
        "2026-11-22T21:55:07.000Z hero: unknown status word 'dreaming'",
        "2026-11-22T21:55:08.000Z stopping: out of credits",
        "2026-11-22T21:55:12.000Z 1 of 4 jobs succeeded. output/heroes/report.html",
    ]


def test_quiet_shows_only_what_needs_a_person() -> None:
    shown = [line.split(" ", 1)[1] for line in lines(story(), quiet=True)]
    assert shown == [
        "villain: failed: no face (Use another image.)",
        "extra: in doubt: no answer",
        "stopping: out of credits",
        "1 of 4 jobs succeeded. output/heroes/report.html",
    ]
    assert lines([started(), finished(0)], quiet=True) == []


def test_every_move_can_be_told_with_nothing_known() -> None:
    for (state, move), after in TRANSITIONS.items():
        event = JobMoved(NOW, (), move, Record(JOB, after))
        said = lines([RunStarted(NOW, "n", "p", "d", 1, {state: 1}), event])[1:]
        assert len(said) == (move not in {Move.INTEND, Move.REFUSE}), move


def test_a_notice_about_the_run_names_no_job() -> None:
    assert lines([Noticed(NOW, (), "the disk is nearly full")]) == ["2026-11-22T21:55:00.000Z the disk is nearly full"]


def test_long_lines_are_not_broken_and_many_names_are_cut() -> None:
    ids = tuple(f"hero-{number}" for number in range(10))
    assert lines([Noticed(NOW, ids, "x" * 400)]) == [
        "2026-11-22T21:55:00.000Z hero-0, hero-1, hero-2 and 7 more: " + "x" * 400
    ]
    assert len(lines([Noticed(NOW, ids, "x" * 4000)])[0]) < 600


@pytest.mark.parametrize("terminal", [False, True])
def test_hostile_words_cannot_act(terminal: bool) -> None:
    evil = "\x1b[2J\x1b]0;title\x07\r\nroot# \u202e[bold red]\x9b31m\ud800"
    problem = Problem("bad", evil, evil)
    record = Record(JOB, State.SUBMITTING)
    events: list[Event] = [
        RunStarted(NOW, evil, evil, evil, 4, {State.PENDING: 1}),
        JobMoved(NOW, (evil,), Move.DOUBT, Record(JOB, State.IN_DOUBT, record.attempts, problem)),
        CallFailed(NOW, (evil,), "poll", problem, 1.0),
        Noticed(NOW, (evil,), evil),
        Stopping(NOW, evil),
        RunFinished(NOW, 1, {}, (evil,), evil),
    ]
    stream = Terminal() if terminal else io.StringIO()
    with make_progress(stream=stream, quiet=False, plain=True) as progress:
        for event in events:
            progress(event)
    said = ESCAPES.sub("", stream.getvalue()).splitlines()
    assert len(said) == len(events)
    assert all(line.isprintable() for line in said)
    assert "\\x1b[2J\\x1b]0;title\\x07\\r\\nroot# \\u202e[bold red]\\x9b31m\\ud800" in said[3]


def live(events: list[Event]) -> tuple[Terminal, Progress]:
    stream = Terminal()
    progress = make_progress(stream=stream, quiet=False, plain=False)
    for event in events:
        progress(event)
    return stream, progress


def test_a_terminal_shows_a_bar_and_notices_above_it() -> None:
    before = threading.active_count()
    stream, progress = live(story()[:-1])
    assert threading.active_count() == before
    progress(finished(1))
    text = stream.getvalue()
    assert "3/4" in text
    assert "1 succeeded, 1 failed, 1 in doubt" in text
    assert "12 s" in text
    said = ESCAPES.sub("", text)
    assert "villain: failed: no face" in said
    assert "accepted: generation" not in said
    assert "2026-" not in said
    assert said.rstrip().endswith("1 of 4 jobs succeeded. output/heroes/report.html")
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is back


def test_a_run_that_breaks_off_gives_the_terminal_back() -> None:
    stream = Terminal()
    stderr = sys.stderr
    with suppress(KeyboardInterrupt), make_progress(stream=stream, quiet=False, plain=False) as progress:
        progress(started())
        raise KeyboardInterrupt
    assert stream.getvalue().rstrip("\n").endswith("\x1b[?25h")
    assert sys.stderr is stderr


def test_the_bar_is_drawn_at_most_ten_times_a_second() -> None:
    record = Record(JOB, State.SUBMITTING)
    quick: list[Event] = [JobMoved(NOW + n / 1000, ("hero",), Move.INTEND, record) for n in range(1, 1000)]
    stream, progress = live([started(2000), *quick])
    assert 10 <= stream.getvalue().count("0/2000") <= 12
    with progress:
        pass


def test_jobs_of_earlier_manifests_do_not_count() -> None:
    stream, progress = live([started(1), JobMoved(NOW + 1, (), Move.DELIVER, Record(JOB, State.SUCCEEDED))])
    with progress:
        pass
    assert "0/1" in stream.getvalue()
    assert "1/1" not in stream.getvalue()
    assert "1/2" not in stream.getvalue()


@pytest.mark.parametrize(
    ("quiet", "plain", "term"), [(True, False, "xterm"), (False, True, "xterm"), (False, False, "dumb")]
)
def test_no_bar_where_none_is_wanted(quiet: bool, plain: bool, term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", term)
    stream = Terminal()
    with make_progress(stream=stream, quiet=quiet, plain=plain) as progress:
        for event in story():
            progress(event)
    assert "\x1b[?25l" not in stream.getvalue()
    assert "villain: failed" in stream.getvalue()


def test_colour_follows_the_usual_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any("\x1b" in line for line in lines(story()))
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert any("\x1b[1;31m" in line for line in lines(story()))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not any("31m" in line for line in lines(story()))


def test_a_stream_that_knows_little_still_gets_the_words() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    with make_progress(stream=stream, quiet=False, plain=False) as progress:
        progress(Noticed(NOW, ("hero",), "Straße 漢"))
    stream.flush()
    assert b"Stra\\xdfe \\u6f22" in raw.getvalue()


class Broken(Terminal):
    """A terminal that goes away after so many writes."""

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
@pytest.mark.parametrize("plain", [True, False])
def test_a_terminal_that_is_gone_disturbs_nothing(error: Exception, plain: bool, good: int) -> None:
    stderr = sys.stderr
    stream = Broken(error, good)
    with make_progress(stream=stream, quiet=False, plain=plain) as progress:
        for event in story():
            progress(event)
    assert 1 <= stream.failed < 6
    assert sys.stderr is stderr
