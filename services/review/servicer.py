"""Servicers of the service: convert, and call the domain.

Every method acts for the user of the running call, except those of ReviewItemService.
"""

from collections.abc import Sequence
from typing import Any

from thumbwheel.review.v1 import (
    appeal_pb2,
    appeal_pb2_grpc,
    arena_pb2,
    arena_pb2_grpc,
    review_pb2,
    review_pb2_grpc,
)

from services.chassis.identity import Caller, require_caller
from services.contracts.identifiers import principal_of
from services.contracts.limits import field_error
from services.review.arena.battle import Voter
from services.review.arena.battles import Battles
from services.review.arena.leaderboard import Leaderboards
from services.review.arena.screening import AccountStore
from services.review.arena.votes import Votes
from services.review.reviewing.agreement import Agreements
from services.review.reviewing.appeals import Appeals
from services.review.reviewing.item import Item, Reviewer
from services.review.reviewing.items import MAX_ITEMS, Items
from services.review.reviewing.order import shown_order
from services.review.reviewing.reviews import Reviews
from services.review.wire import (
    OUTCOMES,
    agreement_proto,
    appeal_proto,
    battle_proto,
    given_review,
    item_from,
    item_proto,
    leaderboard_proto,
    review_proto,
    reviewed_item_proto,
)

ARENA_NAME = "thumbwheel.review.v1.ArenaService"
MODELS_NAME = "thumbwheel.review.v1.BattleModelService"
APPEALS_NAME = "thumbwheel.review.v1.AppealService"
REVIEWS_NAME = "thumbwheel.review.v1.ReviewService"
ITEMS_NAME = "thumbwheel.review.v1.ReviewItemService"
PAGE_ACCOUNTS = 1_000


class ArenaServicer(arena_pb2_grpc.ArenaServiceServicer):
    """Implementation of ArenaService in proto/thumbwheel/review/v1."""

    def __init__(
        self, principal_key: str, battles: Battles, votes: Votes, leaderboards: Leaderboards
    ) -> None:
        self._key, self._battles, self._votes = principal_key, battles, votes
        self._leaderboards = leaderboards

    async def CreateBattle(
        self, request: arena_pb2.CreateBattleRequest, context: Any
    ) -> arena_pb2.CreateBattleResponse:
        _, voter = _caller(self._key)
        battle = await self._battles.create(voter, request.request_id)
        return arena_pb2.CreateBattleResponse(battle=battle_proto(battle))

    async def GetBattle(
        self, request: arena_pb2.GetBattleRequest, context: Any
    ) -> arena_pb2.GetBattleResponse:
        _, voter = _caller(self._key)
        battle = await self._battles.get(voter, request.battle_id)
        return arena_pb2.GetBattleResponse(battle=battle_proto(battle))

    async def VoteBattle(
        self, request: arena_pb2.VoteBattleRequest, context: Any
    ) -> arena_pb2.VoteBattleResponse:
        caller, voter = _caller(self._key)
        if request.outcome not in OUTCOMES:
            names = ", ".join(arena_pb2.Outcome.Name(number) for number in OUTCOMES)
            raise field_error("outcome", f"one of {names}")
        battle = await self._votes.vote(
            caller, voter, request.battle_id, request.message_ids, OUTCOMES[request.outcome]
        )
        return arena_pb2.VoteBattleResponse(battle=battle_proto(battle))

    async def GetLeaderboard(
        self, request: arena_pb2.GetLeaderboardRequest, context: Any
    ) -> arena_pb2.GetLeaderboardResponse:
        tenant = require_caller().tenant
        board = await self._leaderboards.board(tenant, request.topic, style=request.style_control)
        return leaderboard_proto(board)


class BattleModelServicer(arena_pb2_grpc.BattleModelServiceServicer):
    """Implementation of BattleModelService in proto/thumbwheel/review/v1."""

    def __init__(self, principal_key: str, battles: Battles) -> None:
        self._key, self._battles = principal_key, battles

    async def ResolveBattleModel(
        self, request: arena_pb2.ResolveBattleModelRequest, context: Any
    ) -> arena_pb2.ResolveBattleModelResponse:
        _, voter = _caller(self._key)
        version = await self._battles.version_of(voter, request.model)
        return arena_pb2.ResolveBattleModelResponse(model_version=version)


class AppealServicer(appeal_pb2_grpc.AppealServiceServicer):
    """Implementation of AppealService in proto/thumbwheel/review/v1."""

    def __init__(self, principal_key: str, appeals: Appeals) -> None:
        self._key, self._appeals = principal_key, appeals

    async def SubmitAppeal(
        self, request: appeal_pb2.SubmitAppealRequest, context: Any
    ) -> appeal_pb2.SubmitAppealResponse:
        stored = await self._appeals.submit(
            _reviewer(self._key), request.message_id, request.reason
        )
        return appeal_pb2.SubmitAppealResponse(appeal=appeal_proto(stored))

    async def ListAppeals(
        self, request: appeal_pb2.ListAppealsRequest, context: Any
    ) -> appeal_pb2.ListAppealsResponse:
        found = await self._appeals.of_caller(_reviewer(self._key))
        return appeal_pb2.ListAppealsResponse(appeals=map(appeal_proto, found))


class ReviewServicer(review_pb2_grpc.ReviewServiceServicer):
    """Implementation of ReviewService in proto/thumbwheel/review/v1."""

    def __init__(self, principal_key: str, reviews: Reviews, agreements: Agreements) -> None:
        self._key, self._reviews, self._agreements = principal_key, reviews, agreements

    async def GetNextItem(
        self, request: review_pb2.GetNextItemRequest, context: Any
    ) -> review_pb2.GetNextItemResponse:
        reviewer = _reviewer(self._key)
        item, remaining = await self._reviews.next_item(reviewer)
        shown = item_proto(item, _order(item, reviewer))
        return review_pb2.GetNextItemResponse(item=shown, remaining=remaining)

    async def SubmitReview(
        self, request: review_pb2.SubmitReviewRequest, context: Any
    ) -> review_pb2.SubmitReviewResponse:
        given = given_review(request)
        await self._reviews.submit(_reviewer(self._key), request.item_id, given)
        return review_pb2.SubmitReviewResponse()

    async def SkipItem(
        self, request: review_pb2.SkipItemRequest, context: Any
    ) -> review_pb2.SkipItemResponse:
        await self._reviews.skip(_reviewer(self._key), request.item_id)
        return review_pb2.SkipItemResponse()

    async def ListDisagreements(
        self, request: review_pb2.ListDisagreementsRequest, context: Any
    ) -> review_pb2.ListDisagreementsResponse:
        reviewer = _reviewer(self._key)
        found, token = await self._reviews.disagreements(
            reviewer, request.page_size, request.page_token
        )
        response = review_pb2.ListDisagreementsResponse(next_page_token=token)
        for one in found:
            order = _order(one.item, reviewer)
            response.disagreements.add(
                item=item_proto(one.item, order),
                reviews=[review_proto(each, order, reviewer.principal) for each in one.reviews],
            )
        return response

    async def ResolveDisagreement(
        self, request: review_pb2.ResolveDisagreementRequest, context: Any
    ) -> review_pb2.ResolveDisagreementResponse:
        given = given_review(request)
        await self._reviews.resolve(_reviewer(self._key), request.item_id, given)
        return review_pb2.ResolveDisagreementResponse()

    async def GetAgreement(
        self, request: review_pb2.GetAgreementRequest, context: Any
    ) -> review_pb2.GetAgreementResponse:
        return agreement_proto(await self._agreements.of_tenant(require_caller().tenant))


class ReviewItemServicer(review_pb2_grpc.ReviewItemServiceServicer):
    """Implementation of ReviewItemService in proto/thumbwheel/review/v1."""

    def __init__(self, items: Items, accounts: AccountStore) -> None:
        self._items, self._accounts = items, accounts

    async def AddItems(
        self, request: review_pb2.AddItemsRequest, context: Any
    ) -> review_pb2.AddItemsResponse:
        if not 1 <= len(request.items) <= MAX_ITEMS:
            raise field_error("items", f"1 to {MAX_ITEMS}", str(len(request.items)))
        items = [item_from(one, f"items[{number}]") for number, one in enumerate(request.items)]
        return review_pb2.AddItemsResponse(added=await self._items.add(items))

    async def RemoveItems(
        self, request: review_pb2.RemoveItemsRequest, context: Any
    ) -> review_pb2.RemoveItemsResponse:
        removed = await self._items.remove(request.principals, request.item_ids)
        return review_pb2.RemoveItemsResponse(removed=removed)

    async def ListQuarantinedAccounts(
        self, request: review_pb2.ListQuarantinedAccountsRequest, context: Any
    ) -> review_pb2.ListQuarantinedAccountsResponse:
        if "\0" in request.page_token:
            raise field_error("page_token", "without U+0000")
        found = await self._accounts.quarantined_after(request.page_token, PAGE_ACCOUNTS)
        token = found[-1] if len(found) == PAGE_ACCOUNTS else ""
        return review_pb2.ListQuarantinedAccountsResponse(principals=found, next_page_token=token)

    async def ListReviews(
        self, request: review_pb2.ListReviewsRequest, context: Any
    ) -> review_pb2.ListReviewsResponse:
        found, token = await self._items.reviewed(request.page_size, request.page_token)
        return review_pb2.ListReviewsResponse(
            items=[reviewed_item_proto(one) for one in found], next_page_token=token
        )


def _reviewer(key: str) -> Reviewer:
    """Return the user of the running call as a reviewer."""
    caller = require_caller()
    return Reviewer(caller.tenant, caller.user, principal_of(key, caller))


def _order(item: Item, reviewer: Reviewer) -> Sequence[int]:
    """Return the order of the answers for a reviewer."""
    return shown_order(item.item_id, reviewer.principal, len(item.answers))


def _caller(key: str) -> tuple[Caller, Voter]:
    """Return the user of the running call, also as a pseudonym."""
    caller = require_caller()
    return caller, Voter(caller.tenant, principal_of(key, caller))
