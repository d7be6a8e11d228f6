"""RPCs on consent, erasure and keys: the part of FeedbackLogService without logs."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from thumbwheel.feedback.v1 import feedback_pb2, feedback_pb2_grpc

from services.chassis.identity import require_caller
from services.contracts.identifiers import principal_of
from services.contracts.limits import check_uuid, field_error
from services.contracts.wire import timestamp
from services.feedback import metrics
from services.feedback.events import check_position, check_principals
from services.feedback.principals.consents import Consent, Consents
from services.feedback.principals.data_keys import DataKeys
from services.feedback.principals.erasures import Erasure, Erasures

MAX_PRINCIPALS = 1_000


@dataclass(frozen=True)
class Principals:
    """Stores of principals' data.

    `forget` removes an erased principal from overlays in memory.
    """

    keys: DataKeys
    consents: Consents
    erasures: Erasures
    forget: Callable[[str], None]


class PrincipalServicer(feedback_pb2_grpc.FeedbackLogServiceServicer):
    """gRPC servicer for the callers gateway and training."""

    def __init__(self, principal_key: str, principals: Principals) -> None:
        self._principal_key, self._principals = principal_key, principals

    def _principal(self) -> str:
        """Return the caller's principal.

        Raises:
            UnauthenticatedError: The call has no authenticated caller.
        """
        return principal_of(self._principal_key, require_caller())

    async def GetPrincipalConsent(
        self, request: feedback_pb2.GetPrincipalConsentRequest, context: Any
    ) -> feedback_pb2.GetPrincipalConsentResponse:
        principal = self._principal()
        found = await asyncio.to_thread(self._principals.consents.get, [principal])
        return feedback_pb2.GetPrincipalConsentResponse(consent=_consent(found[principal]))

    async def SetPrincipalConsent(
        self, request: feedback_pb2.SetPrincipalConsentRequest, context: Any
    ) -> feedback_pb2.SetPrincipalConsentResponse:
        principal = self._principal()
        if not request.HasField("training"):
            raise field_error("training", "true or false")
        stored = await asyncio.to_thread(self._principals.consents.set, principal, request.training)
        return feedback_pb2.SetPrincipalConsentResponse(consent=_consent(stored))

    async def ErasePrincipal(
        self, request: feedback_pb2.ErasePrincipalRequest, context: Any
    ) -> feedback_pb2.ErasePrincipalResponse:
        started, principal = time.perf_counter(), self._principal()
        erasure, is_new = await asyncio.to_thread(
            self._principals.erasures.erase, principal, require_caller().tenant
        )
        if is_new:
            self._principals.forget(principal)
            metrics.ERASURES.inc()
            metrics.SHRED_SECONDS.observe(time.perf_counter() - started)
        return feedback_pb2.ErasePrincipalResponse(erasure=_erasure(erasure))

    async def GetPrincipalErasure(
        self, request: feedback_pb2.GetPrincipalErasureRequest, context: Any
    ) -> feedback_pb2.GetPrincipalErasureResponse:
        principal = self._principal()
        check_uuid(request.erasure_id, "erasure_id")
        found = await asyncio.to_thread(
            self._principals.erasures.get, principal, request.erasure_id
        )
        return feedback_pb2.GetPrincipalErasureResponse(erasure=_erasure(found))

    async def GetDataKeys(
        self, request: feedback_pb2.GetDataKeysRequest, context: Any
    ) -> feedback_pb2.GetDataKeysResponse:
        check_principals(request.principals, MAX_PRINCIPALS)
        principals = self._principals
        consents = await asyncio.to_thread(principals.consents.get, request.principals)
        allowed = [principal for principal, consent in consents.items() if consent.training]
        keys = await asyncio.to_thread(principals.keys.existing, allowed)
        answer = feedback_pb2.GetDataKeysResponse()
        for principal, consent in consents.items():
            answer.keys[principal].consent = consent.training
            if key := keys.get(principal):
                answer.keys[principal].key_id, answer.keys[principal].key = key.key_id, key.key
        return answer

    async def ListErasures(
        self, request: feedback_pb2.ListErasuresRequest, context: Any
    ) -> feedback_pb2.ListErasuresResponse:
        check_position(request.after_number, "after_number")
        found = await asyncio.to_thread(self._principals.erasures.after, request.after_number)
        return feedback_pb2.ListErasuresResponse(
            erasures=[
                feedback_pb2.ErasedPrincipal(
                    number=one.number, principal=one.principal, erasure=_erasure(one)
                )
                for one in found
            ]
        )


def _consent(consent: Consent) -> feedback_pb2.Consent:
    return feedback_pb2.Consent(training=consent.training, update_time=timestamp(consent.update_us))


def _erasure(erasure: Erasure) -> feedback_pb2.Erasure:
    return feedback_pb2.Erasure(
        erasure_id=erasure.erasure_id,
        request_time=timestamp(erasure.request_us),
        shred_time=timestamp(erasure.shred_us),
        rewrite_time=timestamp(erasure.rewrite_us),
    )
