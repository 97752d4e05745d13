"""Variables of a manifest: ``${NAME}``, ``${NAME:-default}``, and ``$${`` for a literal ``${``. Pure.

Rule: what a name stands for goes in as text, after the YAML is understood, and is never looked at again: it cannot
change the manifest's shape, and a value that holds ``${`` means just that. A value that is one variable and nothing
else takes the type of its key. The command line goes before the environment, the environment before `vars` of the
manifest, `vars` before the default. The API key is no variable. Tables are data: nothing is put into them.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from batchrunner.errors import UsageError
from batchrunner.manifest.diagnostics import Findings, column_of, line_of, mark, nearest, split_lines
from batchrunner.manifest.schema import BadPlaces, typed, where
from batchrunner.manifest.source import YamlList, YamlMapping
from batchrunner.text import printable

SECRETS: Final = frozenset({"AIMLAPI_KEY", "AIML_API_KEY"})
MAX_CHARS: Final = 1_000_000
MAX_INSERTED_CHARS: Final = 64_000_000

NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REFERENCE = re.compile(r"(?P<literal>\$\$\{)|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|\$\{")
_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_FAR_LINES = 1000


class _Refused(Exception):
    """A value stays as it is; why is noted already."""


def read_given(words: Sequence[str]) -> dict[str, str]:
    """The variables that the command line gives as ``NAME=value``; the last one of a name counts. Raises UsageError."""
    values: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not NAME.fullmatch(name):
            raise UsageError(f"--set {printable(name, 60)}: not of the form NAME=value", "Such as --set show=pilot.")
        if name.upper() in SECRETS:
            raise UsageError(f"--set {name}: the API key is no variable", "It comes from the environment alone.")
        values[name] = value
    return values


class Variables:
    """What the names in one manifest stand for, and which of them were asked for.

    given: from the command line. environment: the process's.
    """

    def __init__(self, given: Mapping[str, str], environment: Mapping[str, str]) -> None:
        self.given = given
        self._environment = environment
        self._own: dict[str, str] = {}
        self.used: set[str] = set()
        self.inserted_chars = 0

    def declare(self, own: Mapping[str, Any]) -> None:
        """Take the manifest's own `vars`; what is no scalar is left to the schema."""
        self._own = {name: _text(value) for name, value in own.items() if isinstance(value, str | int | float)}

    def value(self, name: str, default: str | None) -> str | None:
        """The text for `name`, or None. As in a shell, ``:-`` also stands in for what is empty."""
        self.used.add(name)
        for source in (self.given, self._environment, self._own):
            if name in source and (source[name] or default is None):
                return source[name]
        return default

    def near(self, name: str) -> str | None:
        """The known name that was most likely meant."""
        return nearest(name, sorted({*self.given, *self._own, *self._environment} - SECRETS))

    def unknown(self) -> list[str]:
        """Names given on the command line that nothing in the manifest asks for."""
        return sorted(set(self.given) - self.used - set(self._own))


def _text(value: str | float) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def insert(root: Any, text: str, variables: Variables, findings: Findings) -> BadPlaces:
    """Put the variables into every text of `root` (from `source.parse`), which is `text`. `vars` itself stays.

    Returns the places where that could not be done, which is noted.
    """
    refused: BadPlaces = set()
    own = root.get("vars") if isinstance(root, YamlMapping) else None
    if isinstance(own, YamlMapping):
        _check_own(own, findings)
        variables.declare(own)
    if "${" in text:
        walk = _Walk(text, variables, findings)
        walk.visit(root, () if isinstance(root, YamlMapping) else ("jobs",))
        refused = walk.refused
    if isinstance(own, YamlMapping):
        marks = own.key_marks
        for name in own.keys() - variables.used - SECRETS:
            if NAME.fullmatch(name):
                findings.warn("unused", marks[name], f"nothing uses the variable '{name}'", f"${{{name}}} would")
    return refused


def _check_own(own: YamlMapping, findings: Findings) -> None:
    marks = own.key_marks
    for name, value in own.items():
        if name.upper() in SECRETS:
            findings.error("variable", marks[name], f"{name} is the API key's place, not a variable's", _KEY_HINT)
        if isinstance(value, str) and any(each["name"] for each in _REFERENCE.finditer(value)):
            hint = "use both names where they are needed"
            findings.error("variable", own.value_marks[name], f"the variable '{name}' holds another one", hint)


_KEY_HINT = "the key goes to the service from the environment, and nowhere else"


class _Walk:
    """One walk over a manifest's values; shared ones (YAML aliases) are visited once."""

    def __init__(self, text: str, variables: Variables, findings: Findings) -> None:
        self._lines = split_lines(text)
        self._variables = variables
        self._findings = findings
        self._seen: set[int] = set()
        self.refused: BadPlaces = set()

    def visit(self, node: Any, path: tuple[str | int, ...]) -> None:
        """path: from the manifest's root to `node`."""
        if id(node) in self._seen:
            return
        self._seen.add(id(node))
        places: list[tuple[Any, int]] = []
        if isinstance(node, YamlMapping):
            places = list(node.value_marks.items())
        elif isinstance(node, YamlList):
            places = list(enumerate(node.marks))
        for step, place in places:
            value, where = node[step], (*path, step)
            if isinstance(value, str):
                if "${" in value:
                    node[step] = self._insert(value, place, where)
            elif where != ("vars",):
                self.visit(value, where)

    def _insert(self, value: str, place: int, path: tuple[str | int, ...]) -> Any:
        """`value` with its variables in it, or as it is where one is missing, which is noted."""
        try:
            whole = _REFERENCE.sub(lambda found: self._replacement(found, place), value)
        except _Refused:
            self.refused.add(where(path))
            return value
        self._variables.inserted_chars += len(whole)
        if len(whole) > MAX_CHARS or self._variables.inserted_chars > MAX_INSERTED_CHARS:
            self._findings.error("variable", place, "with its variables in it the text is far too long")
            self.refused.add(where(path))
            return value
        alone = _REFERENCE.fullmatch(value)
        field = next((each for each in reversed(path) if isinstance(each, str)), None)
        return typed(field, whole) if alone and alone["name"] and "tags" not in path else whole

    def _replacement(self, found: re.Match[str], place: int) -> str:
        if found["literal"]:
            return "${"
        name = found["name"]
        if name is None:
            hint = "write ${NAME} or ${NAME:-default}; $${ stands for ${ itself"
            self._refuse("variable", place, "${", "'${' begins no variable here", hint)
        if name.upper() in SECRETS:
            self._refuse("variable", place, f"${{{name}", f"${{{name}}} is the API key: it is no variable", _KEY_HINT)
        value = self._variables.value(name, found["default"])
        if value is None:
            near = self._variables.near(name)
            hint = f"did you mean ${{{near}}}? or" if near else "give it:"
            hint += f" --set {name}=…, 'vars: {{{name}: …}}', or ${{{name}:-default}}"
            self._refuse("variable", place, f"${{{name}", f"the variable {name} has no value", hint)
        if _UNFIT.search(value or ""):
            self._refuse("variable", place, f"${{{name}", f"the value of {name} holds characters that are not text", "")
        return value or ""

    def _refuse(self, code: str, place: int, needle: str, message: str, hint: str) -> None:
        self._findings.error(code, self._exact(place, needle), message, hint)
        raise _Refused

    def _exact(self, place: int, needle: str) -> int:
        """Where `needle` stands in the text, from the beginning of its value on; else where the value begins."""
        line, column = line_of(place) - 1, column_of(place) - 1
        for at in range(line, min(line + _FAR_LINES, len(self._lines))):
            found = self._lines[at].find(needle, column if at == line else 0)
            if found >= 0:
                return mark(at + 1, found + 1, len(needle))
            if at == line and self._lines[at][column : column + 1] == "*":  # an alias: its text stands elsewhere
                break
        return place
