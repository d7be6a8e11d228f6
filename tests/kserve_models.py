"""Comparison of objects with the models of KServe's own client, field by field.

Unknown fields and values of another type are errors. KServe's own deserialiser is unsuitable, since
it drops unknown fields and lacks the types of Kubernetes.
"""

import re
from typing import Any

import kserve
import kserve.models
import kubernetes.client
from kserve.models.knative_addressable import KnativeAddressable
from kserve.models.knative_condition import KnativeCondition

LIST, MAP = re.compile(r"[lL]ist\[(.*)\]"), re.compile(r"[dD]ict[(\[]str, (.*)[)\]]")
# Types of the models that are plain values in JSON.
PLAIN: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "object": (object,),
    "IntOrString": (int, str),
    "ResourceQuantity": (int, str),
    "V1beta1MetricQuantity": (int, str),
    "KnativeURL": (str,),
    "KnativeVolatileTime": (str,),
    "V1Time": (str,),
    "datetime": (str,),
}
# Models that KServe does not export with the others.
KNATIVE = {model.__name__: model for model in (KnativeAddressable, KnativeCondition)}
# Typed as strings by the client of Kubernetes.
QUANTITIES = "dict(str, ResourceQuantity)"
LOOSE = {"V1ResourceRequirements.limits", "V1ResourceRequirements.requests"}


class NotOfKServeError(AssertionError):
    """A key or a value does not match the model."""


def round_trip(found: Any, model: str) -> Any:
    """Return the object after conversion by KServe's model, as its client would send it."""
    return kserve.ApiClient().sanitize_for_serialization(_read(found, model, model))


def model_of(kind: str) -> Any:
    """Return the class of KServe or of Kubernetes."""
    return (
        KNATIVE.get(kind) or getattr(kserve.models, kind, None) or getattr(kubernetes.client, kind)
    )


def _read(value: Any, kind: str, where: str) -> Any:
    if inner := LIST.fullmatch(kind):
        return [
            _read(item, inner[1], f"{where}[{number}]")
            for number, item in enumerate(_checked(list, value, where))
        ]
    if inner := MAP.fullmatch(kind):
        return {
            key: _read(item, inner[1], f"{where}.{key}")
            for key, item in _checked(dict, value, where).items()
        }
    if kind in PLAIN:
        if (kind == "int" and isinstance(value, bool)) or not isinstance(value, PLAIN[kind]):
            raise NotOfKServeError(f"{where} is {value!r}, and not {kind}")
        return value
    model = model_of(kind)
    names = {model.attribute_map[attribute]: attribute for attribute in model.openapi_types}
    read = {}
    for key, inner_value in _checked(dict, value, where).items():
        if key not in names:
            raise NotOfKServeError(f"{where}.{key}: {kind} has no such field")
        attribute = names[key]
        inner_kind = (
            QUANTITIES if f"{kind}.{attribute}" in LOOSE else model.openapi_types[attribute]
        )
        read[attribute] = _read(inner_value, inner_kind, f"{where}.{key}")
    # The constructor refuses a missing required field.
    return value if model.__module__.startswith("kubernetes.") else model(**read)


def _checked(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, kind):
        raise NotOfKServeError(f"{where} is {value!r}, and not {kind.__name__}")
    return value
