"""F50: rotation of secrets during chat with the commands of the operating page.

Retrying users get answers, and a rollback does not restore an old secret.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.infra.run.deploy import page
from tests.infra.run.deploy.committed import committed
from tests.infra.run.deploy.deployed import Deployed
from tests.infra.run.deploy.retrying_users import (
    check_invariants,
    retrying_users,
    wait_for_progress,
)

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

PEOPLE = 3
ROTATIONS = {
    "rotate valkey-secret": ("keys", "valkey-secret"),
    "rotate master-key": ("keys", "master-key"),
    "rotate an evaluation's database password": ("evaluation", "postgres-password"),
}


@pytest.mark.long
@pytest.mark.parametrize("title", ROTATIONS)
def test_secret_is_rotated_during_chat(
    deployed: Deployed, title: str, tmp_path: Path, record_property: Any
) -> None:
    secret, key = ROTATIONS[title]
    where = ("get", "secret", f"{deployed.name}-{secret}", "-o", f"jsonpath={{.data.{key}}}")
    # A revision to roll back from, which moves no pod.
    deployed.install({"publicService": {"annotations": {"until": title}}})
    old, before = deployed.kubectl(*where), committed(deployed)
    with retrying_users(deployed, PEOPLE) as people:
        wait_for_progress(people)
        page.run(deployed, title, tmp_path, deployed.values())
        new = deployed.kubectl(*where)
        wait_for_progress(people)
        deployed.helm("rollback", deployed.name, "--wait", "--timeout", "300s")
        wait_for_progress(people)
    assert deployed.kubectl(*where) == new != old
    record_property("fired", 1)
    check_invariants(deployed, before, people, record_property)
