"""External models in the arena: participants, labels of the leaderboard, answers that name them."""

import asyncio

import pytest
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.generator.v1 import generator_pb2
from thumbwheel.review.v1 import arena_pb2

from tests.services.review.service import (
    ADA,
    MODELS,
    FakeGenerator,
    Home,
    Peers,
    Review,
    error_of,
    review_service,
)

NAME = "external.rival"
RIVAL = generator_pb2.ExternalModel(
    name=NAME, developer="Example Labs", licence="proprietary", endpoint_model="qwen-max-2"
)


def peers() -> Peers:
    """Return peers with one version and one external model."""
    return Peers(generator=FakeGenerator(candidate="", external=[RIVAL]))


async def board_of(review: Review) -> arena_pb2.GetLeaderboardResponse:
    request = arena_pb2.GetLeaderboardRequest()
    found: arena_pb2.GetLeaderboardResponse = await review.arena.GetLeaderboard(
        request, timeout=10, metadata=ADA
    )
    return found


def labels_of(board: arena_pb2.GetLeaderboardResponse) -> dict[str, tuple[str, str]]:
    return {entry.model: (entry.developer, entry.licence) for entry in board.entries}


async def test_external_model_takes_part_and_is_revealed_by_the_vote(home: Home) -> None:
    async with review_service(home, peers(), leaderboard_seconds=0) as review:
        battle = await review.create()
        assert NAME.encode() not in battle.SerializeToString()
        assert {await review.version(name) for name in battle.models} == {MODELS[0], NAME}
        voted = await review.vote(battle.battle_id, await review.answers(battle))
        assert {*voted.model_versions} == {MODELS[0], NAME}
        assert voted.set_aside == arena_pb2.SET_ASIDE_UNSPECIFIED
        board = await board_of(review)
        async with asyncio.timeout(10):
            while not review.peers.feedback.events:
                await asyncio.sleep(0.01)
    assert board.votes == 1
    assert labels_of(board) == {MODELS[0]: ("", ""), NAME: ("Example Labs", "proprietary")}
    # Training recognises the answer by its version.
    (event,) = review.peers.feedback.events
    assert NAME in {answer.model_version for answer in event.ranking.answers}


async def test_labels_of_the_settings_take_precedence_and_changes_are_shown(
    sqlite_home: Home,
) -> None:
    async with review_service(sqlite_home, peers(), leaderboard_seconds=0) as review:
        await review.whole_battle()
        review.peers.generator.external = [
            generator_pb2.ExternalModel(name=NAME, developer="Other", licence="MIT")
        ]
        assert labels_of(await board_of(review))[NAME] == ("Other", "MIT")
        review.peers.generator.is_down = True
        assert labels_of(await board_of(review))[NAME] == ("Other", "MIT")
    own = {NAME: {"developer": "Own", "licence": "own"}}
    async with review_service(sqlite_home, peers(), models=own) as review:
        assert labels_of(await board_of(review))[NAME] == ("Own", "own")


@pytest.mark.parametrize(
    ("text", "is_set_aside"),
    [
        ("I am Rival.", True),
        ("As Qwen, I cannot say.", True),
        ("I was made by Example Labs.", True),
        ("I am an external assistant.", False),
        ("A rival is a competitor.", False),
    ],
)
async def test_answer_that_names_an_external_model_is_set_aside(
    sqlite_home: Home, text: str, is_set_aside: bool
) -> None:
    async with review_service(sqlite_home, peers()) as review:
        battle = await review.create()
        versions = [await review.version(name) for name in battle.models]
        texts = [text if version == NAME else "an answer" for version in versions]
        voted = await review.vote(battle.battle_id, await review.answers(battle, texts))
    expected = arena_pb2.SET_ASIDE_NAMES_ITSELF if is_set_aside else 0
    assert voted.set_aside == expected


async def test_vote_does_not_wait_for_the_generator_without_an_external_model(
    sqlite_home: Home,
) -> None:
    async with review_service(sqlite_home) as review:
        battle = await review.create()
        ids = await review.answers(battle)
        asked = review.peers.generator.calls
        await review.vote(battle.battle_id, ids)
        assert review.peers.generator.calls == asked


async def test_nothing_counts_if_an_endpoint_dies_within_its_answer(sqlite_home: Home) -> None:
    failed = chat_pb2.FINISH_REASON_FAILED
    async with review_service(sqlite_home, peers(), leaderboard_seconds=0) as review:
        battle = await review.create()
        ids = await review.answers(battle, finish_reason=failed)
        voted = await review.vote(battle.battle_id, ids)
        board = await board_of(review)
    assert voted.set_aside == arena_pb2.SET_ASIDE_INCOMPLETE
    assert (board.votes, board.set_aside, review.peers.feedback.events) == (0, 1, [])


async def test_excluded_external_model_takes_no_part(sqlite_home: Home) -> None:
    async with review_service(sqlite_home, peers(), excluded_models=[NAME]) as review:
        error = await error_of(review.create())
    assert error == ("FAILED_PRECONDITION", "TOO_FEW_MODELS", "")
