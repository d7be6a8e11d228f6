"""F50: secrets are changed while people chat and rate, by the operating page's own commands;
whoever insists is answered, and a rollback to before brings no secret back.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.infra.deploy import page
from tests.infra.deploy.committed import committed
from tests.infra.deploy.deployed import Deployed
from tests.infra.deploy.persons import insisting
from tests.infra.deploy.test_kills import check_invariants, go_on

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

PEOPLE = 3
ROTATIONS = {
    "rotate valkey-secret": ("keys", "valkey-secret"),
    "rotate an evaluation's database password": ("evaluation", "postgres-password"),
}


@pytest.mark.long
@pytest.mark.parametrize("title", ROTATIONS)
def test_a_secret_is_rotated_while_people_chat(
    deployed: Deployed, title: str, tmp_path: Path, record_property: Any
) -> None:
    secret, key = ROTATIONS[title]
    where = ("get", "secret", f"{deployed.name}-{secret}", "-o", f"jsonpath={{.data.{key}}}")
    # A revision to go back from; no pod moves for it.
    deployed.install({"door": {"annotations": {"until": title}}})
    old, before = deployed.kubectl(*where), committed(deployed)
    with insisting(deployed, PEOPLE) as people:
        go_on(people)
        page.run(deployed, title, tmp_path, deployed.values())
        new = deployed.kubectl(*where)
        go_on(people)
        deployed.helm("rollback", deployed.name, "--wait", "--timeout", "300s")
        go_on(people)
    assert deployed.kubectl(*where) == new != old
    record_property("fired", 1)
    check_invariants(deployed, before, people, record_property)
