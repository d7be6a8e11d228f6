"""The first version: a Job that imports it, or images that contain it."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from infra.install.small_model import __main__ as small_model
from infra.run.embedded.context_window import CPU_CONTEXT_TOKENS, reply_tokens
from tests.charts.rendering import (
    VALUES,
    Object,
    component,
    containers,
    of_kind,
    outside_ports,
    pods,
    render,
)
from training import data_commands
from training.__main__ import parser
from training.model_store import commands

EVALUATION, EXISTING = "evaluation-values.yaml", "existing-values.yaml"
HUB = ("models.import.source=owner/model@main", "models.initial=model-0")


def model_job(objects: Sequence[Object]) -> Any:
    """Return the only Job that brings a model, or None."""
    jobs = [job for job in of_kind(objects, "Job") if component(job) == "model"]
    assert len(jobs) <= 1
    return jobs[0] if jobs else None


def container(job: Any) -> Any:
    (found,) = job["spec"]["template"]["spec"]["containers"]
    return found


def policy(objects: Sequence[Object]) -> Any:
    (found,) = (p for p in of_kind(objects, "NetworkPolicy") if component(p) == "model")
    return found["spec"]


def import_options(job: Any) -> argparse.Namespace:
    """Return the arguments of the Job as the command reads them."""
    module, *words = container(job)["args"]
    assert module == "training"
    options = parser().parse_args(words)
    assert options.command is commands.run
    return options


def test_window_of_small_fits_its_server_and_all_services_know_the_part_for_the_answer() -> None:
    found = {
        variable["name"]: variable["value"]
        for container in containers(render(EVALUATION))
        for variable in container.get("env", ())
        if variable["name"].endswith(("_CONTEXT_TOKENS", "REPLY_TOKENS", "_KV_BLOCKS"))
    }
    assert found == {
        "TW_SESSION_CONTEXT_TOKENS": str(CPU_CONTEXT_TOKENS),
        **dict.fromkeys(
            (
                "TW_SESSION_REPLY_TOKENS",
                "TW_GENERATOR_REPLY_TOKENS",
                "TW_GATEWAY_QUOTA_REPLY_TOKENS",
            ),
            str(reply_tokens(CPU_CONTEXT_TOKENS)),
        ),
    }


def test_small_is_the_default_and_comes_from_its_image() -> None:
    objects = render(EVALUATION)
    found = container(model_job(objects))
    assert found["image"].partition(":")[0] == "thumbwheel-small"
    assert found["args"][0] == small_model.__package__ == "infra.install.small_model"
    assert policy(objects).get("egress") is None
    for service in ("session", "generator"):
        (waiting,) = (
            each
            for each in pods(objects)[f"{service}/Deployment"]["spec"]["initContainers"]
            if each["name"] == "model"
        )
        assert "/models/small-0/manifest.json" in waiting["args"][0]
        assert model_job(objects)["metadata"]["name"] in waiting["args"][0]


def test_kept_version_is_not_replaced_by_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later release makes another small-0, and the first one may be served."""
    (tmp_path / "small-0").mkdir()
    (tmp_path / "small-0" / "manifest.json").write_text("{}")
    words = [str(word) for word in container(model_job(render(EVALUATION)))["args"][1:]]
    words[words.index("/models")] = str(tmp_path)
    monkeypatch.setattr("sys.argv", ["small_model", *words])
    small_model.main()
    assert [path.name for path in (tmp_path / "small-0").iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("sets", [("models.seed=false",), ("models.initial=base-1",)])
def test_models_of_the_operator_need_no_job(sets: tuple[str, ...]) -> None:
    objects = render(EVALUATION, *sets)
    assert model_job(objects) is None
    assert not [each for pod in pods(objects).values() for each in init(pod) if each == "model"]


def init(pod: Any) -> list[str]:
    return [each["name"] for each in pod["spec"].get("initContainers", ())]


def test_import_from_the_hub() -> None:
    secret = ("models.import.tokenSecret=hub", "models.import.tokenKey=HF_TOKEN")
    objects = render(EXISTING, *HUB, "models.acceptTerms=gemma", *secret)
    job = model_job(objects)
    options = import_options(job)
    assert (options.source, options.name, options.to) == ("owner/model@main", "model-0", "/models")
    assert (options.accept_terms, options.thinking) == (["gemma"], "off")
    assert options.token_file == Path("/token/token")
    spec = job["spec"]["template"]["spec"]
    (token,) = (volume["secret"] for volume in spec["volumes"] if volume["name"] == "token")
    assert token["secretName"] == "hub"
    assert token["items"] == [{"key": "HF_TOKEN", "path": "token"}]
    assert container(job)["image"].startswith("thumbwheel-training")
    assert outside_ports(policy(objects)) == {443}
    names = {variable["name"] for variable in container(job)["env"]}
    assert not [name for name in names if name.startswith("TW_TRAINING_S3")]


def test_egress_to_the_hub_follows_its_address_or_the_rules_of_the_values() -> None:
    objects = render(EXISTING, *HUB, "models.import.hub=http://hub.example:8081")
    assert outside_ports(policy(objects)) == {8081}
    assert import_options(model_job(objects)).hub == "http://hub.example:8081"
    rule = {"to": [{"ipBlock": {"cidr": "192.0.2.1/32"}}], "ports": [{"port": 443}]}
    json_sets = (f"models.import.egress=[{str(rule).replace(chr(39), chr(34))}]",)
    assert policy(render(EXISTING, *HUB, json_sets=json_sets))["egress"] == [rule]


def test_import_from_the_object_store_has_its_credentials_and_no_other_network() -> None:
    sets = ("models.import.source=s3://thumbwheel/uploads/model", "models.initial=model-0")
    objects = render(EXISTING, *sets)
    names = {variable["name"] for variable in container(model_job(objects))["env"]}
    assert {f"TW_TRAINING_S3_{name}" for name in ("ENDPOINT", "ACCESS_KEY", "SECRET_KEY")} <= names
    assert outside_ports(policy(objects)) == {8333}


def test_import_from_a_mounted_folder_has_no_network() -> None:
    source = ("models.import.source=/mnt/model", "models.import.thinking=true")
    objects = render(EXISTING, *source, "models.initial=model-0")
    assert import_options(model_job(objects)).thinking == "on"
    assert import_options(model_job(objects)).source == "/mnt/model"
    assert policy(objects).get("egress") is None


def test_the_job_gives_the_version_the_chat_template_of_the_values() -> None:
    text = '{% for message in messages %}{{ message.content | e }}\n<"&">\n{% endfor %}'
    json_sets = (f"models.import.chatTemplate={json.dumps(text)}",)
    objects = render(EXISTING, *HUB, json_sets=json_sets)
    job = model_job(objects)
    path = import_options(job).chat_template
    spec = job["spec"]["template"]["spec"]
    mounts = {each["name"]: Path(each["mountPath"]) for each in container(job)["volumeMounts"]}
    (volume,) = (each for each in spec["volumes"] if mounts[each["name"]] == path.parent)
    maps = {item["metadata"]["name"]: item["data"] for item in of_kind(objects, "ConfigMap")}
    assert maps[volume["configMap"]["name"]] == {path.name: text}
    plain = model_job(render(EXISTING, *HUB))
    other = model_job(render(EXISTING, *HUB, "models.import.chatTemplate=x"))
    assert len({each["metadata"]["name"] for each in (job, plain, other)}) == 3
    assert import_options(plain).chat_template is None
    assert len(plain["spec"]["template"]["spec"]["volumes"]) == len(spec["volumes"]) - 1


def test_name_of_the_job_is_a_hash_of_its_settings() -> None:
    """A Job is immutable: an upgrade with the same name and other settings would fail."""
    variants = [
        (),
        ("models.import.source=owner/model@other",),
        ("models.acceptTerms=llama",),
        ("images.training.tag=v2",),
        ("models.import.resources.limits.memory=8Gi",),
    ]
    jobs = [model_job(render(EXISTING, *HUB, *variant)) for variant in variants]
    assert len({job["metadata"]["name"] for job in jobs}) == len(variants)
    other = model_job(render(EXISTING, *HUB, "services.gateway.replicas=3"))
    assert other["metadata"]["name"] == jobs[0]["metadata"]["name"]
    assert other["spec"] == jobs[0]["spec"]
    assert "helm.sh/hook" not in jobs[0]["metadata"].get("annotations", {})


def test_values_for_cpus_use_the_default_model() -> None:
    assert "small-0" in (VALUES / "cpu-values.yaml").read_text()
    assert model_job(render("cpu-values.yaml")) is not None


STORE = "models.store=s3://thumbwheel/models"


def test_store_gets_the_first_version_after_its_import() -> None:
    objects = render(EXISTING, *HUB, STORE)
    job = model_job(objects)
    (bringing,) = job["spec"]["template"]["spec"]["initContainers"]
    assert bringing["args"][1] == "import"
    module, *words = container(job)["args"]
    options = parser().parse_args(words)
    assert (module, options.command) == ("training", data_commands.publish)
    assert (options.version, str(options.state)) == ("model-0", "/")
    assert options.store == "s3://thumbwheel/models"
    names = {variable["name"] for variable in container(job)["env"]}
    assert {f"TW_TRAINING_S3_{name}" for name in ("ENDPOINT", "ACCESS_KEY", "SECRET_KEY")} <= names
    assert outside_ports(policy(objects)) == {443, 8333}


def test_both_containers_of_the_job_get_the_variables_of_the_values() -> None:
    given = ("models.import.extraEnv[0].name=PYTHONPATH", "models.import.extraEnv[0].value=/site")
    job = model_job(render(EXISTING, *HUB, STORE, *given))
    (bringing,) = job["spec"]["template"]["spec"]["initContainers"]
    for each in (bringing, container(job)):
        assert {"name": "PYTHONPATH", "value": "/site"} in each["env"]


def test_store_gets_a_version_that_the_operator_has_put_into_the_claim() -> None:
    job = model_job(render(EXISTING, STORE, "models.initial=base-1"))
    assert "initContainers" not in job["spec"]["template"]["spec"]
    assert container(job)["args"][1] == "publish"


def test_loop_writes_candidates_to_the_store_and_prunes() -> None:
    objects = render(EXISTING, STORE, "models.keep=5", "training.enabled=true", "ray.mode=job")
    (run,) = pods(objects)["training/CronJob"]["spec"]["containers"]
    options = parser().parse_args(run["args"][1:])
    assert (options.model_store, options.keep_versions) == ("s3://thumbwheel/models", 5)
    objects = render(EXISTING, "training.enabled=true", "ray.mode=job")
    (run,) = pods(objects)["training/CronJob"]["spec"]["containers"]
    options = parser().parse_args(run["args"][1:])
    assert (options.model_store, options.keep_versions) == (None, None)


def test_store_of_an_evaluation_accepts_the_job() -> None:
    objects = render(EVALUATION, STORE)
    (s3,) = (p for p in of_kind(objects, "NetworkPolicy") if component(p) == "s3")
    callers = [
        peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
        for rule in s3["spec"]["ingress"]
        for peer in rule["from"]
    ]
    assert "model" in callers
    assert "predictor" not in callers
