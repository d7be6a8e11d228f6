"""Drill: 200 accounts of a tenant appeal by arrangement, against one text and against many."""

import asyncio
from pathlib import Path
from typing import Any

import grpc

from tests.services.review.service import (
    BOB,
    CARL,
    Home,
    Review,
    review_service,
)
from tests.training.reviews.consents import Consents
from training.reviews.appeals import ExportLimits, export_appeals

ACCOUNTS, TENANT_CAP, JUDGED, TENANT_TEXTS = 200, 40, 12, 5


async def appeal(review: Review, caller: Any, text: str) -> bool:
    """Appeal against a block of a text; return False if a limit refuses the appeal."""
    try:
        await review.appeal(review.peers.session.blocked(text, caller), caller=caller)
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        return False
    return True


async def test_200_accounts_cannot_move_the_guard(sqlite_home: Home, tmp_path: Path) -> None:
    async with review_service(sqlite_home, tenant_appeals_per_day=TENANT_CAP) as review:
        for tenant, text in (("one", "the same text"), ("many", "text {}")):
            callers = [
                (("x-tw-tenant", tenant), ("x-tw-user", f"account-{number}"))
                for number in range(ACCOUNTS)
            ]
            stored = await asyncio.gather(
                *(
                    appeal(review, caller, text.format(number))
                    for number, caller in enumerate(callers)
                )
            )
            assert sum(stored) == TENANT_CAP
            first, second = [(("x-tw-tenant", tenant), caller[1]) for caller in (BOB, CARL)]
            upheld = set()
            for number in range(JUDGED):
                item = await review.next_item(first)
                await review.decide(first, wrong=True)
                # The last two are upheld by one reviewer alone, and rejected by two of three.
                await review.decide(second, wrong=number < JUDGED - 2)
                if number < JUDGED - 2:
                    upheld.add(item.context[0].text)
            items = (await review.exported(page_size=100)).items
            result = export_appeals(
                [one for one in items if one.item.tenant == tenant],
                (),
                Consents(),
                tmp_path,
                "en",
                ExportLimits(tenant_texts=TENANT_TEXTS, user_texts=5),
            )
            written = [
                line.partition("\t")[2]
                for name in ("lookalikes.tsv", "requests.tsv")
                for line in (tmp_path / name).read_text().splitlines()
            ]
            assert len(written) == result.items == (1 if tenant == "one" else TENANT_TEXTS)
            assert set(written) <= upheld
