"""From the real feedback table to reviewers, and from their rankings to pairs of training."""

import asyncio
import io
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2

from services.chassis.identity import Caller
from services.contracts.identifiers import principal_of
from tests.services.feedback.samples import ADA, KEY, name, thumb, turn
from tests.services.review.service import Home, Review, error_of, review_of, review_service
from tests.training.fake_rollout import FakeClock
from tests.training.real_feedback import Service
from tests.training.state_folder import BASE, lax
from training.artifacts.registry import Registry
from training.data.feedback.catalogue import Directory
from training.data.feedback.snapshot import read_rankings
from training.data.feedback.sources import Source
from training.loop import STEPS
from training.loop_run import LoopEnvironment, LoopRun, begin
from training.remote import FeedbackLog
from training.reporting.lineage import describe_version
from training.reporting.progress import Lines, ProgressReporter

BOB, CARL, OTHER = Caller("acme", "bob"), Caller("acme", "carl"), Caller("umbrella", "ada")
REVIEWERS = [(("x-tw-tenant", "acme"), ("x-tw-user", user)) for user in ("rae", "rob")]
FOREIGN = (("x-tw-tenant", "umbrella"), ("x-tw-user", "rae"))
NO_ITEM = ("NOT_FOUND", "NO_ITEM", "")
pytestmark = pytest.mark.slow


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with Service.started(tmp_path) as service:
        yield service


def answer(words: str, caller: Caller, asked: str = "", version: str = "v1") -> Any:
    """Return an answer that finished now; answers to the same question are one conversation."""
    said = turn(f"answer {words}", words)
    said.tenant, said.principal = caller.tenant, principal_of(KEY, caller)
    said.conversation_id = name(f"conversation of {asked or words}")
    said.context[0].text = f"question about {asked or words}"
    said.model_version = version
    said.finish_time.GetCurrentTime()
    return said


def rule_counts(text: str) -> dict[str, int]:
    """Return the new items by rule in the output of a draw."""
    rows = [line.split() for line in text.splitlines()]
    return {row[0]: int(row[2]) for row in rows if len(row) == 3 and row[1].isdigit()}


def run_of(service: Service, version: str) -> LoopRun:
    """Begin a run of the loop on the real feedback table."""
    registry = Registry(service.state / "models")
    registry.admit(BASE, "nano-0")
    lines = Lines(io.StringIO())
    with closing(FeedbackLog(f"127.0.0.1:{service.port}")) as log:
        objects = Directory(service.state / "objects")
        env = LoopEnvironment(service.state, log, objects, None, FakeClock(), lines, "test")
        reporter = ProgressReporter(service.state / "loop", lines, version, "nano", STEPS)
        return begin(version, "nano", lax, env, reporter)


async def judge_all(review: Review, reviewer: Any) -> int:
    """Prefer the second of two answers, and write a better one; return the number of items."""
    judged = 0
    while True:
        try:
            item = await review.next_item(reviewer)
        except grpc.aio.AioRpcError:  # NO_ITEM
            return judged
        texts = sorted((one.text for one in item.answers), reverse=True)
        ranking = texts if len(texts) > 1 else ()
        given = review_of(item, *ranking, written="a written answer" if ranking else "")
        await review.submit(reviewer, item.item_id, given)
        judged += 1


async def test_rankings_of_drawn_items_become_pairs_of_the_next_version(
    service: Service, sqlite_home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.append(
        answer("one", ADA, "towers"),
        answer("two", ADA, "towers", "v2"),
        answer("call bob@home.example", BOB),
        answer("forbidden", CARL),
        answer("foreign", OTHER),
    )
    service.forbid(CARL)
    service.record(liked("one"), ADA)
    target = {"feedback_target": f"127.0.0.1:{service.port}", "principal_key": KEY}

    async def command(*words: str, review: Review) -> str:
        assert await asyncio.to_thread(service.command, *words, "--review", review.target) == 0
        return capsys.readouterr().out

    async with review_service(sqlite_home, erasure_seconds=0.05, **target) as review:
        printed = await command("draw", review=review)
        assert rule_counts(printed) == {
            "blocked": 0,
            "disagreement": 0,
            "new_version": 1,
            "random": 2,
        }
        assert "left out: no_consent 1" in printed
        assert rule_counts(await command("draw", review=review))["random"] == 0
        assert (await review.next_item(FOREIGN)).answers[0].text == "answer foreign"
        for reviewer in REVIEWERS:
            assert await judge_all(review, reviewer) == 2
        await asyncio.to_thread(service.wait_for_rows, feedback_pb2.STREAM_FEEDBACK, 4)

        run = run_of(service, "nano-1")
        rankings = read_rankings(run.snapshot)
        assert {one.rater for one in rankings} == {
            principal_of(KEY, Caller("acme", user)) for user in ("rae", "rob")
        }
        (pair,) = (
            pair
            for pairs in (run.sets.pairs, run.sets.judge_pairs, run.sets.held_out_pairs)
            for pair in pairs
            if pair.source is Source.RANKING
        )
        assert (pair.chosen, pair.rejected) == ("answer two", "answer one")
        told = describe_version("nano-1", service.state / "loop", run.env.registry)
        assert "0 votes of the arena, 2 rankings and 2 written answers by 2 reviewers" in told
        assert "ranking 1" in told

        output = tmp_path / "reviews.jsonl"
        await command("export", "--out", str(output), review=review)
        text = output.read_text()
        lines = {line["target"]: line for line in map(json.loads, text.splitlines())}
        assert set(lines) == {"a written answer", "answer call <EMAIL_1>"}
        assert "home.example" not in text
        assert principal_of(KEY, ADA) not in text

        service.forbid(ADA)
        service.erase(BOB)
        while len((await review.exported()).items) > 1:
            await asyncio.sleep(0.02)
        printed = await command("export", "--out", str(output), review=review)
        assert output.read_text() == ""
        assert "left out: no_consent 1" in printed
        printed = await command("draw", review=review)
        assert "removed items: 1" in printed
        assert not (await review.exported()).items
        late = (("x-tw-tenant", "acme"), ("x-tw-user", "late"))
        assert await error_of(review.next_item(late)) == NO_ITEM


def liked(message: str) -> events_pb2.FeedbackEvent:
    """Return a thumb up of Ada on an answer in the conversation about towers."""
    event = thumb("like", True, message)
    event.conversation_id = name("conversation of towers")
    event.accept_time.GetCurrentTime()
    return event
