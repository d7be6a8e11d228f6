"""Items: deterministic, right for their own answers, split by prompt, and complete in files."""

import gzip
import inspect
import json
import re
from pathlib import Path

import pytest

from tests.support.errors import refused
from training.__main__ import main
from training.data.examples import read_prompts
from training.data.formats.fields import ExampleError
from training.errors import ConfigError
from training.verification.checks import (
    Calls,
    CheckError,
    Choice,
    Gym,
    Mathematics,
    Outcome,
    Programs,
    from_mapping,
    to_mapping,
)
from training.verification.items import (
    Item,
    Split,
    parse_items,
    split_of,
    training_items,
    write_items,
)
from training.verification.sandbox.runs import Sandbox
from training.verification.scorer import Scorer
from training.verification.tasks import catalogue, coding, gym
from training.verification.tasks.catalogue import (
    FUNCTIONS,
    PROGRAMS,
    ItemRequest,
    make_items,
    names,
)
from training.verification.workers import WorkerLimits, Workers


@pytest.mark.parametrize("name", gym.GENERATORS)
def test_generators_accept_their_own_answer_only(name: str, workers: Workers) -> None:
    items = make_items(ItemRequest(name, 4, seed=5))
    assert len({item.prompt for item in items}) == 4
    for item in items:
        expected = item.check.expected if isinstance(item.check, Mathematics) else answer_of(item)
        assert (
            workers.judge(item.check, f"I thought.\nAnswer: {expected}").outcome is Outcome.RIGHT
        ), expected
        other = workers.judge(item.check, "Answer: nothing of the kind")
        assert other.outcome in (Outcome.WRONG, Outcome.UNPARSABLE), other
        assert expected not in ("", None)


def answer_of(item: Item) -> str:
    assert isinstance(item.check, Gym)
    return str(json.loads(item.check.entry)["answer"])


def test_permitted_generators_never_run_answers_as_code() -> None:
    factory = gym.library()
    for name in gym.GENERATORS:
        scorer = inspect.getsource(factory.DATASETS[name][0].score_answer)
        assert not re.search(r"\b(eval|exec|parse_expr|sympify|literal_eval)\(", scorer), name
    with refused(
        ConfigError, field="generator", reason="UNKNOWN", limit=", ".join(gym.GENERATORS)
    ) as caught:
        gym.generator("n_queens", 1, 0, None)
    assert "n_queens" in caught.value.text


def test_text_that_merely_contains_the_answer_is_wrong(workers: Workers) -> None:
    item = make_items(ItemRequest("spell_backward", 1, seed=3))[0]
    hedged = f"Answer: {answer_of(item)} or {answer_of(item)[::-1]}"
    assert (
        gym.scoring_generator("spell_backward").score_answer(
            answer_of(item), json.loads(item.check.entry)
        )
        == 1
    )  # type: ignore[union-attr]
    assert workers.judge(item.check, hedged).outcome is Outcome.WRONG  # type: ignore[arg-type]


def test_loading_a_library_is_not_limited_by_the_answer_time() -> None:
    item = make_items(ItemRequest("spell_backward", 1, seed=3))[0]
    with Workers(1, WorkerLimits(processor_seconds=1, wall_seconds=120.0)) as workers:
        assert workers.judge(Choice("A", 4), "A").outcome is Outcome.RIGHT
        assert workers.judge(item.check, f"Answer: {answer_of(item)}").outcome is Outcome.RIGHT  # type: ignore[arg-type]


def test_levels_grow_and_unknown_levels_are_refused() -> None:
    easy, hard = (make_items(ItemRequest("chain_sum", 8, seed=1, level=level)) for level in (0, 5))
    assert max(len(item.prompt) for item in easy) < max(len(item.prompt) for item in hard)
    assert {item.level for item in hard} == {5}
    for task in ("chain_sum", FUNCTIONS):
        with refused(ConfigError, field="level", reason="OUT_OF_RANGE"):
            make_items(ItemRequest(task, 1, seed=1, level=99))
    with refused(ConfigError, field="task", reason="UNKNOWN", limit=", ".join(names())) as caught:
        make_items(ItemRequest("gsm_symbolic", 1, seed=1))
    assert "gsm_symbolic" in caught.value.text
    assert "tasks list" in caught.value.text  # the command


@pytest.mark.parametrize("task", [FUNCTIONS, PROGRAMS])
def test_correct_code_is_right(task: str, sandbox: Sandbox, workers: Workers) -> None:
    item = next(
        item
        for item in make_items(ItemRequest(task, 400, seed=2))
        if "Add 3 to every number, then take the sum of the numbers" in item.prompt
    )
    value = "sum(x + 3 for x in {})"
    right = {
        FUNCTIONS: f"def solve(numbers):\n    return {value.format('numbers')}",
        PROGRAMS: f"print({value.format('map(int, input().split())')})",
    }[task]
    verifier = Scorer(workers, sandbox)
    assert verifier.score(item, f"```python\n{right}\n```").outcome is Outcome.RIGHT
    assert (
        verifier.score(item, f"```python\n{right.replace('+ 3', '+ 4')}\n```").outcome
        is Outcome.WRONG
    )


def test_expected_values_vary_so_that_no_constant_is_right() -> None:
    for task in (FUNCTIONS, PROGRAMS):
        for item in make_items(ItemRequest(task, 200, seed=4, level=1)):
            assert isinstance(item.check, Calls | Programs)
            expected = item.check.expected if isinstance(item.check, Calls) else item.check.outputs
            assert len(set(expected)) > 1, item.prompt


def test_items_are_a_function_of_the_seed() -> None:
    one, same, other = (make_items(ItemRequest(FUNCTIONS, 5, seed=seed)) for seed in (1, 1, 2))
    assert one == same
    assert {item.id for item in one}.isdisjoint(item.id for item in other)


def test_held_out_prompts_are_independent_of_file_and_seed() -> None:
    train = [
        item.prompt
        for seed in range(3)
        for item in make_items(ItemRequest(FUNCTIONS, 100, seed=seed))
    ]
    held_out = [
        item.prompt for item in make_items(ItemRequest(FUNCTIONS, 30, seed=9, split=Split.HELD_OUT))
    ]
    assert set(train).isdisjoint(held_out)
    share = sum(split_of(f"prompt {number}") is Split.HELD_OUT for number in range(2_000)) / 2_000
    assert 0.07 < share < 0.13


def test_items_round_trip_through_a_prompt_file(tmp_path: Path) -> None:
    items = [
        *make_items(ItemRequest(FUNCTIONS, 2, seed=1)),
        Item("choices", "Which?", Choice("B", 4)),
        Item("m", "1?", Mathematics("1"), 3),
    ]
    write_items(items, tmp_path / "items.jsonl")
    assert parse_items(read_prompts(tmp_path / "items.jsonl")) == items


def test_held_out_items_are_refused_for_training(tmp_path: Path) -> None:
    write_items(
        make_items(ItemRequest(FUNCTIONS, 2, seed=1, split=Split.HELD_OUT)),
        tmp_path / "items.jsonl",
    )
    prompts = read_prompts(tmp_path / "items.jsonl")
    assert len(parse_items(prompts)) == 2
    with refused(ExampleError, field="prompts.1", reason="CONFLICT") as caught:
        training_items(prompts)
    assert parse_items(prompts)[0].id in caught.value.text


def task(**fields: object) -> dict[str, object]:
    return {"task": json.dumps({"name": "m", **fields})}


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"task": ""}, "items.jsonl:1:task", "EMPTY"),
        ({"task": "not json"}, "prompts.1.task", "MALFORMED"),
        ({"task": "{}"}, "prompts.1.task.check", "MISSING"),
        (task(check={"kind": "guess"}), "prompts.1.task.check.kind", "UNKNOWN"),
        (task(check={"kind": "choice", "letter": "B"}), "prompts.1.task.check", "MISMATCH"),
        (
            task(check={"kind": "choice", "letter": "B", "letters": 0}),
            "prompts.1.task.check.letters",
            "WRONG_TYPE",
        ),
        (
            task(check={"kind": "calls", "function": "f", "arguments": ["[1]"], "expected": []}),
            "prompts.1.task.check.expected",
            "MISMATCH",
        ),
        (task(check={"kind": "mathematics", "expected": "2"}), "prompts.1.task.id", "MISMATCH"),
        (
            task(level="x", check={"kind": "mathematics", "expected": "2"}),
            "prompts.1.task.level",
            "WRONG_TYPE",
        ),
        ({"messages": [{"role": "user", "content": "changed"}]}, "prompts.1.task.id", "MISMATCH"),
    ],
)
def test_invalid_item_is_refused_by_field(
    tmp_path: Path, change: dict[str, object], field: str, reason: str
) -> None:
    write_items([Item("m", "1+1?", Mathematics("2"))], tmp_path / "items.jsonl")
    row = json.loads((tmp_path / "items.jsonl").read_text()) | change
    (tmp_path / "items.jsonl").write_text(json.dumps(row))
    with refused(ExampleError, field=field, reason=reason):
        parse_items(read_prompts(tmp_path / "items.jsonl"))


def test_prompts_without_a_task_are_not_items(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(
        json.dumps({"messages": [{"role": "user", "content": "hello"}]})
    )
    prompts = read_prompts(tmp_path / "p.jsonl")
    assert prompts[0].task == ""
    with refused(ExampleError, field="prompts.1.task", reason="MISSING"):
        parse_items(prompts)


def test_every_kind_of_check_round_trips_through_json() -> None:
    kinds = [
        Mathematics("1"),
        Choice("A", 4),
        Gym("gcd", "{}"),
        Calls("f", ("[1]",), ("2",)),
        Programs(("1",), ("",)),
    ]
    for check in kinds:
        assert from_mapping(json.loads(json.dumps(to_mapping(check)))) == check
    with refused(CheckError, field="check", reason="MALFORMED"):
        from_mapping({"kind": "calls", "function": "f", "arguments": ["[1"], "expected": ["2"]})


def test_choices_are_from_train_splits_and_shuffled(tmp_path: Path) -> None:
    rows = [
        {
            "doc": {
                "query": f"Question: What is {n}?\nAnswer:",
                "choices": [f"{n}", "no", "never"],
                "gold": 0,
            }
        }
        for n in range(40)
    ]
    path = tmp_path / catalogue.REQUESTS.format(name="csqa")
    path.parent.mkdir(parents=True)
    with gzip.open(path, "wt") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)
    items = make_items(ItemRequest("csqa", 100, seed=1, texts=tmp_path))
    assert 25 < len(items) < 40
    assert {item.check.letter for item in items} == {"A", "B", "C"}  # type: ignore[union-attr]
    for item in items:
        number = re.search(r"What is (\d+)", item.prompt)
        assert number and f"{item.check.letter}. {number[1]}\n" in item.prompt  # type: ignore[union-attr]
    assert "train" in catalogue.REQUESTS
    missing = tmp_path / "nowhere" / catalogue.REQUESTS.format(name="csqa")
    with refused(ConfigError, field=str(missing), reason="MISSING") as caught:
        make_items(ItemRequest("csqa", 1, seed=1, texts=tmp_path / "nowhere"))
    assert "small_sft_texts" in caught.value.text  # the list of packages to install
    with refused(ConfigError, field="texts", reason="MISSING"):
        make_items(ItemRequest("csqa", 1, seed=1))


def test_tasks_command_writes_prompts_for_stages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "items.jsonl"
    written = [
        "tasks",
        "write",
        PROGRAMS,
        "--items",
        "3",
        "--seed",
        "7",
        "--level",
        "1",
        "--output",
        str(file),
    ]
    assert main(written) == 0
    assert len(training_items(read_prompts(file))) == 3
    assert main(["tasks", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in names())
    assert main(["tasks", "write", "nonsense", "--items", "1", "--output", str(file)]) == 1
    assert "nonsense" in capsys.readouterr().err
    assert main(["tasks", "write", PROGRAMS, "--items", "0", "--output", str(file)]) == 1


def test_coding_steps_match_their_description() -> None:
    prompt, check = next(iter(coding.functions(1, seed=0, level=2)))
    assert prompt.count(", then ") == 3
    assert isinstance(check, Calls)
    assert "[[]]" in check.arguments
