"""Validate the manifest with a JSON Schema, and translate its errors to messages with places.

schema.json is the only definition of keys, types and choices; editors use it unchanged. References of values (files,
other jobs) are checked elsewhere. This module converts jsonschema's errors to findings.
"""

import copy
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchrunner.errors import UsageError
from batchrunner.formatting import redacted
from batchrunner.manifest import schema_fast
from batchrunner.manifest.diagnostics.diagnostic import START, Findings, nearest
from batchrunner.manifest.row import row_fields
from batchrunner.manifest.yaml_source.values import YamlList, YamlMapping
from batchrunner.providers import registry
from batchrunner.providers.models import ModelSpec
from batchrunner.settings import SETTINGS, parse

_MOST_LISTED = 16  # keys in a hint
_ITEMS = {"jobs": "job", "matrix": "row"}
# The place of an unusable value: section, row, field; or only a section.
BadPlaces = set[tuple[str | int, ...]]

_TYPES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "object": "a mapping",
    "array": "a list",
}
_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "true or false"),
    (int, "a number"),
    (float, "a number"),
    (str, "text"),
    (dict, "a mapping"),
    (list, "a list"),
)
# Keys that are often misplaced, and their hints.
_MISPLACED = {
    ("matrix", "id"): "a row gives many jobs, whose ids are derived",
    ("defaults", "id"): "an id belongs to one job",
    ("defaults", "model"): "the model of all jobs is set at the top",
}
# Names from other tools, for which the nearest known key would be wrong.
_FOREIGN = {
    "seed": "the service does not accept a seed for this model",
    "prompt": "the model does not accept a prompt",
    "steps": "did you mean 'num_inference_steps'?",
}


@registry.cached
def _request_fields() -> Mapping[str, str]:
    """The hint for each name that a service uses for an input."""
    specs = registry.models().values()
    return {item.field: f"did you mean '{item.name}'?" for spec in specs for item in spec.inputs}


@registry.cached
def schema() -> dict[str, Any]:
    """The manifest's JSON Schema (draft 2020-12): the one in the package with the fields of all models in it."""
    text = Path(__file__).with_name("schema.json").read_text("utf-8")
    return with_models(json.loads(text), registry.models())


def with_models(base: dict[str, Any], models: Mapping[str, ModelSpec]) -> dict[str, Any]:
    """`base` with the names of the models, and their fields.

    A field that several models have takes the values of all of them; `model_errors` checks it against its own model.
    """
    definitions = base["$defs"]
    definitions["model"] = {**definitions["model"], "enum": list(models)}
    definitions["job"].pop("allOf", None)
    fields: dict[str, Any] = {}
    for spec in models.values():
        for name, known in spec.fields.items():
            fields[name] = _joined(fields[name], known) if name in fields else known
    definitions |= fields
    for section in ("job", "defaults", "row", "exclusion"):
        properties = definitions[section]["properties"]
        new: dict[str, Any] = {name: {"$ref": f"#/$defs/{name}"} for name in fields if name not in properties}
        if section == "row":
            new = {
                name: {"if": {"type": "array"}, "then": {"minItems": 1, "items": one}, "else": one}
                for name, one in new.items()
            }
        last = {name: properties[name] for name in ("tags", "priority", "takes", "file") if name in properties}
        first = {name: value for name, value in properties.items() if name not in last}
        definitions[section]["properties"] = {**first, **new, **last}
    return base


def editor_schema() -> dict[str, Any]:
    """The schema for editors: `schema`, and for a job that names its model the fields and values of that model alone.

    schema.json in the package is this schema. The loader makes the same checks in `batchrunner.manifest.assemble`,
    where it also knows the model of the batch.
    """
    whole = copy.deepcopy(schema())
    if registry.fields_differ():
        whole["$defs"]["job"]["allOf"] = [_condition(name) for name in registry.models()]
    return whole


def _condition(model: str) -> dict[str, Any]:
    refused = dict.fromkeys(sorted(registry.foreign_fields(model)), False)
    return {
        "if": {"properties": {"model": {"const": model}}, "required": ["model"]},
        "then": {"properties": {**refused, **registry.differing_fields(model)}},
    }


def _joined(one: Mapping[str, Any], other: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of a field that two models have: the choices of both, or no more than their types."""
    if "enum" in one and "enum" in other:
        return {**one, "enum": [*one["enum"], *(item for item in other["enum"] if item not in one["enum"])]}
    differing = {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
    if differing <= registry.ANNOTATIONS:
        return one
    kept = {key: value for key, value in one.items() if key in registry.ANNOTATIONS}
    return {**kept, "type": sorted({*_types_of(one), *_types_of(other)})}


def _types_of(schema: Mapping[str, Any]) -> list[str]:
    named = schema.get("type", "string")  # choices are texts
    return [named] if isinstance(named, str) else list(named)


@registry.cached
def _validator() -> Any:
    import jsonschema

    return jsonschema.Draft202012Validator(schema())


@registry.cached
def _item_validator(section: str) -> Any:
    """Return the validator for one entry of a section."""
    import jsonschema

    definitions = schema()["$defs"]
    return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{_ITEMS[section]}", "$defs": definitions})


@registry.cached
def _fits(section: str) -> schema_fast.Check:
    """Return the fast check for one entry of a section, or for the manifest without sections (an empty name)."""
    definitions = schema()["$defs"]
    return schema_fast.compiled(definitions[_ITEMS[section]] if section else schema(), definitions)


@registry.cached
def _types() -> dict[str, str]:
    """Return the type of each key whose values are neither text nor collections."""
    top = schema()["else"]["properties"]
    every = {**top, **top["prices"]["properties"], **schema()["$defs"]["job"]["properties"]}
    whole = {name: schema()["$defs"].get(item.get("$ref", "").rpartition("/")[2], item) for name, item in every.items()}
    # A field of several models may have several types. A text that is no number stays as it is.
    read = {name: next((kind for kind in _types_of(item) if kind in _READ), "") for name, item in whole.items()}
    return {name: kind for name, kind in read.items() if kind}


def typed(name: str | None, text: str) -> Any:
    """Convert `text` to the type of the field `name` if possible; otherwise return it unchanged."""
    read = _READ.get(_types().get(name or "", ""))
    return text if read is None else read(text.strip(), text)


def is_number(name: str) -> bool:
    """Return True if the field `name` takes numbers that may be fractions."""
    return _types().get(name) == "number"


def _number(text: str, whole: str) -> Any:
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else whole


_WHOLE = re.compile(r"[+-]?[0-9]{1,15}")
_DECIMAL = re.compile(r"[+-]?[0-9]{1,15}\.[0-9]{1,15}")
_READ: dict[str, Callable[[str, str], Any]] = {
    "integer": _number,
    "number": _number,
    "boolean": lambda text, whole: {"true": True, "false": False}.get(text.lower(), whole),
}


def job_fits(fields: Mapping[str, Any]) -> bool:
    """Return True if the fields are those of a valid job. If False, only `check_job` is conclusive."""
    return _fits("jobs")(fields)


def dataset_fits(block: object) -> bool:
    """Return True if a value is a valid `dataset` block."""
    import jsonschema

    definitions = schema()["$defs"]
    whole = {"$ref": "#/$defs/dataset", "$defs": definitions}
    return bool(jsonschema.Draft202012Validator(whole).is_valid(block))


def check_job(item: YamlMapping, findings: Findings) -> frozenset[str]:
    """Record all schema errors of one job, and return its unusable fields."""
    translator = _ErrorTranslator(findings)
    translator.check_item(item, ("jobs", 0), item)
    return frozenset(str(place[2]) for place in translator.bad if len(place) > 2)


def model_errors(spec: ModelSpec, fields: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield field, code, message and hint for each value that other models take, and this one does not."""
    for name, own in registry.differing_fields(spec.name).items():
        if name not in fields or _own_check(spec.name, name)(fields[name]):
            continue
        import jsonschema

        for error in _errors(jsonschema.Draft202012Validator(own), fields[name])[:1]:
            message, hint = _explanation(error, ("jobs", 0, name))
            yield name, _CODES.get(error.validator, "not-allowed"), f"{message}, for the model {spec.name}", hint


@registry.cached
def _own_check(model: str, name: str) -> schema_fast.Check:
    return schema_fast.compiled(registry.models()[model].fields[name], {})


def hint_for(key: str) -> str:
    """Return the hint for a field of another tool, or an empty text."""
    return _request_fields().get(key) or _FOREIGN.get(key, "")


def where(path: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Return the place in BadPlaces for the value at `path`."""
    return path[:2] if path[:1] == ("defaults",) else path[:3]


def check(root: Any, findings: Findings, refused: Iterable[tuple[str | int, ...]] = ()) -> BadPlaces:
    """Record all errors of `root` (from `parser.parse`) under the schema and the table of settings.

    refused: places of values with errors that are already recorded. Returns these and the places of all other unusable
    values, so that the other values can still be checked.
    """
    translator = _ErrorTranslator(findings, frozenset(refused), set(refused))
    top = root
    if isinstance(root, YamlMapping):
        top, marks = YamlMapping(root.mark), root.key_marks
        for key, value in root.items():
            stand_in = translator.check_items(key, value) if key in _ITEMS else value
            top.put(key, stand_in, marks[key], root.value_marks[key])
    elif isinstance(root, YamlList):
        top = translator.check_items("jobs", root)
    if not _fits("")(top):
        for error in _errors(_validator(), top):
            translator.report(
                error, tuple(error.absolute_path), root if isinstance(root, YamlMapping | YamlList) else START
            )
    if isinstance(root, YamlMapping):
        _settings(root, translator.bad, findings)
    return translator.bad


@dataclass(frozen=True, slots=True)
class _ErrorTranslator:
    """Converts errors of jsonschema to findings."""

    findings: Findings
    refused: frozenset[tuple[str | int, ...]] = frozenset()
    bad: BadPlaces = field(default_factory=set)

    def check_items(self, section: str, items: Any) -> Any:
        """Check the entries of a section one by one. Return a placeholder for them, for the check of the whole."""
        if not isinstance(items, YamlList) or not items:
            return items
        fits = _fits(section)
        for index, item in enumerate(items):
            if not fits(item):
                at = item if isinstance(item, YamlMapping) else items.marks[index]
                self.check_item(item, (section, index), at)
        checked = YamlList(items.mark)
        checked.append(YamlMapping(items.mark))
        checked.marks.append(items.mark)
        return checked

    def check_item(self, item: Any, path: tuple[str, int], at: YamlMapping | int) -> None:
        """Record the errors of one entry of a section. at: the entry, or its place if it is not a mapping."""
        for error in _errors(_item_validator(path[0]), item):
            self.report(error, (*path, *error.absolute_path), at)

    def report(self, error: Any, path: tuple[str | int, ...], top: Any) -> None:
        """Record one error. path: from the manifest's root. error.absolute_path: from `top`."""
        if error.validator == "additionalProperties":
            _unknown_keys(error, path, self.findings)
            if len(path) == 1:  # the table of settings would refuse the same key
                self.bad.add(where((*path, "")))
        elif where(path) not in self.refused:
            message, hint = _explanation(error, path)
            place = top if isinstance(top, int) else _place(top, error.absolute_path)
            self.findings.error(_CODES.get(error.validator, "not-allowed"), place, message, hint)
            self.bad.add(where(path))


def _errors(validator: Any, value: Any) -> list[Any]:
    """Return the errors in a stable order; the library iterates over tags as a set."""
    return sorted(validator.iter_errors(value), key=lambda error: [str(step) for step in error.absolute_path])


def _settings(root: YamlMapping, bad: BadPlaces, findings: Findings) -> None:
    """Record values that the schema accepts but the table of settings does not, such as a duration of 0s."""
    refused = {place[0] for place in bad if place}
    for setting in SETTINGS:
        if setting.name in root and setting.name not in refused:
            try:
                parse(setting, root[setting.name], "")
            except UsageError as error:
                message = f"'{setting.name}'{error.message.removeprefix(':')}"
                findings.error("not-allowed", root.value_marks[setting.name], message, error.hint)


def _place(root: Any, path: Iterable[str | int]) -> int:
    """Return the place of the value at `path`."""
    node, place = root, getattr(root, "mark", START)
    for step in path:
        if isinstance(node, YamlMapping):
            place = node.value_marks[str(step)]
        elif isinstance(node, YamlList):
            place = node.marks[int(step)]
        node = node[step]
    return place


def _unknown_keys(error: Any, path: tuple[str | int, ...], findings: Findings) -> None:
    known = list(error.schema["properties"])
    section = path[0] if path and isinstance(path[0], str) else "jobs"
    marks = error.instance.key_marks
    for key in error.instance:
        if key in known:
            continue
        guess = nearest(key, known)
        listed = ", ".join(known) if len(known) <= _MOST_LISTED else "run 'batchrunner schema' to list them"
        hint = f"did you mean '{guess}'?" if guess else f"known keys: {listed}"
        if not path and key in row_fields():
            hint = "fields of a job belong in an entry of 'jobs' or in 'defaults'"
        elif path and section != "dataset":
            hint = _MISPLACED.get((section, key)) or hint_for(key) or hint
        findings.error("unknown-key", marks[key], f"{_owner(path)} has no key {_shown(key, 40)}", hint)


def _owner(path: tuple[str | int, ...]) -> str:
    """Return the name of the value at `path` for messages: the nearest key above it, or the kind of row."""
    names = [item for item in path if isinstance(item, str)]
    rows = {"jobs": "a job", "matrix": "a matrix row"}
    if not names:
        return "a job" if path else "the manifest"
    if len(path) == 2 and names == [path[0]]:
        return rows.get(names[0], f"'{names[0]}'")
    return f"'{names[-1][:40]}'"


def _explanation(error: Any, path: tuple[str | int, ...]) -> tuple[str, str]:
    """Return message and hint for one error of jsonschema."""
    subject = _owner(path)
    if isinstance(error.instance, list) and path[-1:] and path[-1] in row_fields() - {"tags"} and path[0] != "matrix":
        return f"{subject} is a list", "a field takes a list in 'matrix' rows only"
    explainer = _EXPLAINERS.get(error.validator)
    if explainer is None:  # a keyword that the schema does not use at present
        return f"{subject}: {error.message[:200]}", ""
    return explainer(subject, error)


def _shown(value: object, most: int = 60) -> str:
    """Return a value as a message quotes it."""
    if isinstance(value, dict | list) or value is None:
        return _kind(value)
    text = str(value).lower() if isinstance(value, bool) else redacted(str(value))
    text = text if len(text) <= most else text[: most - 1] + "…"
    return f"'{text}'" if isinstance(value, str) else text


def _kind(value: object) -> str:
    return next((name for kind, name in _KINDS if isinstance(value, kind)), "empty")


def _wrong_type(subject: str, error: Any) -> tuple[str, str]:
    wanted = error.validator_value
    names = " or ".join(_TYPES[item] for item in ([wanted] if isinstance(wanted, str) else wanted))
    message = f"{subject} is {_kind(error.instance)}, must be {names}"
    if wanted == "string" and isinstance(error.instance, bool | int | float):
        pattern = error.schema.get("pattern")
        if pattern and not re.search(pattern, str(error.instance)):  # quotes would not be sufficient
            return _pattern(subject, error)
        return message, "put it in quotes to make it text"
    if wanted in ("integer", "number") and isinstance(error.instance, str):
        number = error.instance.replace(".", "", 1)
        return message, "write it without quotes" if number.isascii() and number.isdigit() else ""
    if wanted == "integer" and isinstance(error.instance, float):
        return f"{subject} is {error.instance:g}, must be {names}", ""
    if wanted == "array":
        return message, "start each entry with '- '"
    return message, ""


def _not_allowed(subject: str, error: Any) -> tuple[str, str]:
    choices = [error.validator_value] if error.validator == "const" else error.validator_value
    # YAML reads off and on as booleans, so the schema lists both.
    choices = [item for item in choices if not isinstance(item, bool)] or choices
    names = [str(item) for item in choices]
    listed = ", ".join(names)
    kind = "must be" if len(choices) == 1 else "must be one of"
    guess = nearest(error.instance, names) if type(error.instance) in (str, int) and len(names) > 1 else None
    return f"{subject} is {_shown(error.instance)}, {kind} {listed}", f"did you mean {guess}?" if guess else ""


def _bound(relation: str) -> Callable[[str, Any], tuple[str, str]]:
    return lambda subject, error: (
        f"{subject} is {_shown(error.instance)}, must be {relation} {error.validator_value}",
        "",
    )


def _pattern(subject: str, error: Any) -> tuple[str, str]:
    wanted = error.schema.get("patternErrorMessage", f"text like {error.validator_value}")
    return f"{subject} is {_shown(error.instance)}, must be {wanted}", error.schema.get("patternHint", "")


def _first_missing(error: Any) -> str:
    return next(f"'{name}'" for name in error.validator_value if name not in error.instance)


_EXPLAINERS: dict[str, Callable[[str, Any], tuple[str, str]]] = {
    "type": _wrong_type,
    "enum": _not_allowed,
    "const": _not_allowed,
    "minimum": _bound("at least"),
    "maximum": _bound("at most"),
    "exclusiveMinimum": _bound("more than"),
    "pattern": _pattern,
    "minLength": lambda subject, _: (f"{subject} is empty", ""),
    "maxLength": lambda subject, error: (f"{subject} is longer than {error.validator_value} characters", ""),
    "minItems": lambda subject, _: (f"{subject} is empty", "start an entry with '- '"),
    "maxItems": lambda subject, error: (f"{subject} has more than {error.validator_value:,} entries", ""),
    "minProperties": lambda subject, _: (f"{subject} is empty", "name at least one field"),
    "required": lambda subject, error: (f"{subject} has an entry without {_first_missing(error)}", ""),
    "anyOf": lambda subject, _: (
        f"{subject} has neither 'jobs' nor 'jobs_from' nor 'matrix'",
        "list the jobs under 'jobs'",
    ),
}
_CODES = {"type": "wrong-type", "enum": "not-allowed", "const": "not-allowed", "pattern": "not-allowed"} | {
    "minimum": "out-of-range",
    "maximum": "out-of-range",
    "exclusiveMinimum": "out-of-range",
    "minLength": "empty",
    "maxLength": "out-of-range",
    "minItems": "empty",
    "maxItems": "too-many",
    "minProperties": "empty",
    "required": "missing-key",
    "anyOf": "missing-key",
}
