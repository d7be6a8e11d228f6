"""Backups of the databases: the program that keeps them, and the Jobs of the chart."""

import contextlib
import io
import os
import runpy
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pg8000.dbapi
import pytest

from infra.machine.servers import installation as servers
from tests.charts.rendering import CHART, Object, component, of_kind, outside_ports, pods, render
from tests.s3_server import S3Server, serving
from tests.servers import Database, PostgresServer

FILES = CHART / "files" / "backup"
KEY, OTHER_KEY = bytes(range(32)), bytes(32)
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
# More than two chunks of an encrypted file.
LONG = os.urandom((2 << 20) + 17)
NAMES = {"gateway", "session", "generator", "feedback", "review"}


@pytest.fixture(scope="module")
def keep() -> Any:
    """Return the names of the program by attribute."""
    return type("keep", (), runpy.run_path(str(FILES / "keep.py")))


@pytest.fixture
def dumps(tmp_path: Path) -> Path:
    folder = tmp_path / "dumps"
    folder.mkdir()
    (folder / "session.dump").write_bytes(LONG)
    (folder / "review.dump").write_bytes(b"")
    return folder


@pytest.fixture(params=["folder", "bucket", "role"])
def place(
    request: pytest.FixtureRequest, keep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """Yield a folder or a bucket for backups."""
    if request.param == "folder":
        yield keep.Folder(tmp_path / "backups")
        return
    server = S3Server()
    server.buckets["backups"] = {}
    settings = {
        "BUCKET": "backups",
        "SECURE": "false",
        "REGION": "us-east-1",
        "ACCESS_KEY": "reader",
        "SECRET_KEY": "secret",
    }
    if request.param == "role":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", settings.pop("ACCESS_KEY"))
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", settings.pop("SECRET_KEY"))
    with serving(server) as port:
        for name, value in {**settings, "ENDPOINT": f"127.0.0.1:{port}"}.items():
            monkeypatch.setenv(f"TW_BACKUP_S3_{name}", value)
        yield keep.Bucket("chat/production")


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("key", [KEY, None], ids=["encrypted", "plain"])
def test_fetched_dumps_equal_the_saved_ones(
    keep: Any, place: Any, dumps: Path, tmp_path: Path, key: bytes | None
) -> None:
    name = keep.save(place, dumps, key, 3, NOON)
    assert name == "20261130T120000Z"
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    assert keep.fetch(place, "latest", fetched, key) == name
    assert content(fetched) == content(dumps)
    with place.open(f"{name}/session.dump{'.sealed' if key else ''}") as file:
        assert (LONG[:64] in file.read()) is (key is None)


def test_the_newest_complete_backups_are_kept(keep: Any, place: Any, dumps: Path) -> None:
    place.put("20261101T000000Z/session.dump", io.BytesIO(b"incomplete"))
    place.put("notes/read-me.txt", io.BytesIO(b"of another owner"))
    days = [NOON + timedelta(days=day) for day in range(4)]
    names = [keep.save(place, dumps, None, 2, day) for day in days]
    assert {name.split("/")[0] for name in place.names()} == {*names[-2:], "notes"}


def test_backups_of_a_prefix_below_are_neither_counted_nor_restored_nor_removed(
    keep: Any, place: Any, dumps: Path, tmp_path: Path
) -> None:
    # As of releases in other namespaces, beside one with the prefix of all of them.
    below = ["chat/tw/20261101T000000Z/manifest.json", "notes/manifest.json"]
    for name in below:
        place.put(name, io.BytesIO(b"{}"))
    name = keep.save(place, dumps, None, 1, NOON)
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    assert keep.fetch(place, "latest", fetched, None) == name
    assert below[1] in place.names()


@pytest.mark.parametrize(
    ("release", "namespace", "prefix"),
    [("tw", "chat", "backups/chat/tw"), ("two", "chat", "backups/chat/two")],
)
def test_releases_in_one_bucket_have_prefixes_of_their_own(
    release: str, namespace: str, prefix: str
) -> None:
    objects = render(
        "existing-values.yaml", "backup.enabled=true", release=release, namespace=namespace
    )
    (save,) = pods(objects)["backup/CronJob"]["spec"]["containers"]
    assert save["args"][-2:] == ["--prefix", prefix]


def changed_file(place: Any, name: str, change: Any) -> None:
    with place.open(name) as file:
        before = file.read()
    place.put(name, io.BytesIO(change(before)))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda data: data, OTHER_KEY),
        (lambda data: data, None),
        (lambda data: data[:-1], KEY),
        # Without its last chunk every other chunk is intact.
        (lambda data: data[: 52 + (1 << 20) + 16], KEY),
        (lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:], KEY),
        (lambda data: b"no backup", KEY),
    ],
    ids=["another key", "no key", "cut off", "without the last chunk", "changed", "replaced"],
)
def test_a_changed_file_or_another_key_is_refused(
    keep: Any, dumps: Path, tmp_path: Path, change: Any, key: bytes | None
) -> None:
    place = keep.Folder(tmp_path / "backups")
    name = keep.save(place, dumps, KEY, 1, NOON)
    changed_file(place, f"{name}/session.dump.sealed", change)
    with pytest.raises(keep.BackupError):
        keep.fetch(place, name, dumps, key)


def test_an_encrypted_file_without_its_last_chunk_does_not_open(keep: Any) -> None:
    whole = b"".join(keep.sealed(keep.chunks_of(io.BytesIO(LONG)), KEY))
    assert b"".join(keep.opened(io.BytesIO(whole), KEY, "x")) == LONG
    first = whole[: 52 + (1 << 20) + 16]
    with pytest.raises(keep.BackupError):
        list(keep.opened(io.BytesIO(first), KEY, "x"))


def test_a_changed_plain_file_differs_from_the_manifest(
    keep: Any, dumps: Path, tmp_path: Path
) -> None:
    place = keep.Folder(tmp_path / "backups")
    name = keep.save(place, dumps, None, 1, NOON)
    changed_file(place, f"{name}/session.dump", lambda data: data[::-1])
    with pytest.raises(keep.BackupError, match="manifest"):
        keep.fetch(place, name, dumps, None)


def test_missing_backups_dumps_and_wrong_keys_are_refused(keep: Any, tmp_path: Path) -> None:
    place = keep.Folder(tmp_path / "backups")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(keep.BackupError, match="dumps"):
        keep.save(place, empty, None, 1, NOON)
    place.put("20261130T120000Z/session.dump", io.BytesIO(b"incomplete"))
    for name in ("latest", "20261130T120000Z"):
        with pytest.raises(keep.BackupError, match=name):
            keep.fetch(place, name, empty, None)
    for text in ("abc", "x" * 64, "ab" * 16):
        with pytest.raises(keep.BackupError, match="backup-key"):
            keep.key_of(text)
    assert keep.key_of("ab" * 32) == b"\xab" * 32


def run_dump(
    folder: Path,
    url: str,
    *words: str,
    variables: Mapping[str, object] | None = None,
    services: Sequence[str] = ("SESSION",),
) -> subprocess.CompletedProcess[str]:
    """Run dump.sh with /dumps at `folder`, and the client programs of the project's servers.

    Args:
        variables: parts of the database by name, instead of its URL.
        services: services that use the database.
    """
    given = {
        f"TW_{service}_DATABASE_{name}": str(value)
        for service in services
        for name, value in (variables or {"URL": url}).items()
    }
    return run_script(folder, *words, environment=given)


def run_script(
    folder: Path, *words: str, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run dump.sh with these variables."""
    script = (FILES / "dump.sh").read_text().replace("/dumps/", f"{folder}/")
    binaries = servers.locate().postgres
    bash = shutil.which("bash")
    assert bash
    return subprocess.run(
        [bash, "-c", script, "dump.sh", *words],
        env={"PATH": f"{binaries}:{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def rows(database: Database, statement: str) -> list[Any]:
    """Execute a statement; return its rows, if it has any."""
    connection = pg8000.dbapi.connect(
        database.user,
        host=database.host,
        port=database.port,
        password=database.password,
        database=database.name,
    )
    with contextlib.closing(connection):
        cursor = connection.cursor()
        cursor.execute(statement)
        found = list(cursor.fetchall()) if cursor.description else []
        connection.commit()
        return found


@pytest.mark.parametrize("driver", ["postgresql+asyncpg", "postgresql+pg8000"])
def test_a_dump_of_a_real_database_is_restored_into_an_empty_one_only(
    postgres: PostgresServer, tmp_path: Path, driver: str
) -> None:
    source, target = postgres.database(), postgres.database()
    rows(source, "CREATE TABLE kept (text varchar)")
    rows(source, "INSERT INTO kept VALUES ('a')")
    done = run_dump(tmp_path, f"{source.url(driver)}?ssl=prefer", "dump")
    assert done.returncode == 0, done.stderr
    url = target.url(driver)
    assert run_dump(tmp_path, url, "load").returncode == 0
    assert rows(target, "SELECT text FROM kept") == [["a"]]
    rows(target, "INSERT INTO kept VALUES ('b')")
    assert run_dump(tmp_path, url, "load").returncode != 0, "the table exists"
    assert len(rows(target, "SELECT text FROM kept")) == 2
    replaced = run_dump(tmp_path, url, "load", "--clean", "--if-exists")
    assert replaced.returncode == 0, replaced.stderr
    assert rows(target, "SELECT text FROM kept") == [["a"]]


def parts_of(database: Database) -> dict[str, object]:
    return {
        "HOST": database.host,
        "PORT": database.port,
        "NAME": database.name,
        "USERNAME": database.user,
        "PASSWORD": database.password,
        "SSL_MODE": "prefer",
    }


def test_a_database_given_by_its_parts_is_dumped_and_restored(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    source, target = postgres.database(), postgres.database()
    rows(source, "CREATE TABLE kept (text varchar)")
    for database, word in ((source, "dump"), (target, "load")):
        done = run_dump(tmp_path, "", word, variables=parts_of(database))
        assert done.returncode == 0, done.stderr
    assert rows(target, "SELECT text FROM kept") == []


@pytest.mark.parametrize("by_parts", [False, True])
def test_a_database_of_several_services_is_dumped_and_restored_once(
    postgres: PostgresServer, tmp_path: Path, by_parts: bool
) -> None:
    source, target = postgres.database(), postgres.database()
    rows(source, "CREATE TABLE kept (text varchar)")
    rows(source, "INSERT INTO kept VALUES ('a')")
    for database, word in ((source, "dump"), (target, "load")):
        url = database.url("postgresql+pg8000")
        variables = parts_of(database) if by_parts else None
        services = ("SESSION", "FEEDBACK", "GATEWAY")
        done = run_dump(tmp_path, url, word, variables=variables, services=services)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[0] == f"{word}: feedback"
    assert [file.name for file in tmp_path.iterdir()] == ["feedback.dump"]
    assert rows(target, "SELECT text FROM kept") == [["a"]]


def test_one_database_by_urls_of_two_roles_and_by_parts_is_one_dump(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    database = postgres.database()
    url = database.url("postgresql")
    variables = {
        "TW_A_DATABASE_URL": f"{url}?ssl=prefer",
        "TW_B_DATABASE_URL": url.replace(f"//{database.user}", "//other"),
        **{f"TW_C_DATABASE_{name}": str(value) for name, value in parts_of(database).items()},
    }
    done = run_script(tmp_path, "dump", environment=variables)
    assert done.returncode == 0, done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["a.dump"]


def test_a_database_of_its_own_for_each_service_is_restored_with_its_own_rows(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    sources = {name: postgres.database() for name in sorted(NAMES)}
    targets = {name: postgres.database() for name in sorted(NAMES)}
    for name, database in sources.items():
        rows(database, "CREATE TABLE kept (text varchar)")
        rows(database, f"INSERT INTO kept VALUES ('{name}')")
    for databases, word in ((sources, "dump"), (targets, "load")):
        variables = {
            f"TW_{name.upper()}_DATABASE_URL": database.url("postgresql+asyncpg")
            for name, database in databases.items()
        }
        done = run_script(tmp_path, word, environment=variables)
        assert done.returncode == 0, done.stderr
    assert {
        name: rows(database, "SELECT text FROM kept") for name, database in targets.items()
    } == {name: [[name]] for name in NAMES}


def test_a_dump_without_any_database_fails(tmp_path: Path) -> None:
    done = run_dump(tmp_path, "", "dump", variables={"OTHER": ""})
    assert done.returncode == 2


def policy(objects: Sequence[Object], name: str) -> Any:
    (found,) = [item for item in of_kind(objects, "NetworkPolicy") if component(item) == name]
    return found["spec"]


def secrets_of(container: Any) -> set[tuple[str, str]]:
    return {
        (reference["name"], reference["key"])
        for item in container.get("env", ())
        if (reference := item.get("valueFrom", {}).get("secretKeyRef"))
    }


def test_no_backup_by_default() -> None:
    objects = render("existing-values.yaml")
    assert not [name for name in pods(objects) if name.startswith("backup/")]


def test_the_job_dumps_every_database_and_holds_no_key_of_user_data() -> None:
    objects = render("everything-values.yaml")
    spec = pods(objects)["backup/CronJob"]["spec"]
    (dump,), (save,) = spec["initContainers"], spec["containers"]
    assert {item["name"] for item in dump["env"]} == {
        f"TW_{name.upper()}_DATABASE_URL" for name in NAMES
    }
    assert secrets_of(dump) == {("databases", name) for name in NAMES}
    assert secrets_of(save) == {
        ("backups", "access-key"),
        ("backups", "secret-key"),
        ("backup-key", "backup-key"),
    }
    assert dump["image"] == "registry.example/thumbwheel/thumbwheel-stores:0.1.0"
    assert not [item for item in spec["volumes"] if "secret" in item]
    settings = {item["name"]: item.get("value") for item in save["env"]}
    assert settings["TW_BACKUP_S3_ENDPOINT"] == "s3.other.example"
    assert settings["TW_BACKUP_S3_BUCKET"] == "backups"
    assert save["args"][1:] == ["save", "--keep", "14", "--prefix", "chat"]


def test_without_a_bucket_of_its_own_a_backup_goes_to_that_of_the_object_store() -> None:
    objects = render(
        "existing-values.yaml",
        "backup.enabled=true",
        "backup.image=registry.example/postgres:18",
        "backup.schedule=0 * * * *",
        "backup.keep=48",
    )
    (job,) = [item for item in of_kind(objects, "CronJob") if component(item) == "backup"]
    assert (job["spec"]["schedule"], job["spec"]["concurrencyPolicy"]) == ("0 * * * *", "Forbid")
    spec = pods(objects)["backup/CronJob"]["spec"]
    (dump,), (save,) = spec["initContainers"], spec["containers"]
    assert dump["image"] == "registry.example/postgres:18"
    assert secrets_of(save) == {("bucket", "access-key"), ("bucket", "secret-key")}
    settings = {item["name"]: item.get("value") for item in save["env"]}
    assert settings["TW_BACKUP_S3_ENDPOINT"] == "s3.stores:8333"
    assert save["args"][1:] == ["save", "--keep", "48", "--prefix", "backups/chat/tw"]
    assert outside_ports(policy(objects, "backup")) == {5432, 8333}


def test_backups_use_the_credentials_and_the_names_of_keys_of_the_object_store() -> None:
    named = ("objectStore.keys.accessKey=user", "objectStore.keys.secretKey=password")
    spec = pods(render("existing-values.yaml", "backup.enabled=true", *named))["backup/CronJob"]
    (save,) = spec["spec"]["containers"]
    assert secrets_of(save) == {("bucket", "user"), ("bucket", "password")}
    role = ("objectStore.credentials=chain", "objectStore.existingSecret=")
    objects = render("existing-values.yaml", "backup.enabled=true", *role)
    (save,) = pods(objects)["backup/CronJob"]["spec"]["containers"]
    assert secrets_of(save) == set()
    assert outside_ports(policy(objects, "backup")) == {5432, 8333, 443}


def test_databases_by_parts_reach_the_job() -> None:
    parts = ("database.host=postgres.stores", "database.name=chat")
    spec = pods(render("existing-values.yaml", "backup.enabled=true", *parts))["backup/CronJob"]
    (dump,) = spec["spec"]["initContainers"]
    names = {item["name"] for item in dump["env"]} - {"PGSSLROOTCERT"}
    expected = {
        f"TW_{name.upper()}_DATABASE_{part}"
        for name in NAMES
        for part in ("HOST", "PORT", "NAME", "USERNAME", "PASSWORD")
    }
    assert expected <= names
    assert secrets_of(dump) == {("databases", "username"), ("databases", "password")}


def test_a_restore_to_and_from_a_claim_reaches_the_databases_only() -> None:
    objects = render(
        "evaluation-values.yaml",
        "backup.claim.existingClaim=backups",
        "backup.restore.from=20261130T120000Z",
        "backup.restore.replace=true",
        "serviceDefaults.replicas=0",
    )
    assert "backup/CronJob" not in pods(objects)
    spec = pods(objects)["backup/Job"]["spec"]
    (fetch,), (load,) = spec["initContainers"], spec["containers"]
    assert fetch["args"][1:] == ["fetch", "20261130T120000Z", "--into", "/backups"]
    assert load["args"][1:] == ["dump.sh", "load", "--clean", "--if-exists"]
    mounted = {item["name"]: item.get("readOnly", False) for item in fetch["volumeMounts"]}
    assert mounted == {"tmp": False, "dumps": False, "backups": True}
    names = [item["name"] for item in load["env"]]
    assert len(names) == len(set(names)), "the API server refuses a second variable of a name"
    (rule,) = policy(objects, "backup")["egress"]
    assert rule["to"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "postgres"
    for store, admitted in (("postgres", True), ("s3", False)):
        peers = [
            peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
            for rule in policy(objects, store)["ingress"]
            for peer in rule["from"]
        ]
        assert ("backup" in peers) is admitted
