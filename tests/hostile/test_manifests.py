"""Hostile manifests: small files that expand, unsafe names, and URLs with secrets."""

import base64
import tracemalloc
from pathlib import Path

import pytest

from batchrunner import manifest
from batchrunner.errors import ManifestError, UsageError
from batchrunner.manifest import Batch, render
from batchrunner.manifest.diagnostics.diagnostic import MOST_PROBLEMS
from tests.conftest import MEDIA

ROW = '- {video: "https://e.com/a.mp4", image: "https://e.com/b.png"'


def load(folder: Path, text: str | bytes) -> Batch:
    path = folder / "night.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return manifest.load(path)


def refused(folder: Path, text: str | bytes) -> str:
    with pytest.raises(ManifestError) as caught:
        load(folder, text)
    output = render(caught.value.diagnostics)
    assert all(line.isprintable() for line in output.split("\n"))
    assert len(output) < 40_000
    return output


def laughs(levels: int, wrap: str) -> str:
    lines = [f"a0: &a0 {wrap[0]}{'x: 1' if wrap == '{}' else 'lol'}{wrap[1]}"]
    for level in range(1, levels):
        many = ", ".join(f"k{at}: *a{level - 1}" if wrap == "{}" else f"*a{level - 1}" for at in range(10))
        lines.append(f"a{level}: &a{level} {wrap[0]}{many}{wrap[1]}")
    return "\n".join(lines)


@pytest.mark.parametrize("levels", [9, 60])
@pytest.mark.parametrize("wrap", ["[]", "{}"])
def test_exploding_aliases_are_refused_in_little_memory(tmp_path: Path, levels: int, wrap: str) -> None:
    tracemalloc.start()
    try:
        output = refused(tmp_path, laughs(levels, wrap))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "the aliases up to here expand to more than" in output
    assert peak_bytes < 32 << 20


@pytest.mark.parametrize("text", ["a: &a [*a]", "&a {b: *a}", "- &a\n  <<: *a\n", "jobs: &j\n- *j\n"])
def test_a_value_that_contains_itself_is_refused(tmp_path: Path, text: str) -> None:
    assert "inside the value" in refused(tmp_path, text)


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 100_000, "- " * 100_000, "? " * 50_000, "!!seq [" * 10_000])
def test_a_manifest_nested_too_deeply_is_refused(tmp_path: Path, text: str) -> None:
    assert refused(tmp_path, text)


def test_a_manifest_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "night.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match="larger than"):
            manifest.load(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_the_number_of_jobs_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is lowered for the test: a million jobs would take a minute to read."""
    from batchrunner.manifest import expand

    assert expand.MAX_ROWS <= 1_000_000
    monkeypatch.setattr(expand, "MAX_ROWS", 100)
    assert "100 jobs" in refused(tmp_path, f"{ROW}}}\n" * 200)


@pytest.mark.parametrize("many", [6_000])
def test_equal_rows_and_long_values_take_linear_time(tmp_path: Path, many: int) -> None:
    """A realistic size: a search for the ids of equal rows that always started at the first took half a minute here."""
    batch = load(tmp_path, f"{ROW}}}\n" * many)
    assert len({entry.id for entry in batch.entries}) == many
    assert len({entry.job.fingerprint for entry in batch.entries}) == 1


@pytest.mark.parametrize("size", [1 << 20])
def test_a_long_value_is_accepted(tmp_path: Path, size: int) -> None:
    assert refused(tmp_path, f'- {{id: "{"a" * size}", video: "https://e.com/a", image: "https://e.com/b"}}')
    assert refused(tmp_path, f'- {{video: "data:video/mp4;base64,{"A" * size}", image: "https://e.com/b"}}')
    assert refused(tmp_path, f"- {{shift: {'9' * size}, video: 'https://e.com/a', image: 'https://e.com/b'}}")


IDS = [
    "../../x", "/etc/passwd", "..", ".", ".hidden", "a/b", "a\\b", "C:x", "CON", "con", "nul.txt", "COM1", "Lpt9.a",
    "aux.", "x" * 300, "x" * 101, "é" * 101, "\u0301e", "a\u202eb", "a\u200bb", "a\u00a0b", "/a", "a/../b",
    "a\u0000b", "a\nb", " a", "a ", "a.", "-rf", "--help", "~", "a*", "$(x)", "`x`", "a;b", "a|b", "<b>",
    "a.mp4", "", "\U0001f600" * 60, "\ud800", "con .x", "com\u00b9",
]  # fmt: skip


@pytest.mark.parametrize("bad", IDS, ids=ascii)
def test_an_id_that_is_not_a_safe_file_name_is_refused(tmp_path: Path, bad: str) -> None:
    escaped = "".join(f"\\U{ord(character):08x}" for character in bad)
    refused(tmp_path, f'{ROW}, id: "{escaped}"}}')
    assert [path.name for path in tmp_path.iterdir()] == ["night.yaml"]


@pytest.mark.parametrize(
    ("first", "second"), [("Hero", "hero"), ("a.B", "A.b"), ("X", "x"), ("É", "é"), ("\u212a", "k"), ("ﬁ", "fi")]
)
def test_ids_that_differ_only_in_case_are_refused(tmp_path: Path, first: str, second: str) -> None:
    output = refused(tmp_path, f"{ROW}, id: {first}}}\n{ROW}, id: {second}, shift: 3}}\n")
    assert "only in case" in output


@pytest.mark.parametrize("name", ["../x.mp4", "CON.mp4", "é" * 80 + ".mp4", "..mp4", "\u202egpj.mp4", "e\u0301.mp4",
                                  "-rf.mp4", " .mp4", "x" * 200 + ".mp4"])  # fmt: skip
def test_ids_derived_from_unsafe_names_are_safe(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / name).write_bytes((MEDIA / "bunny.mp4").read_bytes())
    escaped = "".join(f"\\U{ord(character):08x}" for character in name)
    try:
        batch = load(folder, f'- {{video: "{escaped}", image: "https://e.com/b.png"}}')
    except ManifestError as error:
        assert "not text" in error.diagnostics[0].message or name.startswith("\u202e")  # noqa: PT017 (either is right)
        return
    [entry] = batch.entries
    assert entry.id.isascii()
    assert len(entry.id) <= 100
    assert manifest.load(folder / "night.yaml").entries[0].id == entry.id
    refuse = f'{ROW}, id: "{entry.id}"}}'
    assert load(folder, refuse).entries[0].id == entry.id, "a derived id is also valid as an explicit one"


DATA = [
    "data:", "data:,hello", "data:video/mp4,plain", "data:video/mp4;base64,", "data:video/mp4;base64,!!!!",
    "data:video/mp4;base64,AAA", "data:text/html;base64," + base64.b64encode(b"<script>alert(1)</script>").decode(),
    "data:video/mp4;base64," + base64.b64encode(b"<html>" * 50).decode(),
    "data:video/mp4;base64," + base64.b64encode((MEDIA / "hopper.jpg").read_bytes()).decode(),
    "data:video/mp4;base64," + base64.b64encode((MEDIA / "bunny.mp4").read_bytes()[:500]).decode(),
    "data:image/svg+xml;base64," + base64.b64encode(b"<svg onload=alert(1)/>").decode(),
    "DATA:video/mp4;BASE64,%41%41", "data:video/mp4;base64,é", "data:;base64,AAAA",
]  # fmt: skip


@pytest.mark.parametrize("uri", DATA, ids=lambda uri: uri[:40])
def test_a_data_uri_that_is_not_a_video_is_refused_and_quoted_in_part(tmp_path: Path, uri: str) -> None:
    output = refused(tmp_path, f'- {{video: "{uri}", image: "https://e.com/b.png"}}')
    assert len(output) < 600


@pytest.mark.parametrize(
    "url", ["https://user:hunter2@e.com/a.mp4", "https://hunter2@e.com/a.mp4",
            "ftp://u:hunter2@e.com/a", "https://u:hunter2@[::1/a", "http://u:hunter2@e.com/", "s3://hunter2:x@b/k"]
)  # fmt: skip
def test_a_url_with_credentials_is_refused_and_they_are_not_repeated(tmp_path: Path, url: str) -> None:
    assert "hunter2" not in refused(tmp_path, f'- {{video: "{url}", image: "https://e.com/b.png"}}')


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/stdin", "/proc/self/environ", "/proc/self/mem", "/", "."])
def test_a_local_path_that_is_not_a_file_is_refused(tmp_path: Path, path: str) -> None:
    assert "PATH=" not in refused(tmp_path, f'- {{video: "{path}", image: "{path}"}}')


def test_terminal_codes_in_a_manifest_are_escaped(tmp_path: Path) -> None:
    output = refused(tmp_path, f'{ROW}, id: "\\e[2J\\e]0;x\\a\\u202e", "\\e[31mkey": "\\x9b31m"}}')
    assert "\\x1b[2J" in output


def test_a_manifest_full_of_mistakes_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "all-wrong.yaml"
    path.write_text("".join(f"k{number}: 1\n" for number in range(MOST_PROBLEMS + 5000)))
    with pytest.raises(ManifestError, match="20,000 errors or more") as raised:
        manifest.load(path)
    assert len(raised.value.diagnostics) == MOST_PROBLEMS
