"""A second release with stores of its own, in a namespace beside the first."""

import json
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.infra.run.deploy import page
from tests.infra.run.deploy.deployed import SMALL, Deployed, Values
from tests.infra.run.deploy.own_stores import CREATE_BUCKET, NAME, OwnStores, own_stores

BACKUPS = "backups"
BACKUP = {
    "backup": {
        "enabled": True,
        "suspend": True,
        "encryptionSecret": "backup-key",
        "bucket": {
            "endpoint": OwnStores.s3,
            "name": BACKUPS,
            "secure": False,
            "existingSecret": "bucket",
        },
    }
}


@dataclass(frozen=True)
class SecondRelease:
    """The release with its stores; each test leaves the installation as `install` makes it."""

    deployed: Deployed
    stores: OwnStores

    def install(self, *changes: Values) -> None:
        self.deployed.install(SMALL, BACKUP, self.stores.values(), *changes)

    def run(self, title: str, folder: Path, *changes: Values) -> str:
        """Run a block of the operating page; `sql` is the administrator of Postgres."""
        values = self.deployed.values(SMALL, BACKUP, self.stores.values(), *changes)
        pod = f"kubectl -n {self.deployed.namespace} exec -i {NAME}-postgres-0"
        sql = f"sql() {{ {pod} -- {shlex.join(self.stores.psql())}; }}"
        return page.run(self.deployed, title, folder, values, sql)


@contextmanager
def second_release(deployed: Deployed) -> Iterator[SecondRelease]:
    """Install the release beside `deployed`, and remove it at the end of the block."""
    other = replace(deployed, name="thumbwheel-second", namespace="second")
    other.create_namespace()
    try:
        key = {"backup-key": f"{time.time_ns():064x}"}
        metadata = {"name": "backup-key"}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": key}
        other.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(secret))
        second = SecondRelease(other, own_stores(other))
        second.install()
        other.reopen()
        other.python("feedback", "-c", CREATE_BUCKET, BACKUPS)
        yield second
    finally:
        other.remove()
