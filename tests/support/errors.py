"""Assertions on errors by class, field, reason and limit.

Tests thereby do not depend on the wording of messages.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest


@contextlib.contextmanager
def refused(
    kind: type[BaseException] | tuple[type[BaseException], ...],
    *,
    field: str | None = None,
    reason: str | None = None,
    limit: str | None = None,
) -> Iterator[pytest.ExceptionInfo[Any]]:
    """Expect an error of `kind` with these attributes; None is not compared.

    Args:
        kind: the error class, or several.
        field: the exact `field` of the error.
        reason: the exact `reason` of the error.
        limit: the exact `limit` of the error.

    Yields:
        The exception info of `pytest.raises`, whose `value` is set after the block.
    """
    with pytest.raises(kind) as caught:
        yield caught
    expected = {"field": field, "reason": reason, "limit": limit}
    compared = {name: value for name, value in expected.items() if value is not None}
    found = {name: getattr(caught.value, name, None) for name in compared}
    assert found == compared, f"{type(caught.value).__name__}: {caught.value}"
