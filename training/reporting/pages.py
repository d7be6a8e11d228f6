"""HTML pages in a single file, without scripts and requests.

All text is escaped by the template, because models and users wrote some of it. The layout is
templates/page.html.jinja.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from training.errors import ConfigError
from training.reporting.curves import HEIGHT, WIDTH


def write_page(path: Path, template: str, facts: Mapping[str, object]) -> Path:
    """Write a page atomically.

    Raises:
        ConfigError: the path is a folder.
    """
    if path.is_dir():
        raise ConfigError(f"page: {path.name} is a folder", field="page", reason="EXISTS")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(_environment().get_template(template).render(facts), encoding="utf-8")
    partial.replace(path)
    return path


def figure(value: object) -> str:
    """Format a number; format a nested mapping as "name value, name value"."""
    if isinstance(value, Mapping):
        return ", ".join(
            f"{str(name).replace('_', ' ')} {figure(item)}" for name, item in value.items()
        )
    if value is None:
        return "unknown"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    environment.filters["figure"] = figure
    environment.globals |= {"width": WIDTH, "height": HEIGHT}
    return environment
