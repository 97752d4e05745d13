"""The output of diagnostics: text with carets, JSON, annotations. Also generates docs/diagnostics.md.

``REWRITE_DOCS=1 pytest tests/manifest/diagnostics/test_diagnostic.py`` rewrites the page.
"""

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from click.testing import CliRunner

from batchrunner.cli import cli
from batchrunner.manifest import CODES, Diagnostic, github, render
from batchrunner.manifest.diagnostics.diagnostic import Findings, Note, column_of, end_of, line_of, mark
from batchrunner.manifest.diagnostics.render import LIMIT, block, excerpt
from batchrunner.manifest.validate import check
from tests.conftest import ROOT
from tests.manifest.test_bad_manifests import BAD, CASES, diagnostics_of

PAGE = ROOT / "docs" / "diagnostics.md"
HEAD = """# Diagnostics

A test makes this page from the table of codes in the code and from the examples in `tests/manifests_bad/`.

`batchrunner validate` prints all problems of a manifest, in the order of their places, and submits nothing. A
problem has a code, a place, a message and usually a hint. Codes do not change between versions. A manifest with an
`error` does not run; a `warning` does not prevent a run. The exit status is 0 if every manifest is valid, and 2
otherwise.

| `--format` | output |
|---|---|
| `text` | problems with line and caret on standard error, a line for each valid manifest on standard output |
| `json` | one document on standard output |
| `github` | annotations for the lines of a pull request, on standard output |

The first 20 problems of each manifest are printed, or all of them in JSON. `--max-problems N` prints N problems,
and 0 prints all. Text in a source line that may be a secret is replaced by stars. Terminals get colours; `NO_COLOR`
and `FORCE_COLOR` change this.

The JSON document is `{"schema_version": 1, "valid": false, "files": [...]}`. A file is `{"file", "valid", "jobs",
"inputs_read", "unmatched_patterns", "errors", "warnings", "diagnostics"}`. `jobs` is null if the file is not valid.
`inputs_read` is false with `--no-inputs`; then `unmatched_patterns` counts the patterns that matched no file and gave
no jobs. `errors` and `warnings` count all problems, including those that are not listed. A diagnostic is `{"code",
"severity", "file", "line", "column", "end_column", "message", "hint"}`. Lines and columns are counted from 1, in
characters. `end_column` is the column after the last character, or null. `hint` may be empty.

"""


def page() -> str:
    rows = "".join(f"| [`{code}`](#{code}) | {meaning} |\n" for code, meaning in CODES.items())
    examples = "".join(f"\n## {code}\n\n```\n{example(code)}\n```\n" for code in CODES)
    return f"{HEAD}| code | meaning |\n|---|---|\n{rows}{examples}"


def example(code: str) -> str:
    """Return the shortest problem with that code in the goldens."""
    blocks = [block(item, lambda _, text: text) for stem in CASES for item in diagnostics_of(stem) if item.code == code]
    return min(blocks, key=len, default="").replace(str(BAD), "HERE")


def test_the_diagnostics_page_is_up_to_date() -> None:
    if os.environ.get("REWRITE_DOCS"):
        PAGE.write_text(page(), "utf-8")
    assert PAGE.read_text("utf-8") == page()


def problem(number: int, message: str = "wrong", severity: str = "error", source: str | None = None) -> Diagnostic:
    return Diagnostic("key", severity, "m.yaml", number, 1, message, source=source)  # type: ignore[arg-type]  # a severity


def test_the_first_twenty_are_printed_and_the_others_counted() -> None:
    found = [problem(line) for line in range(1, 10_001)]
    lines = render(found).splitlines()
    assert lines[0] == "m.yaml:1:1: error: wrong [key]"
    assert lines[LIMIT - 1] == "m.yaml:20:1: error: wrong [key]"
    assert lines[LIMIT:] == ["… and 9,980 more: batchrunner validate --max-problems 0 prints all"]
    assert len(render(found, 5).splitlines()) == 6
    assert len(render(found, None).splitlines()) == 10_000


def test_render_without_diagnostics_is_empty() -> None:
    assert render([]) == ""


def test_a_long_hint_is_printed_once() -> None:
    found = [Diagnostic("key", "error", "m.yaml", line, 1, "wrong", "known keys: " + "a, " * 50) for line in (1, 2)]
    assert render(found).count("hint:") == 1


def column_under(shown: str, indent: int) -> str:
    """Return the character of `shown` in the terminal's column `indent`."""
    column = 0
    for char in shown:
        if column == indent and not unicodedata.combining(char):
            return char
        column += 0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")
    return ""


@pytest.mark.parametrize(
    "line",
    [
        "abc X",
        "\t\tX: 1",
        "日本語X",
        "e\u0301te\u0301 X",
        "\U0001f600\U0001f600X",
        "\x1b[31m\u202e\0X",
        "a" * 50 + "日" * 90 + "X" + "b" * 5000,
        "\t" * 300 + "X",
        "a" * 100_000 + "X" + "\t" * 500,
    ],
)
def test_the_caret_is_under_its_character(line: str) -> None:
    column = line.index("X") + 1
    shown, indent, width = excerpt(line, column, column + 1)
    assert column_under(shown, indent) == "X"
    assert width == 1
    assert shown.isprintable()
    assert len(shown) < 600


def test_a_long_mark_is_cut_with_its_line() -> None:
    shown, indent, width = excerpt("key: " + "x" * 500, 6, 506)
    assert (indent, width, shown[-1]) == (5, 95, "…")


@pytest.mark.parametrize(
    ("line", "hidden"),
    [
        ("video: https://u:hush@e.com/a.mp4?sig=hush#hush", "hush"),
        ("a: 'https://e.com/?hush', b: \"ftp://hush@e.com\"", "hush"),
        ("token: hush", "hush"),
        ('{"api_key": "hush", "x": 1, token: hush}', "hush"),
        ("AIMLAPI_KEY=hush Authorization: Bearer hush", "hush"),
    ],
)
def test_possible_secrets_are_replaced_by_stars_in_place(line: str, hidden: str) -> None:
    shown, indent, _ = excerpt(line, 1, None)
    assert hidden not in shown
    assert (len(shown), indent) == (len(line), 0)


def test_colours_are_optional() -> None:
    assert "\x1b" not in render([problem(1)])
    assert "\x1b[1;31merror:" in render([problem(1)], colour=True)


def test_annotations_are_escaped() -> None:
    found = Diagnostic("key", "warning", "a,b:c%.yaml", 3, 5, "50% of\x1b[2J", "do: this, that", 9)
    assert github([found]) == (
        "::warning file=a%2Cb%3Ac%25.yaml,line=3,col=5,endColumn=9,title=key::50%25 of\\x1b[2J%0Ahint: do: this, that"
    )
    assert (
        github([problem(1), problem(2), problem(3, severity="warning")], 1).splitlines()[1]
        == "… and 2 more; 2 errors, 1 warning"
    )


def test_a_mark_packs_line_column_and_length() -> None:
    for line, column, length in ((1, 1, 0), (100_000, 17, 3), (3, 1_000_000, 4095)):
        place = mark(line, column, length)
        assert (line_of(place), column_of(place)) == (line, column)
        assert place < 1 << 64
    assert mark(1, 1, 5000) == mark(1, 1, 0)


@pytest.mark.parametrize(
    ("before", "place"), [("", (1, 1)), ("ab", (1, 3)), ("a\r\nb", (2, 2)), ("a\rb\n", (3, 1)), ("a\u2028\x85", (3, 1))]
)
def test_lines_are_counted_as_yaml_counts_them(before: str, place: tuple[int, int]) -> None:
    assert (line_of(end_of(before)), column_of(end_of(before))) == place


def test_a_note_is_reported_with_a_problem_at_its_place_or_alone_if_it_has_a_severity() -> None:
    findings = Findings("m.yaml", "a: no\n")
    findings.remark(mark(1, 4, 2), Note("yaml-boolean", "no is false"))
    assert not list(findings.all)
    findings.error("wrong-type", mark(1, 4, 2), "'a' is false", "quote it")
    reported = next(iter(findings.all))
    assert (reported.code, reported.hint, reported.end_column) == ("yaml-boolean", "quote it; no is false", 6)
    assert reported.source == "a: no"
    findings.remark(mark(2, 1), Note("yaml-number", "010 is 8", "write 8", "warning"))
    alone = list(findings.all)[1]
    assert (alone.code, alone.severity, alone.message, alone.hint) == ("yaml-number", "warning", "010 is 8", "write 8")


def test_source_lines_can_be_set_later() -> None:
    findings = Findings("m.csv")
    findings.error("table", mark(2, 1), "wrong")
    assert [item.source for item in findings.errors] == [None]
    findings.text = b"id\nx"
    assert [item.source for item in findings.errors] == ["x"]


def test_the_same_problem_is_reported_once() -> None:
    findings = Findings("m.yaml")
    for _ in range(3):
        findings.error("key", mark(1, 1), "wrong")
    assert len(findings.all) == 1


# validate


def ran(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, ["validate", *arguments], standalone_mode=False)
    assert result.exception is None, result.output
    return int(result.return_value), result.stdout, result.stderr


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BAD)
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("here")
def test_validate_prints_text_on_standard_error() -> None:
    status, out, err = ran("colon.yaml", "warn-same-job.yaml")
    assert (status, out) == (2, "warn-same-job.yaml: 2 jobs, 1 warning\n")
    assert err.startswith((BAD / "colon.txt").read_text("utf-8"))
    assert "colon.yaml does not validate: 1 error; nothing was submitted\n" in err


@pytest.mark.usefixtures("here")
def test_validate_as_json_is_one_document_with_stable_keys() -> None:
    status, out, err = ran("--format", "json", "colon.yaml", "gone.yaml", "warn-same-job.yaml", "many.yaml")
    document = json.loads(out)
    assert (status, err) == (2, "")
    assert list(document) == ["schema_version", "valid", "files"]
    assert (document["schema_version"], document["valid"]) == (1, False)
    bad, gone, good, many = document["files"]
    assert list(bad) == [
        "file",
        "valid",
        "jobs",
        "inputs_read",
        "unmatched_patterns",
        "errors",
        "warnings",
        "diagnostics",
    ]
    assert list(bad["diagnostics"][0]) == [
        *("code", "severity", "file", "line", "column", "end_column", "message", "hint"),
    ]
    assert (bad["file"], bad["valid"], bad["jobs"], bad["errors"]) == ("colon.yaml", False, None, 1)
    assert gone["diagnostics"][0]["code"] == "file"
    assert (good["valid"], good["jobs"], good["warnings"]) == (True, 2, 1)
    assert many["errors"] == len(many["diagnostics"]) > LIMIT
    fewer = json.loads(ran("--format", "json", "--max-problems", "3", "many.yaml")[1])["files"][0]
    assert (len(fewer["diagnostics"]), fewer["errors"]) == (3, many["errors"])


@pytest.mark.usefixtures("here")
def test_validate_annotates() -> None:
    status, out, _ = ran("--format", "github", "colon.yaml")
    assert status == 2
    assert out.startswith(
        "::error file=colon.yaml,line=2,col=15,endColumn=16,title=yaml-colon::the text after 'image:'"
    )


@pytest.mark.usefixtures("here")
def test_colours_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in ran("colon.yaml")[2]
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[1;31merror:" in ran("colon.yaml")[2]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in ran("colon.yaml")[2]


def test_ten_thousand_mistakes_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(
        "".join(f"- {{video: https://e.com/{n}, image: https://e.com/i, stpes: 1}}\n" for n in range(10_000))
    )
    checked = check(path, {}, {})
    assert len(checked.diagnostics) == 10_000
    assert [item.line for item in checked.diagnostics] == list(range(1, 10_001))
    assert render(checked.diagnostics).endswith("… and 9,980 more: batchrunner validate --max-problems 0 prints all")


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_byte_order_marks_and_line_ends_do_not_matter(tmp_path: Path, start: str, ending: str) -> None:
    text = ["- video: https://e.com/v", "  image: https://e.com/i", "  tags: {mood: '\U0001f600'}"]
    path = tmp_path / "m.yaml"
    path.write_bytes((start + ending.join(text)).encode())
    assert check(path, {}, {}).jobs == 1


@pytest.mark.parametrize("indent", [None, 2, "\t"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_json_is_a_manifest_too(tmp_path: Path, indent: int | str | None, ascii_only: bool) -> None:
    job = {"video": "https://e.com/v", "image": "https://e.com/i", "tags": {"a": "\U0001f600 \\ud83d\\ude00 / é"}}
    path = tmp_path / "m.json"
    path.write_text(json.dumps({"jobs": [job]}, indent=indent, ensure_ascii=ascii_only), "utf-8")
    from batchrunner.manifest import load

    assert load(path).entries[0].tags == job["tags"]


def test_problems_at_one_place_have_a_stable_order(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"video": "v", "image": "i", "tags": {"c": 1, "a": null, "d": 2, "b": true}}\n')
    argv = [sys.executable, "-m", "batchrunner", "validate", "x.jsonl"]
    outputs = set()
    for seed in ("1", "2", "3"):
        more = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(argv, cwd=tmp_path, env=more, capture_output=True, check=False)
        assert done.returncode == 2, done
        outputs.add(done.stderr)
    assert len(outputs) == 1
