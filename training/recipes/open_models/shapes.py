"""Shapes of open models as config.json, with sizes only, which are facts.

Gemma 3 27B is its text decoder without the vision encoder.
"""

from __future__ import annotations

from pathlib import Path

from training.errors import ConfigError
from training.model.config import ModelConfig, parse_config
from training.model.fields import read_object

SHAPES = Path(__file__).parent / "shapes"


def shape_names() -> list[str]:
    """Return the names of all available shapes."""
    return sorted(path.stem for path in SHAPES.glob("*.json"))


def shape(name: str) -> ModelConfig:
    """Return the model config of a shape.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in shape_names():
        known = ", ".join(shape_names())
        raise ConfigError(
            f"shape: {name!r} is not one of {known}", field="shape", reason="UNKNOWN", limit=known
        )
    return parse_config(read_object(SHAPES / f"{name}.json"))
