"""Rollout actors: processes of Ray that sample for the trainer, each with a copy of the policy.

An actor keeps nothing that somebody else has not: every call says which policy, which weights and
which prompts. So what an actor that died was request is request again, of itself once Ray has restarted
it or of another, and the answer is the same bit by bit. Ray is imported where it is used (runner.py
says why).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from training.errors import DetailedError
from training.optim.ranks import Ranks
from training.rl.networks import Sources, open_networks
from training.rl.rollout import CachedEngine, Rollout, SampleRequest
from training.rl.samplers import SamplingPlan, Weights, join, split
from training.stages.context import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from ray import ObjectRef
    from ray.actor import ActorHandle

RESTARTS = 3  # of each actor, by Ray
TRIES = 3  # actors that are request for a part, one after another
START_SECONDS = 300.0  # of all of them: an autoscaler may have to make machines first
SAMPLE_SECONDS = 1800.0  # of a part, after which its actor counts as lost
VERSIONS_KEPT = 2  # one that is being sampled with, and the one after it


Find = Callable[[str], "tuple[str, Callable[[], Mapping[str, NDArray[Any]]]]"]
"""By version: what tells these weights from all others, and the weights when they are wanted."""


class RolloutActorsError(DetailedError, RuntimeError):
    """Actors gave no answer; the text says how many were request. The worker that request is started
    again.
    """

    reason = "UNREACHABLE"


class Shelf:
    """Runs in an actor of its own, beside the sampling ones: the newest weights by version, for
    whoever comes. It holds references.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Sequence[Any]] = {}

    def put(self, version: str, reference: Sequence[Any]) -> None:
        """In a list, which Ray hands on as it is; what it is given directly it would fetch."""
        self._kept.pop(version, None)
        self._kept[version] = reference
        for old in list(self._kept)[:-VERSIONS_KEPT]:
            del self._kept[old]

    def get(self, version: str) -> Sequence[Any]:
        """Raises: LookupError: nobody has put it here since this process began, or it is too old."""
        if version not in self._kept:
            raise LookupError(
                f"weights of {version}: not there, but {', '.join(self._kept) or 'none'}"
            )
        return self._kept[version]


class Sampler:
    """Runs in a rollout actor."""

    def __init__(self) -> None:
        self._loaded = ""
        self._made_of: tuple[object, ...] | None = None
        torch.set_num_threads(
            1
        )  # an actor has one processor, and products this small wait for threads

    def ready(self) -> int:
        """The process that is there."""
        return os.getpid()

    def answer(
        self,
        shelf: ActorHandle,
        made_of: Sources,
        stop_ids: tuple[int, ...],
        version: str,
        request: SampleRequest,
    ) -> Rollout:
        """As `sample`, with weights from the shelf."""
        return self.sample(_find_on(shelf), made_of, stop_ids, version, request)

    @torch.no_grad()
    def sample(
        self,
        find: Find,
        made_of: Sources,
        stop_ids: tuple[int, ...],
        version: str,
        request: SampleRequest,
    ) -> Rollout:
        """The answer of the policy with these weights. It is built once, and loads weights that it
        has not. Their version alone does not
        tell: in another stage, or after a resume, it names other weights.
        """
        kept = made_of.vocabulary.kept if made_of.vocabulary else None
        wanted = (made_of.model_directory, made_of.lora, made_of.seed, kept)
        if wanted != self._made_of:
            self._policy = open_networks(
                replace(made_of, reward_directory=None), with_reference=False
            ).policy
            self._made_of, self._loaded = wanted, ""
        found, load = find(version)
        if found != self._loaded:
            weights, self._loaded = load(), ""
            for name, parameter in self._policy.named_parameters():
                parameter.copy_(torch.tensor(weights[name]))
            self._loaded = found
        return request.of_engine(CachedEngine(self._policy, stop_ids, version))


def _find_on(shelf: ActorHandle) -> Find:
    def find(version: str) -> tuple[str, Callable[[], Mapping[str, NDArray[Any]]]]:
        import ray

        (reference,) = ray.get(shelf.get.remote(version))
        return reference.hex(), lambda: ray.get(reference)

    return find


@dataclass(frozen=True)
class RolloutActors:
    """Handles, which travel to the workers."""

    shelf: ActorHandle
    actors: Sequence[ActorHandle]

    def open(self, orders: SamplingPlan, ranks: Ranks) -> ActorCopies:
        """See Samplers. Workers share the actors out among themselves, or each actor serves
        several.
        """
        first = ranks.data_rank % len(self.actors)
        return ActorCopies(self.shelf, self.actors[first :: ranks.data_size], orders, ranks)


class ActorCopies:
    """One worker's side of the actors; see PolicyCopies."""

    def __init__(
        self, shelf: ActorHandle, actors: Sequence[ActorHandle], orders: SamplingPlan, ranks: Ranks
    ) -> None:
        self._shelf, self._actors, self._plan, self._ranks = shelf, actors, orders, ranks

    def take(self, version: str, weights: Weights) -> None:
        """Once into the object store; actors fetch them with the first call that needs them."""
        import ray

        if self._ranks.rank == 0:
            reference = ray.put({name: tensor.cpu().numpy() for name, tensor in weights.items()})
            ray.get(self._shelf.put.remote(version, [reference]))
        self._ranks.wait()

    def begin(self, request: SampleRequest, version: str) -> Callable[[], Rollout]:
        """All parts at once, each by an actor of its own."""
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
            self._shelf, self._plan.made_of, self._plan.stop_ids, version, part
        )
        return reference

    def _wait(
        self, place: int, part: SampleRequest, version: str, begun: ObjectRef[Rollout]
    ) -> Rollout:
        """Ray itself asks an actor again that it has restarted. One that it has given up, or that
        does not answer, is passed over.
        """
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

        for tried in range(1, TRIES + 1):
            try:
                rollout: Rollout = ray.get(begun, timeout=SAMPLE_SECONDS)
            except RayTaskError as error:
                raise error.cause from error  # what the actor itself refused
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
    """Actors for as long as the block runs, a processor each beside those of the workers. None
    where none are request for.

    Raises:
        ConfigError: the cluster has no room for them.
    """
    if count == 0:
        yield None
        return
    import ray
    from ray.exceptions import GetTimeoutError

    described = {"env_vars": dict(environment)}
    restarted = {"max_restarts": RESTARTS, "max_task_retries": RESTARTS}
    shelf = ray.remote(num_cpus=0, **restarted)(Shelf).options(runtime_env=described).remote()
    sampler = ray.remote(num_cpus=1, **restarted)(Sampler)
    actors = [sampler.options(runtime_env=described).remote() for _ in range(count)]
    try:
        # Before there are workers, whose number may be elastic: they would take the processors.
        ray.get([actor.ready.remote() for actor in actors], timeout=START_SECONDS)
        yield RolloutActors(shelf, actors)
    except GetTimeoutError as error:
        raise ConfigError(
            f"rollout_actors: {count} found no processors in {START_SECONDS:g} s",
            field="rollout_actors",
            reason="TOO_LARGE",
        ) from error
    finally:
        for actor in (*actors, shelf):
            ray.kill(actor)
