"""Responses of the API server, as handled by the launcher's client."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.errors import refused
from tests.training.launching.api_server import ApiServer, serving
from training.launching.kubernetes import ApiError, KubernetesApi, KubernetesTarget

KIND = "apis/ray.io/v1/rayjobs"


@pytest.fixture
def server() -> ApiServer:
    return ApiServer()


@pytest.fixture
def api(server: ApiServer, tmp_path: Path) -> Iterator[KubernetesApi]:
    with serving(server, tmp_path) as place:
        yield KubernetesApi(place)


def manifest(name: str) -> dict[str, object]:
    return {"metadata": {"name": name, "labels": {"a": "b"}}, "spec": {}}


def test_created_object_can_be_read_and_selected_but_not_created_twice(api: KubernetesApi) -> None:
    assert api.read(KIND, "turn") is None
    assert api.create(KIND, manifest("turn"))
    assert not api.create(KIND, manifest("turn"))
    found = api.read(KIND, "turn")
    assert found is not None
    assert [each["metadata"]["uid"] for each in api.select(KIND, "a=b")] == [
        found["metadata"]["uid"]
    ]
    assert api.select(KIND, "a=c") == []


def test_delete_checks_the_uid_and_ignores_missing_objects(
    api: KubernetesApi, server: ApiServer
) -> None:
    api.create(KIND, manifest("turn"))
    api.delete(KIND, "turn", "another-uid")
    assert (KIND, "turn") in server.objects
    api.delete(KIND, "turn", server.objects[KIND, "turn"]["metadata"]["uid"])
    assert server.objects == {}
    api.delete(KIND, "turn", "uid-1")


@pytest.mark.parametrize(
    ("status", "temporary"), [(500, True), (503, True), (429, True), (403, False), (422, False)]
)
def test_error_has_the_server_message_and_whether_it_is_temporary(
    api: KubernetesApi, server: ApiServer, status: int, temporary: bool
) -> None:
    server.refusals.append((status, "because of this"))
    with refused(ApiError, reason="REFUSED") as caught:
        api.read(KIND, "turn")
    assert caught.value.temporary is temporary
    for named in ("GET", f"/{KIND.rpartition('/')[0]}/", str(status), "because of this"):
        assert named in str(caught.value)


def test_unreachable_server_is_a_temporary_error(tmp_path: Path) -> None:
    with serving(ApiServer(), tmp_path) as place:
        gone = KubernetesTarget(place.url, tmp_path)
    with refused(ApiError, reason="UNREACHABLE") as caught:
        KubernetesApi(gone).read(KIND, "turn")
    assert caught.value.temporary
