"""Check of row lengths against the positions that a model was trained with."""

from __future__ import annotations

from pathlib import Path

from training.model.checkpoint import read_config
from training.stages.context import ConfigError


def require_positions(model_directory: Path, **lengths: int) -> None:
    """Check that rows of these lengths fit the positions of the model.

    Longer rows fail in the middle of a run if positions are learned, and degrade the output if they
    are rotated.

    Args:
        lengths: parts of a row in tokens, by the config fields that limit them.

    Raises:
        ConfigError: the sum exceeds the model's positions; names the fields.
        ModelConfigError, CheckpointError: as raised by read_config.
    """
    tokens, known = sum(lengths.values()), read_config(model_directory).max_positions
    if tokens > known:
        fields = " + ".join(lengths)
        raise ConfigError(
            f"{fields}: {tokens} is above {known}, the positions of {model_directory.name}",
            field=fields,
            reason="TOO_LARGE",
            limit=f"at most {known}",
        )
