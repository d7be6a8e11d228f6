"""Renderings with values that are set wherever a chart has a value of that name."""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from infra.check.chart.chart import Chart, Object, RefusedError

MAX_DEPTH = 12
Setter = Callable[[Any], Any]


def set_everywhere(chart: Chart, setters: Mapping[str, Setter]) -> dict[str, Any] | None:
    """Return the values with every value of these names replaced, or None without such a value.

    Names are compared without case. A name is looked for in the values, in the schema and in the
    paths that templates read (`.Values.a.b`).

    Args:
        setters: new value by name, as a function of the old one, which is None where only the
            schema names it; the same value if it is not meant.
    """
    setters = {name.lower(): setter for name, setter in setters.items()}
    values = copy.deepcopy(chart.values)
    changed = _set_in_values(values, setters)
    if chart.schema:
        changed |= _set_by_schema(values, chart.schema, chart.schema, setters, 0)
    for file in sorted((chart.folder / "templates").rglob("*.*")):
        for path in re.findall(r"\.Values((?:\.\w+)+)", file.read_text()):
            changed |= _set_at(values, path.strip(".").split("."), setters)
    return values if changed else None


def _set_at(values: dict[str, Any], path: Sequence[str], setters: Mapping[str, Setter]) -> bool:
    """Set a value that only a template names; its parents must be mappings."""
    setter, found = setters.get(path[-1].lower()), values
    if setter is None or (new := setter(None)) is None:
        return False
    for key in path[:-1]:
        inner = found.setdefault(key, {})
        if not isinstance(inner, dict):
            return False
        found = inner
    if path[-1] in found:
        return False
    found[path[-1]] = new
    return True


def _set_in_values(values: Any, setters: Mapping[str, Setter]) -> bool:
    changed = False
    if isinstance(values, list):
        for item in values:
            changed |= _set_in_values(item, setters)
    if not isinstance(values, dict):
        return changed
    for key, old in list(values.items()):
        setter = setters.get(str(key).lower())
        if setter is not None and (new := setter(old)) != old:
            values[key], changed = new, True
        else:
            changed |= _set_in_values(old, setters)
    return changed


def _set_by_schema(
    values: dict[str, Any],
    schema: Mapping[str, Any],
    root: Mapping[str, Any],
    setters: Mapping[str, Setter],
    depth: int,
) -> bool:
    changed = False
    properties = resolved(schema, root).get("properties") or {}
    for key, inner in properties.items() if depth < MAX_DEPTH else ():
        setter = setters.get(key.lower())
        if setter is not None and key not in values:
            new = setter(None)
            if new is not None:
                values[key], changed = new, True
        elif isinstance(values.get(key), dict) and setter is None:
            changed |= _set_by_schema(values[key], inner, root, setters, depth + 1)
    return changed


def resolved(schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a schema with a local `$ref` replaced by what it names."""
    if not isinstance(schema, Mapping):
        return {}
    reference = str(schema.get("$ref", ""))
    if not reference.startswith("#/"):
        return schema
    found: Any = root
    for step in reference[2:].split("/"):
        found = found.get(step, {})
    return {**resolved(found, root), **{key: schema[key] for key in schema if key != "$ref"}}


def first_accepted(
    chart: Chart, variants: Sequence[Mapping[str, Any] | None]
) -> tuple[Sequence[Object] | None, str]:
    """Render the first of the variants that the chart accepts.

    Returns:
        the objects, or None and the reason: no variant has a value, or the last line of Helm's
        error.
    """
    reason = "no value for it"
    for values in variants:
        if values is None:
            continue
        try:
            return chart.render(values), ""
        except RefusedError as error:
            reason = f"refused: {str(error).splitlines()[-1][:200]}"
    return None, reason


def replaced(kind: type, new: Any) -> Setter:
    """Return a setter for values of a type; None counts as every type."""
    return lambda old: new if old is None or isinstance(old, kind) else old
