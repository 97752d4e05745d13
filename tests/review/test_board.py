"""Rows with verdicts, and what changed since a version."""

from dataclasses import replace

from batchrunner.review.board import Board, reasons_of
from batchrunner.review.catalogue import Catalogue, PageRow
from batchrunner.review.verdicts import Verdict


def row(name: str, sha256: str | None = "aa", *, is_refused: bool = False) -> PageRow:
    known = {"id": name, "job": name, "take": 1, "state": "succeeded" if sha256 else "pending"}
    return {**known, "sha256": sha256, "is_refused": is_refused} if sha256 else known


def catalogue(*rows: PageRow) -> Catalogue:
    return Catalogue({"name": "batch", "counts": {}}, {item["id"]: item for item in rows}, {}, frozenset())


def verdict(name: str, value: str = "reject", sha256: str = "aa") -> Verdict:
    return Verdict(name, 1, "", sha256, value)


def shown(board: Board) -> dict[str, str | None]:
    return {item["id"]: item.get("verdict", {}).get("verdict") for item in board.page(0)}


def test_a_verdict_counts_only_for_its_clip() -> None:
    board = Board(catalogue(row("a"), row("b", "bb"), row("c", None)), {})
    board.put(verdict("a"))
    board.put(verdict("b", sha256="other"))
    board.put(verdict("c"))
    assert shown(board) == {"a": "reject", "b": None, "c": None}
    assert board.tally() == {"accept": 0, "reject": 1, "none": 1}


def test_a_new_clip_has_no_verdict_and_an_old_one_gets_its_verdict_back() -> None:
    board = Board(catalogue(row("a")), {("a", "aa"): verdict("a")})
    assert board.update(catalogue(row("a", "bb")))
    assert shown(board) == {"a": None}
    assert board.update(catalogue(row("a")))
    assert shown(board) == {"a": "reject"}


def test_a_page_is_sent_what_changed_since_its_version() -> None:
    board = Board(catalogue(row("a"), row("b", None)), {})
    start = board.version
    assert not board.update(catalogue(row("a"), row("b", None)))
    assert board.since(start) == []
    assert board.update(catalogue(row("a"), row("b")))
    assert [item["id"] for item in board.since(start)] == ["b"]
    middle = board.version
    board.put(verdict("a"))
    assert [item["id"] for item in board.since(middle)] == ["a"]
    assert [item["id"] for item in board.since(start)] == ["a", "b"]
    assert board.list_version == start


def test_another_list_of_jobs_is_loaded_again() -> None:
    board = Board(catalogue(row("a")), {})
    assert board.update(catalogue(row("z"), row("a")))
    assert board.list_version == board.version
    assert [item["id"] for item in board.page(0)] == ["z", "a"]
    assert [item["id"] for item in board.page(1)] == ["a"]


def test_verdicts_of_another_process_arrive() -> None:
    board = Board(catalogue(row("a"), row("b")), {})
    start = board.version
    assert board.put_all({("a", "aa"): verdict("a", "accept"), ("gone", "aa"): verdict("gone")})
    assert [item["id"] for item in board.since(start)] == ["a"]
    assert not board.put_all({("a", "aa"): verdict("a", "accept"), ("gone", "aa"): verdict("gone")})
    assert board.put_all({})
    assert shown(board) == {"a": None, "b": None}


def test_a_mark_that_rejects_counts_until_a_person_decides() -> None:
    board = Board(catalogue(row("a", is_refused=True)), {})
    assert board.tally() == {"accept": 0, "reject": 1, "none": 0}
    board.put(replace(verdict("a"), verdict="none"))
    assert board.tally() == {"accept": 0, "reject": 0, "none": 1}


def test_reasons_are_in_the_order_of_the_keys() -> None:
    assert reasons_of(["frozen", "hands", "face", "hands"]) == ("face", "hands", "frozen")
