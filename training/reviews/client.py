"""gRPC client of the review service's ReviewItemService."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import chain
from typing import Any

from thumbwheel.review.v1 import review_pb2, review_pb2_grpc

from training.service_channel import RemoteError, ServiceClient, TlsFiles
from training.service_identity import ServiceIdentity

CALL_SECONDS = 20.0
MAX_REMOVED = 1_000  # limit of RemoveItems, for each of its lists


class ReviewItems(ServiceClient):
    """Client of ReviewItemService; every call may be repeated.

    All methods raise RemoteError if the service is unavailable or refuses the call.
    """

    service, stub = "review", review_pb2_grpc.ReviewItemServiceStub

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
        for page in self._pages("ListReviews", review_pb2.ListReviewsRequest()):
            yield from page.items

    def quarantined(self) -> frozenset[str]:
        """Return the accounts in quarantine, as principals; none with an earlier service."""
        request = review_pb2.ListQuarantinedAccountsRequest()
        try:
            pages = [page.principals for page in self._pages("ListQuarantinedAccounts", request)]
        except RemoteError as error:
            warning = "%s does not know %s: no account is left out"
            self._note_unknown(error, "ListQuarantinedAccounts", warning)
            return frozenset()
        return frozenset(chain.from_iterable(pages))

    def _remove(self, request: review_pb2.RemoveItemsRequest) -> int:
        reply = self._call(lambda: self._stub.RemoveItems(request, timeout=CALL_SECONDS))
        return int(reply.removed)

    def _pages(self, call: str, request: Any) -> Iterator[Any]:
        """Yield the responses of a call with pages; the token of the request is changed."""
        while True:
            reply = self._call(lambda: getattr(self._stub, call)(request, timeout=CALL_SECONDS))
            yield reply
            request.page_token = reply.next_page_token
            if not request.page_token:
                return


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
        return review.quarantined()
