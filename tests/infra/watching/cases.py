"""Histories for every alert: some that must fire, and the nearest that must not.

Each value is a minute. Notation of promtool: `0+6x10` is 0, 6, 12 … for ten more steps; `1x5` is 1
six times; `_` is a failed scrape.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from infra.service_table import service_table


@dataclass(frozen=True)
class Case:
    """A history of series, evaluated after `minutes`. Without `summary` no alert may fire."""

    alert: str
    series: Mapping[str, str]
    minutes: int
    summary: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


UP = 'up{{job="{0}",instance="{1}"}}'.format
TURNS = 'thumbwheel_turns_total{{reason="{0}",job="gateway"}}'.format
RPCS = 'thumbwheel_rpcs_total{{job="{0}",method="{1}",code="{2}"}}'.format
HTTP = 'thumbwheel_http_requests_total{{route="/api/messages",status="{0}"}}'.format
TTFT = "thumbwheel_ttft_seconds"
LAG = 'thumbwheel_event_loop_lag_seconds_bucket{{job="session",instance="s1",le="{0}"}}'.format
UNREAD = 'thumbwheel_rpcs_unread{{job="gateway",instance="g1",method="{0}"}}'.format
TOKENS = 'thumbwheel_service_token_errors_total{{job="{0}",instance="{1}",reason="{2}"}}'.format
SHARE, READY = (
    f'thumbwheel_version_{what}{{instance="g1",version="small-2"}}' for what in ("share", "ready")
)
SERIAL = 'thumbwheel_rollout_serial{{instance="{0}"}}'.format
REGRESSED = 'thumbwheel_rollout_regressed{{instance="{0}"}}'.format
WATCHED = 'thumbwheel_rollout_watched{instance="g1"}'
LOOKED = 'thumbwheel_watch_look_time_seconds{{instance="{0}"}}'.format
HALTED = 'thumbwheel_rollout_halted{{instance="{0}"}}'.format
WAITING = 'thumbwheel_predictor_waiting_requests{instance="p1",version="small-1"}'
SPOOLED, LIMIT = (
    f'thumbwheel_feedback_{what}{{instance="f1",stream="turns"}}'
    for what in ("spooled_bytes", "spool_limit_bytes")
)
SINK_LAG = 'thumbwheel_feedback_sink_lag_seconds{stream="turns",instance="f1"}'
RELAY_LAG = 'thumbwheel_feedback_relay_lag_seconds{stream="turns",instance="f1"}'
ABSENT = (
    'thumbwheel_feedback_absent_spool_seconds{{stream="turns",owner="f2",instance="{0}"}}'.format
)
CONSUMER_LAG = 'thumbwheel_feedback_consumer_lag_events{{stream="turns",partition="{0}"}}'.format
STOPPED = 'thumbwheel_feedback_stopped_partitions{stream="turns",partition="2"}'
LOST = 'thumbwheel_feedback_lost_offsets{stream="turns",partition="2"}'
COMPACTED = 'thumbwheel_feedback_compaction_time_seconds{{stream="turns",instance="{0}"}}'.format
COMPACTION_PERIOD = 'thumbwheel_feedback_compaction_period_seconds{instance="f1"}'
OUTBOX = "thumbwheel_session_outbox_turns"
ERASURE = 'thumbwheel_feedback_erasure_oldest_waiting_seconds{{instance="{0}"}}'.format
RESULT = 'thumbwheel_loop_turn_result{{recipe="small",result="{0}"}}'.format
RUNNING, UPDATED = "thumbwheel_loop_running", "thumbwheel_loop_updated_time_seconds"
BACKED_UP, BACKUPS_CREATED = (
    f'kube_cronjob_{what}{{cronjob="tw-thumbwheel-backup"}}'
    for what in ("status_last_successful_time", "created")
)
REPLICAS = 'thumbwheel_model_server_replicas{{instance="g1",state="{0}"}}'.format
AVAILABLE, CAPACITY = (
    f'kubelet_volume_stats_{what}_bytes{{persistentvolumeclaim="spool-tw-thumbwheel-feedback-0"}}'
    for what in ("available", "capacity")
)
EXTERNAL = 'thumbwheel_external_answers_total{{model="external.big",outcome="{0}"}}'.format


def up_without(*services: str) -> dict[str, str]:
    """Return a healthy replica of every other service."""
    return {UP(name, "a"): "1x60" for name in service_table().names if name not in services}


CHAT = (
    Case(
        "ServiceDown",
        {**up_without("session"), UP("session", "a"): "1 1 0x9", UP("session", "b"): "1 1 0x9"},
        5,
        "no replica of session responds",
        {"job": "session"},
    ),
    Case("ServiceDown", {**up_without(), UP("session", "a"): "0x9", UP("session", "b"): "1x9"}, 5),
    *(
        Case(
            "ServiceDown",
            up_without(name),
            5,
            f"no replica of {name} responds",
            {"job": name},
        )
        for name in service_table().names
    ),
    Case("ServiceDown", {**up_without(), UP("prometheus", "a"): "0x9"}, 5),
    Case(
        "ReplicaDown",
        {UP("session", "a"): "0x20", UP("session", "b"): "1x20"},
        15,
        "replica a of session does not respond",
        {"job": "session", "instance": "a"},
    ),
    Case("ReplicaDown", {UP("session", "a"): "0x5 1x15", UP("session", "b"): "1x20"}, 15),
    Case("ReplicaDown", {UP("session", "a"): "0x20", UP("session", "b"): "0x20"}, 15),
    Case(
        "RequestsFail",
        {TURNS("stop"): "0+9x20", TURNS("failed"): "0+1x20"},
        15,
        "10% of the requests for an answer fail",
    ),
    Case("RequestsFail", {TURNS("stop"): "0+99x20", TURNS("failed"): "0+1x20"}, 15),
    Case("RequestsFail", {TURNS("stop"): "0x20", TURNS("failed"): "0x10 1x10"}, 12),
    Case(
        "HttpErrors",
        {HTTP(200): "0+9x20", HTTP(503): "0+3x20"},
        15,
        "25% of the HTTP requests end with a 5xx",
    ),
    Case("HttpErrors", {HTTP(200): "0+9x20", HTTP(429): "0+3x20", HTTP(404): "0+3x20"}, 15),
    Case(
        "FirstTextSlow",
        {f'{TTFT}_bucket{{le="10"}}': "0x40", f'{TTFT}_bucket{{le="30"}}': "0+4x40"}
        | {f'{TTFT}_bucket{{le="+Inf"}}': "0+4x40", f"{TTFT}_count": "0+4x40"},
        30,
        "5 % of the answers need more than 29s until their first text",
    ),
    Case(
        "FirstTextSlow",
        {f'{TTFT}_bucket{{le="1"}}': "0+4x40", f'{TTFT}_bucket{{le="10"}}': "0+4x40"}
        | {f'{TTFT}_bucket{{le="+Inf"}}': "0+4x40", f"{TTFT}_count": "0+4x40"},
        30,
    ),
    Case(
        "Overloaded",
        {
            RPCS("session", "BeginTurn", "OK"): "0+90x20",
            RPCS("session", "BeginTurn", "RESOURCE_EXHAUSTED"): "0+10x20",
        },
        15,
        "session rejects 10% of its calls",
        {"job": "session"},
    ),
    Case(
        "Overloaded",
        {
            RPCS("session", "BeginTurn", "OK"): "0+99x20",
            RPCS("session", "BeginTurn", "RESOURCE_EXHAUSTED"): "0+1x20",
        },
        15,
    ),
    Case(
        "AnswersUnread",
        {UNREAD("ListConversations"): "0x5 480x15", UNREAD("Check"): "20x20"},
        15,
        "500 calls of g1 (gateway) wait for clients that do not read",
        {"job": "gateway", "instance": "g1"},
    ),
    Case("AnswersUnread", {UNREAD("SendMessage"): "40x20", UNREAD("Check"): "0x9 64x1 0x10"}, 15),
    Case(
        "CallsBreak",
        {RPCS("session", "BeginTurn", "INTERNAL"): "0+1x20"},
        15,
        "BeginTurn of session fails with unexpected errors",
        {"job": "session", "method": "BeginTurn"},
    ),
    Case("CallsBreak", {RPCS("session", "BeginTurn", "UNAVAILABLE"): "0+9x20"}, 15),
    Case(
        "EventLoopBlocked",
        {LAG(0.25): "0+230x20", LAG(0.5): "0+240x20", LAG("+Inf"): "0+240x20"},
        18,
        "the event loop of s1 (session) lags by 440ms",
        {"job": "session", "instance": "s1"},
    ),
    Case(
        "EventLoopBlocked",
        {LAG(0.25): "0+240x20", LAG(0.5): "0+240x20", LAG("+Inf"): "0+240x20"},
        18,
    ),
    Case(
        "AnswersNotStored",
        {"thumbwheel_answers_not_stored_total": "0x5 2x15"},
        15,
        "2 answers were shown but not stored in their conversations",
    ),
    Case("AnswersNotStored", {"thumbwheel_answers_not_stored_total": "7x20"}, 15),
    Case(
        "SessionDatabaseFails",
        {'thumbwheel_session_work_failed_total{reason="SESSION_DATABASE_AWAY"}': "0+2x10"},
        9,
        "transactions of the conversation database fail: SESSION_DATABASE_AWAY",
        {"reason": "SESSION_DATABASE_AWAY"},
    ),
    Case(
        "SessionDatabaseFails",
        {'thumbwheel_session_work_failed_total{reason="SESSION_DATABASE_AWAY"}': "0 0 1x10"},
        9,
    ),
    Case(
        "EnhancerSkipped",
        {TURNS("stop"): "0+10x40", "thumbwheel_enhancer_skipped_total": "0+5x40"},
        30,
        "50% of the messages are not enhanced: the enhancer is unavailable",
    ),
    Case(
        "EnhancerSkipped",
        {TURNS("stop"): "0+20x40", "thumbwheel_enhancer_skipped_total": "0+1x40"},
        30,
    ),
    Case(
        "ValkeyUnavailable",
        {'thumbwheel_gateway_valkey_up{instance="g1",job="gateway"}': "1 0x9"},
        5,
        "g1 cannot reach the shared state of the gateways",
        {"instance": "g1", "job": "gateway"},
    ),
    Case(
        "ValkeyUnavailable",
        {'thumbwheel_gateway_valkey_up{instance="g1",job="gateway"}': "1 0 1x9"},
        5,
    ),
    Case(
        "IssuerKeysNotFetched",
        {'thumbwheel_issuer_fetches_total{outcome="failed"}': "0+1x40"},
        25,
        "the keys of a sign-in issuer cannot be fetched",
    ),
    Case(
        "IssuerKeysNotFetched",
        {'thumbwheel_issuer_fetches_total{outcome="failed"}': "0+1x40"}
        | {'thumbwheel_issuer_fetches_total{outcome="fetched"}': "0+1x40"},
        25,
    ),
    Case(
        "ManyRefusedKeys",
        {'thumbwheel_refused_bearers_total{reason="KEY_UNKNOWN"}': "0+120x40"},
        25,
        "2 keys or tokens per second are rejected: KEY_UNKNOWN",
        {"reason": "KEY_UNKNOWN"},
    ),
    Case(
        "ManyRefusedKeys", {'thumbwheel_refused_bearers_total{reason="KEY_UNKNOWN"}': "0+30x40"}, 25
    ),
    # Two replicas are one alert; one refused call in two minutes suffices.
    Case(
        "ServiceTokensInvalid",
        {
            TOKENS("session", "s1", "EXPIRED"): "0 0 1 1 2 2 3 3 4 4 5 5 6 6 7 7 8 8 9 9 10 10 11",
            TOKENS("session", "s2", "EXPIRED"): "1+1x30",
        },
        22,
        "session gets calls without a valid token of a service: EXPIRED",
        {"job": "session", "reason": "EXPIRED"},
    ),
    # Refusals of five minutes, for example during a rotation, are too few.
    Case("ServiceTokensInvalid", {TOKENS("session", "s1", "EXPIRED"): "0 1 2 3 4 5x30"}, 10),
    Case("ServiceTokensInvalid", {TOKENS("session", "s1", "EXPIRED"): "7x40"}, 30),
    Case(
        "VolumeNearlyFull",
        {AVAILABLE: "5x40", CAPACITY: "100x40"},
        20,
        "the volume of spool-tw-thumbwheel-feedback-0 has 5% of its space left",
        {"persistentvolumeclaim": "spool-tw-thumbwheel-feedback-0"},
    ),
    Case("VolumeNearlyFull", {AVAILABLE: "5x5 11x35", CAPACITY: "100x40"}, 20),
    Case(
        "BackupOverdue",
        {BACKED_UP: "60x1800", BACKUPS_CREATED: "0x1800"},
        1620,
        "tw-thumbwheel-backup has made no backup for 1d 2h 59m 0s",
        {"cronjob": "tw-thumbwheel-backup"},
    ),
    Case("BackupOverdue", {BACKED_UP: "0x1440 86400x360", BACKUPS_CREATED: "0x1800"}, 1700),
    # No backup since the schedule was created.
    Case(
        "BackupOverdue",
        {BACKUPS_CREATED: "0x1800"},
        1620,
        "tw-thumbwheel-backup has made no backup for 1d 3h 0m 0s",
        {"cronjob": "tw-thumbwheel-backup"},
    ),
    Case("BackupOverdue", {BACKUPS_CREATED: "0x1800"}, 1500),
)

MODELS = (
    Case(
        "VersionUnavailable",
        {SHARE: "0.2x9", READY: "1 0x9"},
        5,
        "small-2 is assigned to users but does not respond",
        {"instance": "g1", "version": "small-2"},
    ),
    Case("VersionUnavailable", {SHARE: "0x9", READY: "0x9"}, 5),
    Case("VersionUnavailable", {SHARE: "0.2x9", READY: "1x9"}, 5),
    Case(
        "RolloutStale",
        {'thumbwheel_rollout_read_time_seconds{instance="g1"}': "0x20"},
        10,
        "g1 has not read the rollout for 10m 0s",
        {"instance": "g1"},
    ),
    Case("RolloutStale", {'thumbwheel_rollout_read_time_seconds{instance="g1"}': "0+60x20"}, 10),
    Case(
        "RolloutsDiffer",
        {SERIAL("g1"): "4x20", SERIAL("g2"): "5x20"},
        10,
        "replicas of the generator use different rollouts",
    ),
    Case("RolloutsDiffer", {SERIAL("g1"): "4 4 4 5x17", SERIAL("g2"): "4 4 5x18"}, 10),
    Case(
        "RolloutHalted",
        {HALTED("g1"): "0 0 1", HALTED("g2"): "0 0 0"},
        2,
        "an operator has halted canaries, promotions and training runs",
    ),
    Case("RolloutHalted", {HALTED("g1"): "1 1 0", HALTED("g2"): "1 1 0"}, 2),
    Case(
        "VersionRegressed",
        {REGRESSED("g1"): "0 0 1", REGRESSED("g2"): "0 0 0"},
        2,
        "a promoted version was worse in use and was rolled back",
    ),
    Case("VersionRegressed", {REGRESSED("g1"): "1 1 0"}, 2),
    Case(
        "WatchStalled",
        {WATCHED: "1x20", LOOKED("g1"): "0x20", LOOKED("g2"): "0 60 120x18"},
        10,
        "no replica of the generator compares the promoted version with the version before",
    ),
    Case("WatchStalled", {WATCHED: "1x20", LOOKED("g1"): "0x20", LOOKED("g2"): "0+60x20"}, 10),
    Case("WatchStalled", {WATCHED: "0x20", LOOKED("g1"): "0x20"}, 10),
    Case(
        "KubernetesApiUnavailable",
        {'thumbwheel_kubernetes_up{instance="g1",objects="inferenceservices"}': "1 0x9"},
        8,
        "g1 cannot reach the Kubernetes API: versions are neither loaded nor unloaded",
        {"instance": "g1", "objects": "inferenceservices"},
    ),
    Case(
        "KubernetesApiUnavailable",
        {'thumbwheel_kubernetes_up{instance="g1",objects="inferenceservices"}': "1 0 0 1x9"},
        8,
    ),
    Case(
        "ModelServerFull",
        {WAITING: "12x20"},
        15,
        "12 generations wait for the batch of small-1",
        {"instance": "p1", "version": "small-1"},
    ),
    Case("ModelServerFull", {WAITING: "12x5 0x15"}, 15),
    Case(
        "ModelServerFull",
        {'vllm:num_requests_waiting{instance="v1",model_name="small-2"}': "9x20"},
        15,
        "9 generations wait for the batch of small-2",
        {"instance": "v1", "version": "small-2"},
    ),
    Case(
        "ModelServerReplicaSilent",
        {REPLICAS("silent"): "0 1x20", REPLICAS("answering"): "3 2x20"},
        15,
        "1 replicas of the model server do not answer g1",
        {"instance": "g1", "state": "silent"},
    ),
    # Without any replica that answers, VersionUnavailable and RequestsFail fire.
    Case(
        "ModelServerReplicaSilent", {REPLICAS("silent"): "1x20", REPLICAS("answering"): "0x20"}, 15
    ),
    Case(
        "ModelServerReplicaSilent",
        {REPLICAS("silent"): "0 1x5 0x20", REPLICAS("answering"): "3x30"},
        15,
    ),
    Case(
        "ExternalModelFails",
        {EXTERNAL("answered"): "0+3x40", EXTERNAL("unreachable"): "0+1x40"},
        30,
        "25% of the requests to the endpoint of external.big fail",
        {"model": "external.big"},
    ),
    # Users that cancel and answers that the provider withholds are no failures of the endpoint.
    Case(
        "ExternalModelFails",
        {EXTERNAL("answered"): "0+3x40", EXTERNAL("cancelled"): "0+3x40"}
        | {EXTERNAL("filtered"): "0+3x40", EXTERNAL("busy"): "0+1x40"},
        30,
    ),
    # Four of four requests fail: too few for an alert.
    Case("ExternalModelFails", {EXTERNAL("silent"): "0x10 4x30"}, 20),
    Case(
        "ManyBlocked",
        {
            TURNS("stop"): "0+6x90",
            TURNS("input_blocked"): "0+3x90",
            TURNS("output_blocked"): "0+1x90",
        },
        60,
        "the guardrail blocks 40% of the requests",
    ),
    Case("ManyBlocked", {TURNS("stop"): "0+9x90", TURNS("input_blocked"): "0+1x90"}, 60),
    Case(
        "GuardModelSkipped",
        {"thumbwheel_guardrail_operator_skipped_total": "0+1x40"},
        20,
        "15 texts were released without the operator's guard model within 15 minutes",
    ),
    # One call that took too long.
    Case("GuardModelSkipped", {"thumbwheel_guardrail_operator_skipped_total": "0x10 1x30"}, 20),
)

FEEDBACK = (
    Case(
        "FeedbackNotAcknowledged",
        {RPCS("feedback", "RecordFeedback", "UNAVAILABLE"): "0+6x10"},
        9,
        "RecordFeedback fails: feedback is not durable",
        {"method": "RecordFeedback"},
    ),
    Case(
        "FeedbackNotAcknowledged",
        {RPCS("feedback", "RecordFeedback", "INVALID_ARGUMENT"): "0+60x10"},
        9,
    ),
    Case(
        "FeedbackNotAcknowledged", {RPCS("feedback", "ListSegments", "UNAVAILABLE"): "0+60x10"}, 9
    ),
    Case(
        "SpoolFills",
        {SPOOLED: "90x9", LIMIT: "100x9"},
        5,
        "the spool of turns on f1 is 90% full",
        {"instance": "f1", "stream": "turns"},
    ),
    Case("SpoolFills", {SPOOLED: "50x9", LIMIT: "100x9"}, 5),
    Case(
        "RelayBehind",
        {RELAY_LAG: "0+60x20"},
        10,
        "the relay of turns on f1 to Kafka lags by 10m 0s",
        {"instance": "f1", "stream": "turns"},
    ),
    Case("RelayBehind", {RELAY_LAG: "0+60x4 0x20"}, 10),
    Case(
        "SpoolWithoutOwner",
        {ABSENT("f0"): "60+60x30", ABSENT("f1"): "61+60x10"},
        15,
        "the write-ahead log of turns on f2 has had no owner for 16m 0s",
        {"stream": "turns", "owner": "f2"},
    ),
    # The pod is back on its volume.
    Case("SpoolWithoutOwner", {ABSENT("f0"): "60+60x5 _x20"}, 15),
    Case(
        "SinkBehind",
        {SINK_LAG: "0+60x20"},
        10,
        "the sink of turns to Parquet lags by 10m 0s",
        {"stream": "turns"},
    ),
    Case("SinkBehind", {SINK_LAG: "5x20"}, 10),
    Case(
        "SinkStopped",
        {SINK_LAG: "0+60x90"},
        70,
        "turns has not reached Parquet for 1h 10m 0s",
        {"stream": "turns"},
    ),
    Case("SinkStopped", {SINK_LAG: "0+60x90"}, 50),
    Case("SinkStopped", {SINK_LAG: "0+60x50 5x40"}, 70),
    Case(
        "ConsumerBehind",
        {CONSUMER_LAG(0): "60000x40", CONSUMER_LAG(1): "60000x40"},
        20,
        "120k events of turns are in Kafka but not in the ledger",
        {"stream": "turns"},
    ),
    Case("ConsumerBehind", {CONSUMER_LAG(0): "60000x40", CONSUMER_LAG(1): "10x40"}, 20),
    Case(
        "PartitionNotSunk",
        {STOPPED: "0 1x9"},
        5,
        "partition 2 of turns does not continue at the end of the ledger",
        {"stream": "turns", "partition": "2"},
    ),
    Case("PartitionNotSunk", {STOPPED: "0x9"}, 5),
    Case(
        "EventsLost",
        {LOST: "0 7x9"},
        5,
        "7 events of turns/2 were deleted before the sink read them",
        {"stream": "turns", "partition": "2"},
    ),
    Case("EventsLost", {LOST: "0x9"}, 5),
    Case(
        "DeadLetters",
        {'thumbwheel_feedback_dead_letters_total{stream="turns"}': "0x5 1x60"},
        30,
        "records of turns cannot be decoded",
        {"stream": "turns"},
    ),
    Case("DeadLetters", {'thumbwheel_feedback_dead_letters_total{stream="turns"}': "1x60"}, 30),
    Case(
        "ErasureWaits",
        {ERASURE("a:1"): "90000x30", ERASURE("b:1"): "90015x30"},
        20,
        "an erasure has waited 1d 1h 0m 15s for the removal of its rows",
    ),
    Case("ErasureWaits", {ERASURE("a:1"): "80000x30", ERASURE("b:1"): "0x30"}, 20),
    Case(
        "CompactionStalled",
        {COMPACTED("f1"): "0x240", COMPACTED("f2"): "0x240", COMPACTION_PERIOD: "3600x240"},
        200,
        "turns has not been compacted for 3h 20m 0s",
        {"stream": "turns"},
    ),
    Case("CompactionStalled", {COMPACTED("f1"): "0x240", COMPACTION_PERIOD: "3600x240"}, 170),
    Case(
        "CompactionStalled",
        {COMPACTED("f1"): "0x240", COMPACTED("f2"): "0x60 3600x180", COMPACTION_PERIOD: "3600x240"},
        200,
    ),
    Case("OutboxGrows", {OUTBOX: "600x20"}, 15, "600 answers wait in the outbox of session"),
    Case("OutboxGrows", {OUTBOX: "600x5 3x20"}, 15),
    Case(
        "RequestsRefused",
        {"thumbwheel_session_turns_refused_total": "0x30 1x60"},
        60,
        "feedback permanently rejects 1 of the answers from session",
    ),
    Case("RequestsRefused", {"thumbwheel_session_turns_refused_total": "4x90"}, 60),
)

TRAINING = (
    Case(
        "LoopFailed",
        {RESULT("failed"): "1x30", RESULT("refused"): "0x30"},
        20,
        "the last run of small failed",
        {"recipe": "small"},
    ),
    Case("LoopFailed", {RESULT("failed"): "0x30", RESULT("refused"): "1x30"}, 20),
    Case(
        "LoopStalled",
        {RUNNING: "1x200", UPDATED: "0x200"},
        150,
        "a training run has not updated its status for 2h 30m 0s",
    ),
    Case("LoopStalled", {RUNNING: "0x200", UPDATED: "0x200"}, 150),
    Case("LoopStalled", {RUNNING: "1x200", UPDATED: "0+60x200"}, 150),
)

REVIEW = (
    Case(
        "ReviewDatabaseFails",
        {"thumbwheel_review_transactions_failed_total": "0+2x20"},
        15,
        "transactions of the review database fail",
    ),
    Case("ReviewDatabaseFails", {"thumbwheel_review_transactions_failed_total": "3x20"}, 15),
    Case(
        "VotesWait",
        {"thumbwheel_review_outbox_votes": "101x20"},
        15,
        "101 votes wait in the outbox of review",
    ),
    Case("VotesWait", {"thumbwheel_review_outbox_votes": "101x5 3x20"}, 15),
    Case(
        "VotesRefused",
        {"thumbwheel_review_votes_refused_total": "0x30 1x60"},
        60,
        "feedback refuses votes from review",
    ),
    Case("VotesRefused", {"thumbwheel_review_votes_refused_total": "4x90"}, 60),
    Case(
        "VoteErasureWaits",
        {
            'thumbwheel_review_erasures_time_seconds{instance="r1"}': "0x60",
            'thumbwheel_review_erasures_time_seconds{instance="r2"}': "0+60x10 600x50",
        },
        40,
        "review has not applied erasures for 30m 0s",
    ),
    Case("VoteErasureWaits", {"thumbwheel_review_erasures_time_seconds": "0+60x60"}, 40),
    Case(
        "AccountsQuarantined",
        {'thumbwheel_review_accounts_quarantined_total{reason="campaign"}': "0x30 5x60"},
        60,
        "accounts of the arena are quarantined and wait for a decision",
    ),
    Case(
        "AccountsQuarantined",
        {'thumbwheel_review_accounts_quarantined_total{reason="campaign"}': "5x90"},
        60,
    ),
)

CASES = (*CHAT, *MODELS, *FEEDBACK, *TRAINING, *REVIEW)
