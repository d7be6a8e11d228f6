"""One version as a KServe InferenceService: the manifest to apply, and the meaning of its status.

Pure functions. The chart's ConfigMap holds the template of the object; version, folder, name and
owner are filled in here. The status does not show whether a version is served, since KServe reports
"not ready" while pods are replaced one by one.
"""

import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from services.chassis.errors import FailedPreconditionError
from services.generator.kubernetes.api import Json

TEMPLATE_KEY, CANDIDATE_KEY = "inference-service.json", "candidate.json"
VERSION, FOLDER, TEMPLATE = "thumbwheel/version", "thumbwheel/folder", "thumbwheel/template"
IDENTITY = frozenset(f"app.kubernetes.io/{key}" for key in ("name", "instance", "component"))
INSTANCE = "app.kubernetes.io/instance"
PREFIX_CHARACTERS, SLUG_CHARACTERS, DIGEST_CHARACTERS = 20, 12, 8
# Reasons of a predictor that may still become available. A Deployment's progress deadline is not
# the generator's load timeout.
_TRANSIENT_REASONS = frozenset(
    {"", "MinimumReplicasUnavailable", "ProgressDeadlineExceeded", "Stopped"}
)
_FAILED_TRANSITIONS = frozenset({"BlockedByFailedLoad", "InvalidSpec"})
MAX_MESSAGE_CHARACTERS = 300


class InvalidTemplateError(Exception):
    """The ConfigMap holds no InferenceService."""


@dataclass(frozen=True)
class Template:
    """Template of all InferenceServices of a release.

    The ConfigMap that holds the template owns the objects, so deletion of the release deletes them
    too. `candidate` is the template of candidates with a small share of the users, if it differs.
    """

    manifest: Json
    owner: Json
    digest: str
    candidate: "Template | None" = None

    def sized(self, is_small: bool) -> "Template":
        """Return the template of small candidates, or that of all other versions."""
        return self.candidate if is_small and self.candidate else self

    @property
    def identity(self) -> dict[str, str]:
        """Return the labels that identify objects of this release.

        Other labels may change with the chart's values, and older objects must still be recognised.
        """
        labels = self.manifest["metadata"]["labels"]
        return {key: value for key, value in labels.items() if key in IDENTITY}


@dataclass(frozen=True)
class Observed:
    """An InferenceService with its status.

    Args:
        version: version that the object serves.
        folder: model folder relative to the models' claim.
        name: name of the object.
        uid: identity of the object in the API.
        template: digest of the template that the object was made from.
        deleting: True after a deletion request.
        url: address from the host of the status; empty before KServe sets an address.
        failure: reason for a failed load; empty without a failure.
        unmet_condition: first unmet condition; "conditions" before there are any, "answer" if all
            are met.
        waiting_reason: description of the unmet condition.
    """

    version: str
    folder: str
    name: str
    uid: str
    template: str
    deleting: bool
    url: str
    failure: str
    unmet_condition: str
    waiting_reason: str


def read_template(config_map: Json) -> Template:
    """Read the template from the chart's ConfigMap.

    Raises:
        InvalidTemplateError: a key is missing, or the content is no InferenceService.
    """
    try:
        data, metadata = config_map["data"], config_map["metadata"]
        owner = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": metadata["name"],
            "uid": metadata["uid"],
        }
        candidate = _parse(data[CANDIDATE_KEY], owner) if CANDIDATE_KEY in data else None
        return replace(_parse(data[TEMPLATE_KEY], owner), candidate=candidate)
    except (KeyError, TypeError) as error:
        raise InvalidTemplateError from error


def _parse(text: str, owner: Json) -> Template:
    try:
        manifest = json.loads(text)
        template_metadata = manifest["metadata"]
        # Without the instance label every InferenceService of the namespace would count as owned.
        if (
            manifest["kind"] != "InferenceService"
            or not template_metadata["labels"][INSTANCE]
            or not template_metadata["generateName"]
        ):
            raise InvalidTemplateError
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidTemplateError from error
    return Template(manifest, owner, _digest(text))


def object_name(template: Template, version: str) -> str:
    """Return a readable DNS-1035 label, unique for each version and release.

    KServe derives the label value `isvc.NAME-predictor`, limited to 63 characters.
    """
    prefix = template.manifest["metadata"]["generateName"][:PREFIX_CHARACTERS].strip("-")
    slug = re.sub(r"[^a-z0-9]+", "-", version.lower())[:SLUG_CHARACTERS].strip("-")
    return f"{prefix}-{slug}-{_digest(template.owner['name'], version)}"


def inference_service(template: Template, version: str, folder: str) -> Json:
    """Return the manifest of the object for a version."""
    name = object_name(template, version)
    values = {"$(version)": version, "$(folder)": folder, "$(name)": name}
    manifest: Json = _substitute(template.manifest, values)
    metadata = {key: value for key, value in manifest["metadata"].items() if key != "generateName"}
    annotations = {VERSION: version, FOLDER: folder, TEMPLATE: template.digest}
    metadata["name"] = name
    metadata["annotations"] = metadata.get("annotations", {}) | annotations
    metadata["ownerReferences"] = [template.owner]
    return manifest | {"metadata": metadata}


def model_folder(models_root: Path, directory: str) -> str:
    """Return the model folder of a directory, relative to the models' claim.

    Raises:
        FailedPreconditionError: the directory is not inside of `models_root`.
    """
    try:
        folder = PurePosixPath(directory).relative_to(models_root)
    except ValueError as error:
        raise FailedPreconditionError(
            f"the directory is outside of {models_root}, the models' claim",
            field="directory",
            reason="OUT_OF_RANGE",
            limit=str(models_root),
        ) from error
    if ".." in folder.parts or not folder.parts:
        raise FailedPreconditionError(
            "the directory must be a folder inside the models' claim, without '..'",
            field="directory",
            reason="MALFORMED",
            limit=str(models_root),
        )
    return str(folder)


def is_owned(template: Template, found: Json) -> bool:
    """Return True if this release created the object."""
    labels = found["metadata"].get("labels", {})
    return template.identity.items() <= labels.items() and VERSION in found["metadata"].get(
        "annotations", {}
    )


def observe(found: Json, port: int) -> Observed:
    """Read version and status of an object.

    Args:
        found: the object as returned by the API.
        port: port of the model server; 0 takes the port of the status.
    """
    metadata, status = found["metadata"], found.get("status", {})
    annotations = metadata["annotations"]
    conditions = {item["type"]: item for item in status.get("conditions", ())}
    unmet_condition, waiting_reason = _unmet_condition(conditions)
    # The scheme is always http. KServe's scheme is that of the external ingress, which is not used
    # here.
    parts = urlsplit(status.get("address", {}).get("url", ""))
    chosen = port or parts.port
    address = f"{parts.hostname}:{chosen}" if chosen else parts.hostname
    return Observed(
        version=annotations[VERSION],
        folder=annotations.get(FOLDER, ""),
        name=metadata["name"],
        uid=metadata["uid"],
        template=annotations.get(TEMPLATE, ""),
        deleting="deletionTimestamp" in metadata,
        url=f"http://{address}" if parts.hostname else "",
        failure=_failure(status, conditions),
        unmet_condition=unmet_condition,
        waiting_reason=waiting_reason,
    )


def _failure(status: Json, conditions: dict[str, Json]) -> str:
    model = status.get("modelStatus", {})
    if model.get("transitionStatus") in _FAILED_TRANSITIONS:
        failure_info = model.get("lastFailureInfo", {})
        # The end of a log holds the error.
        message = str(failure_info.get("message", "")).strip()[-MAX_MESSAGE_CHARACTERS:]
        return _join(str(failure_info.get("reason", model["transitionStatus"])), message)
    predictor = conditions.get("PredictorReady", {})
    if predictor.get("status") == "False" and predictor.get("reason", "") not in _TRANSIENT_REASONS:
        return _join(predictor["reason"], predictor.get("message", "")[:MAX_MESSAGE_CHARACTERS])
    return ""


def _unmet_condition(conditions: dict[str, Json]) -> tuple[str, str]:
    """Return name and description of the first unmet condition."""
    if not conditions:
        return "conditions", "KServe has set no conditions; check that its controller runs"
    for kind, condition in sorted(conditions.items(), key=lambda item: item[0] == "Ready"):
        if condition.get("status") != "True":
            details = _join(
                condition.get("reason", ""), condition.get("message", "")[:MAX_MESSAGE_CHARACTERS]
            )
            return kind, _join(f"{kind} is {condition.get('status')}", details)
    return "answer", "the object is ready, but its server does not list this version"


def _join(*parts: str) -> str:
    return ": ".join(part for part in parts if part)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:DIGEST_CHARACTERS]


def _substitute(value: Any, values: dict[str, str]) -> Any:
    """Replace placeholders in all strings of a JSON value."""
    if isinstance(value, dict):
        return {key: _substitute(inner, values) for key, inner in value.items()}
    if isinstance(value, list):
        return [_substitute(inner, values) for inner in value]
    if isinstance(value, str):
        for placeholder, replacement in values.items():
            value = value.replace(placeholder, replacement)
    return value
