"""Error of the store that gateways share. Every use defines its behaviour during an outage."""

from services.chassis.errors import UnavailableError


class StoreUnavailableError(UnavailableError):
    """The shared store did not answer in time, or refuses writes."""

    reason = "SHARED_STORE_AWAY"

    def __init__(self, text: str = "the store shared by gateways is unavailable") -> None:
        super().__init__(text, retry_seconds=1)
