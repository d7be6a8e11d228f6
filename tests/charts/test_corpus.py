"""The CronJob of corpora: arguments, mounts, settings, and a pod without network and secrets."""

import argparse
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.charts.rendering import component, containers, of_kind, pods, render
from training.data_path import build_command
from training.data_path.config import from_mapping

VALUES = "everything-values.yaml"
ENABLED = "corpus.enabled=true,corpus.config=seed=1"


def container() -> Any:
    (found,) = pods(render(VALUES))["corpus/CronJob"]["spec"]["containers"]
    return found


def test_arguments_are_those_of_the_command_and_the_settings_are_valid() -> None:
    module, command, *given = container()["args"]
    assert (module, command) == ("training.corpus", "build")
    parser = argparse.ArgumentParser()
    build_command.add_arguments(parser)
    options = parser.parse_args(given)
    assert (options.out, options.workers, options.replace) == (Path("/output"), 4, False)
    (replacing,) = pods(render(VALUES, "corpus.replace=true"))["corpus/CronJob"]["spec"][
        "containers"
    ]
    assert replacing["args"] == [module, command, *given, "--replace"]
    (settings,) = [
        item["data"][options.config.name]
        for item in of_kind(render(VALUES), "ConfigMap")
        if component(item) == "corpus"
    ]
    config = from_mapping(tomllib.loads(settings), options.config.parent)
    assert [source.folder for source in config.sources] == [Path("/input")]
    assert config.shards.tokenizer == Path("/models/small-1")


def test_only_the_output_is_writable_and_no_secret_is_in_the_pod() -> None:
    pod = pods(render(VALUES))["corpus/CronJob"]["spec"]
    mounts = {each["mountPath"]: each for each in container()["volumeMounts"]}
    assert {path for path, each in mounts.items() if not each.get("readOnly")} == {
        "/tmp",
        "/output",
    }
    assert (mounts["/input"]["subPath"], mounts["/output"]["subPath"]) == ("crawl", "corpus")
    assert not [volume for volume in pod["volumes"] if "secret" in volume]
    assert not [each for each in container()["env"] if "valueFrom" in each]
    assert pod["automountServiceAccountToken"] is False
    assert container()["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("data", ["data-packages", "shared", "models"])
def test_each_claim_is_a_single_volume(data: str) -> None:
    """Kubelet never mounts a claim that is two volumes of a pod."""
    given = f"corpus.data.existingClaim={data}"
    spec = pods(render(VALUES, given))["corpus/CronJob"]["spec"]
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]
        for volume in spec["volumes"]
        if "persistentVolumeClaim" in volume
    }
    names = {name: claim["claimName"] for name, claim in claims.items()}
    assert len({*names.values()}) == len(names)
    (found,) = spec["containers"]
    mounts = {each["mountPath"]: each for each in found["volumeMounts"]}
    paths = {"/models": "models", "/input": "shared", "/output": "shared", "/items/data": data}
    assert {path: names[mounts[path]["name"]] for path in paths} == paths
    read_only = [claim["claimName"] for claim in claims.values() if claim["readOnly"]]
    assert read_only == (["data-packages"] if data == "data-packages" else [])


def test_the_pod_has_no_network() -> None:
    (policy,) = [
        item["spec"]
        for item in of_kind(render(VALUES), "NetworkPolicy")
        if component(item) == "corpus"
    ]
    labels = pods(render(VALUES))["corpus/CronJob"]["metadata"]["labels"]
    selector = policy["podSelector"]
    assert selector["matchLabels"].items() <= labels.items()
    assert policy == {"podSelector": selector, "policyTypes": ["Ingress", "Egress"]}


def test_the_cache_is_that_of_the_claim_only_if_there_is_one() -> None:
    with_claim = {each["name"]: each["value"] for each in container()["env"]}
    assert with_claim == {"PIP_NO_INDEX": "1", "THUMBWHEEL_CACHE": "/items"}
    objects = render(VALUES, "corpus.data.existingClaim=")
    (found,) = pods(objects)["corpus/CronJob"]["spec"]["containers"]
    assert {each["name"] for each in found["env"]} == {"PIP_NO_INDEX"}
    assert "/items/data" not in {each["mountPath"] for each in found["volumeMounts"]}


def test_without_a_corpus_its_objects_are_absent() -> None:
    objects = render("existing-values.yaml")
    assert not [item for item in objects if component(item) == "corpus"]
    assert not [each for each in containers(objects) if each["name"] == "corpus"]
