"""Strategy that generates rollouts with short texts."""

from hypothesis import strategies as st

from services.generator.rollout.rollout import (
    Candidate,
    Change,
    ChangeKind,
    Deployment,
    Halt,
    Rollout,
    Watch,
)

texts = st.text(max_size=20)
rollouts = st.builds(
    Rollout,
    stable=st.none() | st.builds(Deployment, texts, texts),
    candidate=st.none()
    | st.builds(Candidate, texts, texts, st.floats(0, 0.5), st.integers(0, 2**60), st.booleans()),
    retired=st.lists(texts, max_size=3).map(tuple),
    history=st.lists(
        st.builds(Change, st.integers(0, 2**60), st.sampled_from(ChangeKind), texts, texts),
        max_size=3,
    ).map(tuple),
    halt=st.none() | st.builds(Halt, st.integers(0, 2**60), texts, texts),
    watch=st.none()
    | st.builds(
        Watch,
        st.builds(Deployment, texts, texts),
        st.floats(0, 0.5),
        st.integers(0, 2**60),
        st.integers(0, 2**60),
        texts,
        st.integers(0, 2**60),
    ),
)
