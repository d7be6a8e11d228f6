"""Accuracy of nano's reward model by kind of feedback: thumbs, votes, rankings, and both.

Usage: python -m benchmarks.loop.rankings [--visits 200] [--seeds 3] [--kinds thumbs,both]
       [--into rankings.json]

In each visit a simulated user of nano-0 gets four answers to a question. The user rates each
(thumbs) or votes on the first two (votes), a reviewer ranks all four (rankings), or both rate and
rank (both; "weighted" has a factor on rankings). Hidden preference and share of inverted judgements
are the same. The events go through RecordFeedback of a feedback service, its Parquet objects, a
snapshot and the training sets. The recipe's reward model is trained on the pairs of each kind. Its
accuracy is the share of pairs of answers to held-out questions that it orders as the hidden
preference does, with the standard error over questions.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import grpc
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2, feedback_pb2_grpc

from benchmarks.loop.series import sampling_of_users
from infra.simulate.users.preference import PREFERENCES, Rater, VotingBehaviour
from infra.simulate.users.questions import Question, read_questions
from services.chassis.identity import Caller
from services.contracts.identifiers import FINISHED, principal_of, turn_event_id
from training.data.chat import Message, load_chat
from training.data.feedback.catalogue import Directory
from training.data.feedback.sets import SetsConfig, make_sets, write_sets
from training.data.feedback.snapshot import SnapshotConfig, read_feedback, take_snapshot
from training.data.feedback.sources import SourceWeights
from training.evaluation.answers import ChatModel, score
from training.evaluation.config import Sampling
from training.evaluation.judges import beats
from training.figures import Estimate, clustered_mean
from training.model.reward import load_reward_model
from training.recipes.nano import MACHINE, VALUES
from training.remote import FeedbackLog
from training.runtime.context import Lineage, RunContext
from training.runtime.machine import configure_device
from training.runtime.training_state import DirectoryCheckpoints
from training.stages import reward_model

RECIPE, VERSION, TENANT = "nano", "nano-0", "bench"
MODEL = Path(__file__).parents[2] / "models" / RECIPE
KINDS = ("thumbs", "votes", "rankings", "both", "weighted")
RANKING_WEIGHT = 4.0
ANSWERS = 4
USERS, REVIEWERS = 40, 8
KEY, MASTER = "the benchmark's own key", "5e" * 32
CALL_SECONDS, BOOT_SECONDS = 30.0, 120.0
# Nothing is held out: the questions of the comparison are others.
SETS = SetsConfig(held_out_fraction=1e-6, judge_fraction=1e-6)


@dataclass(frozen=True)
class Visit:
    """Answers to a question that a user asked."""

    user: str
    reviewer: str
    question: Question
    conversation_id: str
    message_ids: tuple[str, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """Feedback of one kind and one seed, and the accuracy of the model that learned from it."""

    kind: str
    seed: int
    events: int
    pairs: int
    weight: float
    accuracy: Estimate


def answers_to(questions: Sequence[Question], seed: int) -> list[list[str]]:
    """Return answers of nano-0 to each question."""
    prompts = [[Message("user", question.text)] for question in questions]
    sampling: Sampling = replace(sampling_of_users(ANSWERS), seed=seed)
    found: list[list[str]] = [[] for _ in questions]
    for answer in ChatModel(MODEL).answer(prompts, sampling):
        found[answer.prompt].append(answer.text or "…")
    return found


def visits(count: int, seed: int) -> list[Visit]:
    """Return visits of users with random questions."""
    rng = random.Random(seed)
    asked = [rng.choice(read_questions(RECIPE).asked) for _ in range(count)]
    return [
        Visit(
            f"user {rng.randrange(USERS)}",
            f"reviewer {rng.randrange(REVIEWERS)}",
            question,
            str(uuid.uuid4()),
            tuple(str(uuid.uuid4()) for _ in answers),
            tuple(answers),
        )
        for question, answers in zip(asked, answers_to(asked, seed), strict=True)
    ]


def turns_of(visit: Visit) -> Iterator[events_pb2.TurnEvent]:
    """Yield the turns of a visit."""
    user_message_id = str(uuid.uuid4())
    for message_id, answer in zip(visit.message_ids, visit.answers, strict=True):
        turn = events_pb2.TurnEvent(
            event_id=turn_event_id(message_id, FINISHED),
            tenant=TENANT,
            principal=principal_of(KEY, Caller(TENANT, visit.user)),
            conversation_id=visit.conversation_id,
            user_message_id=user_message_id,
            message_id=message_id,
            context=[chat_pb2.HistoryMessage(role=chat_pb2.ROLE_USER, text=visit.question.text)],
            original_text=visit.question.text,
            answer=answer,
            finish_reason=chat_pb2.FINISH_REASON_STOP,
            model_version=VERSION,
            arm="stable",
        )
        turn.finish_time.GetCurrentTime()
        yield turn


def feedback_of(
    visit: Visit, kind: str, rater: Rater, rng: random.Random
) -> Iterator[events_pb2.FeedbackEvent]:
    """Yield the feedback on the answers of a visit."""
    if kind in ("thumbs", "both", "weighted"):
        for message_id, answer in zip(visit.message_ids, visit.answers, strict=True):
            up = rater.feedback_on(visit.question, answer, rng).up
            if up is not None:
                event = _event(visit, message_id)
                event.thumb.up = up
                yield event
    if kind == "thumbs":
        return
    compared = 2 if kind == "votes" else ANSWERS
    event = _event(visit, visit.message_ids[0])
    if kind == "votes":
        event.ranking.source = events_pb2.RANKING_SOURCE_ARENA
    else:
        event.ranking.source = events_pb2.RANKING_SOURCE_REVIEW
        event.rater = principal_of(KEY, Caller(TENANT, visit.reviewer))
    ranks = rater.ranks(visit.question, visit.answers[:compared], rng)
    for message_id, rank in zip(visit.message_ids, ranks, strict=False):
        event.ranking.answers.add(message_id=message_id, rank=rank, model_version=VERSION)
    yield event


def _event(visit: Visit, message_id: str) -> events_pb2.FeedbackEvent:
    event = events_pb2.FeedbackEvent(
        event_id=str(uuid.uuid4()),
        tenant=TENANT,
        principal=principal_of(KEY, Caller(TENANT, visit.user)),
        conversation_id=visit.conversation_id,
        message_id=message_id,
        model_version=VERSION,
        arm="stable",
    )
    event.accept_time.GetCurrentTime()
    return event


@contextmanager
def feedback_service(folder: Path, port: int) -> Iterator[Any]:
    """Run the service as in the embedded installation, and yield its stub."""
    (folder / "service").mkdir(parents=True)
    settings = {
        "PORT": port,
        "METRICS_PORT": 0,
        "PRINCIPAL_KEY": KEY,
        "MASTER_KEY": MASTER,
        "SPOOL_DIRECTORY": folder / "service" / "spool",
        "OBJECT_DIRECTORY": folder / "service" / "objects",
        "DATABASE_URL": f"sqlite:///{folder}/service/ledger.db",
        "FLUSH_SECONDS": 0.5,
    }
    named = {f"TW_FEEDBACK_{name}": str(value) for name, value in settings.items()}
    with (folder / "service.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.feedback"], env=os.environ | named, stderr=log
        )
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as opened:
            channel: Any = opened  # the stub's types are those of grpc.aio
            grpc.channel_ready_future(channel).result(BOOT_SECONDS)
            yield feedback_pb2_grpc.FeedbackLogServiceStub(channel)
    finally:
        process.terminate()
        process.wait()


def collect(
    folder: Path, port: int, seen: Sequence[Visit], kind: str, seed: int
) -> tuple[int, Path]:
    """Record the feedback of one kind, and write the training sets of its snapshot.

    Returns the number of feedback events, and the file of the pairs.
    """
    rng, rater = random.Random(seed), Rater(PREFERENCES[RECIPE], VotingBehaviour())
    turns = [turn for visit in seen for turn in turns_of(visit)]
    with feedback_service(folder, port) as stub:
        for start in range(0, len(turns), 100):
            request = feedback_pb2.AppendTurnsRequest(turns=turns[start : start + 100])
            stub.AppendTurns(request, timeout=CALL_SECONDS)
        sent = 0
        for visit in seen:
            for event in feedback_of(visit, kind, rater, rng):
                giver = visit.reviewer if event.rater else visit.user
                metadata = (("x-tw-tenant", TENANT), ("x-tw-user", giver))
                stub.RecordFeedback(
                    feedback_pb2.RecordFeedbackRequest(event=event),
                    timeout=CALL_SECONDS,
                    metadata=metadata,
                )
                sent += 1
        log = FeedbackLog(f"127.0.0.1:{port}")
        while _rows(log.feedback_segments()) < sent or _rows(log.turn_segments()) < len(turns):
            time.sleep(0.2)
        objects = Directory(folder / "service" / "objects")
        snapshot = take_snapshot(log, objects, SnapshotConfig(), folder / "snapshots", "benchmark")
        log.close()
    sets = folder / "sets"
    weights = SourceWeights(ranking=RANKING_WEIGHT if kind == "weighted" else 1.0)
    write_sets(make_sets(read_feedback(snapshot), replace(SETS, source_weights=weights)), sets)
    # At least one person is a judge; the reward model learns from all of them here.
    pairs = folder / "pairs.jsonl"
    pairs.write_text("".join((sets / f"{n}.jsonl").read_text() for n in ("pairs", "judge_pairs")))
    return sent, pairs


def _rows(segments: Sequence[Any]) -> int:
    return sum(segment.rows for segment in segments)


def train(pairs: Path, folder: Path, seed: int) -> Path:
    """Train the recipe's reward model on the pairs, from nano-0; return its folder."""
    config = VALUES.reward_model(
        model_directory=MODEL,
        data_path=pairs,
        output_directory=folder / "reward",
        lineage=Lineage("reward"),
        max_tokens=VALUES.row_tokens,
        machine=MACHINE,
        seed=seed,
    )
    reward_model.run(
        config, RunContext(DirectoryCheckpoints(folder / "run"), lambda progress: None)
    )
    return folder / "reward"


def accuracy(trained: Path, asked: Sequence[Question], said: list[list[str]]) -> Estimate:
    """Return the share of pairs of held-out answers in the order of the hidden preference."""
    configure_device(MACHINE)
    reward, chat = load_reward_model(trained, MODEL), load_chat(MODEL)
    rows = [
        ([Message("user", question.text)], answer)
        for question, answers in zip(asked, said, strict=True)
        for answer in answers
    ]
    scores = iter(score(reward, chat, rows, VALUES.row_tokens))
    right: list[float] = []
    of_question: list[str] = []
    for question, answers in zip(asked, said, strict=True):
        rated = [(PREFERENCES[RECIPE](question, answer), next(scores)) for answer in answers]
        for first, second in combinations(rated, 2):
            if first[0] != second[0]:
                better, worse = (first, second) if first[0] > second[0] else (second, first)
                right.append(beats(better[1], worse[1]))
                of_question.append(question.text)
    return clustered_mean(right, of_question)


def measure(
    folder: Path, port: int, count: int, seeds: int, kinds: Sequence[str]
) -> Iterator[Result]:
    """Yield a result for each seed and kind; all kinds of a seed have the same answers."""
    held_out = read_questions(RECIPE).held_out
    said = answers_to(held_out, seed=10_000)
    for seed in range(seeds):
        seen = visits(count, seed)
        for kind in kinds:
            part = folder / f"{kind}-{seed}"
            sent, pairs = collect(part, port, seen, kind, seed)
            rows = [json.loads(line) for line in pairs.read_text().splitlines()]
            found = accuracy(train(pairs, part, seed), held_out, said)
            yield Result(kind, seed, sent, len(rows), sum(row["weight"] for row in rows), found)


def table(results: Sequence[Result]) -> Iterator[str]:
    """Yield a line for each kind with the means over seeds."""
    yield f"{'kind':<10}{'events':>8}{'pairs':>8}{'weight':>8}  accuracy by seed"
    for kind in KINDS:
        own = [result for result in results if result.kind == kind]
        if own:
            events, pairs, weight, mean = (
                fmean(values)
                for values in zip(
                    *((r.events, r.pairs, r.weight, r.accuracy.value) for r in own), strict=True
                )
            )
            by_seed = ", ".join(result.accuracy.text() for result in own)
            yield f"{kind:<10}{events:>8.0f}{pairs:>8.0f}{weight:>8.0f}  {mean:.3f} ({by_seed})"


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--visits", type=int, default=200, help="questions of users")
    parser.add_argument("--kinds", default=",".join(KINDS), help="kinds of feedback (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--port", type=int, default=50957, help="port for the feedback service")
    parser.add_argument("--into", type=Path, help="file for all figures")
    options = parser.parse_args()
    kinds = [kind for kind in KINDS if kind in options.kinds.split(",")]
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        for result in measure(Path(folder), options.port, options.visits, options.seeds, kinds):
            results.append(result)
            print(f"{result.kind} {result.seed}: {result.accuracy.text()}", flush=True)
            if options.into:
                options.into.write_text(json.dumps([asdict(one) for one in results], indent=1))
    print("\n".join(table(results)))


if __name__ == "__main__":
    main()
