"""gRPC client of the review service's ReviewItemService."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import grpc
from thumbwheel.review.v1 import review_pb2, review_pb2_grpc

from training.service_channel import RemoteError, ServiceChannel, TlsFiles, translated
from training.service_identity import ServiceIdentity

log = logging.getLogger(__name__)

CALL_SECONDS = 20.0
MAX_REMOVED = 1_000  # limit of RemoveItems, for each of its lists


class ReviewItems:
    """Client of ReviewItemService; every call may be repeated.

    All methods raise RemoteError if the service is unavailable or refuses the call.
    """

    def __init__(
        self,
        target: str,
        tls: TlsFiles | None = None,
        timeout_seconds: float = 0.0,
        identity: ServiceIdentity | None = None,
    ) -> None:
        self._target, self._patience_seconds = target, timeout_seconds
        self._channel = ServiceChannel(target, "review", tls, identity)

    def add(self, items: Sequence[review_pb2.DrawnItem]) -> int:
        """Add items; return the number of those that were stored now."""
        request = review_pb2.AddItemsRequest(items=items)
        reply = self._call(lambda: self._stub.AddItems(request, timeout=CALL_SECONDS))
        return int(reply.added)

    def remove(self, principals: Sequence[str] = (), item_ids: Sequence[str] = ()) -> int:
        """Remove the items of users, and items by their ids; return their number."""
        removed = 0
        for start in range(0, max(len(principals), len(item_ids)), MAX_REMOVED):
            part = slice(start, start + MAX_REMOVED)
            request = review_pb2.RemoveItemsRequest(
                principals=principals[part], item_ids=item_ids[part]
            )
            removed += self._remove(request)
        return removed

    def reviewed(self) -> Iterator[review_pb2.ReviewedItem]:
        """Yield all items that have reviews, oldest first."""
        token = ""
        while True:
            reply = self._page(token)
            yield from reply.items
            token = reply.next_page_token
            if not token:
                return

    def quarantined(self) -> frozenset[str]:
        """Return the accounts in quarantine, as principals."""
        found: list[str] = []
        token = ""
        while True:
            reply = self._quarantined_page(token)
            found += reply.principals
            token = reply.next_page_token
            if not token:
                return frozenset(found)

    def close(self) -> None:
        self._channel.close()

    def _remove(self, request: review_pb2.RemoveItemsRequest) -> int:
        reply = self._call(lambda: self._stub.RemoveItems(request, timeout=CALL_SECONDS))
        return int(reply.removed)

    def _page(self, token: str) -> Any:
        request = review_pb2.ListReviewsRequest(page_token=token)
        return self._call(lambda: self._stub.ListReviews(request, timeout=CALL_SECONDS))

    def _quarantined_page(self, token: str) -> Any:
        request = review_pb2.ListQuarantinedAccountsRequest(page_token=token)
        return self._call(lambda: self._stub.ListQuarantinedAccounts(request, timeout=CALL_SECONDS))

    @property
    def _stub(self) -> Any:
        # The generated types only know grpc.aio; training uses blocking calls.
        return review_pb2_grpc.ReviewItemServiceStub(self._channel.current())  # type: ignore[arg-type]

    def _call(self, call: Callable[[], Any]) -> Any:
        return translated("review", self._target, self._patience_seconds, call)


def quarantined_accounts(
    target: str, tls: TlsFiles | None, timeout_seconds: float, identity: ServiceIdentity | None
) -> frozenset[str]:
    """Return the accounts in quarantine; none without a target or with an earlier service.

    Raises:
        RemoteError: the service is unavailable or refuses the call.
    """
    if not target:
        return frozenset()
    with closing(ReviewItems(target, tls, timeout_seconds, identity)) as review:
        try:
            return review.quarantined()
        except RemoteError as error:
            if error.reason != grpc.StatusCode.UNIMPLEMENTED.name:
                raise
            log.warning("review does not know ListQuarantinedAccounts: no account is left out")
            return frozenset()
