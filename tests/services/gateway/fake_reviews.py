"""Fake of the review service's items: who may see an item, and one review for each reviewer."""

import uuid
from typing import Any

from thumbwheel.review.v1 import appeal_pb2, appeal_pb2_grpc, review_pb2, review_pb2_grpc

from services.chassis.errors import AlreadyExistsError, NotFoundError, UnavailableError
from services.chassis.identity import Caller, require_caller
from services.contracts.limits import check_uuid, field_error

NAN = float("nan")


class FakeAppeals(appeal_pb2_grpc.AppealServiceServicer):
    """Appeals in memory by user and message; as in the service, messages of others do not exist."""

    def __init__(self) -> None:
        self.away = False
        # Owners of blocked messages.
        self.owners: dict[str, Caller] = {}
        self.stored: dict[tuple[str, str], appeal_pb2.Appeal] = {}

    async def SubmitAppeal(self, request: Any, context: Any) -> appeal_pb2.SubmitAppealResponse:
        caller = self._caller()
        check_uuid(request.message_id, "message_id")
        if self.owners.get(request.message_id) != caller:
            raise NotFoundError("no such message", field="message_id")
        appeal = appeal_pb2.Appeal(
            message_id=request.message_id,
            reason=request.reason,
            state=appeal_pb2.APPEAL_STATE_OPEN,
        )
        stored = self.stored.setdefault((caller.key, request.message_id), appeal)
        if stored != appeal:
            raise AlreadyExistsError("another reason", reason="APPEAL_EXISTS", field="reason")
        return appeal_pb2.SubmitAppealResponse(appeal=stored)

    async def ListAppeals(self, request: Any, context: Any) -> appeal_pb2.ListAppealsResponse:
        key = self._caller().key
        own = [appeal for (owner, _), appeal in self.stored.items() if owner == key]
        return appeal_pb2.ListAppealsResponse(appeals=own)

    def _caller(self) -> Caller:
        if self.away:
            raise UnavailableError("unavailable on request", reason="AWAY")
        return require_caller()


class FakeReviews(review_pb2_grpc.ReviewServiceServicer):
    """Items in memory; as in the service, those with the caller's own words do not exist."""

    def __init__(self) -> None:
        self.away = False
        self.items: dict[str, tuple[Caller, review_pb2.ReviewItem]] = {}
        self.reviews: dict[tuple[str, str], review_pb2.Review] = {}
        self.skipped: set[tuple[str, str]] = set()
        self.pages: list[review_pb2.ListDisagreementsRequest] = []

    def add(self, owner: Caller) -> str:
        """Add an item with words of a user, and return its id."""
        item_id = str(uuid.uuid4())
        answers = [review_pb2.ReviewAnswer(answer_id=name, text=f"answer {name}") for name in "ab"]
        item = review_pb2.ReviewItem(item_id=item_id, answers=answers)
        self.items[item_id] = (owner, item)
        return item_id

    async def GetNextItem(self, request: Any, context: Any) -> review_pb2.GetNextItemResponse:
        key = self._caller().key
        left = [
            item
            for item_id, (_, item) in self.items.items()
            if self._sees(item_id) and (key, item_id) not in {*self.reviews, *self.skipped}
        ]
        if not left:
            raise NotFoundError("no item is left to judge", reason="NO_ITEM")
        return review_pb2.GetNextItemResponse(item=left[0], remaining=len(left))

    async def SubmitReview(self, request: Any, context: Any) -> review_pb2.SubmitReviewResponse:
        self._store(request)
        return review_pb2.SubmitReviewResponse()

    async def SkipItem(self, request: Any, context: Any) -> review_pb2.SkipItemResponse:
        self.skipped.add((self._caller().key, self._item(request)))
        return review_pb2.SkipItemResponse()

    async def ListDisagreements(
        self, request: Any, context: Any
    ) -> review_pb2.ListDisagreementsResponse:
        self._caller()
        if request.page_size > 50:
            raise field_error("page_size", "at most 50, or 0", str(request.page_size))
        self.pages.append(request)
        return review_pb2.ListDisagreementsResponse(next_page_token="3/next")

    async def ResolveDisagreement(
        self, request: Any, context: Any
    ) -> review_pb2.ResolveDisagreementResponse:
        self._store(request)
        return review_pb2.ResolveDisagreementResponse()

    async def GetAgreement(self, request: Any, context: Any) -> review_pb2.GetAgreementResponse:
        self._caller()
        one = review_pb2.Agreement(scale="clarity", alpha=NAN, low=NAN, high=NAN)
        return review_pb2.GetAgreementResponse(items=len(self.items), agreements=[one])

    def _store(self, request: Any) -> None:
        if not request.HasField("review"):
            raise field_error("review", "set")
        key = (self._caller().key, self._item(request))
        if self.reviews.setdefault(key, request.review) != request.review:
            raise AlreadyExistsError("another review", reason="ITEM_HAS_REVIEW", field="review")

    def _item(self, request: Any) -> str:
        check_uuid(request.item_id, "item_id")
        if not self._sees(request.item_id):
            raise NotFoundError("no such item", field="item_id")
        return str(request.item_id)

    def _sees(self, item_id: str) -> bool:
        caller, found = self._caller(), self.items.get(item_id)
        return bool(found) and found[0].tenant == caller.tenant and found[0] != caller

    def _caller(self) -> Caller:
        if self.away:
            raise UnavailableError("unavailable on request", reason="AWAY")
        return require_caller()
