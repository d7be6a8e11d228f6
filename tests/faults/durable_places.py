"""Places where our processes acknowledge something by a write: one step, and its check.

`python -m tests.faults.durable_places NAME FOLDER` takes one step for each line of stdin and prints
`acknowledged N RECEIPT`, or `refused N CLASS` if the step failed. With `--check` it reads receipts
and checks them, before and after two further steps.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    closing,
    contextmanager,
)
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from sqlalchemy import insert, select

from durable_files.files import make_directory
from services.chassis.audit.acts import Act
from services.chassis.identity import Caller
from services.chassis.identity_keys import create_key_pair, read_public_keys
from services.feedback.lake.object_store import Directory
from services.feedback.principals.consents import Consents
from services.feedback.spool.spool import Spool
from services.feedback.store.database import open_database as open_feedback
from services.gateway.identity.authentication import StoredKey, digest_of, owner_secret
from services.gateway.identity.credential import ALL_SCOPES
from services.gateway.store.database import open_database as open_gateway
from services.gateway.store.keys import SqlKeyStore
from services.generator.rollout.rollout import Deployment, Rollout
from services.generator.rollout.traffic import ALL_TIME, CountKey, CountKind
from services.generator.store.store import RolloutFile
from services.review.store.accounts import SqlAccountStore
from services.review.store.database import open_database as open_review
from services.session.store.database import DatabaseLimits
from services.session.store.schema import open_database as open_session
from services.session.store.tables import outbox
from tests.services.feedback.samples import entry
from training.artifacts.manifest import Manifest, hash_file, verify_manifest, write_manifest
from training.artifacts.registry import Registry, VersionStage
from training.artifacts.scores import ItemScore, ScoreStore, TaskScore
from training.benchmarks.runner import Identity, Journal
from training.corpus.crawl.archive import Archive, read_page
from training.corpus.crawl.fates import Fate
from training.corpus.crawl.frontier import Frontier, Result, Target
from training.data.feedback.events import Erasure
from training.data.feedback.snapshot import SnapshotConfig, open_snapshot, write_snapshot
from training.data.token_shards import ShardConfig, open_shards, write_shards
from training.data_path.removal import By, record, removals
from training.data_path.tables import TableWriter, read_rows
from training.erasure import apply_erasures
from training.model_store.destination import DirectoryDestination
from training.runs import RunRecord, RunResult, Runs, now
from training.runtime.training_state import DirectoryCheckpoints
from training.tokenization.byte_pairs import train_tokenizer

Step = Callable[[int], str | None]
Receipts = Mapping[int, str]
WHEN_US = 7
# A step writes more than this, so that a full disk refuses the first one.
FILL = "x" * 5_000


@dataclass(frozen=True)
class Place:
    """A place that writes.

    Args:
        open: starts the program in a folder and returns the step, which acknowledges by its return.
        check: starts it again and asserts that all receipts hold.
    """

    open: Callable[[Path], AbstractContextManager[Step]]
    check: Callable[[Path, Receipts], None]


PLACES: dict[str, Place] = {}


def simple(
    name: str, step: Callable[[Path, int], str | None], check: Callable[[Path, Receipts], None]
) -> None:
    """Add a place whose program has no open files between two steps."""

    @contextmanager
    def opened(root: Path) -> Iterator[Step]:
        yield lambda number: step(root, number)

    PLACES[name] = Place(opened, check)


def database(
    name: str,
    connect: Callable[[Path], AbstractAsyncContextManager[Any]],
    step: Callable[[Any, int], Awaitable[Any]],
    numbers: Callable[[Any, Receipts], Awaitable[set[int]]],
) -> None:
    """Add a place with an asynchronous database; `numbers` returns those that are stored."""

    @contextmanager
    def opened(root: Path) -> Iterator[Step]:
        with asyncio.Runner() as runner:
            connected = connect(root)
            engine = runner.run(connected.__aenter__())
            try:
                yield lambda number: runner.run(_none(step(engine, number)))
            finally:
                runner.run(connected.__aexit__(None, None, None))

    async def check(root: Path, receipts: Receipts) -> None:
        async with connect(root) as engine:
            assert await numbers(engine, receipts) >= receipts.keys()

    PLACES[name] = Place(opened, lambda root, receipts: asyncio.run(check(root, receipts)))


async def _none(work: Awaitable[Any]) -> None:
    await work


# The write-ahead log of feedback.
@contextmanager
def _spool(root: Path) -> Iterator[Step]:
    spool = Spool(root / "feedback" / "spool", max_bytes=1 << 22, segment_bytes=700)

    def step(number: int) -> None:
        spool.append([entry(f"{number}-{copy}") for copy in range(40)])

    try:
        yield step
    finally:
        spool.close()


def _check_spool(root: Path, receipts: Receipts) -> None:
    spool = Spool(root / "feedback" / "spool", max_bytes=1 << 22, segment_bytes=700)
    try:
        records = spool.read(0, 1 << 20, 1 << 30)
        stored = {found.entry.event_id for found in records}
        for number in receipts:
            assert {entry(f"{number}-{copy}").event_id for copy in range(40)} <= stored
    finally:
        spool.close()


PLACES["write-ahead log of feedback"] = Place(_spool, _check_spool)


# The rollout file with its audit log, and the counts of traffic.
def _rollout_step(root: Path, number: int) -> None:
    async def work() -> None:
        file = RolloutFile(root / "generator" / "rollout.json")
        stored = await file.load()
        rollout = Rollout(stable=Deployment(f"v{number}", FILL))
        assert await file.replace(rollout, stored.serial, Act("promoted", "loop", f"v{number}"))
        await file.add_traffic({CountKey(f"v{number}", ALL_TIME, CountKind.REQUESTS, 0): 1})

    asyncio.run(work())


def _check_rollout(root: Path, receipts: Receipts) -> None:
    async def work() -> None:
        file = RolloutFile(root / "generator" / "rollout.json")
        stable = (await file.load()).rollout.stable
        acts = {found["object"] for found in await file.audit_records(0)}
        versions = {f"v{number}" for number in receipts}
        assert versions <= acts
        counts = await file.read_traffic(tuple(versions), ALL_TIME)
        assert {key.version for key in counts} == versions
        if receipts:
            assert stable is not None
            assert int(stable.version[1:]) >= max(receipts)
            assert stable.version in acts, "an act without its record took effect"

    asyncio.run(work())


simple("rollout file and audit log", _rollout_step, _check_rollout)


# Versions, their history and the records of runs.
def _model(folder: Path, version: str) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "adapter").mkdir(parents=True)
    (folder / "model.safetensors").write_text(version + FILL)
    (folder / "adapter" / "weights").write_text(version)
    write_manifest(folder, kind="model", version=version)
    return folder


def _registry_step(root: Path, number: int) -> None:
    registry, version = Registry(root / "state" / "models"), f"m-{number}"
    registry.admit(_model(root / "stage", version), version)
    registry.note(version, VersionStage.PROMOTED, FILL, version)


def _check_registry(root: Path, receipts: Receipts) -> None:
    registry = Registry(root / "state" / "models")
    promoted = registry.promoted()
    for number in receipts:
        verify_manifest(registry.directory(f"m-{number}"))
    if receipts:
        assert promoted is not None
        assert int(promoted[2:]) >= max(receipts)
    if promoted is not None:
        verify_manifest(registry.directory(promoted))
    registry.next_version("m", ())


simple("registry and history", _registry_step, _check_registry)


def _run_step(root: Path, number: int) -> None:
    runs, version = Runs(root / "loop"), f"m-{number}"
    if version not in runs.names():
        runs.begin(RunRecord(version, FILL, "m-0", "snapshot-1", now()))
    runs.end(version, RunResult("promoted", FILL, now()))


def _check_runs(root: Path, receipts: Receipts) -> None:
    runs = Runs(root / "loop")
    for number in receipts:
        assert runs.record(f"m-{number}").recipe == FILL
        assert runs.result(f"m-{number}") is not None
    runs.records()


simple("records of runs", _run_step, _check_runs)


# Artifacts of training.
def _checkpoint_step(root: Path, number: int) -> None:
    def write(folder: Path) -> None:
        (folder / "tensors").write_text(f"{number}{FILL}")

    DirectoryCheckpoints(root / "scratch").save(number + 1, write)


def _check_checkpoints(root: Path, receipts: Receipts) -> None:
    latest = DirectoryCheckpoints(root / "scratch").latest()
    if receipts:
        assert latest is not None
        assert int(latest.name.removeprefix("step-")) > max(receipts)


simple("checkpoints", _checkpoint_step, _check_checkpoints)


def _tokenizer_step(root: Path, number: int) -> None:
    folder = root / f"tokenizer-{number}"
    train_tokenizer([f"the bird number {n} sings" for n in range(30)], 300, folder)
    write_manifest(folder, kind="tokenizer", version=folder.name)
    texts = root / "texts"
    texts.mkdir(exist_ok=True)
    (texts / "a.jsonl").write_text(
        "".join(json.dumps({"text": f"bird {n} {number}"}) + "\n" for n in range(400))
    )
    write_shards(ShardConfig((texts,), folder, root / f"shards-{number}", 0.2, shard_tokens=2_000))


def _check_tokenizer(root: Path, receipts: Receipts) -> None:
    for number in receipts:
        verify_manifest(root / f"tokenizer-{number}")
        verify_manifest(root / f"shards-{number}")
        open_shards(root / f"shards-{number}", root / f"tokenizer-{number}")


simple("tokenizer and shards", _tokenizer_step, _check_tokenizer)


def _snapshot_step(root: Path, number: int) -> str:
    config = SnapshotConfig(max_per_principal=number + 1)
    return write_snapshot((), (), config, root / "snapshots", FILL, {}).id


def _check_snapshots(root: Path, receipts: Receipts) -> None:
    for name in receipts.values():
        open_snapshot(root / "snapshots" / name)


simple("snapshots", _snapshot_step, _check_snapshots)


def _score_step(root: Path, number: int) -> None:
    score = TaskScore(f"v{number}", "mmlu", "acc", 0.5, 0.1, 1, "0", "0")
    ScoreStore(root).write(score, [ItemScore(FILL, 1.0)])


def _check_scores(root: Path, receipts: Receipts) -> None:
    store = ScoreStore(root)
    for number in receipts:
        assert store.scores(f"v{number}")["mmlu"].value == 0.5
        assert len(store.items(f"v{number}", "mmlu")) == 1


simple("scores", _score_step, _check_scores)


def _journal_step(root: Path, number: int) -> None:
    journal = Journal(root / "work" / "mmlu.journal", Identity(FILL, "0", "0"))
    journal.add({f"{number}": 1.0, FILL: 0.0}, 1.0, 0)


def _check_journal(root: Path, receipts: Receipts) -> None:
    journal = Journal(root / "work" / "mmlu.journal", Identity(FILL, "0", "0"))
    assert journal.values.keys() >= {str(number) for number in receipts}


simple("journal of an evaluation", _journal_step, _check_journal)


def _import_step(root: Path, number: int) -> None:
    destination, version = DirectoryDestination(root / "models"), f"imported-{number}"
    draft = destination.open_draft(version)
    (draft.folder / "model.safetensors").write_text(version + FILL)
    digest = hash_file(draft.folder / "model.safetensors")
    draft.files["model.safetensors"] = {"sha256": digest}
    destination.keep(version, draft, "model.safetensors", is_weights=True)
    manifest = Manifest(
        "model", version, now(), {"model.safetensors": digest}, (), {}, "", {}, None, {}, ""
    )
    destination.finish(version, draft, manifest)


def _check_imports(root: Path, receipts: Receipts) -> None:
    for number in receipts:
        verify_manifest(root / "models" / f"imported-{number}")


simple("imported models", _import_step, _check_imports)


# The data path.
def _removal_step(root: Path, number: int) -> None:
    record(root, By.URL, f"http://h.example/{number}/{FILL}")


def _check_removals(root: Path, receipts: Receipts) -> None:
    values = {removal.value for removal in removals(root)}
    assert values >= {f"http://h.example/{number}/{FILL}" for number in receipts}


simple("takedown records", _removal_step, _check_removals)


def _table_step(root: Path, number: int) -> None:
    with TableWriter(root / f"{number}.parquet", pa.schema([("text", pa.string())])) as table:
        table.add({"text": "".join(map(chr, range(0x4E00, 0x4E00 + 5_000)))})


def _check_tables(root: Path, receipts: Receipts) -> None:
    for number in receipts:
        assert len(list(read_rows(root / f"{number}.parquet"))) == 1


simple("tables of documents", _table_step, _check_tables)


# A crawl: pages in the archive, their results in the database of URLs.
@contextmanager
def _crawl(root: Path) -> Iterator[Step]:
    folder = root / "0001"
    make_directory(folder)
    with closing(Frontier(folder)) as frontier, closing(Archive(folder, 6_000, "test")) as archive:
        archive.resume(*frontier.archive_end)

        def step(number: int) -> None:
            target = Target(f"http://h.example/{number}", 0)
            frontier.admit([(target, None)])
            position = archive.append_page(target.url, "HTTP/1.1 200 OK", (), _body(number), "")
            frontier.finish(target, Result(Fate.STORED, position=position))
            archive.flush()
            frontier.commit(*archive.end)

        yield step


def _body(number: int) -> bytes:
    return random.Random(number).randbytes(len(FILL))  # not compressible, so that files are full


def _check_crawl(root: Path, receipts: Receipts) -> None:
    make_directory(root / "0001")
    with closing(Frontier(root / "0001")) as frontier:
        for number in receipts:
            stored = frontier.earlier(f"http://h.example/{number}")
            assert stored is not None
            assert stored.position is not None
            page = read_page(root / "0001", stored.position)
            assert page is not None
            assert page.body == _body(number)


PLACES["crawls"] = Place(_crawl, _check_crawl)


@dataclass
class _Ledger:
    due: Sequence[Erasure] = field(default_factory=list)

    def erasures(self, after: int) -> Sequence[Erasure]:
        return [erasure for erasure in self.due if erasure.number > after]


def _erasure_step(root: Path, number: int) -> None:
    folder = Runs(root).snapshots / f"snapshot-{number}"
    if not (folder / "manifest.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        row = {"principal": f"p-{number}", "rater": "", "context": f"secret {FILL}"}
        (folder / "judgements.jsonl").write_text(json.dumps(row) + "\n")
        write_manifest(folder, kind="snapshot", version=folder.name)
    due = [Erasure(n + 1, f"p-{n}", f"e-{n}") for n in range(number + 1)]
    apply_erasures(_Ledger(due), root, Registry(root / "models"))


def _check_erasures(root: Path, receipts: Receipts) -> None:
    for number in receipts:
        folder = Runs(root).snapshots / f"snapshot-{number}"
        assert not (folder / "judgements.jsonl").exists(), "erased texts came back"


simple("erasures in snapshots", _erasure_step, _check_erasures)


# Keys and databases of the services.
def _check_owner_keys(root: Path, receipts: Receipts) -> None:
    for number, secret in receipts.items():
        assert owner_secret(root / "gateway" / f"key-{number}") == secret


simple(
    "key of the owner",
    lambda root, number: owner_secret(root / "gateway" / f"key-{number}"),
    _check_owner_keys,
)


def _identity_step(root: Path, number: int) -> str:
    private = root / "own" / f"gateway-{number}.key"
    private.unlink(missing_ok=True)
    return create_key_pair("gateway", private, root / "public")


def _check_identities(root: Path, receipts: Receipts) -> None:
    known = read_public_keys(root / "public") if receipts else {}
    for number, key_id in receipts.items():
        assert (root / "own" / f"gateway-{number}.key").stat().st_size
        assert any(key_id in str(name) for name in known)


simple("keys of services", _identity_step, _check_identities)


def _object_step(root: Path, number: int) -> None:
    Directory(root / "lake").put(f"segments/{number}/rows", f"{number}{FILL}".encode())


def _check_objects(root: Path, receipts: Receipts) -> None:
    store = Directory(root / "lake")
    for number in receipts:
        assert store.get(f"segments/{number}/rows") == f"{number}{FILL}".encode()
    list(store.list(""))


simple("objects in a folder", _object_step, _check_objects)


async def _add_to_outbox(opened: Any, number: int) -> None:
    row = {"conversation_id": "c", "refused": False, "erased": False}
    payload = f"{number} {FILL}".encode()
    await opened.write(
        lambda connection: connection.execute(insert(outbox), row | {"payload": payload})
    )


async def _in_outbox(opened: Any, _: Receipts) -> set[int]:
    rows = await opened.read(lambda connection: connection.execute(select(outbox.c.payload)).all())
    return {int(row.payload.split()[0]) for row in rows}


database(
    "conversations and their outbox",
    lambda root: open_session(
        f"sqlite:///{root}/session/sessions.db", DatabaseLimits(2, 2.0, 2.0, 3.0, 4.5)
    ),
    _add_to_outbox,
    _in_outbox,
)


async def _add_key(engine: Any, number: int) -> None:
    caller = Caller("acme", f"user-{number}")
    key = StoredKey(f"{number}", digest_of(f"{number}"), caller, ALL_SCOPES, time.time())
    await SqlKeyStore(engine).add(key, FILL)


async def _known_keys(engine: Any, _: Receipts) -> set[int]:
    return {int(key.key_id) for key in await SqlKeyStore(engine).list_keys()}


database(
    "API keys",
    lambda root: open_gateway(f"sqlite+aiosqlite:///{root}/gateway/keys.db"),
    _add_key,
    _known_keys,
)


async def _note_act(engine: Any, number: int) -> None:
    await SqlAccountStore(engine).quarantine(f"p-{number}", "ada", FILL)


async def _acts(engine: Any, _: Receipts) -> set[int]:
    found = await SqlAccountStore(engine).audit_records(0)
    return {int(row["object"].removeprefix("p-")) for row in found}


@contextmanager
def _consents(root: Path) -> Iterator[Step]:
    engine = open_feedback(f"sqlite:///{root}/feedback/feedback.db")
    try:
        yield lambda number: str(Consents(engine, True).set(f"p-{number}{FILL}", False).update_us)
    finally:
        engine.dispose()


def _check_consents(root: Path, receipts: Receipts) -> None:
    engine = open_feedback(f"sqlite:///{root}/feedback/feedback.db")
    try:
        assert Consents(engine, True).allowed([f"p-{number}{FILL}" for number in receipts]) == set()
    finally:
        engine.dispose()


PLACES["consents and ledger of feedback"] = Place(_consents, _check_consents)
database(
    "accounts of reviewers",
    lambda root: open_review(f"sqlite+aiosqlite:///{root}/review/review.db"),
    _note_act,
    _acts,
)


def main(name: str, root: Path, checks: bool) -> None:
    if checks:
        receipts = {int(number): text for number, text in json.load(sys.stdin).items()}
        PLACES[name].check(root, receipts)
        with PLACES[name].open(root) as step:
            receipts |= {number: step(number) or "" for number in (200, 201)}
        PLACES[name].check(root, receipts)
        return
    with PLACES[name].open(root) as step:
        for number, _ in enumerate(sys.stdin):
            try:
                receipt = step(number)
            except Exception as error:  # noqa: BLE001 - a refusal of any kind
                print("refused", number, type(error).__name__, flush=True)
            else:
                print("acknowledged", number, receipt or "", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), checks="--check" in sys.argv)
