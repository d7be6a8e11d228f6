"""The rollout file: what is written is read, whole, or refused with its name."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.generator.rollout import Candidate, Change, ChangeKind, Deployment, Rollout
from services.generator.store import RolloutFile, RolloutFileError

texts = st.text(max_size=20)
rollouts = st.builds(
    Rollout,
    stable=st.none() | st.builds(Deployment, texts, texts),
    candidate=st.none() | st.builds(Candidate, texts, texts, st.floats(0, 0.5), st.integers(0, 2**60), st.booleans()),
    retired=st.lists(texts, max_size=3).map(tuple),
    history=st.lists(
        st.builds(Change, st.integers(0, 2**60), st.sampled_from(ChangeKind), texts, texts), max_size=3
    ).map(tuple),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rollout=rollouts)
def test_what_is_saved_is_loaded(tmp_path: Path, rollout: Rollout) -> None:
    file = RolloutFile(tmp_path / "state" / "rollout.json")
    file.save(rollout)
    assert file.load() == rollout
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["rollout.json"]


def test_no_file_is_no_rollout(tmp_path: Path) -> None:
    assert RolloutFile(tmp_path / "rollout.json").load() is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "stable": {"version": "v1"}}'])
def test_a_file_that_is_not_understood_is_named_and_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rollout.json"
    path.write_text(content)
    with pytest.raises(RolloutFileError, match=r"rollout\.json"):
        RolloutFile(path).load()
    assert path.read_text() == content
