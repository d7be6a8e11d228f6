"""HumanEval and MBPP: only code that passes the tests of the data set counts."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.support.errors import refused
from training.benchmarks.code_tasks import (
    LIMITS,
    CodeItem,
    Decoding,
    pass_at_k,
    pass_rates,
    read_items,
    run,
)
from training.benchmarks.data import rows
from training.errors import ConfigError
from training.verification.checks import Outcome
from training.verification.sandbox.bubblewrap import SandboxUnavailableError
from training.verification.sandbox.runs import EndReason, Run, Sandbox

# Written for these tests in the form of the data sets.
STUB = 'def double(numbers: list) -> list:\n    """Return each number twice as large."""\n'
HUMANEVAL = {
    "task_id": "HumanEval/900",
    "prompt": STUB,
    "canonical_solution": "    return [2 * number for number in numbers]\n",
    "test": (
        "\n\ndef check(candidate):\n    assert candidate([1, 2]) == [2, 4]\n"
        "    '''Also without numbers.'''\n    assert candidate([]) == []\n"
    ),
    "entry_point": "double",
}
MBPP = {
    "task_id": 901,
    "text": "Write a function to find the larger of two numbers. ",
    "code": "import math\r\nclass Pair:\r\n    pass\r\n# a comment\r\ndef larger(a, b):\r\n"
    "    pattern = '\\w'\r\n    return a if a > b else b\r\ndef sum(pair):\r\n    return pair.a",
    "test_list": [
        "assert larger(1, 2) == 2",
        "assert larger(-1, -2) == -1",
        "assert sum(pair) == 7 and math.isclose(larger(a=0.5, b=0.25), 0.5)",
    ],
    "test_setup_code": "pair = Pair()\npair.a = 7",
    "challenge_test_list": [],
}
RIGHT = HUMANEVAL["canonical_solution"]


@pytest.fixture
def item() -> CodeItem:
    return read_items("humaneval", [HUMANEVAL])[0]


@pytest.mark.parametrize(("task", "row"), [("humaneval", HUMANEVAL), ("mbpp", MBPP)])
def test_reference_passes(task: str, row: dict[str, object], sandbox: Sandbox) -> None:
    (item,) = read_items(task, [row])
    assert item.judge(item.reference, sandbox).outcome is Outcome.RIGHT


def test_text_after_a_stop_is_not_run(item: CodeItem, sandbox: Sandbox) -> None:
    assert item.judge(f"{RIGHT}\n\nprint(undefined)", sandbox).outcome is Outcome.RIGHT


def test_mbpp_prompt_shows_the_first_test_only() -> None:
    (item,) = read_items("mbpp", [MBPP])
    assert "larger of two numbers.\nassert larger(1, 2) == 2\n```" in item.prompt
    assert "-1" not in item.prompt


BODY_OF_FLOOD = (
    "    import os\n    while True:\n        for place in range(3, 9):\n"
    "            try: os.write(place, b'x' * 65536)\n            except OSError: pass\n"
)
FORKS = "    import os\n    for _ in range(1000):\n        os.fork()\n"
EQUAL = (
    "    class Equal:\n        def __eq__(self, other): return True\n"
    "        __hash__ = None\n    return Equal()\n"
)
EQUAL_LIST = EQUAL.replace("class Equal", "class Equal(list)")
NESTED = EQUAL.replace("return Equal()", "return [Equal() for _ in numbers]")
WRONG = {
    "another answer": "    return numbers\n",
    "no answer": "    pass\n",
    "no Python": "    return (\n",
    "an exception": "    raise ValueError\n",
    "end of the process": "    import os\n    os._exit(0)\n",
    "end of the program": "    raise SystemExit(0)\n",
    "end of the program on import": "    return 1\nraise SystemExit(0)\n",
    "an open quote": "    return 1\n'''",
    "another function of the tests": "    return 1\n\ncheck = passed = lambda *_: None\n",
    "equal to everything": EQUAL,
    "a list equal to everything": EQUAL_LIST,
    "numbers equal to everything": NESTED,
    "too much memory": "    return bytes(2**30)\n",
    "output flood": BODY_OF_FLOOD,
    "forks": FORKS,
    "tests removed through the frame": (
        "    return 1\n\nimport sys\nfor frame in (sys._getframe(0), sys._getframe(1)):\n"
        "    frame.f_globals['TESTS'] = frame.f_locals['TESTS'] = ''\n"
    ),
    "the token of the caller's frames": (
        "    import json, os, sys\n    frame = sys._getframe(0)\n    while frame:\n"
        "        if 'token' in frame.f_locals:\n"
        "            line = json.dumps({'value': frame.f_locals['token']})\n"
        "            for place in range(3, 9):\n"
        "                try: os.write(place, line.encode() + bytes([10]))\n"
        "                except OSError: pass\n"
        "            os._exit(0)\n        frame = frame.f_back\n"
    ),
    "expected values of the caller's frame": (
        "    import sys\n    found = sys._getframe(1).f_code.co_consts\n"
        "    text = open('candidate.py').read()\n    return [2, 4] if '[2, 4]' in text else found\n"
    ),
    "a file of the machine": "    return [int(open('/etc/hostname').read()) or 2 * numbers[0]]\n",
}


@pytest.mark.parametrize("body", WRONG)
def test_wrong_code_fails(body: str, item: CodeItem, sandbox: Sandbox) -> None:
    assert item.judge(WRONG[body], sandbox).reward == 0


def test_endless_loop_is_out_of_time(item: CodeItem, sandbox: Sandbox) -> None:
    short = replace(sandbox, limits=replace(sandbox.limits, processor_seconds=1))
    found = item.judge("    while True: pass\n", short)
    assert found.outcome is Outcome.OUT_OF_TIME


def test_code_writes_no_file(item: CodeItem, sandbox: Sandbox, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    target = tmp_path / "left"
    write = f"    open({str(target)!r}, 'w').write('x')\n"
    assert item.judge(write + RIGHT, sandbox).outcome is Outcome.WRONG
    assert not target.exists()


@dataclass(frozen=True)
class Text:
    text: str


class Model:
    """A model with scripted answers that remembers its requests."""

    def __init__(self, answer: Callable[[str, int | None], str]) -> None:
        self._answer = answer
        self.requests: list[tuple[int, int | None, float]] = []

    def complete(
        self,
        prompts: Sequence[str],
        max_tokens: int,
        stop: Sequence[str],
        temperature: float,
        seed: int | None,
    ) -> list[Text]:
        self.requests.append((len(prompts), seed, temperature))
        return [
            Text(self._answer(prompt, None if seed is None else seed + place))
            for place, prompt in enumerate(prompts)
        ]


class Passing:
    """A sandbox in which code with the word `right` passes."""

    def run(self, request: dict[str, object]) -> Run:
        token = request["calls"][0][0]  # type: ignore[index]
        line = f'{{"value": "{token}"}}\n' if "right" in str(request["code"]) else '{"error": ""}\n'
        return Run(EndReason.EXITED, line.encode(), 0.0)


def items(count: int) -> list[CodeItem]:
    (one,) = read_items("humaneval", [HUMANEVAL])
    return [
        replace(one, item=f"HumanEval/{number}", prompt=f"{number}:") for number in range(count)
    ]


def test_greedy_scores_are_in_the_order_of_the_items() -> None:
    model = Model(lambda prompt, _: "right" if int(prompt[:-1]) % 3 == 0 else "false")

    found = list(run(model, items(40), Passing()))

    assert [score.item for score in found] == [f"HumanEval/{number}" for number in range(40)]
    assert [score.value for score in found] == [float(n % 3 == 0) for n in range(40)]
    assert {(seed, temperature) for _, seed, temperature in model.requests} == {(None, 0.0)}


def test_samples_of_an_item_depend_on_its_id_alone() -> None:
    decoding = Decoding(samples=8, temperature=0.8)
    model = Model(lambda _, seed: "right" if (seed or 0) % 7 < 3 else "false")

    whole = list(run(model, items(6), Passing(), decoding))
    resumed = list(run(model, items(6)[3:], Passing(), decoding))

    assert whole[3:] == resumed
    assert len({seed for _, seed, _ in model.requests}) == 6
    assert {size for size, _, _ in model.requests} == {8}
    assert 0 < sum(score.value for score in whole) < 6


def test_stopped_sandbox_gives_no_score() -> None:
    class Stopped:
        def run(self, request: dict[str, object]) -> Run:
            raise SandboxUnavailableError("not today")

    with refused(SandboxUnavailableError):
        list(run(Model(lambda *_: "right"), items(1), Stopped()))


@pytest.mark.parametrize(("samples", "passed", "k"), [(5, 2, 1), (5, 2, 3), (6, 1, 4), (4, 0, 2)])
def test_pass_at_k_is_the_share_of_subsets_with_a_pass(samples: int, passed: int, k: int) -> None:
    subsets = list(itertools.combinations([True] * passed + [False] * (samples - passed), k))
    expected = sum(map(any, subsets)) / len(subsets)
    assert math.isclose(pass_at_k(samples, passed, k), expected)


def test_pass_rates_are_means_over_items() -> None:
    found = pass_rates([0.0, 1 / 3, 1.0], 3)
    assert found == pytest.approx({"pass@1": 4 / 9, "pass@2": (2 / 3 + 1) / 3, "pass@3": 2 / 3})
    assert set(pass_rates([0.5], 200)) == {f"pass@{k}" for k in (1, 2, 5, 10, 20, 50, 100, 200)}


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"samples": 0}, "samples"),
        ({"samples": 201, "temperature": 0.8}, "samples"),
        ({"samples": 4, "temperature": 2.1}, "temperature"),
        ({"samples": 4}, "temperature"),
        ({"temperature": 0.8}, "temperature"),
    ],
)
def test_impossible_decoding_is_refused(values: dict[str, float], field: str) -> None:
    with refused(ConfigError, field=field):
        Decoding(**values)  # type: ignore[arg-type]


def test_unknown_task_is_refused() -> None:
    with refused(ConfigError, field="task", limit="humaneval, mbpp"):
        read_items("apps", [])


@pytest.mark.long
@pytest.mark.parametrize(("task", "count"), [("humaneval", 164), ("mbpp", 500)])
def test_all_references_pass_and_no_empty_answer_does(
    task: str, count: int, sandbox: Sandbox
) -> None:
    limited = replace(sandbox, limits=LIMITS)
    problems = read_items(task, rows(task))
    bodies = {"humaneval": "    return None\n", "mbpp": "def {}(*_): return None\n"}

    references = {item.item: item.judge(item.reference, limited).outcome for item in problems}
    empty = {
        item.item: item.judge(bodies[task].format(*item.functions), limited).outcome
        for item in problems
    }

    assert len(references) == count
    assert {name for name, outcome in references.items() if outcome is not Outcome.RIGHT} == set()
    assert {name for name, outcome in empty.items() if outcome is Outcome.RIGHT} == set()
