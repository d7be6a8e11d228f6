"""Removal of old versions from the registry and the object store, by rule.

A version that users may get, or that a decision or a run still needs, is never removed. Versions
without a run, such as imported models, are never removed either: they were not made here. Records,
reports and snapshots of a run remain, so the ancestry of all versions stays complete.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from training.artifacts.manifest import BASE_ADAPTER
from training.artifacts.registry import Registry
from training.errors import ConfigError
from training.evaluation.canary_run import RolloutView
from training.model_store.bucket import ModelBucket
from training.runs import Runs


@dataclass(frozen=True)
class PruningPlan:
    """Versions with a finished run that are stored.

    Args:
        removed: versions to remove, oldest first.
        needed: versions that are kept because of their use, with the reason.
        recent: the newest versions that are kept because of `keep`.
    """

    removed: tuple[str, ...]
    needed: dict[str, str]
    recent: tuple[str, ...]


def plan_pruning(
    runs: Runs, registry: Registry, view: RolloutView | None, stored: set[str], keep: int
) -> PruningPlan:
    """Return the versions to remove.

    Args:
        view: versions that the generator serves; None if there is no generator, and the registry
            alone knows what was promoted.
        stored: versions in the registry or in the object store.
        keep: number of versions, the newest ones, that are kept in addition to needed ones.

    Raises:
        ConfigError: `keep` is below 1.
    """
    if keep < 1:
        raise ConfigError(
            f"keep: {keep} is below 1", field="keep", reason="OUT_OF_RANGE", limit="at least 1"
        )
    needed = _needed(runs, registry, view)
    finished = [
        record.version
        for record in runs.records()
        if record.version in stored and runs.result(record.version) is not None
    ]
    free = [version for version in finished if version not in needed]
    return PruningPlan(
        removed=tuple(free[:-keep]),
        needed={version: needed[version] for version in finished if version in needed},
        recent=tuple(free[-keep:]),
    )


def prune(
    plan: PruningPlan, registry: Registry, store: ModelBucket | None, say: Callable[[str], None]
) -> None:
    """Remove the versions of a plan. An interrupted call is completed by the next one."""
    for version in plan.removed:
        if store is not None:
            store.remove(version)
        registry.remove(version)
        say(f"removed {version}")
    registry.delete_removed()


def prune_versions(
    runs: Runs,
    registry: Registry,
    view: RolloutView | None,
    store: ModelBucket | None,
    keep: int,
    say: Callable[[str], None],
) -> PruningPlan:
    """Plan and remove, for the end of a run of the loop."""
    plan = plan_pruning(runs, registry, view, stored_versions(registry, store), keep)
    prune(plan, registry, store, say)
    return plan


def stored_versions(registry: Registry, store: ModelBucket | None) -> set[str]:
    """Return the versions in the registry and in the object store."""
    here = {manifest.version for manifest in registry.manifests()}
    return here | ({*store.versions()} if store is not None else set())


def _needed(runs: Runs, registry: Registry, view: RolloutView | None) -> dict[str, str]:
    """Return the versions in use with the reason."""
    needed: dict[str, str] = {}
    if (promoted := registry.promoted()) is not None:
        needed[promoted] = "promoted last"
    if view is not None:
        served = {
            "serves users": view.stable,
            "candidate": view.candidate,
            "watched": view.previous,
        }
        needed |= {version: reason for reason, version in served.items() if version}
    origins = {record.version: record.incumbent for record in runs.records()}
    for record in runs.records():
        if runs.result(record.version) is None:
            needed.setdefault(record.version, "its run is unfinished")
            needed.setdefault(record.incumbent, f"{record.version} learns from it")
    for version in list(needed):
        if parent := origins.get(version, ""):
            needed.setdefault(parent, f"parent of {version}, for a return to it")
    bases = {m.version: m.report.get(BASE_ADAPTER, {}).get("base") for m in registry.manifests()}
    for version in list(needed):
        if base := bases.get(version):
            needed.setdefault(base, f"base of {version}, which is an adapter of it")
    return needed
