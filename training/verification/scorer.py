"""Scoring of responses with bounded concurrency: free text in workers, code in the sandbox.

Verdicts are returned in the order of the responses. `TaskVerifier` is the verifier of
training.rl.scores for PPO and GRPO, based on the items of the prompt file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from training.data.examples import PromptExample
from training.rl.scores import Answer
from training.verification.checks import Calls, Outcome, Programs, Verdict, VerificationError
from training.verification.code import Runner, judge_code
from training.verification.items import Item, training_items
from training.verification.workers import Workers

# Above this share of failures in a batch the verifier counts as broken. Training would otherwise
# learn from its zeros.
MAX_FAILED_SHARE = 0.05


class Scorer:
    """Scorer of responses.

    Without a sandbox (None), items with code raise an error and never get a reward of 0.
    """

    def __init__(self, workers: Workers, sandbox: Runner | None) -> None:
        self._workers, self._sandbox = workers, sandbox

    def score(self, item: Item, response: str) -> Verdict:
        """Return the verdict on one response.

        Raises:
            VerificationError: verification is unavailable.
            SandboxUnavailableError: the sandbox did not start.
        """
        if not isinstance(item.check, Calls | Programs):
            return self._workers.judge(item.check, response)
        if self._sandbox is None:
            raise VerificationError(
                f"{item.task}: code needs a sandbox, and none was opened",
                field="sandbox",
                reason="MISSING",
            )
        return judge_code(item.check, response, self._sandbox)

    def score_all(self, items: Sequence[Item], responses: Sequence[str]) -> list[Verdict]:
        """Return one verdict per response, in order.

        Raises:
            VerificationError: too many responses could not be judged, or as in `score`.
        """
        if len(items) != len(responses):
            raise ValueError(f"{len(items)} items and {len(responses)} responses")
        # Threads only wait for other processes. A sandbox run dies with the thread that started it.
        with ThreadPoolExecutor(self._workers.count) as threads:
            verdicts = list(threads.map(self.score, items, responses))
        failed = sum(verdict.outcome is Outcome.VERIFIER_FAILED for verdict in verdicts)
        if failed > MAX_FAILED_SHARE * len(verdicts):
            raise VerificationError(
                f"{failed} of {len(verdicts)} responses could not be judged, more than the limit",
                field="responses",
                limit=f"{MAX_FAILED_SHARE:g}",
            )
        return verdicts


def shares(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Return the share of every outcome as figures of a step, including zeros."""
    counts = Counter(verdict.outcome for verdict in verdicts)
    return {f"verdict_{outcome}": counts[outcome] / max(1, len(verdicts)) for outcome in Outcome}


class TaskVerifier:
    """Rewards in [0, 1] in the order of the answers, with verdicts collected for figures.

    Raises:
        ExampleError: a prompt has no item, a changed item, or a held-out item.
    """

    def __init__(self, prompts: Sequence[PromptExample], scorer: Scorer) -> None:
        items = training_items(prompts)
        self._items = {prompt.task: item for prompt, item in zip(prompts, items, strict=True)}
        self._scorer = scorer
        self._verdicts: list[Verdict] = []

    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        """Return the rewards of the answers.

        Raises:
            VerificationError: a reward is unavailable; never replaced by a silent 0.
            SandboxUnavailableError: the sandbox did not start.
        """
        if any(answer.task not in self._items for answer in answers):
            raise VerificationError(
                "an answer's task is not in the prompts that were read",
                field="task",
                reason="UNKNOWN",
            )
        items = [self._items[answer.task] for answer in answers]
        verdicts = self._scorer.score_all(items, [answer.text for answer in answers])
        self._verdicts += verdicts
        return [verdict.reward for verdict in verdicts]

    def take_figures(self) -> dict[str, float]:
        """Return the share of every outcome since the last call, and reset.

        Timeouts thus stay visible as such, although their reward is 0.
        """
        taken, self._verdicts = self._verdicts, []
        return shares(taken)
