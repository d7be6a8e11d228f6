"""The two small resources: every field of theirs is KServe's, and what the chart and the generator write fits into them."""

from collections.abc import Iterator
from typing import Any

import pytest

from infra.kserve_simulation.resources import definitions
from tests.charts.test_kserve import FILES, HPA, KEDA, runtime_of, service_of
from tests.kserve_models import inner_models, model_of

MODELS = {"InferenceService": "V1beta1InferenceService", "ServingRuntime": "V1alpha1ServingRuntime"}


def schemas() -> dict[str, Any]:
    return {
        each["spec"]["names"]["kind"]: each["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        for each in definitions()
    }


def strangers(schema: Any, kind: str, where: str) -> Iterator[str]:
    """Fields of the schema that the model has not."""
    if "properties" not in schema:
        if inner := schema.get("items") or schema.get("additionalProperties"):
            (of_each,) = inner_models(kind)
            yield from strangers(inner, of_each, f"{where}[]")
        return
    model = model_of(kind)
    names = {model.attribute_map[attribute]: model.openapi_types[attribute] for attribute in model.openapi_types}
    for name, inner in schema["properties"].items():
        if name not in names:
            yield f"{where}.{name}"
        elif "properties" in inner or "items" in inner or "additionalProperties" in inner:
            yield from strangers(inner, names[name], f"{where}.{name}")


@pytest.mark.parametrize("kind", MODELS)
def test_every_field_is_one_of_kserves(kind: str) -> None:
    assert list(strangers(schemas()[kind], MODELS[kind], kind)) == []


def test_a_field_that_is_not_would_be_found() -> None:
    schema = schemas()["ServingRuntime"]
    schema["properties"]["spec"]["properties"]["containers"]["items"]["properties"]["imag"] = {"type": "string"}
    assert list(strangers(schema, "V1alpha1ServingRuntime", "it")) == ["it.spec.containers[].imag"]


def unknown(value: Any, schema: Any, where: str) -> Iterator[str]:
    """What the API server would refuse or drop."""
    if isinstance(value, list):
        for each in value:
            yield from unknown(each, schema["items"], f"{where}[]")
    elif isinstance(value, dict) and "properties" in schema:
        yield from (f"{where}.{key}" for key in value.keys() - schema["properties"].keys())
        for key in value.keys() & schema["properties"].keys():
            yield from unknown(value[key], schema["properties"][key], f"{where}.{key}")
    elif isinstance(value, dict) and "additionalProperties" not in schema and where != "it.metadata":
        yield where


@pytest.mark.parametrize("values", FILES)
def test_what_we_write_fits_into_them(values: str) -> None:
    known = schemas()
    assert list(unknown(runtime_of(values), known["ServingRuntime"], "it")) == []
    for sets in ((), (KEDA,), (HPA,)):
        assert list(unknown(service_of(values, *sets), known["InferenceService"], "it")) == []
