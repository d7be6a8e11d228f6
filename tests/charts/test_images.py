"""References and pull policies of all containers, for all images and for a single image."""

import re

import pytest

from tests.charts.rendering import CHART, containers, ray_pods, refusal, render

OTHER = "other.example:5000/team"
SETS = (
    "imagePullPolicy=Always",
    f"images.training.registry={OTHER}",
    "images.training.pullPolicy=Never",
)


def test_registry_and_pull_policy_of_an_image_take_precedence() -> None:
    objects = render("everything-values.yaml", *SETS)
    found = [
        *containers(objects),
        *(each for pod in ray_pods(objects) for each in pod["spec"]["containers"]),
    ]
    policies = {re.sub(r"[:@][^/]*$", "", each["image"]): each["imagePullPolicy"] for each in found}
    general = {name: "Always" for name in policies if name.startswith("registry.example/")}
    assert {"registry.example/thumbwheel/thumbwheel-services"} <= general.keys()
    assert policies == general | {f"{OTHER}/thumbwheel-training": "Never"}


def test_templates_read_references_and_policies_in_one_place() -> None:
    # A template that reads the value of an image ignores the value for all images.
    reading = re.compile(r'\.pullPolicy\b(?!")|\.repository\b|Values\.image(Registry|PullPolicy)')
    found = {
        path.name for path in (CHART / "templates").rglob("*.*") if reading.search(path.read_text())
    }
    assert found == {"_names.tpl"}


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("images.services.registry=registry.example/", "registry"),
        ("images.vllm.pullPolicy=Sometimes", "pullPolicy"),
        ("imagePullPolicy=Sometimes", "imagePullPolicy"),
    ],
)
def test_an_invalid_registry_or_policy_is_named(setting: str, named: str) -> None:
    assert named in refusal("existing-values.yaml", setting)
