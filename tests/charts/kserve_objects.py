"""Objects for KServe as rendered by the chart and applied by the generator."""

from typing import Any

from services.generator.kubernetes.inference_object import inference_service, read_template
from tests.charts.rendering import of_kind, render


def named(objects: Any, kind: str, name: str) -> Any:
    (found,) = [item for item in of_kind(objects, kind) if item["metadata"]["name"] == name]
    return found


def config_map(values: str, *sets: str) -> Any:
    found = named(render(values, *sets), "ConfigMap", "tw-thumbwheel-inference-service")
    return {**found, "metadata": {**found["metadata"], "uid": "1-2-3"}}


def service_of(
    values: str, *sets: str, version: str = "nano-1.2_3", folder: str = "runs/nano-1"
) -> Any:
    """Return the object as the generator would apply it."""
    return inference_service(read_template(config_map(values, *sets)), version, folder)


def runtime_of(values: str, *sets: str) -> Any:
    (found,) = of_kind(render(values, *sets), "ServingRuntime")
    return found
