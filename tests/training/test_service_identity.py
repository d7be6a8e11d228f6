"""Signed calls of training and operators: the services' verifier accepts their tokens."""

from collections.abc import Callable, Iterator
from concurrent import futures
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from thumbwheel.feedback.v1 import feedback_pb2, feedback_pb2_grpc
from thumbwheel.generator.v1 import generator_pb2, generator_pb2_grpc

from infra.run.embedded.preflight import count_thumbs
from services.chassis.errors import UnauthenticatedError
from services.chassis.identity import Caller
from services.chassis.identity_keys import create_key_pair, retire_keys
from services.chassis.service_identity import IDENTITY_KEY, ServiceTokenError, TokenVerifier
from tests.support.errors import refused
from training import service_channel, service_identity
from training.errors import ConfigError
from training.remote import FeedbackLog, RolloutClient
from training.service_channel import RemoteError
from training.service_identity import ServiceIdentity, identity_in, training_identity


class Verifying(grpc.ServerInterceptor):
    """Refuses calls as the services do, and records the callers of the others."""

    def __init__(self, keys: Path) -> None:
        self.verifier, self.callers = TokenVerifier(keys, required=True), []

    def intercept_service(self, continuation: Callable[..., Any], details: Any) -> Any:
        try:
            caller = self.verifier.verify(details.method, Caller(), details.invocation_metadata)
        except ServiceTokenError as error:
            code, reason = UnauthenticatedError.code, error.reason
            return grpc.unary_unary_rpc_method_handler(lambda _, call: call.abort(code, reason))
        self.callers.append(caller)
        return continuation(details)


class Services(
    feedback_pb2_grpc.FeedbackLogServiceServicer, generator_pb2_grpc.RolloutServiceServicer
):
    """Fake services; the next `refusals` calls fail as unauthenticated."""

    def __init__(self) -> None:
        self.refusals = 0

    def GetVersionFeedback(self, request: Any, context: Any) -> Any:
        if self.refusals:
            self.refusals -= 1
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "expired")
        return feedback_pb2.GetVersionFeedbackResponse()

    def CountThumbs(self, request: Any, context: Any) -> Any:
        return feedback_pb2.CountThumbsResponse(counts=[feedback_pb2.ThumbCount(up=7)])

    def GetRollout(self, request: Any, context: Any) -> Any:
        return generator_pb2.GetRolloutResponse()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return a state folder with the keys of training and operators."""
    for caller in ("training", "operator"):
        create_key_pair(
            caller, tmp_path / "identity" / f"{caller}.key", tmp_path / "identity" / "public"
        )
    return tmp_path


@pytest.fixture
def services(state: Path) -> Iterator[tuple[str, Verifying, Services]]:
    verifying, services = Verifying(state / "identity" / "public"), Services()
    server = grpc.server(futures.ThreadPoolExecutor(2), interceptors=(verifying,))
    feedback_pb2_grpc.add_FeedbackLogServiceServicer_to_server(services, server)
    generator_pb2_grpc.add_RolloutServiceServicer_to_server(services, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", verifying, services
    server.stop(0).wait()


SINCE = datetime(2026, 11, 24, 12, tzinfo=UTC)


def test_signed_calls_of_training_and_operators_are_accepted(state: Path, services: Any) -> None:
    target, verifying, _ = services
    training = identity_in(state, "training")
    log, rollout = (
        FeedbackLog(target, identity=training),
        RolloutClient(target, identity=training),
    )
    log.version_feedback(("v1",), SINCE)
    rollout.view()
    assert count_thumbs(target, identity_in(state, "operator")) == 7
    assert verifying.callers == ["training", "training", "operator"]
    for client in (log, rollout):
        client.close()


def test_unsigned_call_is_refused_with_the_reason_of_the_service(services: Any) -> None:
    log = FeedbackLog(services[0])
    with refused(RemoteError, field="feedback", reason="UNAUTHENTICATED") as caught:
        log.version_feedback(("v1",), SINCE)
    assert "SERVICE_TOKEN_MISSING" in str(caught.value)
    log.close()


def test_run_follows_a_rotation_of_its_key(state: Path, services: Any) -> None:
    target, verifying, _ = services
    folder = state / "identity"
    log = FeedbackLog(target, identity=identity_in(state, "training"))
    log.version_feedback(("v1",), SINCE)
    create_key_pair("training", folder / "next.key", folder / "public")
    (folder / "next.key").replace(folder / "training.key")
    retire_keys("training", folder / "training.key", folder / "public")
    verifying.verifier = TokenVerifier(folder / "public", required=True)
    log.version_feedback(("v1",), SINCE)
    assert verifying.callers == ["training"] * 2
    log.close()


def test_token_that_expired_in_a_long_attempt_is_replaced_once(
    state: Path, services: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The retries of gRPC repeat the metadata of a call."""
    target, _, fake = services
    log = FeedbackLog(target, identity=identity_in(state, "training"))
    for token_seconds, refusals, is_answered in ((60, 1, False), (0, 1, True), (0, 2, False)):
        monkeypatch.setattr(service_channel, "TOKEN_SECONDS", token_seconds)
        fake.refusals = refusals
        if is_answered:
            log.version_feedback(("v1",), SINCE)
            continue
        with refused(RemoteError, reason="UNAUTHENTICATED"):
            log.version_feedback(("v1",), SINCE)
    assert fake.refusals == 0
    log.close()


def test_variable_names_the_key_before_the_state_folder(state: Path, tmp_path: Path) -> None:
    given = {"TW_TRAINING_IDENTITY_KEY": "/identity/training.key"}
    assert training_identity(given, state) == ServiceIdentity(
        "training", Path("/identity/training.key")
    )
    assert training_identity({}, state) == identity_in(state, "training")
    assert training_identity({}, tmp_path / "absent") is None


def test_unusable_key_is_named(tmp_path: Path, services: Any) -> None:
    file = tmp_path / "wrong.key"
    file.write_text("no key")
    log = FeedbackLog(services[0], identity=ServiceIdentity("training", file))
    with refused(ConfigError, field=str(file), reason="INVALID_IDENTITY_KEY"):
        log.version_feedback(("v1",), SINCE)
    log.close()


def test_constants_are_those_of_the_services() -> None:
    from services.chassis import identity_keys
    from services.chassis import service_identity as verifier

    assert service_identity.IDENTITY_KEY == IDENTITY_KEY
    assert service_identity.TOKEN_SECONDS == verifier.TOKEN_SECONDS
    assert service_identity.KEY_ID_DIGITS == identity_keys.KEY_ID_DIGITS
