"""Models that take part in battles: served versions, external models, and those of the settings."""

from collections.abc import Sequence
from typing import Protocol

from services.chassis.errors import FailedPreconditionError


class ServedModels(Protocol):
    """Source of the models that answer."""

    async def served_models(self) -> Sequence[str]:
        """Return the versions that the generator serves, and the external models.

        Raises:
            ServiceError: the generator service does not answer.
        """


class TooFewModelsError(FailedPreconditionError):
    """Fewer than two models take part."""

    reason = "TOO_FEW_MODELS"


class Participants:
    """Models of new battles.

    Args:
        served: source of the models that answer.
        extra: further models of the settings.
        excluded: models that never take part.
    """

    def __init__(self, served: ServedModels, extra: Sequence[str], excluded: Sequence[str]) -> None:
        self._served, self._extra, self._excluded = served, extra, frozenset(excluded)

    async def models(self) -> list[str]:
        """Return at least two different models.

        Raises:
            TooFewModelsError: fewer than two models take part.
            ServiceError: the generator service does not answer.
        """
        found = {*await self._served.served_models(), *self._extra} - self._excluded
        if len(found) < 2:
            raise TooFewModelsError(
                f"{len(found)} model takes part in battles; a canary or an external model adds one",
                limit="at least 2 models",
            )
        return sorted(found)
