"""One version as a KServe InferenceService: what is written, and what its status means. Pure.

The chart's ConfigMap says what the object looks like; here it gets its version, its folder, its
name and its owner. Whether a version is served the status does not say: KServe calls it not ready
while its pods are replaced one by one.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from services.generator.kubernetes_api import Json

TEMPLATE_KEY = "inference-service.json"
VERSION, FOLDER, TEMPLATE = "thumbwheel/version", "thumbwheel/folder", "thumbwheel/template"
IDENTITY = frozenset(f"app.kubernetes.io/{word}" for word in ("name", "instance", "component"))
INSTANCE = "app.kubernetes.io/instance"
PREFIX_CHARACTERS, SLUG_CHARACTERS, DIGEST_CHARACTERS = 20, 12, 8
# Of a predictor that may still become available: how each begins, and how long a Deployment waits,
# which is not how long we do.
_PATIENT = frozenset({"", "MinimumReplicasUnavailable", "ProgressDeadlineExceeded", "Stopped"})
_BLOCKED = frozenset({"BlockedByFailedLoad", "InvalidSpec"})
_MOST_CHARACTERS = 300


class NotATemplateError(Exception):
    """The ConfigMap holds no InferenceService."""


@dataclass(frozen=True)
class Template:
    """What the chart says of every InferenceService of a release; its ConfigMap owns them, so that
    they go with the release.
    """

    manifest: Json
    owner: Json
    digest: str

    @property
    def identity(self) -> dict[str, str]:
        """The labels by which ours are known: others may change with the chart's values, and what
        stands is ours still.
        """
        labels = self.manifest["metadata"]["labels"]
        return {key: value for key, value in labels.items() if key in IDENTITY}

    @property
    def api_version(self) -> str:
        return str(self.manifest["apiVersion"])


@dataclass(frozen=True)
class Observed:
    """What an InferenceService is, and what KServe says of it.

    `url` is where it would answer, by the host of the status; empty before there is one. `failure`
    says why it does not load; `waits_for` what is missing, and `lacks` names it: the first
    condition that is not met, "conditions" before there are any, or "answer".
    """

    version: str
    folder: str
    name: str
    uid: str
    template: str
    going: bool
    url: str
    failure: str
    lacks: str
    waits_for: str


def read_template(config_map: Json) -> Template:
    """Raises: NotATemplateError."""
    try:
        text, metadata = config_map["data"][TEMPLATE_KEY], config_map["metadata"]
        manifest = json.loads(text)
        owner = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": metadata["name"],
            "uid": metadata["uid"],
        }
        about = manifest["metadata"]
        # Without the release every InferenceService of the namespace would be ours.
        if (
            manifest["kind"] != "InferenceService"
            or not about["labels"][INSTANCE]
            or not about["generateName"]
        ):
            raise NotATemplateError
    except (KeyError, TypeError, ValueError) as error:
        raise NotATemplateError from error
    return Template(manifest, owner, _digest(text))


def object_name(template: Template, version: str) -> str:
    """A DNS-1035 label that people recognise and that no other version or release has.

    KServe makes `isvc.NAME-predictor` of it, a label's value: 63 characters at most.
    """
    prefix = template.manifest["metadata"]["generateName"][:PREFIX_CHARACTERS].strip("-")
    slug = re.sub(r"[^a-z0-9]+", "-", version.lower())[:SLUG_CHARACTERS].strip("-")
    return f"{prefix}-{slug}-{_digest(template.owner['name'], version)}"


def inference_service(template: Template, version: str, folder: str) -> Json:
    """The object to apply."""
    manifest: Json = _filled(template.manifest, {"$(version)": version, "$(folder)": folder})
    metadata = {key: value for key, value in manifest["metadata"].items() if key != "generateName"}
    annotations = {VERSION: version, FOLDER: folder, TEMPLATE: template.digest}
    metadata["name"] = object_name(template, version)
    metadata["annotations"] = metadata.get("annotations", {}) | annotations
    metadata["ownerReferences"] = [template.owner]
    return manifest | {"metadata": metadata}


def is_ours(template: Template, found: Json) -> bool:
    """Whether this release made it."""
    labels = found["metadata"].get("labels", {})
    return template.identity.items() <= labels.items() and VERSION in found["metadata"].get(
        "annotations", {}
    )


def observe(found: Json, port: int) -> Observed:
    """`port` is the model server's; 0: the one of the status."""
    metadata, status = found["metadata"], found.get("status", {})
    annotations = metadata["annotations"]
    conditions = {each["type"]: each for each in status.get("conditions", ())}
    lacks, waits_for = _waits_for(conditions)
    return Observed(
        version=annotations[VERSION],
        folder=annotations.get(FOLDER, ""),
        name=metadata["name"],
        uid=metadata["uid"],
        template=annotations.get(TEMPLATE, ""),
        going="deletionTimestamp" in metadata,
        url=_url(status, port),
        failure=_failure(status, conditions),
        lacks=lacks,
        waits_for=waits_for,
    )


def _url(status: Json, port: int) -> str:
    """Always http: KServe's scheme is that of its way in from outside, which we never take."""
    parts = urlsplit(status.get("address", {}).get("url", ""))
    if not parts.hostname:
        return ""
    chosen = port or parts.port
    return f"http://{parts.hostname}:{chosen}" if chosen else f"http://{parts.hostname}"


def _failure(status: Json, conditions: dict[str, Json]) -> str:
    model = status.get("modelStatus", {})
    if model.get("transitionStatus") in _BLOCKED:
        told = model.get("lastFailureInfo", {})
        # The last words of a log are what it ended with.
        message = str(told.get("message", "")).strip()[-_MOST_CHARACTERS:]
        return _joined(str(told.get("reason", model["transitionStatus"])), message)
    predictor = conditions.get("PredictorReady", {})
    if predictor.get("status") == "False" and predictor.get("reason", "") not in _PATIENT:
        return _joined(predictor["reason"], predictor.get("message", "")[:_MOST_CHARACTERS])
    return ""


def _waits_for(conditions: dict[str, Json]) -> tuple[str, str]:
    """What is missing: its name, and in words."""
    if not conditions:
        return "conditions", "KServe has said nothing about it: does its controller run?"
    for kind, condition in sorted(conditions.items(), key=lambda each: each[0] == "Ready"):
        if condition.get("status") != "True":
            said = _joined(
                condition.get("reason", ""), condition.get("message", "")[:_MOST_CHARACTERS]
            )
            return kind, _joined(f"{kind} is {condition.get('status')}", said)
    return "answer", "it is ready, but does not answer for this version"


def _joined(*parts: str) -> str:
    return ": ".join(part for part in parts if part)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:DIGEST_CHARACTERS]


def _filled(value: Any, words: dict[str, str]) -> Any:
    """The same with the words put in, wherever they stand."""
    if isinstance(value, dict):
        return {key: _filled(inner, words) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, words) for inner in value]
    if isinstance(value, str):
        for word, meant in words.items():
            value = value.replace(word, meant)
    return value
