"""Objects held against the models of KServe's own client, field by field: what it does not know, or
of another kind, is an error.

Its own deserialiser cannot be asked: it drops what it does not know, and has not the types of
Kubernetes.
"""

import re
from typing import Any

import kserve
import kserve.models
import kubernetes.client
from kserve.models.knative_addressable import KnativeAddressable
from kserve.models.knative_condition import KnativeCondition

LIST, MAP = re.compile(r"[lL]ist\[(.*)\]"), re.compile(r"[dD]ict[(\[]str, (.*)[)\]]")
# What these are in a model is a plain value on the wire.
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
# Not exported with the others.
KNATIVE = {model.__name__: model for model in (KnativeAddressable, KnativeCondition)}
# Which Kubernetes' own client has as strings alone.
QUANTITIES = "dict(str, ResourceQuantity)"
LOOSE = {"V1ResourceRequirements.limits", "V1ResourceRequirements.requests"}


class NotOfKServeError(AssertionError):
    """A key or a value that the model has not."""


def round_trip(found: Any, model: str) -> Any:
    """The object through KServe's model, as its client would send it."""
    return kserve.ApiClient().sanitize_for_serialization(_read(found, model, model))


def model_of(kind: str) -> Any:
    """The class, KServe's or Kubernetes'."""
    return (
        KNATIVE.get(kind) or getattr(kserve.models, kind, None) or getattr(kubernetes.client, kind)
    )


def _read(value: Any, kind: str, where: str) -> Any:
    if inner := LIST.fullmatch(kind):
        return [
            _read(each, inner[1], f"{where}[{number}]")
            for number, each in enumerate(_a(list, value, where))
        ]
    if inner := MAP.fullmatch(kind):
        return {
            key: _read(each, inner[1], f"{where}.{key}")
            for key, each in _a(dict, value, where).items()
        }
    if kind in PLAIN:
        if (kind == "int" and isinstance(value, bool)) or not isinstance(value, PLAIN[kind]):
            raise NotOfKServeError(f"{where} is {value!r}, and not {kind}")
        return value
    model = model_of(kind)
    names = {model.attribute_map[attribute]: attribute for attribute in model.openapi_types}
    read = {}
    for key, inner_value in _a(dict, value, where).items():
        if key not in names:
            raise NotOfKServeError(f"{where}.{key}: {kind} has no such field")
        attribute = names[key]
        inner_kind = (
            QUANTITIES if f"{kind}.{attribute}" in LOOSE else model.openapi_types[attribute]
        )
        read[attribute] = _read(inner_value, inner_kind, f"{where}.{key}")
    # Which refuses what lacks a required field.
    return value if model.__module__.startswith("kubernetes.") else model(**read)


def _a(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, kind):
        raise NotOfKServeError(f"{where} is {value!r}, and not {kind.__name__}")
    return value
