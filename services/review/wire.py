"""Conversion of battles and leaderboards to protobuf."""

from collections.abc import Mapping

from thumbwheel.review.v1 import arena_pb2

from services.contracts.wire import timestamp
from services.review.arena.battle import Battle, Outcome, SetAside, model_names
from services.review.arena.leaderboard import Leaderboard

OUTCOMES: Mapping[arena_pb2.Outcome.ValueType, Outcome] = {
    arena_pb2.Outcome.Value(f"OUTCOME_{outcome.name}"): outcome for outcome in Outcome
}
OUTCOME_NUMBERS = {outcome: number for number, outcome in OUTCOMES.items()}
SET_ASIDE_NUMBERS = {
    reason: arena_pb2.SetAside.Value(f"SET_ASIDE_{reason.name}") for reason in SetAside
}


def battle_proto(battle: Battle) -> arena_pb2.Battle:
    """Convert a battle for its user; versions are included after the vote only."""
    found = arena_pb2.Battle(
        battle_id=battle.battle_id,
        models=model_names(battle.battle_id),
        create_time=timestamp(battle.create_us),
    )
    if vote := battle.vote:
        found.outcome = OUTCOME_NUMBERS[vote.outcome]
        found.model_versions.extend(battle.models)
        if vote.set_aside:
            found.set_aside = SET_ASIDE_NUMBERS[vote.set_aside]
        found.vote_time.FromMicroseconds(vote.vote_us)
    return found


def leaderboard_proto(board: Leaderboard) -> arena_pb2.GetLeaderboardResponse:
    """Convert a leaderboard with its counts."""
    found = arena_pb2.GetLeaderboardResponse(
        entries=[
            arena_pb2.LeaderboardEntry(
                rank=entry.rank,
                model=entry.model,
                developer=entry.label.developer,
                licence=entry.label.licence,
                rating=entry.rating,
                rating_low=entry.rating_low,
                rating_high=entry.rating_high,
                votes=entry.votes,
                votes_to_separate=entry.votes_to_separate,
            )
            for entry in board.entries
        ],
        pairs=[
            arena_pb2.PairResult(
                first=first,
                second=second,
                first_wins=count.first_wins,
                second_wins=count.second_wins,
                ties=count.ties,
            )
            for (first, second), count in board.pairs.items()
        ],
        votes=board.votes,
        set_aside=board.set_aside,
        quarantined=board.quarantined,
        latest_vote_time=timestamp(board.latest_vote_us or None),
    )
    if board.fragility:
        found.fragility.votes = board.fragility.removed
        found.fragility.new_leader = board.fragility.new_leader
    return found
