"""What the feedback service can be told: TW_FEEDBACK_*."""

from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from services.chassis.settings import ServiceSettings

MIB = 1024 * 1024


class FeedbackSettings(ServiceSettings):
    """Defaults are those of the embedded install, relative to the working directory."""

    model_config = SettingsConfigDict(env_prefix="TW_FEEDBACK_", frozen=True, extra="forbid")

    port: int = Field(50056, ge=0, le=65535, description="gRPC port; 0 picks a free one")
    metrics_port: int = Field(51056, ge=0, le=65535, description="port of /metrics; 0 serves none")
    principal_key: SecretStr = Field(
        min_length=16, description="key of the HMAC that turns a user into a principal; the same in gateway and session"
    )
    spool_directory: Path = Field(
        Path(".state/feedback/spool"), description="one folder a stream; one process at a time"
    )
    object_directory: Path = Field(
        Path(".state/objects"), description="root of the directory object store; not used where s3_endpoint is set"
    )
    s3_endpoint: str = Field(
        "", pattern=r"^[^/\s]*$", description="host:port of an S3 store; empty keeps objects in object_directory"
    )
    s3_bucket: str = Field(
        "thumbwheel",
        pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
        description="made by `python -m services.feedback bucket`, never silently",
    )
    s3_region: str = Field("us-east-1", description="region that requests are signed for")
    s3_secure: bool = Field(True, description="TLS, with the system's certificates or those of SSL_CERT_FILE")
    s3_access_key: str = Field("", description="may list, read, write and delete in the bucket")
    s3_secret_key: SecretStr = Field(SecretStr(""), description="belongs to s3_access_key")
    s3_connect_seconds: float = Field(3.0, gt=0, description="longest wait for a connection to the store")
    s3_request_seconds: float = Field(
        20.0, gt=0, description="most time for sending an object, for silence before the answer, and for reading one"
    )
    database_url: str = Field(
        "sqlite:///.state/feedback/ledger.db",
        pattern=r"^sqlite:///",
        description="SQLAlchemy URL of the ledger, with a synchronous driver",
    )
    flush_rows: int = Field(5_000, ge=1, description="a Parquet object is written at this many waiting events")
    flush_bytes: int = Field(16 * MIB, ge=1, description="most bytes of events in one Parquet object, before encoding")
    flush_seconds: float = Field(2.0, gt=0, description="longest wait of an event for its Parquet object")
    max_spool_bytes: int = Field(
        256 * MIB, ge=1, description="limit of one stream's spool; over it nothing is stored and the caller is told"
    )
    segment_bytes: int = Field(8 * MIB, ge=1, description="a spool file is closed at this size; the unit of deletion")

    @model_validator(mode="after")
    def _keys_belong_to_the_endpoint(self) -> Self:
        if self.s3_endpoint and not (self.s3_access_key and self.s3_secret_key.get_secret_value()):
            raise ValueError("s3_access_key, s3_secret_key: both are needed where s3_endpoint is set")
        return self
