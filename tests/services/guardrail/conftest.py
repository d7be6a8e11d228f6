"""The policy as it is shipped, and the verdicts that it counts."""

import pytest

from services.guardrail.policy import Policy
from services.guardrail.verdict import Stage, Verdict


@pytest.fixture
def observed() -> list[tuple[Stage, Verdict]]:
    return []


@pytest.fixture
def policy(observed: list[tuple[Stage, Verdict]]) -> Policy:
    return Policy("US", lambda stage, verdict: observed.append((stage, verdict)))
