"""Tables of tenants and users. Scopes, expiry, rotation and last use of keys.

Existing keys keep all permissions.
"""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"


def upgrade() -> None:
    """Insert the users of existing keys, then add the foreign key."""
    op.create_table(
        "tenants",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("create_time", sa.Float, nullable=False),
    )
    op.create_table(
        "users",
        sa.Column(
            "tenant",
            sa.String(64),
            sa.ForeignKey("tenants.tenant", name="users_tenant"),
            primary_key=True,
        ),
        sa.Column("user", sa.String(64), primary_key=True),
        sa.Column("create_time", sa.Float, nullable=False),
    )
    op.execute("INSERT INTO tenants SELECT tenant, min(create_time) FROM api_keys GROUP BY tenant")
    op.execute(
        'INSERT INTO users SELECT tenant, "user", min(create_time) '
        'FROM api_keys GROUP BY tenant, "user"'
    )
    # SQLite cannot add a constraint, so batch mode copies the table.
    with op.batch_alter_table("api_keys") as table:
        table.add_column(
            sa.Column(
                "scopes",
                sa.String(128),
                nullable=False,
                server_default="chat feedback account operate",
            )
        )
        table.add_column(sa.Column("expire_time", sa.Float))
        table.add_column(sa.Column("previous_digest", sa.LargeBinary(32)))
        table.add_column(sa.Column("previous_expire_time", sa.Float))
        table.add_column(sa.Column("last_use_time", sa.Float))
        table.create_unique_constraint("api_keys_previous_digest_key", ["previous_digest"])
        table.create_foreign_key("api_keys_user", "users", ["tenant", "user"], ["tenant", "user"])
    with op.batch_alter_table("api_keys") as table:
        table.alter_column("scopes", server_default=None)
