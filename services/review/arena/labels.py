"""Developer and licence of the models, from the settings and from the generator."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from services.chassis.errors import ServiceError
from services.chassis.telemetry import fields
from services.contracts.identifiers import EXTERNAL_PREFIX

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Label:
    """Facts about a model, as set by the operator.

    Args:
        developer: developer, or "".
        licence: licence, or "".
        endpoint_model: name of an external model at its endpoint, by which it may introduce itself.
    """

    developer: str = ""
    licence: str = ""
    endpoint_model: str = ""


class ExternalModels(Protocol):
    """Source of the models of other providers."""

    async def external_models(self) -> Mapping[str, Label]:
        """Return the external models by name.

        Raises:
            ServiceError: the generator service does not answer.
        """


class Labels:
    """Labels of all models.

    Args:
        own: labels of the settings, which take precedence.
        external: source of the external models.
    """

    def __init__(self, own: Mapping[str, Label], external: ExternalModels) -> None:
        self._own, self._external = own, external
        self._known: Mapping[str, Label] = {}

    async def read(self, models: Iterable[str] | None = None) -> Mapping[str, Label]:
        """Return the labels by model.

        Without the generator, the external models of the last call keep their labels.

        Args:
            models: models of interest; without an external one the generator is not asked.
        """
        if models is None or any(model.startswith(EXTERNAL_PREFIX) for model in models):
            try:
                self._known = await self._external.external_models()
            except ServiceError as error:
                log.warning("external models not read", extra=fields(reason=error.reason))
        found = dict(self._known)
        for model, label in self._own.items():
            endpoint_model = found.get(model, label).endpoint_model
            found[model] = replace(label, endpoint_model=endpoint_model)
        return found
