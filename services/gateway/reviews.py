"""Admission of reviews: quota and guard, before the review service stores them."""

from collections.abc import Mapping

from thumbwheel.review.v1 import review_pb2

from services.chassis.identity import Caller
from services.contracts.limits import (
    MAX_COMMENT_CHARACTERS,
    MAX_CORRECTION_CHARACTERS,
    check_text,
)
from services.gateway.feedback import WrittenTextGuard, check_written_text
from services.gateway.quotas.quota import Limit
from services.gateway.quotas.quotas import Quotas

# Texts of a review with their longest length. A written answer trains models, and other reviewers
# read the comment.
TEXTS: Mapping[str, int] = {
    "written_answer": MAX_CORRECTION_CHARACTERS,
    "comment": MAX_COMMENT_CHARACTERS,
}


class ReviewTexts:
    """Admits reviews and resolutions of reviewers."""

    def __init__(self, guard: WrittenTextGuard, quotas: Quotas) -> None:
        self._guard, self._quotas = guard, quotas

    async def admit(self, caller: Caller, review: review_pb2.Review) -> None:
        """Count a review as a feedback event and check its texts.

        Raises:
            InvalidArgumentError: A text is too long, or the guard rejects it.
            QuotaError: The user or the tenant sent too many feedback events.
            UnavailableError: The guard or the quota store is unavailable.
        """
        await self._quotas.count(caller, Limit.FEEDBACK)
        for name, most in TEXTS.items():
            check_text(getattr(review, name), f"review.{name}", most)
        for name in TEXTS:
            if text := getattr(review, name):
                await check_written_text(self._guard, text, f"review.{name}", "review")
