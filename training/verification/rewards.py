"""Verifier of training.rl.scores for PPO and GRPO, based on the items of the prompt file."""

from __future__ import annotations

from collections.abc import Sequence

from training.data.examples import PromptExample
from training.rl.scores import Answer
from training.verification.items import training_items
from training.verification.scorer import Scorer, shares
from training.verification.verdict import Verdict, VerificationError


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
