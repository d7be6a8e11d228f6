"""Answers of external models, which train no model unless the settings name them.

Licences of other providers usually forbid training on the output of their models.
"""

from __future__ import annotations

from collections.abc import Collection

# Versions of external models begin with it, in the log as well (services/contracts/identifiers.py).
EXTERNAL_PREFIX = "external."


def is_untrained(model_version: str, trained: Collection[str]) -> bool:
    """Return True for an answer that must not train a model.

    Args:
        model_version: version that generated the answer.
        trained: names of external models, without the prefix, whose answers may train.
    """
    return (
        model_version.startswith(EXTERNAL_PREFIX)
        and model_version.removeprefix(EXTERNAL_PREFIX) not in trained
    )
