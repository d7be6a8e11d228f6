"""Scores responses: free text by worker processes, code in the sandbox, a bounded number at a time,
verdicts in the order asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from training.verification.checks import Calls, Programs
from training.verification.code import Runner, judge_code
from training.verification.items import Item
from training.verification.verdict import Outcome, Verdict, VerificationError
from training.verification.workers import Workers

# Above this share of a batch the verifier is broken, not unlucky, and its zeros would be what is
# learned.
MOST_FAILED = 0.05


class Scorer:
    """sandbox: None where code cannot be run; then items of code are an error, never a reward of 0."""

    def __init__(self, workers: Workers, sandbox: Runner | None) -> None:
        self._workers, self._sandbox = workers, sandbox

    def score(self, item: Item, response: str) -> Verdict:
        """One verdict.

        Raises:
            VerificationError: it cannot be had here.
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
        """One each, in order, whatever the number of workers.

        Raises:
            VerificationError: too many could not be judged; those of `score`.
        """
        if len(items) != len(responses):
            raise ValueError(f"{len(items)} items and {len(responses)} responses")
        # Threads only wait: the work is in other processes. A run in the sandbox needs the thread
        # that started it alive.
        with ThreadPoolExecutor(self._workers.count) as threads:
            verdicts = list(threads.map(self.score, items, responses))
        failed = sum(verdict.outcome is Outcome.VERIFIER_FAILED for verdict in verdicts)
        if failed > MOST_FAILED * len(verdicts):
            raise VerificationError(
                f"{failed} of {len(verdicts)} responses could not be judged: the verifier is broken",
                field="responses",
                limit=f"{MOST_FAILED:g}",
            )
        return verdicts


def shares(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Figures for a step: the share of every outcome, those that did not happen too."""
    counts = Counter(verdict.outcome for verdict in verdicts)
    return {f"verdict_{outcome}": counts[outcome] / max(1, len(verdicts)) for outcome in Outcome}
