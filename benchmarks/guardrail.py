"""Cost of the guardrail's verdicts: `python -m benchmarks.guardrail`.

Processor time of one verdict for usual texts, and the ratio to the same verdict of a guard that
judges the source only, without the text that Markdown shows. Both run alternately in the same
process. The minimum of many runs is printed, because other processes only add time.
"""

import functools
import time
from collections.abc import Callable
from unittest.mock import patch

from services.guardrail import guard, hold_back
from services.guardrail.cascade import read_cascade
from services.guardrail.detection import normalization, views
from services.guardrail.detection.markdown import ShownText
from services.guardrail.settings import ENCODER_DIRECTORY, WEIGHTS_DIRECTORY

ROUNDS = 60
PROSE = (
    "Photosynthesis turns light into sugar. The leaves take up carbon dioxide from the air and "
    "water from the soil, and give oxygen back. It happens in small green bodies in each cell. "
) * 12
MARKDOWN = (
    "## Steps\n\n1. Install **Python 3.12** with `apt install python3`.\n2. Open the *terminal* "
    "and run `python -m venv .venv`.\n\n> Note: the folder `.venv` needs about 20 MB.\n\n"
    "- see [the guide](https://docs.acme.com/venv)\n- or ask in the forum\n\n"
) * 7
CODE = (
    "```python\ndef total(prices: list[float], tax_rate: float = 0.19) -> float:\n"
    '    """Return the sum with tax."""\n    return round(sum(prices) * (1 + tax_rate), 2)\n```\n\n'
) * 10
TABLE = "| year | sales | share |\n|---|---|---|\n" + "| 2024 | 1,204,331 | 12.5 % |\n" * 60
# Lists in which each number begins a window, and words with many spans. The review that named
# them (N-02) measured 500 times the time of ordinary words.
HARD = {
    "numbers and blanks": "1-\u2800",
    "numbers and hyphens": "1-- ",
    "numbers and spaces": "1 ",
    "numbers and underscores": "1_ ",
    "numbers and marks": "4_.`  22\n1/",
    "phone numbers": "415 555 2671\n",
    "lines of a token": "eyJa1b2c3\n",
    "addresses in one word": "jane@acme.com,",
}
HARD_CHARACTERS, HARD_ROUNDS = 8_190, 3
INPUT = "how do i learn python, it is **very** hard & i have no time?"


def main() -> None:
    judge = guard.Guard(
        read_cascade(WEIGHTS_DIRECTORY, ENCODER_DIRECTORY), "US", lambda stage, verdict: None
    )
    print(f"{'text':<34}{'characters':>11}{'ms':>8}{'ratio to source only':>22}")
    for name, text in (
        ("answer of prose", PROSE),
        ("answer in Markdown", MARKDOWN),
        ("answer of code", CODE),
        ("answer of a table", TABLE),
        ("piece of an answer", MARKDOWN[:180]),
    ):
        _report(name, text, functools.partial(judge.judge_output, "hi", "", text, False))
    # Verdicts on prompts are cached, so the method behind the cache is measured.
    question = functools.partial(judge._judge_request, INPUT, is_instruction=False)
    _report("question", INPUT, question)
    _report_hard(judge)


def _report_hard(judge: guard.Guard) -> None:
    """Print the time of hard texts for 1,000 characters, beside ordinary words in one run."""
    words = (PROSE * 8)[:HARD_CHARACTERS]
    print(f"\n{'correction of':<34}{'ms for 1,000 characters':>24}{'ratio to words':>16}")
    for name, unit in HARD.items():
        text = (unit * HARD_CHARACTERS)[:HARD_CHARACTERS]
        hard, ordinary = [], []
        for _ in range(HARD_ROUNDS):
            hard.append(_seconds(functools.partial(judge.judge_output, "hi", "", text, True)))
            ordinary.append(_seconds(functools.partial(judge.judge_output, "hi", "", words, True)))
        thousands = HARD_CHARACTERS / 1_000
        print(
            f"{name:<34}{1e3 * min(hard) / thousands:>24.2f}{min(hard) / min(ordinary):>16.1f}",
        )


def _report(name: str, text: str, verdict: Callable[[], object]) -> None:
    with_shown, source_only = [], []
    for _ in range(ROUNDS):
        with_shown.append(_seconds(verdict))
        with (
            patch.object(views, "_shown_spans", lambda text, region, before: ()),
            patch.object(hold_back, "shown_text", _source),
            patch.object(hold_back, "without_markup", str),
            patch.object(normalization, "without_markup", str),
        ):
            source_only.append(_seconds(verdict))
    best, base = min(with_shown), min(source_only)
    print(f"{name:<34}{len(text):>11,}{1e3 * best:>8.2f}{best / base:>22.2f}")


def _source(text: str) -> ShownText:
    positions = tuple(range(len(text) + 1))
    return ShownText(text, positions[:-1], positions[1:])


def _seconds(work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began


if __name__ == "__main__":
    main()
