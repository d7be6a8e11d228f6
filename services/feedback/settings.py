"""Settings of the feedback service (TW_FEEDBACK_*)."""

import re
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import AwareDatetime, Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import SettingsConfigDict

from services.chassis.database.settings import PostgresParts
from services.chassis.settings import ServiceSettings
from services.feedback.compaction.compaction import CompactionOptions
from services.feedback.compaction.runs import RunLimits
from services.feedback.events import Stream
from services.feedback.kafka.cluster import Cluster
from services.feedback.principals.sealing import MasterKey
from services.feedback.projections.account_age import AccountAge

MIB = 1024 * 1024
DAY_US = 24 * 3_600 * 1_000_000


class FeedbackSettings(PostgresParts, ServiceSettings):
    """Settings with the defaults of the embedded install, relative to the working directory."""

    model_config = SettingsConfigDict(env_prefix="TW_FEEDBACK_", frozen=True, extra="forbid")
    database_driver: ClassVar[str] = "postgresql+pg8000"

    port: int = Field(50056, ge=0, le=65535, description="gRPC port; 0 picks a free one")
    metrics_port: int = Field(
        51056, ge=0, le=65535, description="port of /metrics and /health; 0: none"
    )
    principal_key: SecretStr = Field(
        min_length=16,
        description="key of the HMAC from user to principal; equal in gateway and session",
    )
    master_key: SecretStr = Field(
        description="64 hexadecimal digits, equal in all replicas: wraps the keys that seal texts; "
        "without the master key all texts are lost",
    )
    accepted_master_keys: SecretStr = Field(
        SecretStr(""),
        description="during a rotation: further master keys, comma-separated, under which stored "
        "keys may be wrapped",
    )
    training_consent_default: bool = Field(
        True,
        description="allow training on feedback of users without an explicit consent",
    )
    spool_directory: Path = Field(
        Path(".state/feedback/spool"),
        description="folder of the write-ahead logs, one per stream; for a single process",
    )
    object_directory: Path = Field(
        Path(".state/objects"),
        description="root of the directory object store; unused if s3_endpoint is set",
    )
    s3_endpoint: str = Field(
        "",
        pattern=r"^[^/\s]*$",
        description="host:port of an S3 store; empty: objects in object_directory",
    )
    s3_bucket: str = Field(
        "thumbwheel",
        pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
        description="bucket, created only by `python -m services.feedback bucket`",
    )
    s3_region: str = Field("us-east-1", description="region in the signature of requests")
    s3_secure: bool = Field(
        True, description="use TLS with the certificates of the system or of SSL_CERT_FILE"
    )
    s3_credentials: Literal["keys", "chain"] = Field(
        "keys",
        description="keys: s3_access_key and s3_secret_key; chain: those of the environment, as in "
        "the AWS SDKs (web identity, container, instance, AWS_ACCESS_KEY_ID)",
    )
    s3_access_key: str = Field(
        "", description="access key with list, read, write and delete permission"
    )
    s3_secret_key: SecretStr = Field(SecretStr(""), description="secret key of s3_access_key")
    s3_connect_seconds: float = Field(
        3.0, gt=0, description="time-out for a connection to the store"
    )
    s3_request_seconds: float = Field(
        20.0,
        gt=0,
        description="time-out each for sending an object, for the first byte of a response, and "
        "for reading an object",
    )
    database_url: str = Field(
        "sqlite:///.state/feedback/ledger.db",
        pattern=r"^(sqlite:///|postgresql\+pg8000://[^?]+(\?ssl=(require|verify-ca|verify-full))?$)",
        repr=False,
        description="SQLAlchemy URL of the ledger: sqlite:/// for a single process, "
        "postgresql+pg8000://…[?ssl=verify-full] for replicas (or require, verify-ca)",
    )
    flush_rows: int = Field(
        5_000, ge=1, description="number of waiting events that triggers a Parquet object"
    )
    flush_bytes: int = Field(
        16 * MIB, ge=1, description="maximum size of events in one Parquet object, before encoding"
    )
    flush_seconds: float = Field(
        2.0, gt=0, description="maximum wait of an event for its Parquet object"
    )
    max_spool_bytes: int = Field(
        256 * MIB,
        ge=1,
        description="maximum size of one stream's spool; a full spool rejects events",
    )
    compaction_minutes: float = Field(
        60.0, ge=0, description="period of compaction passes; 0: never"
    )
    compaction_rows: int = Field(50_000, ge=1, description="maximum rows in one compacted object")
    compaction_bytes: int = Field(
        64 * MIB, ge=1, description="maximum size of one compacted object, before encoding"
    )
    compaction_settle_minutes: float = Field(
        10.0, ge=0, description="minimum age of segments for merging"
    )
    compaction_lease_seconds: float = Field(
        120.0,
        gt=0,
        description="lease of a compacting process; another process takes over after its end",
    )
    retired_minutes: float = Field(
        60.0,
        ge=0,
        description="delay before replaced objects are deleted; ignored with a pending erasure",
    )
    keep_days: float = Field(
        0.0, ge=0, description="age at which compaction removes events; 0: never"
    )
    segment_bytes: int = Field(
        8 * MIB, ge=1, description="size at which a spool file is closed; whole files are deleted"
    )

    kafka_bootstrap: str = Field(
        "",
        description="comma-separated host:port of brokers, requires Postgres; empty: this process "
        "sinks its spool directly",
    )
    kafka_security_protocol: str = Field(
        "PLAINTEXT", pattern="^(PLAINTEXT|SSL|SASL_PLAINTEXT|SASL_SSL)$"
    )
    kafka_ca_file: Path | None = Field(
        None, description="CA certificates for brokers; none: those of the system"
    )
    kafka_sasl_mechanism: str = Field(
        "SCRAM-SHA-512", pattern="^(PLAIN|SCRAM-SHA-256|SCRAM-SHA-512)$"
    )
    kafka_username: str = Field("", description="for the SASL protocols")
    kafka_password: SecretStr = Field(SecretStr(""), description="for the SASL protocols")
    feedback_topic: str = Field("thumbwheel.feedback.v1", min_length=1)
    turns_topic: str = Field("thumbwheel.turns.v1", min_length=1)
    partitions: int = Field(
        6, ge=1, description="partitions of topics created by `topics`, keyed by conversation"
    )
    replication_factor: int = Field(
        3,
        ge=1,
        description="replication factor of created topics; with fewer copies in a topic no event "
        "is relayed; 1 for an evaluation with one broker",
    )
    min_insync_replicas: int = Field(
        2,
        ge=1,
        description="min.insync.replicas of created topics; with less in a topic no event is "
        "relayed; 1 for an evaluation with one broker",
    )
    retention_days: float = Field(
        7.0, gt=0, description="retention of a topic; limits the time until an erasure is complete"
    )
    unsigned_records_until: AwareDatetime | None = Field(
        None,
        description="ISO 8601 time until which sinks accept records without a signature; "
        "unset: retention_days after the upgrade from a version that did not sign",
    )
    relay_events: int = Field(1_000, ge=1, description="maximum events in one batch to the broker")
    relay_bytes: int = Field(
        2 * MIB,
        ge=1,
        description="maximum size of a batch to the broker, and of the producer's buffer",
    )
    relay_watchdog_seconds: float = Field(
        8.0, gt=0, description="time without an acknowledgement after which the producer is rebuilt"
    )
    consumer_group: str = Field(
        "thumbwheel-sink",
        min_length=1,
        description="prefix of consumer groups, followed by a dot and the stream",
    )
    consumer_session_seconds: float = Field(
        10.0, ge=1, description="time without heartbeats after which partitions are reassigned"
    )
    consumer_bytes: int = Field(
        32 * MIB, ge=1, description="size of fetched events of a stream at which fetching pauses"
    )
    claim_days: float = Field(
        7.0, gt=0, description="age at which claims without an event are deleted"
    )

    dead_letter_days: float = Field(
        30.0,
        gt=0,
        description="age at which payloads of dead letters are cleared; they may contain text",
    )

    canary_account_days: float = Field(
        7.0,
        ge=0,
        le=365,
        description="age of an account at the start of a canary from which its thumbs have their "
        "full weight in the decision; younger accounts have a part of it, new ones none; not "
        "applied before the installation is twice as old; 0: all accounts have the full weight",
    )

    @model_validator(mode="after")
    def _master_key_is_hexadecimal(self) -> Self:
        if not re.fullmatch("[0-9a-fA-F]{64}", self.master_key.get_secret_value()):
            raise PydanticCustomError("malformed", "master_key: 64 hexadecimal digits")
        accepted = self.accepted_master_keys.get_secret_value()
        if accepted and not re.fullmatch("[0-9a-fA-F]{64}(,[0-9a-fA-F]{64})*", accepted):
            raise PydanticCustomError(
                "malformed", "accepted_master_keys: keys of 64 hexadecimal digits, comma-separated"
            )
        return self

    def master_keys(self) -> MasterKey:
        """Return the master key with the other accepted ones."""
        accepted = self.accepted_master_keys.get_secret_value()
        return MasterKey(
            self.master_key.get_secret_value(), accepted=accepted.split(",") if accepted else ()
        )

    @model_validator(mode="after")
    def _keys_belong_to_the_endpoint(self) -> Self:
        keys = [self.s3_access_key, self.s3_secret_key.get_secret_value()]
        if self.s3_credentials == "chain":
            if any(keys):
                raise PydanticCustomError(
                    "ambiguous", "s3_access_key, s3_secret_key: not used with s3_credentials chain"
                )
        elif self.s3_endpoint and not all(keys):
            raise PydanticCustomError(
                "incomplete",
                "s3_access_key, s3_secret_key: both are required with s3_endpoint",
            )
        return self

    def compaction_options(self) -> CompactionOptions:
        """Return the sizes and schedule of compaction."""
        return CompactionOptions(
            RunLimits(self.compaction_rows, self.compaction_bytes),
            settle_seconds=self.compaction_settle_minutes * 60,
            keep_seconds=self.keep_days * 86_400,
            retired_seconds=self.retired_minutes * 60,
            lease_seconds=self.compaction_lease_seconds,
        )

    @model_validator(mode="after")
    def _kafka_needs_postgres(self) -> Self:
        if self.kafka_bootstrap and self.database_url.startswith("sqlite"):
            raise PydanticCustomError(
                "conflict",
                "kafka_bootstrap requires a database_url of postgresql+pg8000://, "
                "since replicas share the ledger",
            )
        return self

    def topic(self, stream: Stream) -> str:
        """Return the name of the Kafka topic of a stream."""
        return {Stream.FEEDBACK: self.feedback_topic, Stream.TURNS: self.turns_topic}[stream]

    def unsigned_until_us(self, signed_since_us: int) -> int:
        """Return the time until which records without a signature are accepted; 0: never.

        Kafka keeps a record of an earlier version for the retention, so that after this time each
        one is sunk or gone.

        Args:
            signed_since_us: time of the upgrade to a version that signs; 0: signed from the start.
        """
        if self.unsigned_records_until is not None:
            return int(self.unsigned_records_until.timestamp() * 1_000_000)
        if not signed_since_us:
            return 0
        return signed_since_us + int(self.retention_days * DAY_US)

    def account_age(self) -> AccountAge:
        """Return the rule of the users' weights in a canary."""
        return AccountAge(int(self.canary_account_days * DAY_US))

    def cluster(self) -> Cluster:
        """Return the addresses and credentials of the Kafka cluster."""
        access: dict[str, Any] = {"security_protocol": self.kafka_security_protocol}
        if self.kafka_ca_file:
            access["ssl_cafile"] = str(self.kafka_ca_file)
        if self.kafka_security_protocol.startswith("SASL"):
            access |= {
                "sasl_mechanism": self.kafka_sasl_mechanism,
                "sasl_plain_username": self.kafka_username,
                "sasl_plain_password": self.kafka_password.get_secret_value(),
            }
        return Cluster(self.kafka_bootstrap, access)
