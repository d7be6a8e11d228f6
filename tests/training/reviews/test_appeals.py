"""Export of decided appeals: consent, two reviewers, equal texts, bounds, and the files."""

import json
import stat
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.review.v1 import review_pb2

from tests.training.feedback_log import principal_of, uid
from tests.training.reviews.consents import Consents
from training.errors import ConfigError
from training.reviews.appeals import ExportLimits, export_appeals
from training.reviews.export import ExportResult

RIGHT, WRONG = review_pb2.BLOCK_DECISION_RIGHT, review_pb2.BLOCK_DECISION_WRONG
RATERS = ("rae", "rob", "ruth")


def appealed(
    text: str,
    *decisions: review_pb2.BlockDecision.ValueType,
    user: str = "ann",
    tenant: str = "acme",
    **changes: Any,
) -> review_pb2.ReviewedItem:
    """Return a complete appeal that rae, rob and ruth decided."""
    item = review_pb2.DrawnItem(
        item=review_pb2.ReviewItem(
            item_id=uid(f"{tenant}/{user}/{text}"),
            context=[chat_pb2.HistoryMessage(role=chat_pb2.ROLE_USER, text=text)],
            appeal=review_pb2.AppealedBlock(
                is_answer=changes.pop("is_answer", False),
                category="violence",
                score=0.5,
                policy_version="policy-1",
                reason="a reason",
            ),
        ),
        tenant=tenant,
        principal=principal_of(user),
        rule=review_pb2.DRAW_RULE_APPEAL,
    )
    values = {
        "item": item,
        "reviews": [review_pb2.Review(block_decision=one) for one in decisions],
        "raters": [principal_of(name) for name in RATERS[: len(decisions)]],
        "complete": True,
    }
    return review_pb2.ReviewedItem(**values | changes)


def exported(
    folder: Path,
    items: Sequence[review_pb2.ReviewedItem],
    *,
    quarantined: Collection[str] = (),
    forbidden: Sequence[str] = (),
    limits: ExportLimits | None = None,
) -> tuple[dict[str, list[str]], ExportResult]:
    """Return the lines of the files by name, and the counts."""
    names = [principal_of(user) for user in quarantined]
    result = export_appeals(
        items,
        names,
        Consents(*forbidden),
        folder,
        "en",
        limits or ExportLimits(tenant_texts=50, user_texts=5),
    )
    return {path.name: path.read_text().splitlines() for path in folder.iterdir()}, result


def test_upheld_appeals_become_lookalikes_and_rejected_ones_requests(tmp_path: Path) -> None:
    lines, result = exported(
        tmp_path,
        [
            appealed("How do I kill\n a process? Mail\tann@home.example", WRONG, WRONG),
            appealed("a request", RIGHT, WRONG, RIGHT, user="bob"),
        ],
    )
    text = "How do I kill a process? Mail <EMAIL_1>"
    assert lines["lookalikes.tsv"] == [f"violence\t{text}"]
    assert lines["requests.tsv"] == ["violence\ta request"]
    block = {"category": "violence", "score": 0.5, "policy_version": "policy-1"}
    assert [json.loads(line) for line in lines["cases.jsonl"]] == [
        {"text": text, "expected": "allow", **block},
        {"text": "a request", "expected": "block", **block},
    ]
    assert (result.items, +result.left_out) == (2, {})
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert principal_of("ann") not in path.read_text()


def test_only_what_two_consenting_reviewers_decided_is_written(tmp_path: Path) -> None:
    resolved = {"resolution": review_pb2.Review(block_decision=WRONG)}
    rejected = {"resolution": review_pb2.Review(block_decision=RIGHT)}
    items = [
        appealed("open", WRONG, complete=False),
        appealed("alone", WRONG),
        appealed("both", WRONG, WRONG, RIGHT, resolver=principal_of("dan"), **rejected),
        # rae said so twice.
        appealed("own", WRONG, RIGHT, resolver=principal_of("rae"), **resolved),
        appealed("resolved", WRONG, RIGHT, resolver=principal_of("dan"), **resolved),
        appealed("without consent", WRONG, WRONG, user="bob"),
        appealed("in quarantine", WRONG, WRONG, user="carl"),
        appealed("answer", WRONG, WRONG, is_answer=True),
    ]
    lines, result = exported(tmp_path, items, forbidden=["bob"], quarantined=["carl"])
    assert lines["lookalikes.tsv"] == ["violence\tresolved"]
    assert not lines["requests.tsv"]
    assert +result.left_out == {
        "incomplete": 1,
        "not_two_reviewers": 3,
        "no_consent": 1,
        "account_in_quarantine": 1,
        "answer_ended": 1,
    }
    lines, result = exported(tmp_path, items[4:5], forbidden=["dan"])
    assert (result.items, lines["cases.jsonl"]) == (0, [])


def test_equal_texts_count_once_and_contradicted_ones_not_at_all(tmp_path: Path) -> None:
    items = [
        appealed("Kill  the process!", WRONG, WRONG),
        appealed("kill the \uff50rocess", WRONG, WRONG, user="bob", tenant="umbrella"),
        appealed("disputed", WRONG, WRONG),
        appealed("Disputed?", RIGHT, RIGHT, user="bob"),
    ]
    lines, result = exported(tmp_path, items)
    assert lines["lookalikes.tsv"] == ["violence\tKill the process!"]
    assert not lines["requests.tsv"]
    assert +result.left_out == {"equal_text": 1, "decided_differently": 2}


def test_users_take_turns_within_the_bound_of_their_tenant(tmp_path: Path) -> None:
    items = [appealed(f"ann {number}", WRONG, WRONG) for number in range(4)]
    items += [appealed("bob", WRONG, WRONG, user="bob"), appealed("zoe", WRONG, WRONG, tenant="z")]
    limits = ExportLimits(tenant_texts=3, user_texts=3)
    lines, result = exported(tmp_path, items, limits=limits)
    written = {line.partition("\t")[2] for line in lines["lookalikes.tsv"]}
    assert written == {"ann 0", "ann 1", "bob", "zoe"}
    assert +result.left_out == {"limit_of_user": 1, "limit_of_tenant": 1}
    with pytest.raises(ConfigError) as refused:
        ExportLimits(tenant_texts=50, user_texts=0)
    assert (refused.value.field, refused.value.limit) == ("user_texts", "at least 1")
