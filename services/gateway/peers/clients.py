"""Channels to the services behind the gateway, and the clients on them."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

import grpc
from google.protobuf.descriptor import FileDescriptor
from thumbwheel.enhancer.v1 import enhancer_pb2, enhancer_pb2_grpc
from thumbwheel.feedback.v1 import feedback_pb2, feedback_pb2_grpc
from thumbwheel.generator.v1 import generator_pb2, generator_pb2_grpc
from thumbwheel.guardrail.v1 import guardrail_pb2, guardrail_pb2_grpc
from thumbwheel.review.v1 import (
    appeal_pb2,
    appeal_pb2_grpc,
    arena_pb2,
    arena_pb2_grpc,
    review_pb2,
    review_pb2_grpc,
)
from thumbwheel.session.v1 import session_pb2, session_pb2_grpc

from services.chassis.channel import open_channel
from services.gateway.peers.enhancer import EnhancerPeer
from services.gateway.peers.feedback import FeedbackPeer
from services.gateway.peers.generator import GeneratorPeer
from services.gateway.peers.guardrail import GuardrailPeer
from services.gateway.peers.review import ReviewPeer
from services.gateway.peers.session import ConversationsPeer, SessionPeer
from services.gateway.settings import GatewaySettings


@dataclass(frozen=True)
class Peers:
    """Clients of the services behind the gateway."""

    guardrail: GuardrailPeer
    enhancer: EnhancerPeer
    session: SessionPeer
    generator: GeneratorPeer
    feedback: FeedbackPeer
    review: ReviewPeer
    conversations: ConversationsPeer

    @classmethod
    async def open(cls, settings: GatewaySettings, stack: AsyncExitStack) -> "Peers":
        """Open one channel per service for the life of the process."""
        tls, signer = settings.tls_files(), settings.token_signer("gateway")

        async def channel(peer: str, target: str, *protos: FileDescriptor) -> grpc.aio.Channel:
            opened = open_channel(target, *protos, peer=peer, tls=tls, signer=signer)
            return await stack.enter_async_context(opened)

        session = await channel("session", settings.session_target, session_pb2.DESCRIPTOR)
        guardrail = await channel("guardrail", settings.guardrail_target, guardrail_pb2.DESCRIPTOR)
        enhancer = await channel("enhancer", settings.enhancer_target, enhancer_pb2.DESCRIPTOR)
        generator = await channel("generator", settings.generator_target, generator_pb2.DESCRIPTOR)
        log_channel = await channel("feedback", settings.feedback_target, feedback_pb2.DESCRIPTOR)
        review = await channel(
            "review",
            settings.review_target,
            appeal_pb2.DESCRIPTOR,
            arena_pb2.DESCRIPTOR,
            review_pb2.DESCRIPTOR,
        )
        sessions = session_pb2_grpc.SessionServiceStub(session)
        feedback = FeedbackPeer(
            feedback_pb2_grpc.FeedbackLogServiceStub(log_channel), settings.feedback_seconds
        )
        return cls(
            GuardrailPeer(
                guardrail_pb2_grpc.GuardrailServiceStub(guardrail), settings.guard_seconds
            ),
            EnhancerPeer(
                enhancer_pb2_grpc.EnhancerServiceStub(enhancer), settings.enhancer_seconds
            ),
            SessionPeer(sessions, settings.session_seconds),
            GeneratorPeer(
                generator_pb2_grpc.GeneratorServiceStub(generator),
                generator_pb2_grpc.RolloutServiceStub(generator),
                settings.turn_seconds,
            ),
            feedback,
            ReviewPeer(
                arena_pb2_grpc.ArenaServiceStub(review),
                arena_pb2_grpc.BattleModelServiceStub(review),
                appeal_pb2_grpc.AppealServiceStub(review),
                review_pb2_grpc.ReviewServiceStub(review),
                settings.review_seconds,
            ),
            ConversationsPeer(sessions, feedback, settings.session_seconds),
        )
