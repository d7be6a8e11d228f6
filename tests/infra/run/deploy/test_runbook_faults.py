"""First blocks of the runbooks, run against the faults that raise their alerts.

The alerts themselves are tried without a cluster (tests/infra/watching); here the output of the
block must name the cause.
"""

import re
from functools import partial
from typing import Any

import pytest

from tests.infra.run.deploy.deployed import Deployed, until
from tests.infra.run.deploy.faults import is_answered
from tests.infra.run.deploy.runbook_faults import FAULTS, Fault
from tests.infra.run.deploy.runbook_runs import run_block
from tests.support.runbooks import look

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(900)]

SHOWN_SECONDS = 120


@pytest.mark.parametrize("name", FAULTS)
def test_first_block_names_the_cause(deployed: Deployed, name: str, record_property: Any) -> None:
    fault = FAULTS[name]
    fault.prepare(deployed)
    deployed.settle()
    before = {alert: shown(deployed, fault, alert) for alert in fault.evidence}
    with fault.begin(deployed):
        for alert in fault.evidence:
            named = partial(names_cause, deployed, fault, alert, before[alert])
            until(f"the block of {alert} names the cause", named, SHOWN_SECONDS)
    record_property("alerts", " ".join(fault.evidence))
    until("users are answered", lambda: is_answered(deployed))


def names_cause(deployed: Deployed, fault: Fault, alert: str, before: str) -> bool:
    """Use the release, then run the block; return True if it shows more evidence than before."""
    fault.use(deployed)
    now, pattern = shown(deployed, fault, alert), fault.evidence[alert]
    found = amount(pattern, now) > amount(pattern, before)
    if not found:
        print(f"{alert}, without {pattern}:\n{now}")
    return found


def shown(deployed: Deployed, fault: Fault, alert: str) -> str:
    """Return the output of the first block of an alert, as an operator sees it."""
    return run_block(deployed, look(alert), fault.changes, goes_on=True)


def amount(pattern: str, output: str) -> float:
    """Return the sum of the pattern's group over all matches, or the number of matches."""
    return sum(float(found[1]) if found.re.groups else 1 for found in re.finditer(pattern, output))
