"""Scoring of responses with bounded concurrency: free text in workers, code in the sandbox.

Verdicts are returned in the order of the responses.
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
