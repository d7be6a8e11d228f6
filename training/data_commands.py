"""Commands on data and versions of the loop: `snapshot`, `forget`, `lineage`, `publish`, `prune`.

Modules with imports of seconds are imported on use.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from training.artifacts.lineage import Ancestry, erased_versions, trace
from training.artifacts.registry import Registry
from training.errors import ConfigError
from training.reporting.progress import note_erased
from training.runs import Runs, exclusive

if TYPE_CHECKING:
    from training.data.feedback.catalogue import Objects
    from training.erasure import ErasureResult
    from training.remote import FeedbackLog
    from training.service_channel import TlsFiles
    from training.service_identity import ServiceIdentity

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def describe(
    commands: Commands, state: argparse.ArgumentParser, services: argparse.ArgumentParser
) -> None:
    """Add the commands to the command line.

    Args:
        state: parser with the option for the loop's state.
        services: parser with that option and those of services.
    """
    taking = commands.add_parser("snapshot", parents=[services])
    add_review_option(taking)
    taking.set_defaults(command=snapshot, patience=0.0)
    forgetting = commands.add_parser("forget", parents=[services])
    forgetting.set_defaults(command=forget_erased)
    tracing = commands.add_parser("lineage", parents=[services])
    subject = tracing.add_mutually_exclusive_group()
    subject.add_argument(
        "version",
        nargs="?",
        metavar="VERSION",
        help="full account: data and consent, scores, gate, canary",
    )
    subject.add_argument("--answer", metavar="MESSAGE_ID", help="account of an answer's version")
    subject.add_argument(
        "--erased", action="store_true", help="only versions that learned from erased feedback"
    )
    tracing.set_defaults(command=lineage)
    publishing = commands.add_parser("publish", parents=[state])
    publishing.add_argument("version", metavar="VERSION", help="version of the registry")
    publishing.add_argument(
        "--store", required=True, metavar="s3://BUCKET/PREFIX", help="folder of versions there"
    )
    publishing.set_defaults(command=publish)
    pruning = commands.add_parser("prune", parents=[services])
    pruning.add_argument("--keep", type=int, required=True, metavar="N", help="newest to keep")
    pruning.add_argument("--dry-run", action="store_true", help="only print what would happen")
    pruning.add_argument(
        "--store", metavar="s3://BUCKET/PREFIX", help="also remove the versions there"
    )
    pruning.add_argument(
        "--generator",
        default="127.0.0.1:50055",
        metavar="HOST:PORT",
        help="the generator's rollout service, which knows the served versions (default: "
        "%(default)s)",
    )
    pruning.set_defaults(command=prune_stored)


def add_review_option(command: argparse.ArgumentParser) -> None:
    """Add the option --review, the service with the accounts in quarantine."""
    command.add_argument(
        "--review",
        default="",
        metavar="HOST:PORT",
        help="the review service, whose accounts in quarantine train nothing (default: none)",
    )


def quarantined(options: argparse.Namespace) -> frozenset[str]:
    """Return the accounts in quarantine of `--review`, as principals."""
    from training.remote import quarantined_accounts

    return quarantined_accounts(
        options.review, tls_files(options), options.patience, identity(options)
    )


def snapshot(options: argparse.Namespace) -> int:
    """Take a snapshot of the committed feedback."""
    from training.data.feedback.snapshot import SnapshotConfig, take_snapshot

    with _exclusive_log(options, "a snapshot") as log:
        _apply_erasures(options, log)
        into = Runs(options.state / "loop").snapshots
        held = quarantined(options)
        taken = take_snapshot(log, objects(options), SnapshotConfig(), into, code_commit(), held)
    print(taken.directory)
    return 0


def forget_erased(options: argparse.Namespace) -> int:
    """Apply pending erasures, as the loop does before each run."""
    with _exclusive_log(options, "erasures") as log:
        print(_apply_erasures(options, log).text())
    return 0


def lineage(options: argparse.Namespace) -> int:
    """Print a line per version, or the full account of a version or of an answer's version."""
    require_state(options)
    version = options.version
    if options.answer:
        from training.data.feedback.catalogue import find_answer

        with closing(_feedback_log(options)) as log:
            found = find_answer(log, objects(options), options.answer)
        if found is None or not found.model_version:
            raise ConfigError(
                f"answer: no finished turn in the feedback table has the answer {options.answer}; "
                "turns arrive some seconds after their end",
                field="answer",
                reason="UNKNOWN",
            )
        print(f"{'answer':<12}{options.answer}, arm {found.arm or 'unknown'}")
        version = found.model_version
    if version:
        from training.reporting.lineage import describe_version

        registry = Registry(options.state / "models")
        print(describe_version(version, options.state / "loop", registry))
        return 0
    for ancestry in _ancestries(options):
        if ancestry.erasures or ancestry.unknown or not options.erased:
            print(ancestry.text())
    return 0


def publish(options: argparse.Namespace) -> int:
    """Copy a version of the registry into an object store."""
    from training.model_store.bucket import open_store

    directory = Registry(options.state / "models").directory(options.version)
    open_store(options.store, "--store", os.environ).upload(directory, options.version)
    print(f"{options.version} is in {options.store}")
    return 0


def prune_stored(options: argparse.Namespace) -> int:
    """Remove old versions while no run is active, or print the plan."""
    from training.model_store.bucket import open_store
    from training.model_store.pruning import plan_pruning, prune, stored_versions
    from training.remote import RolloutClient

    require_state(options)
    runs, registry = Runs(options.state / "loop"), Registry(options.state / "models")
    store = open_store(options.store, "--store", os.environ) if options.store else None
    client = RolloutClient(options.generator, tls_files(options), identity=identity(options))
    with exclusive(options.state / "loop", "removal of versions"), closing(client) as rollout:
        stored = stored_versions(registry, store)
        plan = plan_pruning(runs, registry, rollout.view(), stored, options.keep)
        for version, reason in plan.needed.items():
            print(f"keep {version}: {reason}")
        for version in plan.recent:
            print(f"keep {version}: among the newest {options.keep}")
        if options.dry_run:
            for version in plan.removed:
                print(f"would remove {version}")
        else:
            prune(plan, registry, store, print)
    return 0


def require_state(options: argparse.Namespace) -> None:
    """Check that the state folder exists, for commands without use for a new folder.

    Raises:
        ConfigError: there is no such folder.
    """
    if not options.state.is_dir():
        raise ConfigError(
            f"state: folder {options.state} does not exist; `make up` creates one, and --state "
            "names another",
            field="state",
            reason="MISSING",
        )


def require_services(options: argparse.Namespace) -> None:
    """Check that the services of a run accept connections; --patience is the longest wait.

    Raises:
        RemoteError: a service does not answer; the text names service and address.
    """
    from training.service_channel import require_reachable

    targets = {"feedback": options.feedback}
    if not options.no_rollout:
        targets["generator"] = options.generator
    for service, target in targets.items():
        require_reachable(service, target, tls_files(options), options.patience)


def tls_files(options: argparse.Namespace) -> TlsFiles | None:
    """Return the certificate files of `--tls`."""
    from training.service_channel import TlsFiles

    return TlsFiles(*options.tls) if options.tls else None


def identity(options: argparse.Namespace) -> ServiceIdentity | None:
    """Return the identity that signs the calls of training; None if there is no key."""
    from training.service_identity import training_identity

    return training_identity(os.environ, options.state)


@contextmanager
def _exclusive_log(options: argparse.Namespace, doing: str) -> Iterator[FeedbackLog]:
    """Open the feedback log while no run is active.

    A run must not read data that is written or erased meanwhile.
    """
    require_state(options)
    with exclusive(options.state / "loop", doing), closing(_feedback_log(options)) as log:
        yield log


def _feedback_log(options: argparse.Namespace) -> FeedbackLog:
    from training.remote import FeedbackLog

    return FeedbackLog(options.feedback, tls_files(options), identity=identity(options))


def _apply_erasures(options: argparse.Namespace, log: FeedbackLog) -> ErasureResult:
    from training.erasure import apply_erasures

    forgotten = apply_erasures(log, options.state / "loop", Registry(options.state / "models"))
    note_erased(options.state / "loop", erased_versions(_ancestries(options)))
    return forgotten


def _ancestries(options: argparse.Namespace) -> list[Ancestry]:
    return trace(Runs(options.state / "loop"), Registry(options.state / "models"))


def objects(options: argparse.Namespace) -> Objects:
    """Return the bucket of TW_TRAINING_S3_*, or the directory of an embedded run."""
    from training.data.feedback.bucket import Bucket, bucket_location
    from training.data.feedback.catalogue import Directory

    place = bucket_location(os.environ)
    return Directory(options.state / "objects") if place is None else Bucket(place)


def code_commit() -> str:
    """Return the commit of the checkout; "" if the code was installed without a checkout."""
    git = shutil.which("git")
    if git is None:
        return ""
    found = subprocess.run(  # noqa: S603 - no input from outside
        [git, "rev-parse", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip()
