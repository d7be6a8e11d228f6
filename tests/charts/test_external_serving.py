"""An installation in front of an external model: what it has, what it lacks, what it refuses."""

import json
from pathlib import Path
from typing import Any

from services.generator.settings import GeneratorSettings
from services.session.settings import SessionSettings
from tests.charts.rendering import (
    CHART,
    VALUES,
    Object,
    component,
    containers,
    helm,
    of_kind,
    pods,
    render,
)

FILE = "external-values.yaml"


def objects() -> list[Object]:
    return list(render(FILE))


def variables(service: str) -> dict[str, str]:
    (container,) = pods(objects())[f"{service}/Deployment"]["spec"]["containers"]
    return {item["name"]: item.get("value", "a secret of the cluster") for item in container["env"]}


def settings(service: str) -> dict[str, Any]:
    """Return the settings of a service as its class gets them."""
    prefix = f"TW_{service.upper()}_"
    given = variables(service).items()
    found = {name.removeprefix(prefix).lower(): value for name, value in given if prefix in name}
    found.pop("database_url")
    return found


def test_nothing_serves_or_stores_models() -> None:
    found = objects()
    assert {component(one) for one in of_kind(found, "Deployment")} == {
        *("enhancer", "gateway", "generator", "guardrail", "review", "session"),
    }
    assert not of_kind(found, "PersistentVolumeClaim")
    assert not [one for one in found if "serving.kserve.io" in one["apiVersion"]]
    # By name: no secret of a model server, no claim and no policy of models.
    text = json.dumps(found)
    for absent in ("predictor", "model-server", "tw-thumbwheel-models", "/models", "nvidia"):
        assert absent not in text, absent


def test_no_pod_brings_a_model_or_needs_a_device() -> None:
    for container in containers(objects()):
        assert container["name"] != "model"
        limits = container.get("resources", {}).get("limits", {})
        assert limits.keys() <= {"cpu", "memory", "ephemeral-storage"}


def test_generator_and_session_accept_their_settings() -> None:
    given = settings("generator")
    given["external_models"] = json.loads(given["external_models"])
    generator = GeneratorSettings.model_validate(given)
    assert generator.stable_external() == "external.main"
    (model,) = generator.external()
    assert (model.key_file, model.max_tokens) == (Path("/external-models/main"), 2048)
    session = SessionSettings.model_validate(settings("session"))
    assert (session.count_bytes, session.tokenizer_file) == (True, None)
    assert session.context_tokens == 128_000
    # The session reserves what the generator may write.
    assert session.reply_tokens == generator.reply_tokens == 2048


def test_only_the_generator_reaches_the_endpoint() -> None:
    for policy in of_kind(objects(), "NetworkPolicy"):
        reaches = "203.0.113.0/24" in json.dumps(policy)
        assert reaches == (component(policy) == "generator"), component(policy)


def test_a_tokenizer_of_the_values_replaces_the_count_of_bytes() -> None:
    given = "services.session.settings.tokenizer_file=/tokenizer/tokenizer.json"
    spec = pods(list(render(FILE, given)))["session/Deployment"]["spec"]
    names = {item["name"] for item in spec["containers"][0]["env"]}
    assert "TW_SESSION_TOKENIZER_FILE" in names
    assert "TW_SESSION_COUNT_BYTES" not in names


def test_notes_say_where_conversations_go() -> None:
    words = ("install", "tw", str(CHART), "-f", str(VALUES / FILE), "--dry-run=client")
    result = helm(*words, "--namespace", "chat")
    assert result.returncode == 0, result.stderr
    notes = result.stdout.partition("NOTES:")[2]
    for said in ("Example", "https://api.example.com/v1", "endpoint-keys", "no training"):
        assert said in notes, said
