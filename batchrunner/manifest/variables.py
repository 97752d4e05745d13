"""Variables of a manifest: ``${NAME}``, ``${NAME:-default}``, and ``$${`` for a literal ``${``. Pure.

Values are inserted as text after the YAML is parsed, and are not expanded again. So a value cannot change the
manifest's structure, and a ``${`` in a value is literal. A text that consists of one variable gets the type of its key.
The command line takes precedence over the environment, the environment over `vars` of the manifest, and `vars` over the
default. Tables are plain data and have no variables.

A manifest may come from a stranger. It can read ``BATCHRUNNER_VAR_NAME``, and only those other environment variables
that the user names. It can never read a secret (`batchrunner.redaction`).
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn

from batchrunner.errors import UsageError
from batchrunner.formatting import printable
from batchrunner.manifest.diagnostics.diagnostic import Findings, column_of, line_of, mark, nearest, split_lines
from batchrunner.manifest.schema import BadPlaces, typed, where
from batchrunner.manifest.yaml_source.values import YamlList, YamlMapping
from batchrunner.redaction import KEY_VARIABLES, Redactor, is_secret_name

SECRETS: Final = frozenset(KEY_VARIABLES)
PREFIX: Final = "BATCHRUNNER_VAR_"
ALLOWED_VARIABLE: Final = "BATCHRUNNER_ENV"
MAX_CHARS: Final = 1_000_000
MAX_INSERTED_CHARS: Final = 64_000_000

NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REFERENCE = re.compile(r"(?P<literal>\$\$\{)|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|\$\{")
_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_FAR_LINES = 1000


class _Refused(Exception):
    """A value stays unchanged. A finding has already been recorded."""


def read_assignments(arguments: Sequence[str]) -> dict[str, str]:
    """Parse variables of the form ``NAME=value``. The last value of a name is used. Raises UsageError."""
    values: dict[str, str] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or not NAME.fullmatch(name):
            raise UsageError(f"--set {printable(name, 60)}: not of the form NAME=value", "Such as --set show=pilot.")
        if name.upper() in SECRETS:
            raise UsageError(f"--set {name}: the API key cannot be a variable", "It is read only from the environment.")
        values[name] = value
    return values


def read_allowed(names: Iterable[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the environment variables that manifests may read: `names` (``--env``) and those in BATCHRUNNER_ENV.

    Raises UsageError for an invalid name and for the name of a secret.
    """
    flags = [("--env", name) for name in names]
    listed = [(ALLOWED_VARIABLE, name) for name in re.split(r"[,\s]+", environment.get(ALLOWED_VARIABLE, "")) if name]
    for place, name in (*flags, *listed):
        if not NAME.fullmatch(name):
            raise UsageError(f"{place} {printable(name, 60)}: not a variable name", "Such as --env RES.")
        if is_secret_name(name):
            raise UsageError(f"{place} {name}: the name indicates a secret, which a manifest may not read", _OTHER_NAME)
    return tuple(dict.fromkeys(name for _, name in (*flags, *listed)))


_OTHER_NAME = "If it is not a secret, pass its value with --set under another name."


class NotAllowed(Exception):
    """The manifest may not read a variable. The arguments are a message and a hint."""


class Variables:
    """The values of the names in one manifest, and which of them were used.

    assignments: from the command line. environment: the process's. allowed: environment variables that the manifest
    may read. read: environment variables whose values were inserted. inserted: every inserted value, by name; a name
    with defaults can have several. places: where each name is first used.
    """

    def __init__(
        self, assignments: Mapping[str, str], environment: Mapping[str, str], allowed: Iterable[str] = ()
    ) -> None:
        self.assignments = assignments
        self._environment = environment
        self._allowed = frozenset(allowed)
        self._redactor = Redactor.of(environment)
        self._own: dict[str, str] = {}
        self.used: set[str] = set()
        self.read: set[str] = set()
        self.inserted: dict[str, set[str]] = {}
        self.places: dict[str, int] = {}
        self.inserted_chars = 0

    def declare(self, own: Mapping[str, Any]) -> None:
        """Add the manifest's own `vars`. The schema rejects values that are not scalars."""
        self._own = {name: _text(value) for name, value in own.items() if isinstance(value, str | int | float)}

    def value(self, name: str, default: str | None) -> str | None:
        """Return the text of `name`, or None. ``:-`` also replaces an empty value, as in a shell. Raises NotAllowed."""
        self.used.add(name)
        fits = (text for text in self._sources(name) if text or (text is not None and default is None))
        text = next(fits, default)
        if text and self._redactor.holds(text):
            raise NotAllowed(f"the value of {name} is or contains a secret of the environment", "use another value")
        if text is not None:
            self.inserted.setdefault(name, set()).add(text)
        return text

    def _sources(self, name: str) -> Iterator[str | None]:
        yield self.assignments.get(name)
        yield self._from_environment(name)
        yield self._own.get(name)

    def _from_environment(self, name: str) -> str | None:
        """Return the environment's value for `name`. An empty variable counts as unset."""
        variable = next((item for item in (PREFIX + name, name) if self._environment.get(item)), None)
        if variable is None:
            return None
        if is_secret_name(name):
            raise NotAllowed(
                f"the name of the environment variable {variable} indicates a secret: a manifest may not read it",
                _OTHER_NAME,
            )
        if variable == name and name not in self._allowed:
            raise NotAllowed(
                f"the environment contains {name}, but this manifest may not read it",
                f"--env {name} allows it; --set {name}=… sets another value",
            )
        self.read.add(variable)
        return self._environment[variable]

    def near(self, name: str) -> str | None:
        """Return the known name that is most similar to `name`, or None."""
        prefixed = {item.removeprefix(PREFIX) for item in self._environment if item.startswith(PREFIX)}
        return nearest(name, sorted({*self.assignments, *self._own, *prefixed, *self._allowed} - SECRETS))

    def unknown(self) -> list[str]:
        """Return the names from the command line that the manifest does not use."""
        return sorted(set(self.assignments) - self.used - set(self._own))


def _text(value: str | float) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def insert(root: Any, text: str, variables: Variables, findings: Findings) -> BadPlaces:
    """Insert the variables into every text of `root` (from `parser.parse`), which was parsed from `text`.

    `vars` itself is not changed. Returns the places where a variable could not be inserted; each has a finding.
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
                findings.warn("unused", marks[name], f"the variable '{name}' is not used", f"use it as ${{{name}}}")
    return refused


def _check_own(own: YamlMapping, findings: Findings) -> None:
    marks = own.key_marks
    for name, value in own.items():
        if name.upper() in SECRETS:
            findings.error(
                "variable", marks[name], f"{name} is reserved for the API key and cannot be a variable", _KEY_HINT
            )
        if isinstance(value, str) and any(item["name"] for item in _REFERENCE.finditer(value)):
            hint = "use both variables where they are needed"
            findings.error("variable", own.value_marks[name], f"the variable '{name}' contains another variable", hint)


_KEY_HINT = "the key is read only from the environment and sent only to the service"


class _Walk:
    """One walk over a manifest's values. Shared values (YAML aliases) are visited once."""

    def __init__(self, text: str, variables: Variables, findings: Findings) -> None:
        self._lines = split_lines(text)
        self._variables = variables
        self._findings = findings
        self._seen: set[int] = set()
        self.refused: BadPlaces = set()

    def visit(self, node: Any, path: tuple[str | int, ...]) -> None:
        """Insert variables into `node`. path: from the manifest's root to `node`."""
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
        """Return `value` with its variables inserted, or record a finding and return it unchanged."""
        try:
            whole = _REFERENCE.sub(lambda found: self._replacement(found, place), value)
        except _Refused:
            self.refused.add(where(path))
            return value
        self._variables.inserted_chars += len(whole)
        if len(whole) > MAX_CHARS or self._variables.inserted_chars > MAX_INSERTED_CHARS:
            self._findings.error("variable", place, "the text is too long after its variables are inserted")
            self.refused.add(where(path))
            return value
        alone = _REFERENCE.fullmatch(value)
        field = next((item for item in reversed(path) if isinstance(item, str)), None)
        return typed(field, whole) if alone and alone["name"] and "tags" not in path else whole

    def _replacement(self, found: re.Match[str], place: int) -> str:
        if found["literal"]:
            return "${"
        name = found["name"]
        if name is None:
            hint = "write ${NAME} or ${NAME:-default}; $${ is a literal ${"
            self._refuse("variable", place, "${", "'${' does not start a valid variable here", hint)
        if name.upper() in SECRETS:
            self._refuse(
                "variable", place, f"${{{name}", f"${{{name}}} is the API key and cannot be a variable", _KEY_HINT
            )
        try:
            value = self._variables.value(name, found["default"])
        except NotAllowed as refusal:
            self._refuse("variable", place, f"${{{name}", *refusal.args)
        if value is None:
            near = self._variables.near(name)
            hint = f"did you mean ${{{near}}}? or" if near else "set it:"
            hint += f" --set {name}=…, 'vars: {{{name}: …}}', or ${{{name}:-default}}"
            self._refuse("variable", place, f"${{{name}", f"the variable {name} has no value", hint)
        if name not in self._variables.places:
            self._variables.places[name] = self._exact(place, f"${{{name}")
        if _UNFIT.search(value or ""):
            self._refuse("variable", place, f"${{{name}", f"the value of {name} contains control characters", "")
        return value or ""

    def _refuse(self, code: str, place: int, needle: str, message: str, hint: str) -> NoReturn:
        self._findings.error(code, self._exact(place, needle), message, hint)
        raise _Refused

    def _exact(self, place: int, needle: str) -> int:
        """Return the place of `needle` in the text at or after `place`, or `place` if it is not found."""
        line, column = line_of(place) - 1, column_of(place) - 1
        for at in range(line, min(line + _FAR_LINES, len(self._lines))):
            found = self._lines[at].find(needle, column if at == line else 0)
            if found >= 0:
                return mark(at + 1, found + 1, len(needle))
            if at == line and self._lines[at][column : column + 1] == "*":  # an alias: its text is elsewhere
                break
        return place
