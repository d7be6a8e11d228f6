"""Rollout actors: Ray processes that sample for the trainer, each with a copy of the policy.

Actors are stateless: every call names the policy, the weights and the prompts. A request to a dead
actor is repeated, on the restarted actor or on another one, with the same result bit by bit. Ray is
imported in functions (see runner.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from training.errors import ConfigError, DetailedError
from training.rl.networks import Sources, open_networks
from training.rl.rollout import CachedEngine, Rollout, SampleRequest
from training.rl.samplers import SamplingPlan, Weights, join, split
from training.runtime.ranks import Ranks

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from ray import ObjectRef
    from ray.actor import ActorHandle

RESTARTS = 3  # restarts of each actor by Ray
TRIES = 3  # actors that are tried for a part
START_SECONDS = 300.0  # for all actors; an autoscaler may have to create machines
SAMPLE_SECONDS = 1800.0  # per part; after this time the actor counts as lost
VERSIONS_KEPT = 2  # the version in use and the next one


Find = Callable[[str], "tuple[str, Callable[[], Mapping[str, NDArray[Any]]]]"]
"""Maps a version to a unique id of its weights, and to a function that loads them."""


class RolloutActorsError(DetailedError, RuntimeError):
    """Actors did not answer; the text gives their number.

    The worker is restarted.
    """

    reason = "UNREACHABLE"


class WeightStore:
    """Actor that stores references to the newest weights by version."""

    def __init__(self) -> None:
        self._kept: dict[str, Sequence[Any]] = {}

    def put(self, version: str, reference: Sequence[Any]) -> None:
        """Store a reference in a list.

        Ray would resolve a direct reference to its value.
        """
        self._kept.pop(version, None)
        self._kept[version] = reference
        for old in list(self._kept)[:-VERSIONS_KEPT]:
            del self._kept[old]

    def get(self, version: str) -> Sequence[Any]:
        """Return the reference of a version.

        Raises:
            LookupError: the version is too old, or unknown since the start of this process.
        """
        if version not in self._kept:
            raise LookupError(
                f"weights of {version} are unknown; known are {', '.join(self._kept) or 'none'}"
            )
        return self._kept[version]


class Sampler:
    """Rollout actor with a copy of the policy."""

    def __init__(self) -> None:
        self._loaded = ""
        self._sources: tuple[object, ...] | None = None
        # An actor has one CPU, and threads slow down such small matrix products.
        torch.set_num_threads(1)

    def ready(self) -> int:
        """Return the process id; answers when the actor is ready."""
        return os.getpid()

    def answer(
        self,
        store: ActorHandle,
        sources: Sources,
        stop_ids: tuple[int, ...],
        version: str,
        request: SampleRequest,
    ) -> Rollout:
        """Call `sample` with weights from the store."""

        def find(version: str) -> tuple[str, Callable[[], Mapping[str, NDArray[Any]]]]:
            import ray

            (reference,) = ray.get(store.get.remote(version))
            return reference.hex(), lambda: ray.get(reference)

        return self.sample(find, sources, stop_ids, version, request)

    @torch.no_grad()
    def sample(
        self,
        find: Find,
        sources: Sources,
        stop_ids: tuple[int, ...],
        version: str,
        request: SampleRequest,
    ) -> Rollout:
        """Sample with the given weights.

        The policy is built once and loads weights that it does not have. The version is not
        sufficient to identify weights, because after a resume or in another stage it names other
        weights.
        """
        kept = sources.vocabulary.kept if sources.vocabulary else None
        wanted = (sources.model_directory, sources.lora, sources.seed, kept)
        if wanted != self._sources:
            self._policy = open_networks(
                replace(sources, reward_directory=None), with_reference=False
            ).policy
            self._sources, self._loaded = wanted, ""
        found, load = find(version)
        if found != self._loaded:
            weights, self._loaded = load(), ""
            for name, parameter in self._policy.named_parameters():
                parameter.copy_(torch.tensor(weights[name]))
            self._loaded = found
        return CachedEngine(self._policy, stop_ids, version).sample(request)


@dataclass(frozen=True)
class RolloutActors:
    """Handles of the actors, which are sent to the workers."""

    store: ActorHandle
    actors: Sequence[ActorHandle]

    def open(self, plan: SamplingPlan, ranks: Ranks) -> ActorCopies:
        """Implement `Samplers.open`.

        Workers share the actors, or an actor serves several workers.
        """
        first = ranks.data_rank % len(self.actors)
        return ActorCopies(self.store, self.actors[first :: ranks.data_size], plan, ranks)


class ActorCopies:
    """Implements `PolicyCopies` for one worker."""

    def __init__(
        self, store: ActorHandle, actors: Sequence[ActorHandle], plan: SamplingPlan, ranks: Ranks
    ) -> None:
        self._store, self._actors, self._plan, self._ranks = store, actors, plan, ranks

    def take(self, version: str, weights: Weights) -> None:
        """Put the weights into the object store once; actors fetch them on first use."""
        import ray

        if self._ranks.rank == 0:
            reference = ray.put({name: tensor.cpu().numpy() for name, tensor in weights.items()})
            ray.get(self._store.put.remote(version, [reference]))
        self._ranks.wait()

    def begin(self, request: SampleRequest, version: str) -> Callable[[], Rollout]:
        """Start all parts at once, each on a different actor."""
        parts = split(request, len(self._actors))
        begun = [self._ask(place, part, version) for place, part in enumerate(parts)]

        def answer() -> Rollout:
            places = range(len(parts))
            joined = join(
                [self._wait(place, parts[place], version, begun[place]) for place in places]
            )
            return joined.to(torch.get_default_device())

        return answer

    def _ask(self, place: int, part: SampleRequest, version: str) -> ObjectRef[Rollout]:
        actor = self._actors[place % len(self._actors)]
        reference: ObjectRef[Rollout] = actor.answer.remote(
            self._store, self._plan.sources, self._plan.stop_ids, version, part
        )
        return reference

    def _wait(
        self, place: int, part: SampleRequest, version: str, begun: ObjectRef[Rollout]
    ) -> Rollout:
        """Wait for a part; on failure try the next actor.

        Ray itself repeats a call after a restart of an actor.
        """
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

        for tried in range(1, TRIES + 1):
            try:
                rollout: Rollout = ray.get(begun, timeout=SAMPLE_SECONDS)
            except RayTaskError as error:
                raise error.cause from error  # an error of the actor's code
            except (RayActorError, GetTimeoutError) as error:
                if tried == TRIES:
                    raise RolloutActorsError(
                        f"rollout of {version}: no answer from {TRIES} actors", field=version
                    ) from error
                begun = self._ask(place + tried, part, version)
            else:
                return rollout
        raise AssertionError("unreachable")


@contextmanager
def rollout_actors(count: int, environment: Mapping[str, str]) -> Iterator[RolloutActors | None]:
    """Run actors inside the block, with one CPU each; None for 0 actors.

    Raises:
        ConfigError: the cluster has too few CPUs.
    """
    if count == 0:
        yield None
        return
    import ray
    from ray.exceptions import GetTimeoutError

    described = {"env_vars": dict(environment)}
    restarted = {"max_restarts": RESTARTS, "max_task_retries": RESTARTS}
    store = ray.remote(num_cpus=0, **restarted)(WeightStore).options(runtime_env=described).remote()
    sampler = ray.remote(num_cpus=1, **restarted)(Sampler)
    actors = [sampler.options(runtime_env=described).remote() for _ in range(count)]
    try:
        # Actors start before the workers, which may be elastic and would take all CPUs.
        ray.get([actor.ready.remote() for actor in actors], timeout=START_SECONDS)
        yield RolloutActors(store, actors)
    except GetTimeoutError as error:
        raise ConfigError(
            f"rollout_actors: no CPUs for {count} actors within {START_SECONDS:g} s",
            field="rollout_actors",
            reason="TOO_LARGE",
        ) from error
    finally:
        for actor in (*actors, store):
            ray.kill(actor)
