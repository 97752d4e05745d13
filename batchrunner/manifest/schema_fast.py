"""A JSON Schema as a quick yes: functions that say whether a value fits, and nothing about why it does not. Pure.

Rule: a yes is always right; a no only means that the full validator must look. So a keyword that is not known here
makes every value a no, and schema.json stays the one description. A check of a job costs a microsecond or two this
way, and some eighty with the full validator.
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
}
_TYPES: dict[str, Check] = {
    "integer": lambda value: type(value) is int,  # 30.0 is an integer too: that is for the full validator
    "number": lambda value: type(value) in (int, float),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
}


def compiled(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Check:
    """A function that is true only of values that `schema` accepts. definitions: what ``#/$defs/…`` refers to."""
    silent = _SILENT | _seen_to(schema)
    tests = [_keyword(name, schema, definitions) for name in schema if name not in silent and name[:1] != "$"]
    if "$ref" in schema:
        tests.append(compiled(definitions[schema["$ref"].removeprefix("#/$defs/")], definitions))
    if "additionalProperties" in schema and "properties" not in schema:
        tests.append(_properties({"properties": {}, **schema}, definitions))
    return _all(tests)


def _seen_to(schema: Mapping[str, Any]) -> set[str]:
    """Keywords that the test of another one looks at: a call less for each text and each mapping."""
    if schema.get("type") == "string":
        return {"minLength", "maxLength"}
    return {"type"} if schema.get("type") == "object" and "properties" in schema else set()


def _all(tests: list[Check]) -> Check:
    """Every one of the tests. Those of a job are spelled out: a loop would cost as much as they do."""
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
    tests = [_TYPES[each] for each in wanted]
    return lambda value: any(test(value) for test in tests)


def _texts(allowed: list[Any]) -> Check:
    """True of the texts among the `allowed`; other types are for the full validator."""
    texts = frozenset(each for each in allowed if isinstance(each, str))
    return lambda value: isinstance(value, str) and value in texts


def _const(schema: Mapping[str, Any], _: Mapping[str, Any]) -> Check:
    wanted = schema["const"]
    return lambda value: type(value) is type(wanted) and bool(value == wanted)


def _properties(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Check:
    checks = {name: compiled(each, definitions) for name, each in schema["properties"].items()}
    further = schema.get("additionalProperties", True)
    other = compiled(further, definitions) if isinstance(further, Mapping) else lambda _: bool(further)
    alone = schema.get("type") != "object"  # and nothing is said of other types here

    def fits(value: Any) -> bool:
        is_mapping = isinstance(value, dict)
        if is_mapping:
            for key, each in value.items():
                if not checks.get(key, other)(each):
                    return False
        return is_mapping or alone

    return fits


def _items(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Check:
    test = compiled(schema["items"], definitions)
    return lambda value: not isinstance(value, list) or all(test(each) for each in value)


def _if(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Check:
    """Only a condition on the type alone is certain enough to branch on: a no to anything else might be wrong."""
    condition, then, other = (compiled(schema.get(name, {}), definitions) for name in ("if", "then", "else"))
    if set(schema["if"]) != {"type"} or schema["if"]["type"] not in ("array", "object", "string"):
        return lambda _: False
    return lambda value: then(value) if condition(value) else other(value)


def _any_of(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Check:
    tests = [compiled(each, definitions) for each in schema["anyOf"]]
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
