"""Events and table of the comparison of kinds of feedback."""

import random
from collections import Counter

from benchmarks.loop.rankings import KINDS, Result, Visit, feedback_of, table, turns_of
from infra.simulate.users.preference import PREFERENCES, Rater, VotingBehaviour
from infra.simulate.users.questions import read_questions
from services.feedback.events import check_feedback, check_turn
from services.feedback.wire import feedback_from, turn_from
from training.figures import Estimate

QUESTION = read_questions("nano").asked[0]
IDS = tuple(f"00000000-0000-0000-0000-00000000000{number}" for number in range(4))
VISIT = Visit(
    "ann", "rae", QUESTION, IDS[0], IDS, (QUESTION.reference, "shut up", "no", QUESTION.reference)
)


def test_each_kind_of_feedback_passes_the_limits_of_the_service() -> None:
    always = VotingBehaviour(0.0, votes_if_pleased=1.0, votes_if_displeased=1.0)
    rater, found = Rater(PREFERENCES["nano"], always), {}
    for kind in KINDS:
        events = list(feedback_of(VISIT, kind, rater, random.Random(0)))
        for event in events:
            check_feedback(feedback_from(event))
        found[kind] = Counter(event.WhichOneof("value") for event in events)
        ranks = [[a.rank for a in e.ranking.answers] for e in events if e.HasField("ranking")]
        raters = [bool(event.rater) for event in events if event.HasField("ranking")]
        votes, ranking = ([[1, 2]], [False]), ([[1, 3, 2, 1]], [True])
        expected = {"thumbs": ([], []), "votes": votes}
        assert (ranks, raters) == expected.get(kind, ranking)
    assert found == {
        "thumbs": {"thumb": 4},
        "votes": {"ranking": 1},
        "rankings": {"ranking": 1},
        "both": {"thumb": 4, "ranking": 1},
        "weighted": {"thumb": 4, "ranking": 1},
    }
    for turn in turns_of(VISIT):
        check_turn(turn_from(turn))


def test_table_has_means_over_seeds() -> None:
    results = [
        Result("votes", seed, 10, 5, 4.0, Estimate(accuracy, 0.01, 90, 30))
        for seed, accuracy in enumerate((0.8, 0.9))
    ]
    (_, line) = table(results)
    assert line.split()[:5] == ["votes", "10", "5", "4", "0.850"]
    assert "0.800 ± 0.010, 0.900 ± 0.010" in line
