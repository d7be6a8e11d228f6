"""External models in the chart: settings, keys, egress, and training of named models only."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.generator.settings import GeneratorSettings
from tests.charts.rendering import (
    Object,
    component,
    containers,
    of_kind,
    outside_ports,
    pods,
    refusal,
    render,
)

EXISTING = "existing-values.yaml"
RIVAL = {
    "url": "https://api.example.com/v1",
    "model": "rival-2",
    "developer": "Example",
    "licence": "proprietary",
    "secretKey": "rival",
    "maxTokens": 512,
    "train": False,
}
OWN = RIVAL | {"url": "http://vllm:8000/v1", "secretKey": "", "train": True}
TRAINING = ("training.enabled=true", "ray.mode=job")


def rendered(*sets: str, **models: Any) -> list[Object]:
    json_sets = (f"externalModels.models={json.dumps(models)}",)
    return list(render(EXISTING, "externalModels.existingSecret=ai", *sets, json_sets=json_sets))


def generator(objects: list[Object]) -> Any:
    return pods(objects)["generator/Deployment"]["spec"]


def variables(spec: Any) -> dict[str, str]:
    return {item["name"]: item.get("value", "") for item in spec["containers"][0]["env"]}


def policy(objects: list[Object], name: str) -> Any:
    (found,) = [one for one in of_kind(objects, "NetworkPolicy") if component(one) == name]
    return found["spec"]


def loop_arguments(objects: list[Object]) -> list[str]:
    (found,) = [one for one in containers(objects) if "loop" in one.get("args", ())]
    return list(found["args"])


def test_generator_without_external_models_has_neither_keys_nor_further_egress() -> None:
    objects = list(render(EXISTING, *TRAINING))
    spec = generator(objects)
    assert "TW_GENERATOR_EXTERNAL_MODELS" not in variables(spec)
    assert "external-models" not in {volume["name"] for volume in spec["volumes"]}
    assert outside_ports(policy(objects, "generator")) == {5432}
    assert not [word for word in loop_arguments(objects) if "train_external" in word]


def test_generator_accepts_the_settings_and_mounts_the_used_keys_only() -> None:
    spec = generator(rendered(rival=RIVAL, own=OWN))
    external = json.loads(variables(spec)["TW_GENERATOR_EXTERNAL_MODELS"])
    settings = GeneratorSettings.model_validate({"external_models": external})
    found = {model.name: model for model in settings.external()}
    rival, own = found["external.rival"], found["external.own"]
    assert (rival.url, rival.model, rival.max_tokens) == (RIVAL["url"], "rival-2", 512)
    assert (rival.key_file, own.key_file) == (Path("/external-models/rival"), None)
    (volume,) = [one for one in spec["volumes"] if one["name"] == "external-models"]
    # A missing secret must not keep the generator from starting.
    assert volume["secret"] == {
        "secretName": "ai",
        "optional": True,
        "items": [{"key": "rival", "path": "rival"}],
    }
    mounts = spec["containers"][0]["volumeMounts"]
    assert {"name": "external-models", "mountPath": "/external-models", "readOnly": True} in mounts


def test_only_the_generator_has_keys_and_egress() -> None:
    objects = rendered(*TRAINING, rival=RIVAL, own=OWN)
    plain = list(render(EXISTING, *TRAINING))
    holders = {
        name
        for name, pod in pods(objects).items()
        if any(volume["name"] == "external-models" for volume in pod["spec"].get("volumes", ()))
    }
    assert holders == {"generator/Deployment"}
    names = {component(one) for one in of_kind(objects, "NetworkPolicy")}
    changed = {name for name in names if policy(objects, name) != policy(plain, name)}
    assert changed == {"generator"}
    assert outside_ports(policy(objects, "generator")) == {443, 5432, 8000}


def test_egress_of_the_values_replaces_the_derived_rule() -> None:
    rule = {"to": [{"ipBlock": {"cidr": "192.0.2.1/32"}}], "ports": [{"port": 3128}]}
    models = json.dumps({"rival": RIVAL})
    json_sets = (f"externalModels.models={models}", f"externalModels.egress={json.dumps([rule])}")
    objects = list(render(EXISTING, "externalModels.existingSecret=ai", json_sets=json_sets))
    spec = policy(objects, "generator")
    assert rule in spec["egress"]
    # Without the port of the URL.
    assert outside_ports(spec) == {3128, 5432}


def test_training_learns_from_marked_models_only() -> None:
    words = loop_arguments(rendered(*TRAINING, rival=RIVAL, own=OWN, also=OWN))
    assert words[words.index("snapshot.train_external=also,own") - 1] == "--set"
    assert not [word for word in words if "rival" in word]
    unmarked = loop_arguments(rendered(*TRAINING, rival=RIVAL))
    assert not [word for word in unmarked if "train_external" in word]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"url": ""}, "url"),
        ({"url": "https://api.example.com/v1/"}, "url"),
        ({"developer": ""}, "developer"),
        ({"maxTokens": 5_000}, "maxTokens"),
        ({"key": "sk-x"}, "key"),
    ],
)
def test_unusable_model_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    values = tmp_path / "values.json"
    values.write_text(json.dumps({"externalModels": {"models": {"rival": RIVAL | changes}}}))
    assert words in refusal(EXISTING, "externalModels.existingSecret=ai", files=(values,))


@pytest.mark.parametrize(
    "url",
    [
        "http://models",
        "http://models:8000/v1",
        "http://models.ai.svc:8000/v1",
        "http://models.ai.svc.cluster.local/v1",
        "http://127.0.0.1:8000/v1",
    ],
)
def test_endpoint_inside_the_cluster_may_be_plain(url: str) -> None:
    (container,) = generator(rendered(own=OWN | {"url": url}))["containers"]
    assert url in json.dumps(container["env"])
