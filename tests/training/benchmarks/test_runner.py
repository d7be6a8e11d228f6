"""Scores of models with known answers, interruptions, and changed items."""

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.errors import refused
from tests.support.model_server import KEY, fake_model_server
from training.artifacts.scores import (
    ENDPOINT,
    NOT_STORED,
    WEIGHTS,
    ScoredModel,
    ScoreError,
    ScoreStore,
    require_comparable,
)
from training.benchmarks.code_tasks import Decoding, read_items
from training.benchmarks.data import BOX, boxed, rows
from training.benchmarks.language_model import EndpointModel
from training.benchmarks.models import EvaluatedModel
from training.benchmarks.runner import (
    CHUNK_ITEMS,
    Evaluated,
    JournalError,
    Run,
    evaluate,
    evaluate_code,
)
from training.benchmarks.tasks import BENCHMARKS, CODE, Benchmark, Part, load
from training.errors import ConfigError
from training.serving.connection import EndpointError
from training.serving.endpoint import Endpoint
from training.verification.checks import Mathematics
from training.verification.sandbox.runs import Sandbox
from training.verification.workers import Workers

pytestmark = [pytest.mark.usefixtures("benchmark_data"), pytest.mark.xdist_group("lm_eval")]
STOPS = (".", ",", "\n")
# Items of full lists that cannot be scored as right: their answers begin with a text that ends an
# answer.
UNREACHABLE = {"triviaqa": 2, "nq_open": 1}


class KnownModel:
    """A model with given log-probs and answers, in place of an endpoint."""

    def __init__(
        self,
        score: Callable[[str, str], float] = lambda context, continuation: -1.0,
        answer: Callable[[str], str] = lambda context: "",
        fail_after: int | None = None,
    ) -> None:
        self.shortened = 0
        self.asked = 0
        self._score, self._answer, self._fail_after = score, answer, fail_after

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool) -> list[Any]:
        self._count(len(requests))
        return [
            (self._score(*request.args), self._score(*request.args) == 0) for request in requests
        ]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool) -> list[str]:
        self._count(len(requests))
        answers = []
        for request in requests:
            text = self._answer(request.args[0])
            for stop in request.args[1]["until"]:
                text = text.split(stop)[0]
            answers.append(text)
        return answers

    def _count(self, requests: int) -> None:
        self.asked += requests
        if self._fail_after is not None and self.asked > self._fail_after:
            raise EndpointError("the model server does not answer", field="endpoint")


def judge_nothing(expected: str, response: str) -> float:
    raise AssertionError("no mathematics here")


@pytest.fixture(scope="module")
def openbookqa() -> list[Part]:
    return load(BENCHMARKS["openbookqa"], judge_nothing)


def run(
    model: Any, parts: list[Part], root: Path, name: str = "openbookqa", **options: Any
) -> Evaluated:
    scored = ScoredModel("fake-1", options.pop("source", WEIGHTS), options.pop("model_sha256", ""))
    digest = options.pop("digest", "digest")
    settings = Run(scored, digest, ScoreStore(root), **options)
    return evaluate(BENCHMARKS[name], parts, model, settings)


def gold_model(benchmark: Benchmark, parts: Sequence[Part]) -> KnownModel:
    """Return a model that gives the gold answer of every item."""
    continuations, answers = set(), {}
    for part in parts:
        for item in part.task.task_docs.select(range(len(part.items))):
            context = part.task.fewshot_context(item, num_fewshot=part.task.config.num_fewshot or 0)
            built = part.task.construct_requests(
                doc=item, ctx=context, metadata=("", 0, 1), apply_chat_template=False,
                chat_template=None,
            )  # fmt: skip
            requests = built if isinstance(built, list) else [built]
            if requests[0].request_type == "loglikelihood":
                # The target of WinoGrande is the text after the blank; its gold context differs.
                place = (
                    part.task.doc_to_text(item)
                    if benchmark.name == "winogrande"
                    else part.task.doc_to_target(item)
                )
                continuations.add(requests[place if isinstance(place, int) else 0].args)
            else:
                answers[requests[0].args[0]] = gold_answer(benchmark.name, item)
    return KnownModel(
        lambda context, continuation: 0.0 if (context, continuation) in continuations else -9.0,
        lambda context: answers[context],
    )


def gold_answer(name: str, item: dict[str, Any]) -> str:
    if name == "gsm8k":
        return f"The answer is {item['answer'].split('####')[1].strip()}."
    if name == "math500":
        # Remarks after the answer are no part of it.
        solution = item["solution"]
        return f"{solution[: solution.rindex(BOX)]}{BOX}{boxed(solution)}}}$."
    found = item["answer"]["aliases"] if name == "triviaqa" else item["answer"]
    usable = [text for text in found if not any(stop in text for stop in STOPS)]
    # lm-eval's lower case of "İ" is longer than the text that it is compared with.
    return f" {min(usable or found, key=lambda text: not text.isascii())}"


@pytest.mark.parametrize("name", ["openbookqa", "winogrande", "nq_open", "gsm8k"])
def test_gold_answers_of_some_items_are_right(name: str, tmp_path: Path) -> None:
    benchmark = BENCHMARKS[name]
    parts = load(benchmark, judge_nothing)
    some = [Part(part.name, part.items[:20], part.task) for part in parts]

    found = run(gold_model(benchmark, some), some, tmp_path, name)

    assert found.score.value == 1.0
    assert found.score.standard_error > 0
    assert ScoreStore(tmp_path).items("fake-1", name) == list(found.items)


@pytest.mark.long
@pytest.mark.timeout(1800)  # the prompts of MMLU are rendered in minutes on a busy machine
@pytest.mark.parametrize("name", sorted(BENCHMARKS.keys() - set(CODE)))
def test_gold_answers_of_the_full_list_are_right(name: str, tmp_path: Path) -> None:
    benchmark = BENCHMARKS[name]
    with Workers(1) as workers:
        parts = load(
            benchmark, lambda expected, text: workers.judge(Mathematics(expected), text).reward
        )
        found = run(gold_model(benchmark, parts), parts, tmp_path, name)

    wrong = sum(item.value < 1 for item in found.items)
    assert found.score.is_complete
    assert found.score.items == benchmark.items
    assert wrong == UNREACHABLE.get(name, 0)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "name",
    [
        "openbookqa",
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in ("arc_challenge", "boolq", "hellaswag", "mmlu", "piqa", "winogrande")
        ),
    ],
)
def test_random_choice_is_at_chance(name: str, tmp_path: Path) -> None:
    def score(context: str, continuation: str) -> float:
        digest = hashlib.sha256(f"{context}|{continuation}".encode()).digest()
        # `acc_norm` divides by the length.
        length = len(continuation) if BENCHMARKS[name].metric == "acc_norm" else 1
        return -length * (1 + int.from_bytes(digest[:4]) / 2**32)

    found = run(KnownModel(score), load(BENCHMARKS[name], judge_nothing), tmp_path, name).score

    assert found.chance is not None
    assert abs(found.value - found.chance) < 4 * found.standard_error


def test_interrupted_evaluation_continues_with_the_other_items(
    openbookqa: list[Part], tmp_path: Path
) -> None:
    def score(context: str, continuation: str) -> float:
        return -float(len(continuation))

    dying = KnownModel(score, fail_after=4 * CHUNK_ITEMS * 2)
    with refused(EndpointError, field="endpoint"):
        run(dying, openbookqa, tmp_path / "first", limit=100)
    assert ScoreStore(tmp_path / "first").scores("fake-1") == {}

    resumed = KnownModel(score)
    found = run(resumed, openbookqa, tmp_path / "first", limit=100)
    whole = run(KnownModel(score), openbookqa, tmp_path / "second", limit=100)

    assert found.reused == 2 * CHUNK_ITEMS
    assert resumed.asked == 4 * (100 - 2 * CHUNK_ITEMS)
    assert list(found.items) == list(whole.items)
    require_comparable(found.score, whole.score)


def test_line_that_was_cut_off_is_written_again(openbookqa: list[Part], tmp_path: Path) -> None:
    run(KnownModel(), openbookqa, tmp_path, limit=CHUNK_ITEMS * 2)
    (journal,) = tmp_path.rglob("*.journal")
    journal.write_bytes(journal.read_bytes()[:-20])

    found = run(KnownModel(), openbookqa, tmp_path, limit=CHUNK_ITEMS * 2)

    assert found.reused == CHUNK_ITEMS
    assert len(found.items) == len({item.item for item in found.items}) == CHUNK_ITEMS * 2


def test_results_of_another_model_are_refused(openbookqa: list[Part], tmp_path: Path) -> None:
    run(KnownModel(), openbookqa, tmp_path, limit=4)

    with refused(JournalError, field="model"):
        run(KnownModel(), openbookqa, tmp_path, limit=4, digest="another")
    again = run(KnownModel(), openbookqa, tmp_path, limit=4, digest="another", restart=True)
    assert again.reused == 0


def test_changed_items_and_prompts_are_refused(openbookqa: list[Part], tmp_path: Path) -> None:
    (part,) = openbookqa
    some = [Part("", part.items[:20], part.task)]
    run(KnownModel(), some, tmp_path)
    changed = [{**part.items[0], "question_stem": "another"}, *part.items[1:20]]
    (journal,) = tmp_path.rglob("*.journal")

    with refused(JournalError, field="items_sha256"):
        run(KnownModel(), [Part("", changed, part.task)], tmp_path)

    lines = journal.read_text().splitlines()
    identity = {**json.loads(lines[0]), "prompts_sha256": "another"}
    journal.write_text("\n".join([json.dumps(identity), *lines[1:]]) + "\n")
    with refused(JournalError, field="prompts_sha256"):
        run(KnownModel(), some, tmp_path)


def test_limit_is_a_fixed_subset_and_never_replaces_the_full_score(
    openbookqa: list[Part], tmp_path: Path
) -> None:
    full = run(KnownModel(), openbookqa, tmp_path).score
    some = run(KnownModel(), openbookqa, tmp_path, limit=50)
    fewer = run(KnownModel(), openbookqa, tmp_path, limit=20)

    assert full.is_complete
    assert not some.score.is_complete
    assert {item.item for item in fewer.items} < {item.item for item in some.items}
    assert ScoreStore(tmp_path).scores("fake-1")["openbookqa"] == full


def test_reference_solutions_of_humaneval_pass(tmp_path: Path, sandbox: Sandbox) -> None:
    items = read_items("humaneval", rows("humaneval"))
    answers = {item.prompt: item.reference for item in items}
    store = ScoreStore(tmp_path)
    with fake_model_server(answer=answers.__getitem__) as server:
        endpoint = Endpoint(server.url, "fake-1", KEY)
        model = EndpointModel(EvaluatedModel("fake-1", endpoint, 4096, "digest"))
        settings = Run(ScoredModel("fake-1"), "digest", store, limit=4)
        found = evaluate_code(BENCHMARKS["humaneval"], items, model, sandbox, settings)

    assert found.score.value == 1.0
    assert (found.score.metric, found.score.is_complete) == ("pass@1", False)


def test_samples_give_pass_at_k_beside_the_greedy_score(tmp_path: Path, sandbox: Sandbox) -> None:
    items = read_items("humaneval", rows("humaneval"))[:2]
    references = {item.prompt: item.reference for item in items}
    asked: Counter[str] = Counter()
    lock = threading.Lock()

    def answer(prompt: str) -> str:
        """Answer every second time as the data set does."""
        with lock:
            asked[prompt] += 1
            return references[prompt] if asked[prompt] % 2 else "    return None"

    store = ScoreStore(tmp_path)
    with fake_model_server(answer=answer) as server:
        endpoint = Endpoint(server.url, "fake-1", KEY)
        model = EndpointModel(EvaluatedModel("fake-1", endpoint, 4096, "digest"))
        settings = Run(ScoredModel("fake-1"), "digest", store)
        arguments = (BENCHMARKS["humaneval"], items, model, sandbox, settings)
        greedy = evaluate_code(*arguments)
        asked.clear()
        found = evaluate_code(*arguments, decoding=Decoding(4, 0.8))

    assert found.score.value == 0.5
    assert found.score.breakdown == pytest.approx({"pass@1": 0.5, "pass@2": 5 / 6, "pass@4": 1})
    assert found.score.task == "humaneval.samples-4.temperature-0.8"
    assert found.score.prompts_sha256 != greedy.score.prompts_sha256
    assert store.scores("fake-1") == {
        "humaneval": greedy.score,
        found.score.task: found.score,
    }


@pytest.mark.parametrize("samples", [1, 3])
def test_code_prompts_are_shortened_to_the_window(
    tmp_path: Path, sandbox: Sandbox, byte_model: Callable[..., EndpointModel], samples: int
) -> None:
    """A prompt beyond the window of a small model was an error that ended the evaluation."""
    items = read_items("humaneval", rows("humaneval"))
    model = byte_model(window=64, answer=lambda prompt: "    return None")
    found = evaluate_code(
        BENCHMARKS["humaneval"],
        items,
        model,
        sandbox,
        Run(ScoredModel("fake-1"), "digest", ScoreStore(tmp_path), limit=2),
        decoding=Decoding(samples, 0.0 if samples == 1 else 0.8),
    )
    assert (found.score.items, found.shortened) == (2, 2)


def test_a_part_of_the_items_is_not_stored_over_all_items(
    openbookqa: list[Part], tmp_path: Path
) -> None:
    assert not run(KnownModel(), openbookqa, tmp_path).note
    assert run(KnownModel(), openbookqa, tmp_path, limit=2).note.startswith(NOT_STORED)


def test_score_of_an_endpoint_never_replaces_one_of_the_weights(
    openbookqa: list[Part], tmp_path: Path
) -> None:
    store = ScoreStore(tmp_path)
    served = {"digest": "served", "source": ENDPOINT}
    whole = run(KnownModel(), openbookqa, tmp_path, **served)
    assert store.scores("fake-1")["openbookqa"] == whole.score
    weights = run(KnownModel(), openbookqa, tmp_path, limit=4)
    assert "replaces a score of an endpoint" in weights.note
    assert NOT_STORED in run(KnownModel(), openbookqa, tmp_path, **served).note
    assert store.scores("fake-1")["openbookqa"] == weights.score
    with refused(ScoreError, field="source"):
        require_comparable(whole.score, weights.score)


def test_fewer_items_never_replace_more(openbookqa: list[Part], tmp_path: Path) -> None:
    more = run(KnownModel(), openbookqa, tmp_path, limit=8)
    assert "8 items" in run(KnownModel(), openbookqa, tmp_path, limit=4).note
    assert ScoreStore(tmp_path).scores("fake-1")["openbookqa"] == more.score
    assert not run(KnownModel(), openbookqa, tmp_path, limit=9).note


def test_too_few_items_are_refused(openbookqa: list[Part], tmp_path: Path) -> None:
    with refused(ConfigError, field="limit", limit="at least 2"):
        run(KnownModel(), openbookqa, tmp_path, limit=1)


@pytest.fixture
def byte_model() -> Iterator[Callable[..., EndpointModel]]:
    """Return models behind a server whose tokens are bytes."""
    with ExitStack() as stack:

        def start(window: int = 1000, **attributes: Any) -> EndpointModel:
            server = stack.enter_context(fake_model_server(window=window - 1, **attributes))
            endpoint = stack.enter_context(Endpoint(server.url, "fake-1", KEY))
            return EndpointModel(EvaluatedModel("fake-1", endpoint, window, "digest"))

        yield start


def test_endpoint_scores_only_the_continuation(
    byte_model: Callable[..., EndpointModel], openbookqa: list[Part]
) -> None:
    from lm_eval.api.instance import Instance

    model = byte_model(log_prob=lambda text, place: -0.5 if text[place] in " x" else -2.0)
    pairs = [("context", " xx"), ("context ", "xy")]

    found = model.loglikelihood([Instance("loglikelihood", {}, pair, 0) for pair in pairs])

    # The space at the end of a context belongs to the continuation, as in lm-eval.
    assert found == [(-1.5, True), (-3.0, False)]


def test_long_prompts_lose_their_beginning(byte_model: Callable[..., EndpointModel]) -> None:
    from lm_eval.api.instance import Instance

    model = byte_model(window=20, log_prob=lambda text, place: -1.0, answer=lambda prompt: prompt)

    found = model.loglikelihood([Instance("loglikelihood", {}, ("c" * 50, "x" * 5), 0)])
    (answer,) = model.generate_until(
        [
            Instance(
                "generate_until", {}, ("a" * 40 + "b" * 10, {"until": [], "max_gen_toks": 50}), 0
            )
        ]
    )

    assert found == [(-5.0, True)]
    assert answer == "b" * 10
    assert model.shortened == 2
