"""Accounts in quarantine, as training reads them."""

import asyncio

import pytest
from thumbwheel.review.v1 import review_pb2

from services.review import servicer
from services.review.store.accounts import SqlAccountStore
from services.review.store.database import open_database
from tests.services.review.service import (
    ADA,
    BOB,
    OTHER_ADA,
    Home,
    error_of,
    principal,
    review_service,
)
from training.remote import quarantined_accounts
from training.service_channel import RemoteError


@pytest.mark.parametrize("page", [1, 2, 1_000])
async def test_training_reads_the_accounts_of_all_tenants(
    home: Home, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(servicer, "PAGE_ACCOUNTS", page)

    async def listed() -> frozenset[str]:
        return await asyncio.to_thread(quarantined_accounts, review.target, None, 5.0, None)

    async with review_service(home) as review, open_database(home.database_url) as engine:
        store = SqlAccountStore(engine)
        for caller in (ADA, BOB, OTHER_ADA):
            await review.whole_battle(caller=caller)
        assert await listed() == frozenset()
        for caller in (ADA, OTHER_ADA):
            await store.quarantine(principal(caller), "operator/test", "a test")
        assert await listed() == {principal(ADA), principal(OTHER_ADA)}
        await store.release(principal(ADA), "operator/test", "a test")
        assert await listed() == {principal(OTHER_ADA)}


def test_without_a_review_service_no_account_is_in_quarantine() -> None:
    assert quarantined_accounts("", None, 0.0, None) == frozenset()


def test_a_service_that_does_not_answer_is_an_error() -> None:
    with pytest.raises(RemoteError):
        quarantined_accounts("127.0.0.1:1", None, 0.0, None)


async def test_malformed_page_token_is_refused(sqlite_home: Home) -> None:
    async with review_service(sqlite_home) as review:
        request = review_pb2.ListQuarantinedAccountsRequest(page_token="a\0")
        error = await error_of(review.items.ListQuarantinedAccounts(request, timeout=5))
    assert error == ("INVALID_ARGUMENT", "INVALID_ARGUMENT", "page_token")
