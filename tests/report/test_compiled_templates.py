"""Compiled templates: what is kept, and which files are not used."""

import sys
from pathlib import Path

import pytest
from jinja2 import DictLoader, Environment

from batchrunner.report.compiled_templates import CompiledTemplates


def rendered(folder: Path, text: str = "{{ 1 + 1 }}", settings: bytes = b"") -> str:
    environment = Environment(
        autoescape=True,
        loader=DictLoader({"page": text}),
        bytecode_cache=CompiledTemplates(folder, settings),
    )
    return environment.get_template("page").render()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    return tmp_path / "__pycache__"


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources that are compiled from now on."""
    sources: list[str] = []
    real = Environment.compile

    def compiled(self: Environment, source: str, *arguments: object, **named: object) -> object:
        sources.append(source)
        return real(self, source, *arguments, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(Environment, "compile", compiled)
    return sources


def test_a_template_is_compiled_once_for_all_processes(folder: Path, compilations: list[str]) -> None:
    assert [rendered(folder), rendered(folder)] == ["2", "2"]
    assert compilations == ["{{ 1 + 1 }}"]
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(("text", "settings"), [("{{ 2 + 1 }}", b""), ("{{ 1 + 1 }}", b"others")])
def test_another_template_and_other_settings_are_compiled_anew(
    folder: Path, compilations: list[str], text: str, settings: bytes
) -> None:
    rendered(folder)
    assert rendered(folder, text, settings) == str(eval(text.strip("{} ")))
    assert len(compilations) == 2


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"x" + content[1:], lambda _: b""])
def test_a_damaged_file_is_not_used(folder: Path, compilations: list[str], damage: object) -> None:
    rendered(folder)
    (path,) = folder.iterdir()
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert rendered(folder) == "2"
    assert len(compilations) == 2


def test_a_package_that_cannot_be_written_has_no_compiled_templates(tmp_path: Path, compilations: list[str]) -> None:
    folder = tmp_path / "file"
    folder.write_text("")
    assert [rendered(folder), rendered(folder)] == ["2", "2"]
    assert len(compilations) == 2


def test_nothing_is_kept_if_python_keeps_no_compiled_modules(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert rendered(folder) == "2"
    assert not folder.exists()
