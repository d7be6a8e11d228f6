"""Items for reviewers of a running system, added as a draw adds them."""

from contextlib import closing
from typing import Any

from thumbwheel.review.v1 import review_pb2, review_pb2_grpc

from services.chassis.identity import Caller
from services.contracts.identifiers import principal_of
from tests.journeys.stack import Stack
from tests.services.review.service import drawn_item
from training.service_channel import ServiceChannel
from training.service_identity import FOLDER, OPERATOR, ServiceIdentity


def add_item(stack: Stack, owner: Caller, *answers: str, question: str = "a question") -> str:
    """Add an item with words of a user for reviewers of the user's tenant; return its id."""
    key = (stack.state / "principal.key").read_text().strip()
    item = drawn_item(
        *answers,
        owner=(("x-tw-tenant", owner.tenant), ("x-tw-user", owner.user)),
        principal=principal_of(key, owner),
    )
    item.item.context[0].text = question
    operator = ServiceIdentity(OPERATOR, stack.state / FOLDER / f"{OPERATOR}.key")
    target = f"127.0.0.1:{stack.ports['review']}"
    with closing(ServiceChannel(target, "review", None, operator)) as channel:
        stub: Any = review_pb2_grpc.ReviewItemServiceStub(channel.current())
        assert stub.AddItems(review_pb2.AddItemsRequest(items=[item]), timeout=10).added == 1
    return str(item.item.item_id)
