"""Export of reviews: consent, pseudonyms, the reference answer, and readers of the file."""

import json
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.review.v1 import review_pb2

from tests.training.feedback_log import principal_of, uid
from tests.training.reviews.consents import Consents
from training.data.feedback.rows import DataKey
from training.reviews.export import SCALES, ExportResult, export


def review(*scores: int, ranks: Sequence[int] = (), written: str = "") -> review_pb2.Review:
    """Return a review with one score on all scales for each answer."""
    found = review_pb2.Review(written_answer=written, comment="a remark")
    for answer_id, score in zip("abc", scores, strict=False):
        found.scores.add(answer_id=answer_id, **dict.fromkeys(SCALES, score))
    for answer_id, rank in zip("abc", ranks, strict=False):
        found.ranks.add(answer_id=answer_id, rank=rank)
    found.submit_time.FromSeconds(1_000)
    return found


def reviewed(
    name: str, *reviews: review_pb2.Review, user: str = "ann", **changes: Any
) -> review_pb2.ReviewedItem:
    """Return a complete item with two answers; the reviewers are rae, rob and ruth."""
    item = review_pb2.DrawnItem(
        item=review_pb2.ReviewItem(
            item_id=uid(name),
            context=[
                chat_pb2.HistoryMessage(role=chat_pb2.ROLE_SYSTEM, text="be brief"),
                chat_pb2.HistoryMessage(role=chat_pb2.ROLE_USER, text="hi <EMAIL_1>"),
            ],
            answers=[
                review_pb2.ReviewAnswer(answer_id="a", text="one"),
                review_pb2.ReviewAnswer(answer_id="b", text="two"),
            ],
            task=chat_pb2.TASK_CODE,
        ),
        tenant=changes.pop("tenant", "acme"),
        principal=principal_of(user),
        conversation_id=uid("conversation"),
        message_id=uid("answer"),
        model_versions=["nano-0", "nano-1"],
        message_ids=[uid("answer"), uid("other")],
        rule=review_pb2.DRAW_RULE_DISAGREEMENT,
    )
    raters = [principal_of(rater) for rater in ("rae", "rob", "ruth")[: len(reviews)]]
    values = {"item": item, "reviews": reviews, "raters": raters, "complete": True}
    return review_pb2.ReviewedItem(**values | changes)


def exported(
    tmp_path: Path, *items: review_pb2.ReviewedItem, forbidden: Sequence[str] = (), tenant: str = ""
) -> tuple[list[dict[str, Any]], ExportResult]:
    output = tmp_path / "reviews.jsonl"
    result = export(items, Consents(*forbidden), output, "en", tenant)
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [output.name]
    return [json.loads(line) for line in output.read_text().splitlines()], result


def test_a_line_has_question_reference_answers_and_reviews(tmp_path: Path) -> None:
    (line,), result = exported(
        tmp_path, reviewed("i", review(4, 2, ranks=(1, 2)), review(5, 0, ranks=(1, 1)))
    )
    assert (line["id"], line["target"]) == (uid("i"), "one")
    assert line["input"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi <EMAIL_1>"},
    ]
    metadata = line["metadata"]
    assert [metadata[name] for name in ("tenant", "rule", "task", "target_is", "is_resolved")] == [
        "acme",
        "disagreement",
        "code",
        "answer",
        False,
    ]
    assert metadata["answers"] == [
        {
            "id": "a",
            "text": "one",
            "model_version": "nano-0",
            **dict.fromkeys(SCALES, 4.5),
            "rank": 1.0,
        },
        # 0 does not apply.
        {
            "id": "b",
            "text": "two",
            "model_version": "nano-1",
            **dict.fromkeys(SCALES, 2.0),
            "rank": 1.5,
        },
    ]
    assert [one["rater"] for one in metadata["reviews"]] == [
        principal_of("rae"),
        principal_of("rob"),
    ]
    assert metadata["reviews"][1]["scores"][1]["safety"] is None
    assert metadata["reviews"][0]["ranks"] == [{"id": "a", "rank": 1}, {"id": "b", "rank": 2}]
    assert (result.items, +result.left_out) == (1, {})


def test_lines_name_no_user_conversation_or_comment(tmp_path: Path) -> None:
    lines, _ = exported(tmp_path, reviewed("i", review(4, 2), review(4, 2)))
    text = json.dumps(lines)
    for word in (principal_of("ann"), uid("conversation"), uid("answer"), "a remark"):
        assert word not in text


def test_only_feedback_of_people_with_consent_is_written(tmp_path: Path) -> None:
    items = [
        reviewed("of ann", review(4, 2), review(4, 2)),
        reviewed("of bob", review(1, 5), review(4, 5), user="bob"),
        reviewed(
            "resolved",
            review(1, 5),
            review(5, 1),
            user="carl",
            resolution=review(3, 4),
            resolver=principal_of("rae"),
        ),
        reviewed("alone", review(1, 5), user="carl"),
    ]
    lines, result = exported(tmp_path, *items, forbidden=["ann", "rae"])
    assert [line["id"] for line in lines] == [uid("of bob")]
    (rater,) = [one["rater"] for one in lines[0]["metadata"]["reviews"]]
    assert rater == principal_of("rob")
    assert lines[0]["metadata"]["answers"][0]["clarity"] == 4
    assert result.left_out["no_consent"] == 3
    assert result.left_out["review_without_consent_of_reviewer"] == 4
    assert "left out: no_consent 3" in result.text()


def test_incomplete_items_and_other_tenants_are_left_out(tmp_path: Path) -> None:
    items = [
        reviewed("open", review(4, 2), complete=False),
        reviewed("kept", review(4, 2)),
        reviewed("foreign", review(4, 2), tenant="umbrella"),
    ]
    lines, result = exported(tmp_path, *items, tenant="acme")
    assert [line["id"] for line in lines] == [uid("kept")]
    assert +result.left_out == {"incomplete": 1, "other_tenant": 1}
    lines, _ = exported(tmp_path, *items)
    assert {line["metadata"]["tenant"] for line in lines} == {"acme", "umbrella"}


@pytest.mark.parametrize(
    ("reviews", "resolution", "target", "target_is"),
    [
        ([review(2, 4)], None, "two", "answer"),
        ([review(4, 2, ranks=(2, 1))], None, "two", "answer"),
        ([review(0, 0, written="three")], None, "three", "written"),
        (
            [review(4, 2, written="mail me: rae@home.example")],
            None,
            "mail me: <EMAIL_2>",
            "written",
        ),
        # A resolution replaces the reviews.
        ([review(5, 1, written="three")], review(1, 5), "two", "answer"),
        ([review(5, 1)], review(1, 5, written="four"), "four", "written"),
    ],
)
def test_reference_is_the_written_answer_or_the_best_one(
    tmp_path: Path,
    reviews: Sequence[review_pb2.Review],
    resolution: review_pb2.Review | None,
    target: str,
    target_is: str,
) -> None:
    changes: dict[str, Any] = {}
    if resolution is not None:
        changes = {"resolution": resolution, "resolver": principal_of("ruth")}
    (line,), _ = exported(tmp_path, reviewed("i", *reviews, **changes))
    assert (line["target"], line["metadata"]["target_is"]) == (target, target_is)
    assert line["metadata"]["is_resolved"] is (resolution is not None)


def test_an_earlier_file_stays_if_the_export_fails(tmp_path: Path) -> None:
    class Broken(Consents):
        def data_keys(self, principals: Sequence[str]) -> Mapping[str, DataKey]:
            raise OSError

    output = tmp_path / "reviews.jsonl"
    output.write_text("earlier")
    with pytest.raises(OSError):
        export([reviewed("i", review(4, 2))], Broken(), output, "en")
    assert output.read_text() == "earlier"


def test_inspect_reads_the_fields_of_a_sample(tmp_path: Path) -> None:
    """inspect-ai is not installed here: these are the default fields of its json_dataset."""
    (line,), _ = exported(tmp_path, reviewed("i", review(4, 2)))
    assert set(line) == {"input", "target", "id", "metadata"}
    assert isinstance(line["id"], str)
    assert isinstance(line["target"], str)
    assert isinstance(line["metadata"], dict)
    for message in line["input"]:
        assert set(message) == {"role", "content"}
        assert message["role"] in {"system", "user", "assistant"}


@pytest.mark.slow
def test_lm_eval_reads_the_file_as_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    from lm_eval.api.task import ConfigurableTask

    folder = tmp_path / "out"
    folder.mkdir()
    items = [
        reviewed("ranked", review(4, 2, ranks=(1, 2))),
        # Without scores and ranks.
        reviewed("written", review(written="three")),
    ]
    exported(folder, *items)
    task = ConfigurableTask(
        config={
            "task": "reviewed",
            "dataset_path": "json",
            "dataset_kwargs": {
                "data_files": str(folder / "reviews.jsonl"),
                "cache_dir": str(tmp_path / "cache"),
            },
            "test_split": "train",
            "output_type": "generate_until",
            "doc_to_text": "{% for m in input %}{{m.role}}: {{m.content}}\n{% endfor %}assistant:",
            "doc_to_target": "target",
        }
    )
    documents = list(task.test_docs())
    assert [document["id"] for document in documents] == [uid("ranked"), uid("written")]
    prompt = task.doc_to_text(documents[0])
    assert prompt == "system: be brief\nuser: hi <EMAIL_1>\nassistant:"
    assert [task.doc_to_target(document) for document in documents] == ["one", "three"]
