"""Jobs from CSV, TSV and JSON Lines: the meaning of rows, and the places of problems in a table."""

import io
import json
import sys
from csv import field_size_limit
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchrunner.errors import ManifestError, UsageError
from batchrunner.manifest import load
from batchrunner.manifest.diagnostics.diagnostic import Findings
from batchrunner.manifest.diagnostics.render import as_json, render
from batchrunner.manifest.row import Row
from batchrunner.manifest.tables import formats, reader
from batchrunner.manifest.yaml_source import files
from tests.conftest import MEDIA
from tests.manifest_tools import IMAGE, VIDEO, error_places, job, loaded, params, refused

HEAD = "video,image,shift\n"


def csv(folder: Path, text: str | bytes, name: str = "clips.csv") -> dict[str, Any]:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return {"jobs_from": name}


def test_columns_are_fields_and_empty_cells_are_unset(tmp_path: Path) -> None:
    text = (
        "id,video,image,resolution,num_inference_steps,shift,enable_safety_checker,tags.scene,priority,file\n"
        f"a,{VIDEO},{IMAGE},720p,30,7.5,TRUE,12a,5,{{id}}-{{tags.scene}}\n"
        f",{VIDEO},{IMAGE},,,,,,,\n"
        ",,,,,,,,,\n"
        "\n"
        f"b, {VIDEO} ,{IMAGE},,,,false\n"
    )
    manifest = {**csv(tmp_path, text), "defaults": {"shift": 3, "tags": {"client": "acme"}}}
    entries = loaded(tmp_path, manifest).entries
    assert params(entries, "resolution", "num_inference_steps", "shift") == [
        ("720p", 30, 7.5),
        ("480p", 20, 3.0),
        ("480p", 20, 3.0),
    ]
    assert [entry.tags for entry in entries] == [
        {"client": "acme", "scene": "12a"},
        {"client": "acme"},
        {"client": "acme"},
    ]
    assert [(entry.id[:4], entry.priority, entry.file[:9]) for entry in entries] == [
        ("a", 5, "a-12a.mp4"),
        ("walk", 0, "walk-hero"),
        ("b", 0, "b.mp4"),
    ]
    assert [entry.job.params.get("enable_safety_checker") for entry in entries] == [True, None, False]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", f'\ufeffvideo,image,tags.note\r\n{VIDEO},{IMAGE},"one\r\ntwo, ""three"""\r\n'),
        ("x.csv", f'video;image;tags.note\n{VIDEO};{IMAGE};"one\r\ntwo, ""three"""\n'),
        ("x.TSV", f'video\timage\ttags.note\n{VIDEO}\t{IMAGE}\t"one\r\ntwo, ""three"""'),
        ("x.jsonl", json.dumps({**job(), "tags": {"note": 'one\r\ntwo, "three"'}}) + "\n\n"),
        ("x.ndjson", "\ufeff" + json.dumps({**job(), "tags.note": 'one\r\ntwo, "three"', "shift": None})),
    ],
)
def test_dialects_of_csv_are_recognised(tmp_path: Path, name: str, text: str) -> None:
    (entry,) = loaded(tmp_path, csv(tmp_path, text, name)).entries
    assert entry.tags == {"note": 'one\r\ntwo, "three"'}
    assert entry.job.inputs["video"].uri == VIDEO


def test_paths_are_relative_to_the_tables_folder(tmp_path: Path) -> None:
    (tmp_path / "media").symlink_to(MEDIA)
    csv(tmp_path, "video,image\n../media/bunny.mp4,../media/hopper.jpg\n", "lists/clips.csv")
    csv(tmp_path, "video,image\nmedia/bunny.mp4,media/astronaut.jpg\n", "all.csv")
    (tmp_path / "link").symlink_to(tmp_path / "lists")
    batch = loaded(tmp_path, {"jobs_from": ["lists/clips.csv", "all.csv", "link/clips.csv"]})
    assert [entry.job.inputs["video"].source for entry in batch.entries] == ["media/bunny.mp4"] * 3
    assert [files.folder_of(f"{name}/x.csv", tmp_path) for name in ("lists", "./lists", "link", ".")] == [
        *("lists", "lists"),
        "link/",  # a link: ".." from there leads elsewhere
        "",
    ]
    assert batch.entries[0].job is batch.entries[2].job
    assert [(Path(item.file).name, item.line) for item in batch.warnings] == [("clips.csv", 2)]
    by_hand = loaded(tmp_path, [{"video": "media/bunny.mp4", "image": "media/hopper.jpg"}])
    assert by_hand.entries[0].id == batch.entries[0].id  # the id does not depend on the row's position


def test_order_and_collisions_across_files(tmp_path: Path) -> None:
    csv(tmp_path, f"id,video,image\nx,{VIDEO},{IMAGE}\n")
    manifest = {"jobs": [job(id="a")], "jobs_from": "clips.csv", "matrix": [job(shift=[6, 7])]}
    assert [entry.id[:4] for entry in loaded(tmp_path, manifest).entries] == ["a", "x", "walk", "walk"]
    found = refused(tmp_path, {"jobs": [job(id="X")], "jobs_from": "clips.csv"})
    assert error_places(found) == [("duplicate-id", "clips.csv", 2, 1)]
    assert "on line 1 of" in found[0].message
    assert "batch.yaml only in case" in found[0].message


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("video,image,shfit\n" + f"{VIDEO},{IMAGE},1\n" * 3, [("unknown-key", 1, 13)]),
        ("video,image,tags\n" + f"{VIDEO},{IMAGE},\n", [("unknown-key", 1, 13)]),
        ("Video,image\n", [("unknown-key", 1, 1)]),
        ("video,image,video\n", [("duplicate-key", 1, 13)]),
        (HEAD + f"{VIDEO},{IMAGE},no\n", [("wrong-type", 2, len(VIDEO + IMAGE) + 3)]),
        (f'tags.a,{HEAD}"x,y",{VIDEO},{IMAGE},no\n', [("wrong-type", 2, len(VIDEO + IMAGE) + 9)]),
        (HEAD + f'"{VIDEO}",\n', [("missing-key", 2, 1)]),
        (HEAD + f'{VIDEO},{IMAGE}\n"http://e.com/a\nb",{IMAGE},0\n', [("video", 3, 1), ("out-of-range", 4, 33)]),
        (HEAD + f"{VIDEO},{IMAGE},1,2\n", [("table", 2, len(VIDEO + IMAGE) + 5)]),
        (HEAD + f'{VIDEO},"{IMAGE}\n\n', [("table", 3, 1)]),
        (HEAD + f'{VIDEO},"{IMAGE}"x\n', [("table", 2, 1)]),
        (HEAD.encode() + b"\xe9\n", [("encoding", 2, 1)]),
        (HEAD.encode("utf-16"), [("encoding", 1, 1)]),
        (HEAD.replace("\n", "\r") + f"{VIDEO},{IMAGE},1\r", [("table", 1, 1)]),
    ],
)
def test_csv_problems_are_reported_at_their_place(
    tmp_path: Path, text: str | bytes, places: list[tuple[str, int, int]]
) -> None:
    found = refused(tmp_path, csv(tmp_path, text))
    assert error_places(found)[: len(places)] == [(code, "clips.csv", line, column) for code, line, column in places]
    assert all(item.source is not None for item in found if item.file.endswith(".csv"))


@pytest.mark.parametrize(
    ("line", "code", "column"),
    [
        ("null", "wrong-type", 1),
        ('{"video": "v", "tags": {"shft": "}"}, "shft": 1}', "unknown-key", 47),
        ('  {"shift" : "x"}', "wrong-type", 14),
        ("[1]", "wrong-type", 1),
        ('"x"', "wrong-type", 1),
        ("{", "table", 2),
        ('{"video": 1,}', "table", 12),
        ('{"video": 1 , }', "table", 13),
        ('{"tags": [1, ]}', "table", 12),
        ('{"id": "a", "id": "b"}', "table", 1),
        ('{"tags": {"x": "1"}, "tags.x": "1"}', "table", 1),
        ('{"tags": "abc", "tags.y": "1"}', "wrong-type", 10),
        ('{"shift": NaN}', "table", 1),
        ('{"shift": 1e999}', "table", 1),
        ('{"num_inference_steps": ' + "9" * 5000 + "}", "table", 1),
        ('{"id": "\\ud800"}', "table", 1),
        ("[" * 100_000, "table", 1),
        ('{"tags": [1]}', "wrong-type", 10),
    ],
)
def test_json_lines_problems_are_reported_at_their_place(tmp_path: Path, line: str, code: str, column: int) -> None:
    found = refused(tmp_path, csv(tmp_path, json.dumps(job()) + "\n\n" + line + "\n", "clips.jsonl"))
    assert (code, "clips.jsonl", 3, column) in error_places(found)
    assert {item.line for item in found} == {3}


@pytest.mark.parametrize(
    "name", ["clips.txt", "gone.csv", "folder.csv", "clips", "https://example.com/clips.csv", "a\0.csv"]
)
def test_an_invalid_table_is_reported_where_it_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    assert error_places(refused(tmp_path, {"jobs_from": [name]})) == [("table", "batch.yaml", 1, 16)]


def test_a_table_without_rows_is_reported(tmp_path: Path) -> None:
    assert error_places(refused(tmp_path, csv(tmp_path, HEAD))) == [("no-match", "batch.yaml", 1, 15)]
    assert error_places(refused(tmp_path, csv(tmp_path, ""))) == [("no-match", "batch.yaml", 1, 15)]
    assert loaded(tmp_path, {**csv(tmp_path, HEAD), "allow_empty": True, "jobs": [job()]}).entries


def test_a_table_is_a_manifest(tmp_path: Path) -> None:
    csv(tmp_path, f"video,image\n{VIDEO},{IMAGE}\n", "night.csv")
    batch = load(tmp_path / "night.csv")
    assert (batch.name, len(batch.entries), len(batch.sha256)) == ("night", 1, 64)
    with pytest.raises(UsageError, match="no such file"):
        load(tmp_path / "nigth.csv")
    csv(tmp_path, "video,image\nx.mp4,\n", "night.csv")
    with pytest.raises(ManifestError) as caught:
        load(tmp_path / "night.csv")
    assert {Path(item.file).name for item in caught.value.diagnostics} == {"night.csv"}


def test_variables_are_not_inserted_into_tables(tmp_path: Path) -> None:
    csv(tmp_path, f"video,image,tags.t\n{VIDEO},{IMAGE},${{HOME}}\n")
    batch = loaded(tmp_path, {"jobs_from": "${T}.csv"}, {"T": "clips"}, {"HOME": "/root"})
    assert batch.entries[0].tags == {"t": "${HOME}"}


def test_rows_and_lines_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = HEAD + "".join(f"{VIDEO},{IMAGE},{n}\n" for n in range(1, 5))
    monkeypatch.setattr("batchrunner.manifest.expand.MAX_ROWS", 3)
    assert error_places(refused(tmp_path, csv(tmp_path, text))) == [("too-many", "batch.yaml", 1, 15)]
    monkeypatch.setattr(reader, "MAX_LINE_BYTES", 60)
    long = f"video,image\n{VIDEO},{IMAGE}{'x' * 100}\n"
    assert error_places(refused(tmp_path, csv(tmp_path, long)))[0] == ("table", "clips.csv", 2, 1)


def test_at_most_one_row_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row is checked, used and dropped before the next line is read."""
    csv(tmp_path, HEAD + "".join(f"{VIDEO},{IMAGE},{n}\n" for n in range(1, 50)))
    events: list[str] = []
    lines, add = reader.Table.lines, Row.__init__

    def reading(table: reader.Table) -> Any:
        for line in lines(table):
            events.append("read")
            yield line

    def making(row: Any, *values: Any, **more: Any) -> None:
        events.append("row")
        add(row, *values, **more)

    monkeypatch.setattr(reader.Table, "lines", reading)
    monkeypatch.setattr(Row, "__init__", making)
    loaded(tmp_path, {"jobs_from": "clips.csv"})
    assert events == ["read", *["read", "row"] * 49]


def test_standard_input_is_a_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def feed(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    (tmp_path / "media").symlink_to(MEDIA)
    monkeypatch.chdir(tmp_path)
    text = b"- {video: media/bunny.mp4, image: media/hopper.jpg}\n"
    feed(text)
    batch = load(Path("-"))
    (tmp_path / "same.yaml").write_bytes(text)
    same = load(Path("same.yaml"))
    assert (batch.name, batch.sha256) == ("stdin", same.sha256)
    assert batch.entries[0].job.fingerprint == same.entries[0].job.fingerprint
    feed(b"name: night\njobs: [{}]\n")
    with pytest.raises(ManifestError) as caught:
        load(Path("-"))
    assert {item.file for item in caught.value.diagnostics} == {"<stdin>"}
    assert "<stdin> does not validate" in caught.value.message


CELLISH = st.text(st.sampled_from(list('ab1,;"\n\r\t{}[]:\\ue0.é')), max_size=80)


@given(st.one_of(st.binary(max_size=80), CELLISH.map(str.encode)), st.sampled_from(["x.csv", "x.tsv", "x.jsonl"]))
@example(b'video,image\n"', "x.csv")
@example(b"\0", "x.csv")
@example(b'{"a":', "x.jsonl")
@example(b'{"": {}, "tags.": 1, ".": 2, "tags.a": 3}', "x.jsonl")
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_bytes_load_without_a_traceback(data: bytes, name: str) -> None:
    findings = Findings(name)
    rows = list(formats.rows(reader.Table(io.BytesIO(data), "lists", findings), name))
    for row in rows:
        assert all(row.place(field) >= row.mark for field in row.fields)
    assert all(item.line >= 1 and item.column >= 1 for item in findings.all)


def test_the_cell_limit_does_not_depend_on_the_process(tmp_path: Path) -> None:
    before = field_size_limit()
    assert loaded(tmp_path, csv(tmp_path, HEAD + f"{VIDEO},{IMAGE},1\n")).entries
    refused(tmp_path, csv(tmp_path, f'video,image\n"{VIDEO}"x,{IMAGE}\n'))
    assert field_size_limit() == before


SECRET_FILES = {
    "key.csv": "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU\n",
    "credentials.tsv": "[default]\naws_secret_access_key\tb3BlbnNzaC1rZXktdjEAAAAABG5vbmU\n",
    "mixed.csv": "video,image,id\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU,BEGIN,OPENSSH\n",
    "tokens.jsonl": '{"BEGIN": "b3BlbnNzaC1rZXktdjEAAAAABG5vbmU"}\n["OPENSSH"]\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU\n',
}


@pytest.mark.parametrize("way", ["..", "absolute", "link", "linked folder"])
@pytest.mark.parametrize("name", SECRET_FILES)
def test_files_outside_the_manifests_folder_are_not_quoted(tmp_path: Path, name: str, way: str) -> None:
    outside, inside = tmp_path / "home", tmp_path / "from-a-stranger"
    outside.mkdir()
    inside.mkdir()
    (outside / name).write_text(SECRET_FILES[name])
    path = {"..": f"../home/{name}", "absolute": str(outside / name), "link": name}.get(way, f"more/{name}")
    if way == "link":
        (inside / name).symlink_to(outside / name)
    elif way == "linked folder":
        (inside / "more").symlink_to(outside)
    found = refused(inside, {"jobs_from": path})
    text = render(found, limit=None) + str([as_json(item) for item in found])
    assert [secret for secret in ("b3BlbnNz", "BEGIN", "OPENSSH", "aws_", "default") if secret in text] == []
    assert all(item.file.endswith(name) and item.line >= 1 for item in found)
    assert "outside the manifest's folder" in text


def test_a_file_within_the_manifests_folder_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.csv").write_text("video,imagge\nx.mp4,y.png\n")
    text = render(refused(tmp_path, {"jobs_from": "clips/a.csv"}), limit=None)
    assert "video,imagge" in text
    assert "did you mean" in text


@pytest.mark.parametrize("before", ["", "\n", ",,\n", ";;;\r\n\r\n", '"",""\n', "  \n\t\n", "\ufeff\n", "\u00a0\n"])
def test_empty_rows_before_the_header_are_skipped(tmp_path: Path, before: str) -> None:
    text = f"{before}video,image,resolution\n{VIDEO},{IMAGE},720p\n"
    assert params(loaded(tmp_path, csv(tmp_path, text)).entries, "resolution") == [("720p",)]


def test_line_numbers_include_empty_rows_at_the_top(tmp_path: Path) -> None:
    diagnostics = refused(tmp_path, csv(tmp_path, f",,\n\nvideo,image,shift\n{VIDEO},{IMAGE},much\n"))
    assert [(item.file.rpartition("/")[2], item.line) for item in diagnostics] == [("clips.csv", 4)]


@pytest.mark.parametrize(
    ("first", "separator"), [("sep=;", ";"), ("SEP=|", "|"), ('"sep=\t"', "\t"), ("sep=\\t", "\t"), ("sep=,", ",")]
)
def test_the_first_line_may_set_the_separator(tmp_path: Path, first: str, separator: str) -> None:
    rows = [["video", "image", "resolution"], [VIDEO, IMAGE, "720p"]]
    text = "\r\n".join([first, *(separator.join(cells) for cells in rows)])
    assert params(loaded(tmp_path, csv(tmp_path, text)).entries, "resolution") == [("720p",)]


@pytest.mark.parametrize(("name", "separator"), [("clips.csv", ";"), ("clips.csv", "\t"), ("clips.tsv", "\t")])
def test_a_decimal_comma_is_read_if_the_separator_is_not_a_comma(tmp_path: Path, name: str, separator: str) -> None:
    text = f"video;image;shift\n{VIDEO};{IMAGE};7,5\n".replace(";", separator)
    assert params(loaded(tmp_path, csv(tmp_path, text, name)).entries, "shift") == [(7.5,)]


def test_a_comma_in_a_whole_number_is_an_error(tmp_path: Path) -> None:
    diagnostics = refused(tmp_path, csv(tmp_path, f"video;image;num_inference_steps\n{VIDEO};{IMAGE};2,5\n"))
    assert len(diagnostics) == 1


@pytest.mark.parametrize(
    ("header", "hint"),
    [
        ("vidoe,imge", "did you mean 'video' for 'vidoe', 'image' for 'imge'?"),
        ("Video,Image", "did you mean 'video' for 'Video', 'image' for 'Image'?"),
        (f"{VIDEO},{IMAGE}", "the first line names the columns: "),
        ("1,2,3", "the first line names the columns: "),
    ],
)
def test_a_header_without_a_known_column_is_one_error(tmp_path: Path, header: str, hint: str) -> None:
    diagnostics = refused(tmp_path, csv(tmp_path, f"{header}\n" + f"{VIDEO},{IMAGE}\n" * 50))
    assert [(item.code, item.line) for item in diagnostics] == [("unknown-key", 1)]
    assert hint in diagnostics[0].hint
