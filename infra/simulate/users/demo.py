"""Demonstration of the whole loop.

Simulated users chat and rate, the loop trains on their feedback while others continue, and the
result is evaluated.
"""

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from infra.run.embedded.training_process import running_step
from infra.simulate.users.bounds import Bounds, Counts
from infra.simulate.users.client import CallFailedError, Client
from infra.simulate.users.degraded_policy import degrade
from infra.simulate.users.judgement import Comparison, WinRate, judge
from infra.simulate.users.population import Population
from infra.simulate.users.preference import BELIEVERS, PREFERENCES, Rater, ShuffledVotes
from infra.simulate.users.questions import Questions, read_claims, read_questions
from infra.simulate.users.settings import Settings
from infra.simulate.users.summary import Claim, Outcome, claim_lines, lines, write_summary
from infra.simulate.users.system import Rows, System
from infra.simulate.users.terminal import Meter, say
from infra.simulate.users.training_loop import LoopRun, read_run, run_training

# Users continue as long as training runs; these limits apply to a loop that hangs.
MAX_COMPANION_THUMBS, MAX_COMPANION_SECONDS = 100_000, 6 * 3600.0
STEP_POLL_SECONDS = 0.5


class Demonstration:
    """A demonstration with a running system."""

    def __init__(self, settings: Settings, system: System, client: Client) -> None:
        self._settings, self._system, self._client = settings, system, client
        self._questions: Questions = read_questions(settings.plan.users)
        self._keys: list[str] = []  # Keys of the users, the same ones during training.
        self._minutes: dict[str, float] = {}

    async def run(self) -> bool:
        """Run the whole demonstration and return True if all claims hold."""
        before = await self._system.committed()
        with self._timed("people"):
            counts = await self.fill()
            spoken = Rows(before.feedback + counts.events, before.turns + counts.turns)
            await self._system.wait_committed(spoken)
        committed = await self._system.committed()

        with self._timed("loop"):
            companions = await self.train("loop", self._loop_arguments())
        run = read_run(self._system.layout)

        with self._timed("judgement"):
            win_rate, failure = await self._judge(run) if run.promoted else (None, "")
        served = (await self._system.rollout()).stable.version
        claims = [
            *self._feedback_claims(counts, committed, run),
            *self._training_claims(run, served, win_rate),
        ]
        if failure:
            claims.append(Claim("the new version was evaluated", False, failure))
        outcome = Outcome(counts, companions, run, served, win_rate, self._minutes, tuple(claims))
        write_summary(outcome, self._system.layout.state)
        for line in lines(outcome):
            print(line)
        return outcome.holds

    async def run_degraded(self) -> bool:
        """Run the control experiment with a degraded version.

        The canary must roll the version back because of users' thumbs.
        """
        first = (await self._system.rollout()).stable.version
        models = self._system.layout.models
        worse = degrade(models / first, models / f"{first}-worse")
        with self._timed("canary"):
            counts = await self.train(
                "canary", ["--version", worse.name, "--directory", str(worse)]
            )
        rollout = await self._system.rollout()
        last = next(change for change in rollout.history if change.version == worse.name)
        claims = (
            Claim(
                "the degraded version served users",
                counts.by_version.get(worse.name, 0) > 0,
                f"{counts.by_version.get(worse.name, 0)} answers",
            ),
            Claim(
                "the canary rolled the version back",
                last.kind == "rolled_back",
                f"{last.kind}: {last.reason}",
            ),
            Claim(
                "the first version serves", rollout.stable.version == first, rollout.stable.version
            ),
        )
        for line in claim_lines(claims):
            print(line)
        return all(claim.holds for claim in claims)

    async def fill(self) -> Counts:
        """Simulate users until a limit of the plan is reached."""
        plan, meter = self._settings.plan, Meter("people")
        bounds = Bounds(plan.thumbs, plan.seconds, plan.concurrency)
        population = await self._population(shuffled=self._settings.control.shuffle_thumbs)
        try:
            return await population.run(
                bounds, lambda counts: meter.show(counts.thumbs, plan.thumbs, counts.text())
            )
        finally:
            meter.end()

    async def _population(self, *, shuffled: bool) -> Population:
        settings = self._settings
        self._keys = self._keys or await self._system.make_keys("simulated", settings.plan.people)
        temper = (
            replace(settings.plan.temper, corrects_if_displeased=0.0)
            if shuffled
            else settings.plan.temper
        )
        if settings.control.false_claims:
            temper = BELIEVERS
        vote = ShuffledVotes(random.Random(settings.seed)) if shuffled else None
        rater = Rater(PREFERENCES[settings.plan.users], temper, vote)
        asked = self._questions.some_asked(settings.plan.questions, settings.seed)
        if settings.control.false_claims:
            claims = read_claims(settings.plan.users)
            asked = [*claims, *asked[: max(settings.plan.questions - len(claims), 0)]]
        return Population(
            self._client, self._keys, asked, rater, settings.plan.habits, settings.seed
        )

    async def train(self, command: str, arguments: list[str]) -> Counts:
        """Run a training command while users continue to rate.

        The users are few and slow until the canary needs thumbs.
        """
        population = await self._population(shuffled=False)
        recipe, seconds = self._settings.recipe, self._settings.plan.canary_seconds
        words = ["--recipe", recipe, "--canary-seconds", f"{seconds:g}", *arguments]
        ended = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            companions = group.create_task(
                self._simulate_companions(population, ended, at_once=command == "canary")
            )
            try:
                await run_training(self._system.layout, command, words, self._settings.training)
            finally:
                ended.set()
        return companions.result()

    def _loop_arguments(self) -> list[str]:
        settings = self._settings
        assigned = [word for text in settings.assignments for word in ("--set", text)]
        return [*settings.plan.loop, *assigned]

    async def _simulate_companions(
        self, population: Population, ended: asyncio.Event, *, at_once: bool
    ) -> Counts:
        """Simulate users during training.

        The users start after the snapshot is frozen, so that the snapshot excludes their feedback.
        """
        layout, plan = self._system.layout, self._settings.plan
        while not at_once and not ended.is_set() and running_step(layout.loop) in ("", "snapshot"):
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), STEP_POLL_SECONDS)
        bounds = Bounds(
            MAX_COMPANION_THUMBS,
            MAX_COMPANION_SECONDS,
            plan.concurrency,
            lambda: 0.0 if at_once or running_step(layout.loop) == "canary" else plan.pause_seconds,
        )
        return await population.run(bounds, lambda _: None, ended)

    async def _judge(self, run: LoopRun) -> tuple[WinRate | None, str]:
        """Compare the first and the new version on held-out questions.

        Return the win rate, or None and the reason of the failure. The other results are shown in
        both cases.
        """
        plan, meter = self._settings.plan, Meter("judgement")
        (key,) = await self._system.make_keys("judge", 1)
        comparison = Comparison(run.incumbent, run.version, plan.samples, plan.judged_at_once)
        questions, preference = self._questions.held_out, PREFERENCES[self._settings.plan.users]
        try:
            async with self._system.also_serving(run.incumbent):
                try:
                    return await judge(
                        self._client,
                        key,
                        questions,
                        preference,
                        comparison,
                        lambda done, total: meter.show(
                            done, total, "answers to held-out questions"
                        ),
                    ), ""
                finally:
                    meter.end()
        except CallFailedError as error:
            return None, str(error)

    def _feedback_claims(self, counts: Counts, committed: Rows, run: LoopRun) -> tuple[Claim, ...]:
        plan, snapshot = self._settings.plan, run.snapshot
        dropped = sum(
            count for reason, count in snapshot["dropped"].items() if reason != "duplicate_event"
        )
        counted = (
            snapshot["thumbs_up"] + snapshot["thumbs_down"] + snapshot["corrections"] + dropped
        )
        return (
            Claim(
                f"{plan.thumbs:,} thumbs were given",
                counts.thumbs == plan.thumbs,
                f"{counts.thumbs:,} acknowledged",
            ),
            Claim(
                "the snapshot contains all acknowledged events",
                counted == committed.feedback,
                f"{counted:,} of {committed.feedback:,} events",
            ),
        )

    def _training_claims(
        self, run: LoopRun, served: str, win_rate: WinRate | None
    ) -> tuple[Claim, ...]:
        answers = run.version if run.promoted else run.incumbent
        page = run.report.read_text() if run.report.exists() else ""
        claims = [
            Claim(
                "the served version matches the decision of the loop",
                served == answers,
                f"{served} after {run.result}",
            ),
            Claim(
                "the report contains the decision",
                run.version in page and run.result in page,
                str(run.report),
            ),
        ]
        control = self._settings.control
        if control.shuffle_thumbs or control.false_claims:
            kind = "shuffled thumbs" if control.shuffle_thumbs else "false claims of users"
            return (*claims, Claim(f"{kind} promote no version", not run.promoted, run.reason))
        goal = self._settings.plan.goal
        if goal is not None:
            seen = win_rate.text() if win_rate else "not evaluated"
            claims.append(Claim("a new version was promoted", run.promoted, run.result))
            claims.append(
                Claim(
                    f"users prefer the new version in at least {goal:.0%}",
                    bool(win_rate and win_rate.rate >= goal),
                    seen,
                )
            )
        return tuple(claims)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self._minutes[name] = (time.monotonic() - began) / 60
            say(f"{name}: {self._minutes[name]:.1f} minutes")
