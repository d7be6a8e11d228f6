"""Config fields from text, such as `optimizer.learning_rate=1e-5`.

A part that is off (None) gets its own defaults when one of its fields is assigned: `lora.rank=16`.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from training.errors import ConfigError, details_of, did_you_mean
from training.recipes.custom.hints import ALIASES, unknown_field
from training.runtime.ranges import rules_of

OFF, NEEDED = "none", "needed"
# Fields and parts of most stages, which few runs need.
SHARED = ("lora", "vocabulary_rows", "checkpoint_activations", "seed", "machine", "parallelism")
ATTRIBUTES = "Attributes:\n"
# An explanation may be wrapped: its further lines are indented more deeply than its name.
EXPLANATION = re.compile(r"^ {4}(\w+): (.+(?:\n {8}.+)*)$", re.MULTILINE)
BOOLEANS = {"true": True, "false": False}

Config = TypeVar("Config")
Tree = dict[str, "str | Tree"]
Values = dict[str, object]  # by field; those of a part or a mapping are Values


def assigned(config: Config, assignments: Sequence[str], fixed: Sequence[str] = ()) -> Config:
    """Return the config with these fields set.

    All fields are set at once, so consistency checks see the final values.

    Args:
        assignments: strings NAME=VALUE; `none` turns an optional field off, commas separate the
            values of a tuple.
        fixed: fields that cannot be assigned, as other options set them.

    Raises:
        ConfigError: the field does not exist, its value is invalid, or fields contradict each
            other; names the field.
    """
    changed: Config = _built(type(config), config, parsed(type(config), assignments, fixed), "")
    return changed


def parsed(kind: Any, assignments: Sequence[str], fixed: Sequence[str] = ()) -> Values:
    """Return the values of the assignments by field, without the checks that need other fields.

    Args:
        kind: config class.
        assignments, fixed: as in `assigned`.

    Raises:
        ConfigError: the field does not exist, or its value is malformed or not allowed.
    """
    tree: Tree = {}
    for assignment in assignments:
        name, sign, text = assignment.partition("=")
        if not sign or not name:
            raise ConfigError(
                f"set: {assignment!r} is not FIELD=VALUE",
                field="set",
                reason="MALFORMED",
                limit="FIELD=VALUE",
            )
        name = _documented(name)
        *path, leaf = name.split(".")
        above = tree
        for step in path:
            below = above.setdefault(step, {})
            if isinstance(below, str):
                raise ConfigError(
                    f"{name}: {step} is also set as a whole", field=name, reason="CONFLICT"
                )
            above = below
        if leaf in above:
            raise ConfigError(f"{name}: set twice", field=name, reason="DUPLICATE")
        above[leaf] = text

    def unknown(name: str, beside: Sequence[str]) -> ConfigError:
        return unknown_field(name, beside, [one.name for one in settable(kind, fixed)])

    return _values(kind, tree, "", fixed, unknown)


def fields_named(assignments: Sequence[str]) -> list[str]:
    """Return the field names of the assignments, in order."""
    return [_documented(assignment.partition("=")[0]) for assignment in assignments]


def _documented(name: str) -> str:
    """Return the documented name of a field: optimizer.learning_rate for optimizer.lr."""
    above, dot, leaf = name.rpartition(".")
    return f"{above}{dot}{ALIASES.get(leaf, leaf)}"


@dataclasses.dataclass(frozen=True)
class Settable:
    """A field that can be assigned.

    value: the default (NEEDED: none). explanation: from the docstring of its class.
    """

    name: str
    value: object
    explanation: str


def settable(
    kind: Any, fixed: Sequence[str] = (), now: object = None, prefix: str = ""
) -> Iterator[Settable]:
    """Yield the fields of a config class that can be assigned.

    A part that is off is followed by its fields with their defaults.

    Args:
        now: a config whose values replace the defaults of the class.
    """
    explanations = explained(kind)
    for field in dataclasses.fields(kind):
        if field.name in fixed:
            continue
        part, name = _part(kind, field.name), prefix + field.name
        value = _default(field) if now is None else getattr(now, field.name)
        if part is None or value is None:
            yield Settable(name, value, explanations.get(field.name, ""))
        if part is not None:
            yield from settable(part, (), None if now is None else value, f"{name}.")


def listed(fields: Iterable[Settable], of: str = "") -> str:
    """Format the fields for the help text, those that all stages share at the end.

    Args:
        of: addition to the title, such as " of grpo".
    """
    ordered = sorted(fields, key=lambda field: field.name.partition(".")[0] in SHARED)
    lines = (
        f"  {field.name} = {word(field.value) or '(empty)'}\n      {field.explanation}"
        for field in ordered
    )
    title = (
        f"fields for --set with defaults{of}; a part that is none is on if a field of it is set:"
    )
    return "\n".join((title, *lines))


def explained(kind: Any) -> dict[str, str]:
    """Return an explanation for each field of a config class.

    The source is `Attributes:` in the docstring of the class or of its nearest base class.
    """
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        _, _, section = inspect.cleandoc(one.__doc__ or "").partition(ATTRIBUTES)
        found |= {name: " ".join(text.split()) for name, text in EXPLANATION.findall(section)}
    return found


def word(value: object) -> str:
    """Format a value as in an assignment."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _values(
    kind: Any,
    tree: Tree,
    prefix: str,
    fixed: Sequence[str],
    unknown: Callable[[str, Sequence[str]], ConfigError],
) -> Values:
    """Parse a tree of texts for a config class.

    Args:
        unknown: makes the error for an unknown field of the fields beside it.
    """
    names = [field.name for field in dataclasses.fields(kind) if field.name not in fixed]
    hints, rules = get_type_hints(kind), rules_of(kind)
    values: Values = {}
    for field, given in tree.items():
        name = prefix + field
        if field not in names:
            raise unknown(name, [prefix + one for one in names])
        part = _part(kind, field)
        if isinstance(given, str):
            values[field] = _value(given, hints[field], name)
        elif get_origin(hints[field]) is Mapping:
            entries: Values = {}
            for key, text in given.items():
                if not isinstance(text, str):
                    raise ConfigError(
                        f"{name}.{key}: has no nested fields",
                        field=f"{name}.{key}",
                        reason="UNSUPPORTED",
                    )
                entries[key] = _value(text, get_args(hints[field])[1], f"{name}.{key}")
            values[field] = entries
        elif part is None:
            raise ConfigError(f"{name}: has no nested fields", field=name, reason="UNSUPPORTED")
        else:
            values[field] = _values(part, given, f"{name}.", (), unknown)
        if field in rules:
            rules[field].check(name, values[field])
    return values


def _built(kind: Any, now: Any, values: Values, prefix: str) -> Any:
    """Apply values to a config, or to the defaults of its class if `now` is None."""
    changed: Values = {}
    for field, value in values.items():
        before = None if now is None else getattr(now, field)
        if not isinstance(value, dict):
            changed[field] = value
        elif (part := _part(kind, field)) is None:
            changed[field] = {**(before or {}), **value}
        else:
            changed[field] = _built(part, before, value, f"{prefix}{field}.")
    if now is None:  # the part was off, so all its fields need a value
        for needed in dataclasses.fields(kind):
            if needed.name not in changed and _default(needed) == NEEDED:
                name = prefix + needed.name
                raise ConfigError(f"{name}: must be set too", field=name, reason="MISSING")
    try:
        return kind(**changed) if now is None else dataclasses.replace(now, **changed)
    except ValueError as error:
        raise ConfigError(f"{prefix}{error}", **details_of(error, prefix)) from error


def _part(kind: Any, field: str) -> Any:
    """Return the config class of a field, or None for a plain field."""
    return next(
        (one for one in _kinds(get_type_hints(kind)[field]) if dataclasses.is_dataclass(one)), None
    )


def _default(field: dataclasses.Field[Any]) -> object:
    if field.default is not dataclasses.MISSING:
        return field.default
    return NEEDED if field.default_factory is dataclasses.MISSING else field.default_factory()


def _value(text: str, kind: Any, name: str) -> object:
    """Parse the text of a field.

    Raises:
        ConfigError: the text is not of this kind.
    """
    kinds = _kinds(kind)
    if text == OFF and type(None) in kinds:
        return None
    for one in kinds:
        try:
            return _parsed(text, one)
        except (ValueError, KeyError):
            continue
    words = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        Path: "a path",
        type(None): OFF,
    }
    allowed = " or ".join(
        ", ".join(str(member.value) for member in one)
        if _is_enum(one)
        else words.get(one, "values separated by commas")
        for one in kinds
    )
    words_of_enums = [str(member.value) for one in kinds if _is_enum(one) for member in one]
    raise ConfigError(
        f"{name}: {text!r} is not {allowed}{did_you_mean(text, words_of_enums)}",
        field=name,
        reason="MALFORMED",
        limit=allowed,
    )


def _parsed(text: str, kind: Any) -> object:
    if kind is bool:
        return BOOLEANS[text.lower()]
    if get_origin(kind) is tuple:
        inner, texts = get_args(kind), text.split(",") if text else []
        if inner[-1] is not Ellipsis and len(texts) != len(inner):
            raise ValueError(text)
        return tuple(_parsed(one, inner[0]) for one in texts)
    if kind in (int, float, str, Path) or _is_enum(kind):
        return kind(text)
    raise ValueError(text)  # a nested config is set by its fields


def _kinds(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum)
