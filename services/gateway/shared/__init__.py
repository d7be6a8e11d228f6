"""State that gateways share through Valkey: turns, quotas, cached answers. May be unavailable.

Every use of the store defines its behaviour during an outage.
"""

from services.chassis.errors import UnavailableError


class StoreUnavailableError(UnavailableError):
    """The shared store did not answer in time, or refuses writes."""

    reason = "SHARED_STORE_AWAY"

    def __init__(self, text: str = "the store shared by gateways is unavailable") -> None:
        super().__init__(text, retry_seconds=1)
