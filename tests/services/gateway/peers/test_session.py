"""Errors of the session service, as the gateway's admission sees them."""

import pytest
from thumbwheel.session.v1 import session_pb2_grpc

from services.chassis.channel import open_channel
from services.chassis.errors import ResourceExhaustedError
from services.chassis.identity import CallContext, Caller, bind_call
from services.gateway.peers.session import SessionPeer
from services.gateway.turns.request import TurnRequest, typed_message
from tests.services.gateway.fakes import backends


async def test_limit_of_conversations_is_no_sign_of_load() -> None:
    """Finding S-14: one user at the limit must not lower the number of turns of all users."""
    bind_call(CallContext(Caller("acme", "ada"), "r1"))
    async with backends() as (fakes, target), open_channel(target) as channel:
        fakes.session.full = "2,000 conversations of a user"
        peer = SessionPeer(session_pb2_grpc.SessionServiceStub(channel), 5)
        question = typed_message("What is it?")
        with pytest.raises(ResourceExhaustedError) as caught:
            await peer.begin_turn(TurnRequest(question), question)
    assert (caught.value.is_load, caught.value.limit) == (False, "2,000 conversations of a user")
