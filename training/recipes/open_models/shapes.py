"""The shapes of open models, as config.json: sizes alone, which are facts. Gemma 3 27B is its text
decoder, without the part that sees.
"""

from __future__ import annotations

from pathlib import Path

from training.model.config import ModelConfig, parse_config
from training.model.fields import read_object
from training.stages.context import ConfigError

SHAPES = Path(__file__).parent / "shapes"


def shape_names() -> list[str]:
    """Of all shapes that are here."""
    return sorted(path.stem for path in SHAPES.glob("*.json"))


def shape(name: str) -> ModelConfig:
    """Raises: ConfigError: it is none of ours."""
    if name not in shape_names():
        known = ", ".join(shape_names())
        raise ConfigError(
            f"shape: {name!r} is not one of {known}", field="shape", reason="UNKNOWN", limit=known
        )
    return parse_config(read_object(SHAPES / f"{name}.json"))
