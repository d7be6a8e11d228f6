"""Checks of requests, and conversion between protobuf messages and the domain."""

from collections.abc import Mapping, Sequence

from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import feedback_pb2
from thumbwheel.generator.v1 import generator_pb2

from sequential.figures import RATES, RateSums, VersionFigures, shares_of
from services.contracts.limits import MAX_CONTEXT_MESSAGES, MAX_TEXT_CHARACTERS, field_error
from services.contracts.wire import ROLES, TASKS, timestamp
from services.generator.answering.external_model import ExternalModel
from services.generator.rollout.canary import VERSION_LIMIT, CanaryRequest, is_version
from services.generator.rollout.reconcile import State, Status
from services.generator.rollout.rollout import Rollout

MAX_USER_KEY_CHARACTERS = 256
MAX_TRAFFIC_VERSIONS = 10
STATES = {
    State.LOADING: generator_pb2.VERSION_STATE_LOADING,
    State.READY: generator_pb2.VERSION_STATE_READY,
    State.FAILED: generator_pb2.VERSION_STATE_FAILED,
}


def check_generate_request(request: generator_pb2.GenerateRequest) -> None:
    """Check a GenerateRequest, except for its sampling parameters.

    Raises:
        InvalidArgumentError: a field is out of its range; names field and limit.
    """
    if not 1 <= len(request.user_key) <= MAX_USER_KEY_CHARACTERS:
        raise field_error("user_key", f"1 to {MAX_USER_KEY_CHARACTERS} characters")
    if len(request.messages) > MAX_CONTEXT_MESSAGES:
        raise field_error(
            "messages", f"at most {MAX_CONTEXT_MESSAGES:,}", f"{len(request.messages):,}"
        )
    if not request.messages or request.messages[-1].role != chat_pb2.ROLE_USER:
        raise field_error("messages", "at least 1, and the last by the user")
    if request.task not in TASKS:
        raise field_error("task", "a task of chat.v1")
    for number, entry in enumerate(request.messages):
        if entry.role not in ROLES:
            raise field_error(f"messages[{number}].role", "system, user or assistant")
        if len(entry.text) > MAX_TEXT_CHARACTERS:
            raise field_error(
                f"messages[{number}].text", f"at most {MAX_TEXT_CHARACTERS:,} characters"
            )


def canary_request_from(request: generator_pb2.StartCanaryRequest) -> CanaryRequest:
    """Convert a StartCanaryRequest without checks."""
    # A 32-bit 0.1 is 0.10000000149, so the share is rounded to six digits.
    share = round(request.share, 6)
    return CanaryRequest(
        request.version, request.directory, share, request.lease.ToNanoseconds() / 1e9
    )


def rollout_response(
    rollout: Rollout,
    shares: dict[str, float],
    statuses: dict[str, Status],
    stale_since_us: int | None,
) -> generator_pb2.GetRolloutResponse:
    """Convert the rollout with the status of its versions."""

    def served(version: str) -> generator_pb2.ServedVersion:
        status = statuses[version]
        return generator_pb2.ServedVersion(
            version=version, state=STATES[status.state], reason=status.reason, share=shares[version]
        )

    return generator_pb2.GetRolloutResponse(
        stable=served(rollout.stable.version) if rollout.stable else None,
        candidate=served(rollout.candidate.version) if rollout.candidate else None,
        lease_end_time=timestamp(rollout.candidate.lease_end_us) if rollout.candidate else None,
        history=[
            generator_pb2.RolloutChange(
                time=timestamp(change.time_us),
                kind=change.kind,
                version=change.version,
                reason=change.reason,
            )
            for change in rollout.history
        ],
        stale_since_time=timestamp(stale_since_us),
        halt=generator_pb2.RolloutHalt(
            time=timestamp(rollout.halt.time_us),
            operator=rollout.halt.operator,
            reason=rollout.halt.reason,
        )
        if rollout.halt
        else None,
        watch=generator_pb2.RolloutWatch(
            previous=served(rollout.watch.previous.version),
            start_time=timestamp(rollout.watch.start_us),
            end_time=timestamp(rollout.watch.end_us),
            owner=rollout.watch.owner,
        )
        if rollout.watch
        else None,
    )


def external_model_proto(model: ExternalModel) -> generator_pb2.ExternalModel:
    """Convert an external model without its address and its key."""
    return generator_pb2.ExternalModel(
        name=model.name,
        developer=model.developer,
        licence=model.licence,
        endpoint_model=model.model,
    )


def traffic_versions_from(request: generator_pb2.GetVersionTrafficRequest) -> Sequence[str]:
    """Check and convert a GetVersionTrafficRequest.

    Raises:
        InvalidArgumentError: a field is out of its range; names field and limit.
    """
    if not 1 <= len(request.versions) <= MAX_TRAFFIC_VERSIONS:
        raise field_error("versions", f"1 to {MAX_TRAFFIC_VERSIONS}", str(len(request.versions)))
    for number, version in enumerate(request.versions):
        if not is_version(version):
            raise field_error(f"versions[{number}]", VERSION_LIMIT)
    return list(request.versions)


def traffic_response(
    figures: Mapping[str, VersionFigures],
) -> generator_pb2.GetVersionTrafficResponse:
    """Convert the figures of versions."""
    return generator_pb2.GetVersionTrafficResponse(
        versions=[
            generator_pb2.VersionTraffic(
                version=version,
                requests=found.requests,
                errors=found.errors,
                first_text_ms_bins=found.first_text_ms,
                answer_tokens_bins=found.answer_tokens,
                total_tokens_bins=found.total_tokens,
            )
            for version, found in figures.items()
        ]
    )


def version_feedback_request(
    versions: Sequence[str], since_us: int
) -> feedback_pb2.GetVersionFeedbackRequest:
    """Return the request for the feedback on answers since a time."""
    return feedback_pb2.GetVersionFeedbackRequest(
        model_versions=versions, since=timestamp(since_us)
    )


def version_feedback_from(
    reply: feedback_pb2.GetVersionFeedbackResponse,
) -> Mapping[str, VersionFigures]:
    """Convert the counts of feedback; rates of newer services are left out."""
    return {
        found.model_version: VersionFigures(
            user_shares=shares_of(
                # Earlier services do not weigh users.
                (row.up, row.down, row.users, row.weight if row.HasField("weight") else 1.0)
                for row in found.user_thumbs
            ),
            rates={
                sums.name: RateSums(
                    sums.users,
                    sums.trials,
                    sums.events,
                    sums.trials_squared,
                    sums.events_squared,
                    sums.events_times_trials,
                )
                for sums in found.rates
                if sums.name in RATES
            },
        )
        for found in reply.versions
    }
