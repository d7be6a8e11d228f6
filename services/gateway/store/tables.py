"""Tables of the gateway's database.

A change requires a new file in migrations/versions and a new entry in database.REVISIONS.
"""

from sqlalchemy import (
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    LargeBinary,
    MetaData,
    String,
    Table,
)

METADATA = MetaData()

tenants = Table(
    "tenants",
    METADATA,
    Column("tenant", String(64), primary_key=True),
    Column("create_time", Float, nullable=False),
)

users = Table(
    "users",
    METADATA,
    Column(
        "tenant", String(64), ForeignKey("tenants.tenant", name="users_tenant"), primary_key=True
    ),
    Column("user", String(64), primary_key=True),
    Column("create_time", Float, nullable=False),
)

# Two hashes per key: after a rotation the previous secret works for a limited time.
api_keys = Table(
    "api_keys",
    METADATA,
    Column("key_id", String(36), primary_key=True),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("tenant", String(64), nullable=False),
    Column("user", String(64), nullable=False),
    Column("create_time", Float, nullable=False),
    Column("revoke_time", Float),
    Column("scopes", String(128), nullable=False),
    Column("expire_time", Float),
    Column("previous_digest", LargeBinary(32), unique=True),
    Column("previous_expire_time", Float),
    Column("last_use_time", Float),
    ForeignKeyConstraint(("tenant", "user"), ("users.tenant", "users.user"), name="api_keys_user"),
)
