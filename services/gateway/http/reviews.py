"""The page's API of appeals, and of the reviewers: items, reviews, disagreements and agreement."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from thumbwheel.review.v1 import appeal_pb2, review_pb2

from services.contracts.limits import field_error
from services.gateway.http.app import PAGE_QUERY, ProtectedRoute, Router
from services.gateway.http.body import name_by_path, read_bytes, read_message, to_json
from services.gateway.http.page import NO_CONTEXT
from services.gateway.servicer import AppealServicer, ReviewServicer

# As in ListDisagreementsRequest.
MAX_PAGE_SIZE, DEFAULT_PAGE_SIZE = 50, 20


class ReviewsApi:
    """HTTP endpoints under /api/appeals and /api/reviews."""

    def __init__(self, appeals: AppealServicer, reviews: ReviewServicer) -> None:
        self._appeals, self._reviews = appeals, reviews

    def routes(self, router: Router) -> list[ProtectedRoute]:
        """Return the routes. Their rules are in access.py."""
        item = "/api/reviews/{item_id}"
        return [
            router.route("POST /api/appeals", self.appeal, is_proto_json=True),
            router.route("GET /api/appeals", self.appeals),
            router.route("GET /api/reviews/next", self.next),
            router.route("GET /api/reviews/disagreements", self.disagreements, query=PAGE_QUERY),
            router.route("GET /api/reviews/agreement", self.agreement),
            router.route(f"POST {item}", self.submit, is_proto_json=True),
            router.route(f"POST {item}/skip", self.skip),
            router.route(f"POST {item}/resolution", self.resolve, is_proto_json=True),
        ]

    async def appeal(self, request: Request) -> Response:
        message = await read_message(request, appeal_pb2.SubmitAppealRequest)
        return JSONResponse(to_json(await self._appeals.SubmitAppeal(message, NO_CONTEXT)))

    async def appeals(self, request: Request) -> Response:
        message = appeal_pb2.ListAppealsRequest()
        return JSONResponse(to_json(await self._appeals.ListAppeals(message, NO_CONTEXT)))

    async def next(self, request: Request) -> Response:
        message = review_pb2.GetNextItemRequest()
        return JSONResponse(to_json(await self._reviews.GetNextItem(message, NO_CONTEXT)))

    async def submit(self, request: Request) -> Response:
        message = await read_message(request, review_pb2.SubmitReviewRequest)
        name_by_path(request, message, "item_id")
        return JSONResponse(to_json(await self._reviews.SubmitReview(message, NO_CONTEXT)))

    async def skip(self, request: Request) -> Response:
        await read_bytes(request)
        message = review_pb2.SkipItemRequest(item_id=request.path_params["item_id"])
        return JSONResponse(to_json(await self._reviews.SkipItem(message, NO_CONTEXT)))

    async def disagreements(self, request: Request) -> Response:
        size = request.query_params.get("page_size", "0")
        if not (size.isascii() and size.isdigit() and len(size) <= 3):
            raise field_error("page_size", f"1 to {MAX_PAGE_SIZE}, or 0 for {DEFAULT_PAGE_SIZE}")
        message = review_pb2.ListDisagreementsRequest(
            page_size=int(size), page_token=request.query_params.get("page_token", "")
        )
        return JSONResponse(to_json(await self._reviews.ListDisagreements(message, NO_CONTEXT)))

    async def resolve(self, request: Request) -> Response:
        message = await read_message(request, review_pb2.ResolveDisagreementRequest)
        name_by_path(request, message, "item_id")
        return JSONResponse(to_json(await self._reviews.ResolveDisagreement(message, NO_CONTEXT)))

    async def agreement(self, request: Request) -> Response:
        """Return the agreement; protobuf's JSON has the text "NaN" for a NaN."""
        message = review_pb2.GetAgreementRequest()
        return JSONResponse(to_json(await self._reviews.GetAgreement(message, NO_CONTEXT)))
