"""Parse YAML text into mappings, lists and scalars that record their place. Values are built from parser events.

Any input gives values and findings, and never a foreign exception. Growth is bounded: MAX_DEPTH limits nesting, and
MAX_ALIASED limits aliases, so that a small file cannot become a large one. Scalars have the values that PyYAML's safe
loader gives them, except that dates stay text and keys are always the text as written.
This module does not interpret the values. Common YAML pitfalls are in `batchrunner.manifest.yaml_source.pitfalls`.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Literal

import yaml

from batchrunner.manifest.diagnostics.diagnostic import START, Findings, Note, column_of, line_of, mark, split_lines
from batchrunner.manifest.yaml_source.encoding import decode
from batchrunner.manifest.yaml_source.pitfalls import reading
from batchrunner.manifest.yaml_source.values import YamlList, YamlMapping

MAX_DEPTH: Final = 100
MAX_ALIASED: Final = 1_000_000

# The C parser if PyYAML was built with it, else the pure Python parser. Both emit the same events.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CONSTRUCT = yaml.constructor.SafeConstructor()
_RESOLVE: Any = yaml.resolver.Resolver()
_TAG = "tag:yaml.org,2002:"
_SCALARS: dict[str, Callable[[Any], Any]] = {
    "int": _CONSTRUCT.construct_yaml_int,
    "float": _CONSTRUCT.construct_yaml_float,
    "bool": _CONSTRUCT.construct_yaml_bool,
    "null": _CONSTRUCT.construct_yaml_null,
}
_BAD: Final = object()
_COLLECTIONS = {None, "!", _TAG + "map", _TAG + "seq"}


class _Unreadable(Exception):
    """The remaining text cannot be parsed. A finding has already been recorded."""


def parse(data: bytes, findings: Findings) -> Any:
    """Parse the single document in `data`. Return a YamlMapping, a YamlList, a scalar, or None if nothing is usable.

    Every problem goes to `findings`.
    """
    text = decode(data, findings)
    if text is None:
        return None
    builder = _Builder(findings)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.feed(event)
    except _Unreadable:
        return None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: the pure parser, for an escape beyond Unicode
        findings.error(*_explained(error, text, builder))
        return None
    if builder.root is None:
        findings.error(
            "empty", START, "the manifest is empty", "write a list of jobs, or a mapping with 'jobs' or 'matrix'"
        )
    return builder.root


def _explained(error: Exception, text: str, builder: "_Builder") -> tuple[str, int, str, str]:
    """Explain the parser's error with the brackets and quotes that were open (see `syntax_errors.explain`)."""
    from batchrunner.manifest.yaml_source.syntax_errors import (  # imported here: few manifests need its patterns
        Mishap,
        explain,
    )

    lines = split_lines(text)
    context = getattr(error, "context_mark", None)
    where = getattr(error, "problem_mark", None) or context
    mishap = Mishap(
        str(getattr(error, "problem", None) or "the text cannot be parsed"),
        lines,
        where.line if where else 0,
        where.column if where else 0,
        (context.line, context.column) if context else None,
        builder.bracket,
        builder.quoted,
    )
    return explain(mishap)


@dataclass(slots=True)
class _Open:
    """A collection whose end event is still to come; for a mapping, also the role of the next value."""

    node: YamlMapping | YamlList
    place: int
    anchor: str | None
    size: int = 1
    awaits: Literal["key", "value", "merge", "nothing"] = "key"  # nothing: the key is unusable, drop its value
    key: str = ""
    key_mark: int = 0
    merges: list[YamlMapping] = field(default_factory=list)
    bracket: bool = False  # written with [ ] or { }


class _Builder:
    """Consumes events one by one. `root` is the document's value after its last event.

    quoted: where the last quoted text starts and ends (0-based lines and columns).
    """

    def __init__(self, findings: Findings) -> None:
        self.root: Any = None
        self.quoted: tuple[tuple[int, int], tuple[int, int]] | None = None
        self._findings = findings
        self._stack: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int] | None] = {}  # value and size; None while still open
        self._documents = 0
        self._aliased = 0
        self._handlers: dict[type, Callable[[Any, int], None]] = {
            yaml.ScalarEvent: self._scalar,
            yaml.AliasEvent: self._alias,
            yaml.MappingStartEvent: self._start,
            yaml.SequenceStartEvent: self._start,
            yaml.DocumentStartEvent: self._document,
        }

    def feed(self, event: Any) -> None:
        """Consume the parser's next event. A large manifest spends most of its time here."""
        kind = type(event)
        if kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
            self._end()
        elif kind in self._handlers:
            start, end = event.start_mark, event.end_mark
            line, column = start.line, start.column
            length = end.column - column if end.line == line else 0
            self._handlers[kind](event, mark(line + 1, column + 1, length))

    @property
    def bracket(self) -> tuple[int, int] | None:
        """The place of the innermost open [ or { (0-based line and column), or None."""
        place = next((item.place for item in reversed(self._stack) if item.bracket), None)
        return None if place is None else (line_of(place) - 1, column_of(place) - 1)

    def _stop(self, code: str, place: int, message: str, hint: str = "") -> None:
        self._findings.error(code, place, message, hint)
        raise _Unreadable

    def _document(self, _: Any, place: int) -> None:
        self._documents += 1
        if self._documents > 1:
            self._stop("documents", place, "a second document starts here", "a manifest is one document: remove '---'")

    def _scalar(self, event: Any, place: int) -> None:
        top = self._stack[-1] if self._stack else None
        is_key = top is not None and isinstance(top.node, YamlMapping) and top.awaits == "key"
        if event.style:
            start, end = event.start_mark, event.end_mark
            self.quoted = (start.line, start.column), (end.line, end.column)
        elif is_key and not event.value.isascii() and (note := reading(event.value, event.value)):
            self._findings.remark(place, note)
        value = event.value if is_key else self._value(event, place)
        if event.anchor:
            self._anchors[event.anchor] = (value, 1)
        merge = is_key and event.implicit[0] and event.value == "<<"
        self._add(value, place, 1, merge=merge)

    def _value(self, event: Any, place: int) -> Any:
        """Return the scalar's value. For an unusable tag or number, record a finding and return a placeholder."""
        tag, text = event.tag, event.value
        if tag in (None, "!"):
            value, note = _plain(text) if event.implicit[0] else (text, None)
            if note is not None:
                self._findings.remark(place, note)
        elif tag == _TAG + "str":
            value = text
        elif tag.removeprefix(_TAG) in _SCALARS and tag.startswith(_TAG):
            value = _construct(tag, text)
            if value is _BAD:
                self._findings.error(
                    "tag", place, f"the text is not a valid !!{tag.removeprefix(_TAG)}", "remove the tag"
                )
                return text
        else:
            self._unknown_tag(tag, place)
            return text
        if isinstance(value, int | float) and not -1e15 < value < 1e15:  # also true of .nan and .inf
            self._findings.error("number", place, "the number is not finite or is too large")
            return 1
        return value

    def _unknown_tag(self, tag: str, place: int) -> None:
        shown = tag.replace(_TAG, "!!")
        hint = "remove the tag, or quote text that starts with !"
        self._findings.error("tag", place, f"the tag {shown} is not supported", hint)

    def _alias(self, event: Any, place: int) -> None:
        name = event.anchor
        known = self._anchors.get(name, (None, 0))
        if known is None:
            self._stop("alias", place, f"*{name} is inside the value that it names", "a value cannot contain itself")
        if name not in self._anchors or known is None:
            self._stop(
                "alias", place, f"*{name} is undefined: there is no &{name} before it", "quote text that starts with *"
            )
            return
        value, size = known
        self._aliased += size
        if self._aliased > MAX_ALIASED:
            self._stop("alias", place, f"the aliases up to here expand to more than {MAX_ALIASED:,} values")
        self._add(value, place, size)

    def _start(self, event: Any, place: int) -> None:
        if len(self._stack) >= MAX_DEPTH:
            self._stop("depth", place, f"nested more than {MAX_DEPTH} levels deep")
        if event.tag not in _COLLECTIONS:
            self._unknown_tag(event.tag, place)
        if event.anchor:
            self._anchors[event.anchor] = None
        node = YamlMapping(place) if type(event) is yaml.MappingStartEvent else YamlList(place)
        self._stack.append(_Open(node, place, event.anchor, bracket=event.flow_style))

    def _end(self) -> None:
        done = self._stack.pop()
        if done.merges and isinstance(done.node, YamlMapping):
            done.node = _merged(done.node, done.merges)
        if done.anchor:
            self._anchors[done.anchor] = (done.node, done.size)
        self._add(done.node, done.place, done.size)

    def _add(self, value: Any, place: int, size: int, *, merge: bool = False) -> None:
        """Store a finished value: as the root, a list item, a mapping's key, or that key's value."""
        if not self._stack:
            self.root = value
            return
        top = self._stack[-1]
        top.size += size
        if isinstance(top.node, YamlList):
            top.node.append(value)
            top.node.marks.append(place)
        elif top.awaits == "key":
            self._key(top, value, place, merge)
        else:
            if top.awaits == "merge":
                self._merge(top, value, place)
            elif top.awaits == "value":
                top.node.put(top.key, value, top.key_mark, place)
            top.awaits = "key"

    def _key(self, top: _Open, key: Any, place: int, merge: bool) -> None:
        assert isinstance(top.node, YamlMapping)
        top.awaits = "nothing"
        if merge:
            top.awaits = "merge"
        elif not isinstance(key, str):
            self._findings.error("key", place, "a key must be text")
        elif key in top.node:
            first = line_of(top.node.key_marks[key])
            message = f"the key '{key[:60]}' appears a second time"
            self._findings.error("duplicate-key", place, message, f"it is already on line {first}")
        else:
            top.awaits, top.key, top.key_mark = "value", sys.intern(key), place

    def _merge(self, top: _Open, value: Any, place: int) -> None:
        """Record what a merge key (``<<: *name`` or ``<<: [*a, *b]``) adds. Earlier mappings win."""
        for item in value if isinstance(value, YamlList) else (value,):
            if isinstance(item, YamlMapping):
                top.merges.append(item)
            else:
                self._findings.error(
                    "merge", place, "'<<' takes a mapping or a list of mappings", "name one: '<<: *anchor'"
                )


def _merged(node: YamlMapping, merges: list[YamlMapping]) -> YamlMapping:
    """Return `node` with the merged mappings' keys first. They never replace its own keys."""
    entries: dict[str, tuple[Any, int, int]] = {}
    for source in (*reversed(merges), node):
        marks = source.key_marks
        entries |= {key: (value, marks[key], source.value_marks[key]) for key, value in source.items()}
    whole = YamlMapping(node.mark)
    for key, entry in entries.items():
        whole.put(key, *entry)
    return whole


@lru_cache(maxsize=4096)
def _plain(text: str) -> tuple[Any, Note | None]:
    """Return the value of an unquoted scalar (number, true, false, null or text) and a note about it, or None."""
    tag = _RESOLVE.resolve(yaml.ScalarNode, text, (True, False))
    value = _construct(tag, text) if tag.removeprefix(_TAG) in _SCALARS else text
    value = text if value is _BAD else value
    return value, reading(text, value)


def _construct(tag: str, text: str) -> Any:
    try:
        return _SCALARS[tag.removeprefix(_TAG)](yaml.ScalarNode(tag, text))
    except (ValueError, KeyError, IndexError, OverflowError):
        return _BAD
