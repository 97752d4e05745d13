"""Compile a JSON Schema to fast functions that say whether a value is valid, but not why it is invalid. Pure.

True is always correct; False only means that the full validator must check the value. So an unknown keyword makes every
value False, and schema.json stays the only definition. A job takes one or two microseconds to check this way, and about
eighty with the full validator.
"""

import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any], bool]

_SILENT = {
    "title",
    "description",
    "default",
    "examples",
    "patternErrorMessage",
    "then",
    "else",
    "additionalProperties",
    "deprecated",
    "format",  # the full validator does not check it either
}
_TYPES: dict[str, Check] = {
    "integer": lambda value: type(value) is int,  # 30.0 is an integer too; the full validator handles it
    "number": lambda value: type(value) in (int, float),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "null": lambda value: value is None,
}


def compiled(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Check:
    """Return a function that is true only for values that `schema` accepts. definitions: for ``#/$defs/…``."""
    silent = _SILENT | _seen_to(schema)
    tests = [_keyword(name, schema, definitions) for name in schema if name not in silent and name[:1] != "$"]
    if "$ref" in schema:
        tests.append(compiled(definitions[schema["$ref"].removeprefix("#/$defs/")], definitions))
    if "additionalProperties" in schema and "properties" not in schema:
        tests.append(_properties({"properties": {}, **schema}, definitions))
    return _all(tests)


def _seen_to(schema: Mapping[str, Any]) -> set[str]:
    """Return the keywords that another keyword's check includes, which saves a call."""
    if schema.get("type") == "string":
        return {"minLength", "maxLength"}
    return {"type"} if schema.get("type") == "object" and "properties" in schema else set()


def _all(tests: list[Check]) -> Check:
    """Combine the tests. One and two are special cases, because a loop would cost as much as the tests."""
    if len(tests) == 1:
        return tests[0]
    if len(tests) == 2:
        first, second = tests
        return lambda value: first(value) and second(value)
    return lambda value: all(test(value) for test in tests)


def _keyword(name: str, schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Check:
    make = _KEYWORDS.get(name)
    return make(schema, definitions) if make else lambda _: False


def _type(schema: Mapping[str, Any], _: Mapping[str, Any]) -> Check:
    wanted = schema["type"]
    if wanted == "string":
        least, most = schema.get("minLength", 0), schema.get("maxLength", sys.maxsize)
        return lambda value: isinstance(value, str) and least <= len(value) <= most
    if isinstance(wanted, str):
        return _TYPES[wanted]
    tests = [_TYPES[item] for item in wanted]
    return lambda value: any(test(value) for test in tests)


def _texts(allowed: list[Any]) -> Check:
    """Check for the texts in `allowed`, and for null if it is there. The full validator handles other types."""
    texts, has_null = frozenset(item for item in allowed if isinstance(item, str)), None in allowed
    return lambda value: (isinstance(value, str) and value in texts) or (has_null and value is None)


def _const(schema: Mapping[str, Any], _: Mapping[str, Any]) -> Check:
    wanted = schema["const"]
    return lambda value: type(value) is type(wanted) and bool(value == wanted)


def _properties(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Check:
    properties: Mapping[str, Any] = schema["properties"]
    checks: dict[str, Check] = {}  # each is compiled for the first value that has the property: most have few of many
    further = schema.get("additionalProperties", True)
    other = compiled(further, definitions) if isinstance(further, Mapping) else lambda _: bool(further)
    alone = schema.get("type") != "object"  # the schema does not restrict other types

    def fits(value: Any) -> bool:
        is_mapping = isinstance(value, dict)
        if is_mapping:
            for key, item in value.items():
                check = checks.get(key)
                if check is None and key in properties:
                    check = checks[key] = compiled(properties[key], definitions)
                if not (check or other)(item):
                    return False
        return is_mapping or alone

    return fits


def _items(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Check:
    test = compiled(schema["items"], definitions)
    return lambda value: not isinstance(value, list) or all(test(item) for item in value)


def _if(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Check:
    """Branch only on a condition whose False means that the value fails: on the type, or on texts of properties."""
    condition, then, other = (compiled(schema.get(name, {}), definitions) for name in ("if", "then", "else"))
    is_type = set(schema["if"]) == {"type"} and schema["if"]["type"] in ("array", "object", "string")
    properties = schema["if"].get("properties", {}) if set(schema["if"]) == {"properties"} else {}
    is_text = [set(item) == {"const"} and isinstance(item["const"], str) for item in properties.values()]
    if not (is_type or (is_text and all(is_text))):
        return lambda _: False
    return lambda value: then(value) if condition(value) else other(value)


def _any_of(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Check:
    tests = [compiled(item, definitions) for item in schema["anyOf"]]
    return lambda value: any(test(value) for test in tests)


def _required(schema: Mapping[str, Any], _: Mapping[str, Any]) -> Check:
    return lambda value: not isinstance(value, dict) or all(name in value for name in schema["required"])


def _pattern(schema: Mapping[str, Any], _: Mapping[str, Any]) -> Check:
    search = re.compile(schema["pattern"]).search
    return lambda value: not isinstance(value, str) or bool(search(value))


def _number(name: str, fits: Callable[[Any, Any], bool]) -> Callable[[Mapping[str, Any], Mapping[str, Any]], Check]:
    return lambda schema, _: lambda value: type(value) not in (int, float) or fits(value, schema[name])


def _length(
    name: str, kind: type[str | list[Any] | dict[str, Any]], fits: Callable[[int, int], bool]
) -> Callable[..., Check]:
    return lambda schema, _: lambda value: not isinstance(value, kind) or fits(len(value), schema[name])


_KEYWORDS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], Check]] = {
    "type": _type,
    "enum": lambda schema, _: _texts(schema["enum"]),
    "const": _const,
    "properties": _properties,
    "items": _items,
    "if": _if,
    "anyOf": _any_of,
    "required": _required,
    "pattern": _pattern,
    "propertyNames": lambda schema, definitions: _names(compiled(schema["propertyNames"], definitions)),
    "minimum": _number("minimum", lambda value, bound: value >= bound),
    "maximum": _number("maximum", lambda value, bound: value <= bound),
    "exclusiveMinimum": _number("exclusiveMinimum", lambda value, bound: value > bound),
    "minLength": _length("minLength", str, lambda length, bound: length >= bound),
    "maxLength": _length("maxLength", str, lambda length, bound: length <= bound),
    "minItems": _length("minItems", list, lambda length, bound: length >= bound),
    "maxItems": _length("maxItems", list, lambda length, bound: length <= bound),
    "minProperties": _length("minProperties", dict, lambda length, bound: length >= bound),
}


def _names(test: Check) -> Check:
    return lambda value: not isinstance(value, dict) or all(test(name) for name in value)
