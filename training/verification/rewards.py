"""The bridge to PPO and GRPO: a Verifier of training.rl.scores whose tasks are the items of the
file that the stage reads.
"""

from __future__ import annotations

from collections.abc import Sequence

from training.data.examples import PromptExample
from training.rl.scores import Answer
from training.verification.items import training_items
from training.verification.scorer import Scorer, shares
from training.verification.verdict import Verdict, VerificationError


class TaskVerifier:
    """Rewards in [0, 1], in the order of the answers; it keeps every verdict until its figures are
    taken.

    Raises:
        ExampleError: a prompt has no item, one that was changed, or one that is held out.
    """

    def __init__(self, prompts: Sequence[PromptExample], scorer: Scorer) -> None:
        items = training_items(prompts)
        self._items = {prompt.task: item for prompt, item in zip(prompts, items, strict=True)}
        self._scorer = scorer
        self._verdicts: list[Verdict] = []

    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        """Raises: VerificationError, SandboxUnavailableError: a reward cannot be had; it is never a
        silent 0.
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
        """The share of every outcome since they were last taken: a 0 for what took too long is seen
        to be one.
        """
        taken, self._verdicts = self._verdicts, []
        return shares(taken)
