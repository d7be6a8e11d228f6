"""What the feedback service can be told: TW_FEEDBACK_*."""

import re
from pathlib import Path
from typing import Any, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import SettingsConfigDict

from services.chassis.settings import ServiceSettings
from services.feedback.compaction.compaction import CompactionOptions
from services.feedback.compaction.runs import RunLimits
from services.feedback.events import Stream
from services.feedback.kafka.cluster import Cluster

MIB = 1024 * 1024


class FeedbackSettings(ServiceSettings):
    """Defaults are those of the embedded install, relative to the working directory."""

    model_config = SettingsConfigDict(env_prefix="TW_FEEDBACK_", frozen=True, extra="forbid")

    port: int = Field(50056, ge=0, le=65535, description="gRPC port; 0 picks a free one")
    metrics_port: int = Field(51056, ge=0, le=65535, description="port of /metrics; 0 serves none")
    principal_key: SecretStr = Field(
        min_length=16,
        description="key of the HMAC that turns a user into a principal; the same in gateway and session",
    )
    master_key: SecretStr = Field(
        description="64 hexadecimal digits, the same in all replicas: wraps the keys that seal texts; lost, they are lost too",
    )
    training_consent_default: bool = Field(
        True,
        description="whether models may be trained on what users say who have not said yes or no",
    )
    spool_directory: Path = Field(
        Path(".state/feedback/spool"), description="one folder a stream; one process at a time"
    )
    object_directory: Path = Field(
        Path(".state/objects"),
        description="root of the directory object store; not used where s3_endpoint is set",
    )
    s3_endpoint: str = Field(
        "",
        pattern=r"^[^/\s]*$",
        description="host:port of an S3 store; empty keeps objects in object_directory",
    )
    s3_bucket: str = Field(
        "thumbwheel",
        pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
        description="made by `python -m services.feedback bucket`, never silently",
    )
    s3_region: str = Field("us-east-1", description="region that requests are signed for")
    s3_secure: bool = Field(
        True, description="TLS, with the system's certificates or those of SSL_CERT_FILE"
    )
    s3_access_key: str = Field("", description="may list, read, write and delete in the bucket")
    s3_secret_key: SecretStr = Field(SecretStr(""), description="belongs to s3_access_key")
    s3_connect_seconds: float = Field(
        3.0, gt=0, description="longest wait for a connection to the store"
    )
    s3_request_seconds: float = Field(
        20.0,
        gt=0,
        description="most time for sending an object, for silence before the answer, and for reading one",
    )
    database_url: str = Field(
        "sqlite:///.state/feedback/ledger.db",
        pattern=r"^(sqlite:///|postgresql\+pg8000://[^?]+(\?ssl=verify-full)?$)",
        repr=False,
        description="SQLAlchemy URL of the ledger: sqlite:/// for one process, postgresql+pg8000://…[?ssl=verify-full] for many",
    )
    flush_rows: int = Field(
        5_000, ge=1, description="a Parquet object is written at this many waiting events"
    )
    flush_bytes: int = Field(
        16 * MIB, ge=1, description="most bytes of events in one Parquet object, before encoding"
    )
    flush_seconds: float = Field(
        2.0, gt=0, description="longest wait of an event for its Parquet object"
    )
    max_spool_bytes: int = Field(
        256 * MIB,
        ge=1,
        description="limit of one stream's spool; over it nothing is stored and the caller is told",
    )
    compaction_minutes: float = Field(
        60.0, ge=0, description="a pass of compaction is due so often; 0: never"
    )
    compaction_rows: int = Field(50_000, ge=1, description="most rows in one compacted object")
    compaction_bytes: int = Field(
        64 * MIB, ge=1, description="most bytes in one compacted object, before encoding"
    )
    compaction_settle_minutes: float = Field(
        10.0, ge=0, description="newer segments are not merged yet"
    )
    compaction_lease_seconds: float = Field(
        120.0,
        gt=0,
        description="silence of a compacting process after which another one takes over",
    )
    retired_minutes: float = Field(
        60.0,
        ge=0,
        description="how long objects stay that compaction replaced; not while an erasure waits for them",
    )
    keep_days: float = Field(
        0.0, ge=0, description="older events are left out by compaction; 0 keeps them for ever"
    )
    segment_bytes: int = Field(
        8 * MIB, ge=1, description="a spool file is closed at this size; the unit of deletion"
    )

    kafka_bootstrap: str = Field(
        "",
        description="host:port of brokers, several by commas; empty: the spool is sunk by this process itself. Needs Postgres",
    )
    kafka_security_protocol: str = Field(
        "PLAINTEXT", pattern="^(PLAINTEXT|SSL|SASL_PLAINTEXT|SASL_SSL)$"
    )
    kafka_ca_file: Path | None = Field(
        None, description="certificates that brokers are checked against; none: the system's"
    )
    kafka_sasl_mechanism: str = Field(
        "SCRAM-SHA-512", pattern="^(PLAIN|SCRAM-SHA-256|SCRAM-SHA-512)$"
    )
    kafka_username: str = Field("", description="for the SASL protocols")
    kafka_password: SecretStr = Field(SecretStr(""), description="for the SASL protocols")
    feedback_topic: str = Field("thumbwheel.feedback.v1", min_length=1)
    turns_topic: str = Field("thumbwheel.turns.v1", min_length=1)
    partitions: int = Field(
        6, ge=1, description="of a topic that `topics` creates; the key is the conversation"
    )
    replication_factor: int = Field(3, ge=1, description="of a topic that `topics` creates")
    min_insync_replicas: int = Field(
        2, ge=1, description="replicas that must have an event before the broker acknowledges it"
    )
    retention_days: float = Field(
        7.0, gt=0, description="how long a topic keeps events; erasure counts on it"
    )
    relay_events: int = Field(1_000, ge=1, description="most events in one batch to the broker")
    relay_bytes: int = Field(
        2 * MIB, ge=1, description="most bytes in one batch to the broker, and so in the producer"
    )
    relay_watchdog_seconds: float = Field(
        8.0, gt=0, description="without an ack for so long the producer is built anew"
    )
    consumer_group: str = Field(
        "thumbwheel-sink", min_length=1, description="a stream's group is this, a dot and its name"
    )
    consumer_session_seconds: float = Field(
        10.0, ge=1, description="silence after which a consumer's partitions move on"
    )
    consumer_bytes: int = Field(
        32 * MIB, ge=1, description="a stream's fetched events over which nothing more is fetched"
    )
    claim_days: float = Field(
        7.0, gt=0, description="a claim whose event never came is forgotten after so long"
    )

    dead_letter_days: float = Field(
        30.0,
        gt=0,
        description="what could not be decoded is emptied after so long: nobody knows what it holds",
    )

    @model_validator(mode="after")
    def _master_key_is_hexadecimal(self) -> Self:
        if not re.fullmatch("[0-9a-fA-F]{64}", self.master_key.get_secret_value()):
            raise PydanticCustomError("malformed", "master_key: 64 hexadecimal digits")
        return self

    @model_validator(mode="after")
    def _keys_belong_to_the_endpoint(self) -> Self:
        if self.s3_endpoint and not (self.s3_access_key and self.s3_secret_key.get_secret_value()):
            raise PydanticCustomError(
                "incomplete",
                "s3_access_key, s3_secret_key: both are needed where s3_endpoint is set",
            )
        return self

    def compaction_options(self) -> CompactionOptions:
        """How large compacted objects get, and when."""
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
                "kafka_bootstrap needs a database_url of postgresql+pg8000://: replicas share the ledger",
            )
        return self

    def topic(self, stream: Stream) -> str:
        """The topic of a stream."""
        return {Stream.FEEDBACK: self.feedback_topic, Stream.TURNS: self.turns_topic}[stream]

    def cluster(self) -> Cluster:
        """How Kafka is reached."""
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
