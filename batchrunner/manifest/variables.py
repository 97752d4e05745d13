"""Variables of a manifest: ``${NAME}``, ``${NAME:-default}``, and ``$${`` for a literal ``${``. Pure.

Rule: what a name stands for goes in as text, after the YAML is understood, and is never looked at again: it cannot
change the manifest's shape, and a value that holds ``${`` means just that. A value that is one variable and nothing
else takes the type of its key. The command line goes before the environment, the environment before `vars` of the
manifest, `vars` before the default. Tables are data: nothing is put into them.

A manifest may come from a stranger. It reads ``BATCHRUNNER_VAR_NAME``, and of all other environment variables only
those that the user names. It never reads a secret (`batchrunner.redaction`).
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn

from batchrunner.errors import UsageError
from batchrunner.formatting import printable
from batchrunner.manifest.diagnostics.diagnostic import Findings, column_of, line_of, mark, nearest, split_lines
from batchrunner.manifest.schema import BadPlaces, typed, where
from batchrunner.manifest.yaml_source.parser import YamlList, YamlMapping
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


def read_allowed(names: Iterable[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """The environment variables that the user lets manifests read: `names` (``--env``), and those in BATCHRUNNER_ENV.

    Raises UsageError for what is no name, and for the name of a secret.
    """
    flags = [("--env", name) for name in names]
    listed = [(ALLOWED_VARIABLE, name) for name in re.split(r"[,\s]+", environment.get(ALLOWED_VARIABLE, "")) if name]
    for place, name in (*flags, *listed):
        if not NAME.fullmatch(name):
            raise UsageError(f"{place} {printable(name, 60)}: not a variable's name", "Such as --env RES.")
        if is_secret_name(name):
            raise UsageError(f"{place} {name}: by its name this is a secret, which no manifest may read", _OTHER_NAME)
    return tuple(dict.fromkeys(name for _, name in (*flags, *listed)))


_OTHER_NAME = "If it is none, give its value with --set, under another name."


class NotAllowed(Exception):
    """The environment holds a variable that a manifest may not read: a message, and a hint."""


class Variables:
    """What the names in one manifest stand for, and which of them were asked for.

    given: from the command line. environment: the process's. allowed: variables of it that the user lets it read.
    read: variables of the environment whose values went into the manifest.
    """

    def __init__(self, given: Mapping[str, str], environment: Mapping[str, str], allowed: Iterable[str] = ()) -> None:
        self.given = given
        self._environment = environment
        self._allowed = frozenset(allowed)
        self._redactor = Redactor.of(environment)
        self._own: dict[str, str] = {}
        self.used: set[str] = set()
        self.read: set[str] = set()
        self.inserted_chars = 0

    def declare(self, own: Mapping[str, Any]) -> None:
        """Take the manifest's own `vars`; what is no scalar is left to the schema."""
        self._own = {name: _text(value) for name, value in own.items() if isinstance(value, str | int | float)}

    def value(self, name: str, default: str | None) -> str | None:
        """The text for `name`, or None. As in a shell, ``:-`` also stands in for what is empty. Raises NotAllowed."""
        self.used.add(name)
        fits = (text for text in self._sources(name) if text or (text is not None and default is None))
        text = next(fits, default)
        if text and self._redactor.holds(text):
            raise NotAllowed(f"the value of {name} is, or holds, a secret of the environment", "use another value")
        return text

    def _sources(self, name: str) -> Iterator[str | None]:
        yield self.given.get(name)
        yield self._from_environment(name)
        yield self._own.get(name)

    def _from_environment(self, name: str) -> str | None:
        """What the environment holds for `name`; an empty variable is an unset one."""
        variable = next((each for each in (PREFIX + name, name) if self._environment.get(each)), None)
        if variable is None:
            return None
        if is_secret_name(name):
            raise NotAllowed(
                f"by its name the environment variable {variable} is a secret: no manifest may read it", _OTHER_NAME
            )
        if variable == name and name not in self._allowed:
            raise NotAllowed(
                f"the environment holds {name}, and nothing lets this manifest read it",
                f"--env {name} lets it; --set {name}=… gives another value",
            )
        self.read.add(variable)
        return self._environment[variable]

    def near(self, name: str) -> str | None:
        """The known name that was most likely meant."""
        prefixed = {each.removeprefix(PREFIX) for each in self._environment if each.startswith(PREFIX)}
        return nearest(name, sorted({*self.given, *self._own, *prefixed, *self._allowed} - SECRETS))

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
        try:
            value = self._variables.value(name, found["default"])
        except NotAllowed as refusal:
            self._refuse("variable", place, f"${{{name}", *refusal.args)
        if value is None:
            near = self._variables.near(name)
            hint = f"did you mean ${{{near}}}? or" if near else "give it:"
            hint += f" --set {name}=…, 'vars: {{{name}: …}}', or ${{{name}:-default}}"
            self._refuse("variable", place, f"${{{name}", f"the variable {name} has no value", hint)
        if _UNFIT.search(value or ""):
            self._refuse("variable", place, f"${{{name}", f"the value of {name} holds characters that are not text", "")
        return value or ""

    def _refuse(self, code: str, place: int, needle: str, message: str, hint: str) -> NoReturn:
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
