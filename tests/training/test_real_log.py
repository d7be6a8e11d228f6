"""Training with the real embedded feedback service: keys, consents, erasures, Parquet."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.chassis.identity import Caller
from services.contracts.identifiers import principal_of
from tests.services.feedback.samples import ADA, KEY
from tests.training.real_feedback import Service
from tests.training.state_folder import holding, printed_erasures
from training.data.feedback.judgements import Judgement
from training.data.feedback.snapshot import Snapshot, open_snapshot, read_judgements

BOB = Caller("acme", "bob")
pytestmark = pytest.mark.slow


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with Service.started(tmp_path) as service:
        yield service


def test_consent_erasure_and_new_feedback_reach_training(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    def taken() -> tuple[Snapshot, dict[str, Judgement]]:
        assert service.command("snapshot") == 0
        snapshot = open_snapshot(Path(capsys.readouterr().out.strip()))
        return snapshot, {
            judgement.correction or "": judgement for judgement in read_judgements(snapshot)
        }

    service.say(ADA, "herons")
    service.say(BOB, "kites")
    first, judged = taken()
    assert set(judged) == {"better: herons", "better: kites"}
    assert judged["better: herons"].context[0].content == "question about herons"
    assert judged["better: herons"].answer == "answer to herons"
    assert holding(service.state / "objects", "herons") == []

    service.forbid(BOB)
    second, judged = taken()
    assert set(judged) == {"better: herons"}
    assert second.manifest.report["dropped"] == {"no_consent": 2}

    service.erase(ADA)
    assert service.command("forget") == 0
    gone = sorted((first.id, second.id))
    assert printed_erasures(capsys.readouterr().out) == ["1", *gone]
    for words in ("herons", "kites", principal_of(KEY, ADA)):
        assert holding(service.state / "loop", words) == []

    service.say(ADA, "owls")
    third, judged = taken()
    assert set(judged) == {"better: owls"}
    assert third.manifest.report["dropped"] == {"erased": 2, "no_consent": 2}
    assert service.command("forget") == 0
    assert printed_erasures(capsys.readouterr().out) == []
