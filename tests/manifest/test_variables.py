"""${VARIABLES} in manifests: precedence, allowed places, and errors for variables without a value."""

from pathlib import Path
from urllib.parse import quote

import pytest

from batchrunner.errors import UsageError
from batchrunner.manifest import variables
from batchrunner.manifest.variables import SECRETS, read_allowed, read_assignments
from batchrunner.redaction import KEY_VARIABLES
from tests.manifest_tools import IMAGE, VIDEO, error_places, job, loaded, refused


@pytest.mark.parametrize(
    ("assignments", "environment", "own", "text", "value"),
    [
        ({"A": "given"}, {"A": "env"}, {"A": "own"}, "${A:-default}", "given"),
        ({"A": "given"}, {"BATCHRUNNER_VAR_A": "env"}, {"A": "own"}, "${A:-default}", "given"),
        ({}, {"BATCHRUNNER_VAR_A": "env"}, {"A": "own"}, "${A:-default}", "env"),
        ({}, {"BATCHRUNNER_VAR_A": "env", "A": "other"}, {}, "${A}", "env"),
        ({}, {"BATCHRUNNER_VAR_A": "", "A": ""}, {"A": "own"}, "${A}", "own"),
        ({}, {"A": "", "OTHER": "x"}, {}, "${A:-default}", "default"),
        ({}, {}, {"A": "own"}, "${A:-default}", "own"),
        ({}, {}, {}, "${A:-default}", "default"),
        ({}, {}, {}, "x${A:-}y", "xy"),
        ({"A": ""}, {}, {}, "x${A}y", "xy"),
        ({"A": ""}, {}, {}, "${A:-as in a shell}", "as in a shell"),
        ({"A": "1", "B": "2"}, {}, {}, "${A}-${B}-${A}", "1-2-1"),
        ({"A": "${B}"}, {"B": "2"}, {}, "${A}", "${B}"),
        ({}, {}, {"A": 30}, "${A}", "30"),
        ({}, {}, {"A": True}, "${A}", "true"),
        ({}, {}, {}, "$${A} costs $5 and $$6", "${A} costs $5 and $$6"),
        ({"A": "x"}, {}, {}, "$${A}${A}", "${A}x"),
        ({"A": ": [\n- {"}, {}, {}, "${A}", ": [\n- {"),
    ],
)
def test_precedence_of_values_is_fixed(
    tmp_path: Path,
    assignments: dict[str, str],
    environment: dict[str, str],
    own: dict[str, object],
    text: str,
    value: str,
) -> None:
    manifest = {**({"vars": own} if own else {}), "jobs": [job(tags={"t": text})]}
    assert loaded(tmp_path, manifest, assignments, environment).entries[0].tags == {"t": value}


@pytest.mark.parametrize("own", [{}, {"vars": {"RES": "720p"}}])
@pytest.mark.parametrize("text", ["${RES}", "${RES:-480p}", "x${RES:-}"])
def test_an_environment_variable_is_read_only_if_the_user_allows_it(
    tmp_path: Path, own: dict[str, object], text: str
) -> None:
    manifest = {**own, "jobs": [job(tags={"t": text})]}
    environment = {"RES": "hunter2hunter2"}
    found = refused(tmp_path, manifest, environment=environment)
    assert [code for code, *_ in error_places(found)] == ["variable"]
    assert "--env RES" in found[0].hint
    assert "hunter2" not in str(found)
    allowed = loaded(tmp_path, manifest, {}, environment, read_allowed(["RES"], environment))
    assert allowed.entries[0].tags == {"t": text[: text.index("$")] + "hunter2hunter2"}
    assert allowed.read == ("RES",)
    for assignments, more in (({"RES": "580p"}, {}), ({}, {"BATCHRUNNER_VAR_RES": "580p"})):
        batch = loaded(tmp_path, manifest, assignments, environment | more)
        assert batch.entries[0].tags["t"].endswith("580p")
        assert batch.read == tuple(more)


@pytest.mark.parametrize(
    "name",
    [
        "AWS_SECRET_ACCESS_KEY",
        "GITHUB_TOKEN",
        "DB_PASSWORD",
        "PGPASS",
        "MYKEY",
        "SSH_AUTH_SOCK",
        "SESSION_ID",
        "cookie",
    ],
)
def test_a_variable_with_a_secret_name_is_never_read(tmp_path: Path, name: str) -> None:
    for variable in (name, f"BATCHRUNNER_VAR_{name}"):
        environment = {variable: "hunter2hunter2"}
        for text in (f"${{{name}}}", f"${{{name}:-x}}"):
            found = refused(tmp_path, {"jobs": [job(tags={"t": text})]}, environment=environment, allowed=[name])
            assert [code for code, *_ in error_places(found)] == ["variable"]
            assert "hunter2" not in str(found)
            assert "--env" not in found[0].hint
    with pytest.raises(UsageError, match=name):
        read_allowed([name], {})


@pytest.mark.parametrize("name", ["AUTHOR", "KEYFRAMES", "KEYWORD", "COMPASS", "PATTERN", "RES", "HOME"])
def test_ordinary_names_are_not_secrets(name: str) -> None:
    assert read_allowed([name], {}) == (name,)


KEY = "sk/live/0123456789+abc"
SECRET_VALUES = {
    "AIMLAPI_KEY": KEY,
    "DB_PASSWORD": "hunter2hunter2",
    "BATCHRUNNER_NOTIFY": "https://hooks.example.com/T0/XXXXSECRET",
    "HTTPS_PROXY": "http://me:proxypassword@proxy.example.com:3128",
}


@pytest.mark.parametrize(
    "value",
    [
        KEY,
        f"Bearer {KEY}",
        "https://e.com/?k=" + quote(KEY, safe=""),
        "hunter2hunter2",
        "/T0/XXXXSECRET",
        "xXXXXSECRETx",
        "me:proxypassword",
        "http://me:proxypassword@proxy.example.com:3128",
    ],
)
def test_a_secret_value_is_never_inserted(tmp_path: Path, value: str) -> None:
    manifest = {"jobs": [job(tags={"t": "${PLAIN}"})]}
    for assignments, environment in (
        ({"PLAIN": value}, {}),
        ({}, {"PLAIN": value}),
        ({}, {"BATCHRUNNER_VAR_PLAIN": value}),
    ):
        found = refused(
            tmp_path, manifest, assignments=assignments, environment=environment | SECRET_VALUES, allowed=["PLAIN"]
        )
        assert [code for code, *_ in error_places(found)] == ["variable"]
        assert value not in str(found)
    own = {"vars": {"PLAIN": value}, **manifest}
    found = refused(tmp_path, own, environment=SECRET_VALUES)
    assert {code for code, *_ in error_places(found)} == ({"secret", "variable"} if KEY in value else {"variable"})
    assert KEY not in str(found)
    assert loaded(tmp_path, manifest, {"PLAIN": "fine"}, SECRET_VALUES).entries[0].tags == {"t": "fine"}


@pytest.mark.parametrize(
    ("names", "listed", "allowed"),
    [
        ([], "", ()),
        (["A", "B", "A"], "", ("A", "B")),
        (["A"], "B,C, D", ("A", "B", "C", "D")),
        ([], " A ,", ("A",)),
    ],
)
def test_allowed_names_are_checked(names: list[str], listed: str, allowed: tuple[str, ...]) -> None:
    assert read_allowed(names, {"BATCHRUNNER_ENV": listed}) == allowed


@pytest.mark.parametrize("name", ["", "a-b", "A=1", "é"])
def test_an_invalid_name_cannot_be_allowed(name: str) -> None:
    with pytest.raises(UsageError):
        read_allowed([name], {})


def test_hints_do_not_name_environment_variables(tmp_path: Path) -> None:
    found = refused(tmp_path, {"jobs": [job(tags={"t": "${HOSTNAM}"})]}, environment={"HOSTNAME": "x"})
    assert "HOSTNAME" not in str(found)


def test_keys_that_a_manifest_cannot_set_are_ignored_with_a_warning(tmp_path: Path) -> None:
    manifest = {"notify": "http://127.0.0.1/${TOKEN}", "env": ["TOKEN"], "on_clip": "x", "jobs": [job()]}
    batch = loaded(tmp_path, manifest, {}, {"TOKEN": "0123456789"})
    assert batch.settings == {}
    assert [item.code for item in batch.warnings] == ["ignored-key"] * 3
    assert {flag for item in batch.warnings for flag in ("--notify", "--env", "--on-clip") if flag in item.message} == {
        "--notify",
        "--env",
        "--on-clip",
    }


def test_a_value_that_is_one_variable_gets_the_type_of_its_key(tmp_path: Path) -> None:
    manifest = """\
vars: {n: 30, yes: true}
concurrency: ${n}
retry_failed: ${yes}
prices: {480p: '${n}'}
matrix:
  - video: https://example.com/${n}.mp4
    image: https://example.com/hero.png
    num_inference_steps: ["${n}", 31]
    shift: ${s:-2.5}
    enable_safety_checker: ${yes}
    tags: {shift: "${n}"}
"""
    batch = loaded(tmp_path, manifest)
    first = batch.entries[0].job.params
    assert batch.settings == {"concurrency": 30, "retry_failed": True}
    assert batch.prices == {"480p": 30}
    assert (first["num_inference_steps"], first["shift"], first["enable_safety_checker"]) == (30, 2.5, True)
    assert batch.entries[0].tags == {"shift": "30"}
    assert batch.entries[0].job.inputs["video"].uri == "https://example.com/30.mp4"


def test_a_variable_without_a_value_is_reported_at_its_place(tmp_path: Path) -> None:
    manifest = f"""\
vars: {{steps: 3}}
jobs:
  - id: "a-${{stepz}}"
    video: |-
      https://example.com/
      ${{NONE}}
    image: {IMAGE}
  - {{video: '{VIDEO}', image: '{IMAGE}', num_inference_steps: '${{1}}', shift: '${{steps'}}
"""
    found = refused(tmp_path, manifest)
    places = [("variable", "batch.yaml", 3, 12), ("variable", "batch.yaml", 6, 7)]
    assert error_places(found)[:2] == places
    assert [item.line for item in found if item.severity == "error"] == [
        3,
        6,
        8,
        8,
    ]  # and there is no other error
    assert "did you mean ${steps}?" in found[1].hint


def test_shared_values_are_expanded_once(tmp_path: Path) -> None:
    first = "- &a {video: 'https://e.com/x', image: 'https://e.com/${n}', tags: {t: '$${n}'}}\n"
    batch = loaded(tmp_path, first + "- {<<: *a, shift: 2}\n- *a\n", {"n": "1"})
    assert [entry.tags["t"] for entry in batch.entries] == ["${n}"] * 3


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_the_api_key_cannot_be_a_variable(tmp_path: Path, name: str) -> None:
    secret = {name: "sk-secret"}
    for manifest in (
        {"jobs": [job(tags={"t": f"${{{name}}}"})]},
        {"jobs": [job(tags={"t": f"${{{name}:-x}}"})]},
        {"vars": {name: "x"}, "jobs": [job()]},
    ):
        found = refused(tmp_path, manifest, environment=secret)
        assert [code for code, *_ in error_places(found)] == ["variable"]
        assert name in found[0].message
        assert "sk-secret" not in str(found)
    with pytest.raises(UsageError, match=name):
        read_assignments([f"{name}=sk-secret"])


def test_variables_and_redaction_have_the_same_secrets() -> None:
    assert set(KEY_VARIABLES) == SECRETS


def test_a_mistyped_name_on_the_command_line_is_an_error(tmp_path: Path) -> None:
    manifest = {"vars": {"steps": 20}, "jobs": [job(num_inference_steps="${steps}")]}
    with pytest.raises(UsageError) as caught:
        loaded(tmp_path, manifest, {"stpes": "40"})
    assert "stpes" in caught.value.message
    assert caught.value.hint == "did you mean steps?"


def test_an_unused_variable_is_a_warning(tmp_path: Path) -> None:
    batch = loaded(
        tmp_path, f"vars: {{a: 1, b: 2}}\njobs: [{{video: '{VIDEO}', image: '{IMAGE}', tags: {{t: '${{a}}'}}}}]\n"
    )
    assert [(item.code, item.column) for item in batch.warnings] == [("unused", 14)]


def test_a_variable_cannot_contain_another(tmp_path: Path) -> None:
    found = refused(tmp_path, {"vars": {"a": "1", "b": "${a}"}, "jobs": [job(tags={"t": "${a}${b}"})]})
    assert [code for code, *_ in error_places(found)] == ["variable"]


def test_invalid_values_and_names_are_refused(tmp_path: Path) -> None:
    assert error_places(refused(tmp_path, {"vars": {"a-b": "1", "c": [1]}, "jobs": [job()]}))
    assert error_places(
        refused(tmp_path, {"jobs": [job(tags={"t": "${A}"})]}, environment={"BATCHRUNNER_VAR_A": "x\udcff"})
    )
    assert error_places(
        refused(tmp_path, {"jobs": [job(tags={"t": "${A}"})]}, environment={"BATCHRUNNER_VAR_A": "\x1b[2J"})
    )


def test_inserted_text_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variables, "MAX_CHARS", 100)
    assert loaded(tmp_path, {"jobs": [job(tags={"t": "${A}"})]}, {"A": "x" * 100}).entries
    assert error_places(refused(tmp_path, {"jobs": [job(tags={"t": "${A}${A}"})]}, assignments={"A": "x" * 60}))
    monkeypatch.setattr(variables, "MAX_INSERTED_CHARS", 1000)
    rows = [job(shift=n, tags={"t": "${A}"}) for n in range(1, 30)]
    assert len(error_places(refused(tmp_path, rows, assignments={"A": "x" * 60}))) == 29 - 16


@pytest.mark.parametrize("argument", ["", "=", "a", "=x", "1=x", "a-b=x", " a=x", "é=x"])
def test_arguments_that_are_not_assignments_are_refused(argument: str) -> None:
    with pytest.raises(UsageError, match="NAME=value"):
        read_assignments([argument])


def test_assignments_are_text_and_the_last_one_is_used() -> None:
    assert read_assignments(["a=1", "b=x=y", "a=", "_c=${d}"]) == {"a": "", "b": "x=y", "_c": "${d}"}
