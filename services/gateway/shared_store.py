"""The store that gateways share, as the domain knows it: it may be away at any time, and every use
says what happens then.
"""

from services.chassis.errors import UnavailableError


class StoreAwayError(UnavailableError):
    """The shared store did not answer in time, or refuses to be written to."""

    reason = "SHARED_STORE_AWAY"

    def __init__(self, text: str = "the store that gateways share is away") -> None:
        super().__init__(text, retry_seconds=1)
