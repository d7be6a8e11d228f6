"""The API server's answers, as a launcher takes them."""

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


def test_what_is_made_is_read_and_selected_and_not_made_twice(api: KubernetesApi) -> None:
    assert api.read(KIND, "turn") is None
    assert api.create(KIND, manifest("turn"))
    assert not api.create(KIND, manifest("turn"))
    found = api.read(KIND, "turn")
    assert found is not None
    assert [each["metadata"]["uid"] for each in api.select(KIND, "a=b")] == [
        found["metadata"]["uid"]
    ]
    assert api.select(KIND, "a=c") == []


def test_only_the_one_that_was_meant_is_deleted_and_one_that_is_gone_is_no_error(
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
def test_a_refusal_says_what_the_server_said_and_whether_it_may_pass(
    api: KubernetesApi, server: ApiServer, status: int, temporary: bool
) -> None:
    server.refusals.append((status, "because of this"))
    with refused(ApiError, reason="REFUSED") as caught:
        api.read(KIND, "turn")
    assert caught.value.temporary is temporary
    for named in ("GET", f"/{KIND.rpartition('/')[0]}/", str(status), "because of this"):
        assert named in str(caught.value)


def test_a_server_that_is_away_may_be_back(tmp_path: Path) -> None:
    with serving(ApiServer(), tmp_path) as place:
        gone = KubernetesTarget(place.url, tmp_path)
    with refused(ApiError, reason="UNREACHABLE") as caught:
        KubernetesApi(gone).read(KIND, "turn")
    assert caught.value.temporary
