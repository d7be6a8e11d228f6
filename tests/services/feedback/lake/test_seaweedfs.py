"""Object store contract on a real S3 server, and the claims on SeaweedFS in docs/decisions."""

from dataclasses import replace

import pytest

from services.feedback.lake.object_store import ObjectRefusedError
from services.feedback.lake.s3_store import S3Location, S3Store
from tests.servers import S3Server
from tests.services.feedback.lake.object_store_contract import (
    test_a_key_is_kept_as_given,
    test_a_second_put_replaces_the_whole_object,
    test_deletion_is_idempotent,
    test_stored_objects_are_returned_and_listed_by_prefix,
)
from tests.support.errors import refused

__all__ = [
    "test_a_key_is_kept_as_given",
    "test_a_second_put_replaces_the_whole_object",
    "test_deletion_is_idempotent",
    "test_stored_objects_are_returned_and_listed_by_prefix",
]


@pytest.fixture
def place(s3: S3Server) -> S3Location:
    bucket = s3.bucket()
    return S3Location(
        bucket.endpoint,
        bucket.name,
        "us-east-1",
        False,
        bucket.access_key,
        bucket.secret_key,
        3.0,
        20.0,
    )


@pytest.fixture
def store(place: S3Location) -> S3Store:
    return S3Store(place)


def test_the_self_test_passes_and_leaves_no_object(store: S3Store) -> None:
    store.check()
    assert list(store.list("")) == []


@pytest.mark.parametrize(
    ("wrong", "setting"),
    [
        ({"bucket": "nowhere"}, "s3_bucket"),
        ({"access_key": "nobody"}, "s3_access_key"),
        ({"secret_key": "wrong"}, "s3_secret_key"),
    ],
)
def test_the_self_test_names_the_wrong_setting(
    place: S3Location, wrong: dict[str, str], setting: str
) -> None:
    with refused(ObjectRefusedError, field=setting, reason="REFUSED"):
        S3Store(replace(place, **wrong)).check()


def test_a_put_would_create_a_missing_bucket_but_the_check_does_not(place: S3Location) -> None:
    missing = S3Store(replace(place, bucket=f"{place.bucket}-missing"))
    with pytest.raises(ObjectRefusedError):
        missing.check()
    assert missing.make_bucket(), "the self-test has not made it"
    other = S3Store(replace(place, bucket=f"{place.bucket}-other"))
    other.put("a", b"1")
    assert not other.make_bucket(), "a put has: that is why the self-test lists first"
