"""Does the reward model predict the canary? Candidates of nano from one snapshot, and their users.

Usage: python -m benchmarks.loop.reward_and_canary [--thumbs 1000] [--canary-thumbs 400]
       [--only A,B] [--into .state/reward-and-canary] [--go-on]

Candidates differ in their training; some are over-optimised or worse than nano-0. Each is scored by
the recipe's reward model (mean difference to nano-0 on held-out prompts), by the judge (win rate of
the gate), and by the hidden preference on other held-out questions. Each is then served to half of
the simulated users through gateway and feedback service; the canary's figure is the approval, the
mean of the users' shares of thumbs up, less that of nano-0. The correlations have bootstrap
intervals over candidates. All figures are written to candidates.json.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.loop.series import demonstration_settings, preferred
from infra.run.embedded.environment import loop_environment
from infra.run.embedded.training_process import run_training_process
from infra.simulate.users.client import open_client
from infra.simulate.users.demo import Demonstration
from infra.simulate.users.questions import read_questions
from infra.simulate.users.system import Rows, System, find_system, remove_previous, running_system
from infra.simulate.users.terminal import say
from sequential.figures import VersionFigures
from training.cluster.runner import StageRun
from training.data.chat import load_chat
from training.data.examples import read_prompts
from training.data.feedback.catalogue import Directory
from training.data_commands import code_commit
from training.evaluation import health
from training.evaluation.answers import ChatModel, score
from training.evaluation.canary import CanaryConfig, Verdict, evaluate
from training.evaluation.canary_run import WallClock, approval_of
from training.evaluation.comparison import read_comparison
from training.evaluation.config import EvaluationConfig
from training.evaluation.gate import decide
from training.evaluation.health import HealthConfig
from training.loop import STEPS, train
from training.loop import evaluate as evaluate_candidate
from training.loop_run import LoopEnvironment, LoopRun, begin, resume
from training.model.reward import load_reward_model
from training.optim.config import OptimizerConfig
from training.recipes.nano import nano
from training.recipes.recipe import LoopConfig, Plan
from training.remote import FeedbackLog, RolloutClient
from training.reporting.progress import Lines, ProgressReporter
from training.rl.config import KlConfig
from training.service_identity import training_identity
from training.stages import ppo, reward_model, sft

RESAMPLES, SEED = 2000, 21
CANARY_SECONDS = 3600.0
Array = npt.NDArray[np.float64]
Fields = dict[str, Any]


def _policy(**changes: Any) -> Callable[[LoopConfig], LoopConfig]:
    return lambda config: replace(config, ppo=replace(config.ppo, **changes))


def _mix(coefficient: float) -> Callable[[LoopConfig], LoopConfig]:
    def change(config: LoopConfig) -> LoopConfig:
        assert config.ppo.sft_mix is not None
        mix = replace(config.ppo.sft_mix, coefficient=coefficient)
        return replace(config, ppo=replace(config.ppo, sft_mix=mix))

    return change


def _sft(rate: float, epochs: int) -> Callable[[LoopConfig], LoopConfig]:
    return lambda config: replace(
        config, sft=replace(config.sft, epochs=epochs, optimizer=OptimizerConfig(rate))
    )


@dataclass(frozen=True)
class Variant:
    """Training of a candidate, as a change of the recipe.

    Attributes:
        flipped: share of the reward model's pairs whose answers are exchanged.
    """

    change: Callable[[LoopConfig], LoopConfig] = field(default=lambda config: config)
    flipped: float = 0.0


NO_STEP = OptimizerConfig(learning_rate=1e-9)
VARIANTS: dict[str, Variant] = {
    "recipe": Variant(),
    "equal": Variant(
        lambda config: _policy(updates=1, policy_optimizer=NO_STEP)(_sft(1e-9, 1)(config))
    ),
    "sft-only": Variant(_policy(updates=1, policy_optimizer=NO_STEP)),
    "slow": Variant(_policy(policy_optimizer=OptimizerConfig(learning_rate=3e-5))),
    "kl-high": Variant(_policy(kl=KlConfig(initial=2.0))),
    "kl-none": Variant(_policy(kl=KlConfig(initial=0.0))),
    "updates-3": Variant(_policy(updates=3)),
    "updates-25": Variant(_policy(updates=25)),
    "mix-heavy": Variant(_mix(5.0)),
    "noise-40": Variant(flipped=0.4),
    "inverted": Variant(flipped=1.0),
    "over-optimised": Variant(
        _policy(
            updates=25,
            kl=KlConfig(initial=0.0),
            policy_optimizer=OptimizerConfig(learning_rate=6e-4),
        )
    ),
    "unguarded": Variant(
        lambda config: _policy(
            updates=25,
            kl=KlConfig(initial=0.0),
            length_floor_fraction=0.0,
            policy_optimizer=OptimizerConfig(learning_rate=6e-4),
        )(_mix(1e-9)(config))
    ),
    "sft-damaged": Variant(
        lambda config: _policy(updates=1, policy_optimizer=NO_STEP)(_sft(1e-2, 3)(config))
    ),
}


def flip(pairs: Path, share: float) -> None:
    """Exchange the answers of a share of the pairs in a file, chosen with a fixed seed."""
    rng = random.Random(SEED)
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    for row in rows:
        if rng.random() < share:
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))


def recipe_of(variant: Variant) -> Callable[[Plan], LoopConfig]:
    """Return recipe nano with the change, in this process, without the probes' rows."""

    def recipe(plan: Plan) -> LoopConfig:
        config = variant.change(nano(plan))
        gate = replace(config.gate, tasks=(), margins={})
        return replace(config, num_workers=0, gate=gate)

    return recipe


def shared_parts(config: LoopConfig, first: LoopConfig, variant: Variant) -> tuple[str, ...]:
    """Return the models and figures of the first candidate that this one would train equally."""
    fine_tuned = [(sets.epochs, sets.optimizer) for sets in (config.sft, first.sft)]
    same = ("sft",) if fine_tuned[0] == fine_tuned[1] else ()
    return ("judge", *same, *(() if variant.flipped else ("reward", "health")))


def prepare(config: LoopConfig, variant: Variant, first: LoopConfig | None) -> None:
    """Change the pairs of a candidate, and copy what it would train like the first candidate."""
    if variant.flipped:
        flip(config.reward_model.data_path, variant.flipped)
    if first is not None:
        for part in shared_parts(config, first, variant):
            shutil.copytree(first.plan.directory(part), config.plan.directory(part))


def train_candidate(
    name: str, variant: Variant, env: LoopEnvironment, first: LoopRun | None
) -> tuple[LoopRun, Fields]:
    """Train and compare a candidate, even if its reward model would stop a run of the loop.

    Args:
        first: candidate with the snapshot, whose models are used where training does not differ.
    """
    version = f"nano-{name}"
    reporter = ProgressReporter(env.loop_directory, env.display, version, name, STEPS)
    record, recipe = env.runs.unfinished(name), recipe_of(variant)
    is_new = record is None
    if record is None and first is not None:
        record = replace(first.record, version=version, recipe=name)
        env.runs.begin(record)
    run = (
        resume(record, recipe, env, reporter)
        if record
        else begin(version, name, recipe, env, reporter)
    )
    if is_new:
        prepare(run.config, variant, first.config if first else None)
    config = run.config
    noise, ceiling = run.sets.noise.flipped, run.sets.held_out_ceiling
    check = HealthConfig(config.evaluation, config.gate, noise, ceiling)
    outputs = train(
        run,
        StageRun("sft", sft.run, config.sft),
        StageRun("reward_model", reward_model.run, config.reward_model),
        StageRun("judge", reward_model.run, config.judge),
        StageRun("health", health.run, check),
        StageRun("ppo", ppo.run, config.ppo),
    )
    decision = decide([*check.checks(), *evaluate_candidate(run, outputs[-1])])
    compared = read_comparison(config.evaluation.output_directory)
    return run, {
        "name": name,
        "version": version,
        "directory": str(config.ppo.output_directory),
        "judge": compared.win_rate.candidate,
        "judge_bound": (1 + compared.win_rate.low) / 2,
        "tokens": compared.candidate.mean_tokens,
        "gate": decision.fields(),
    }


def train_all(state: Path, feedback: str, generator: str, names: Sequence[str]) -> None:
    """Train the candidates from one snapshot, score them, and write candidates.json."""
    identity = training_identity(os.environ, state)
    with (
        closing(FeedbackLog(feedback, identity=identity)) as log,
        closing(RolloutClient(generator, identity=identity)) as rollout,
    ):
        env = LoopEnvironment(
            *(state, log, Directory(state / "objects"), rollout, WallClock(lambda _: None)),
            *(Lines(sys.stdout), code_commit()),
        )
        trained: list[tuple[LoopRun, Fields]] = []
        for name in names:
            first = trained[0][0] if trained else None
            trained.append(train_candidate(name, VARIANTS[name], env, first))
            say(f"{name}: {trained[-1][1]['gate']['reason']}")
    say(f"{len(trained)} candidates from {trained[0][0].record.snapshot}")
    # The reward model of the recipe scores all, as those of other candidates may be damaged.
    scorer = trained[0][0].config.evaluation
    before = _scores(scorer, scorer.incumbent_directory)
    questions = read_questions("nano").held_out
    for run, row in trained:
        found = _scores(scorer, run.config.ppo.output_directory)
        row["reward"] = fmean(found) - fmean(before)
        preference = preferred(
            run.config.ppo.output_directory, scorer.incumbent_directory, questions
        )
        row["preference"] = asdict(preference)
    written = state / "candidates.json"
    if written.exists():  # of an interrupted call
        served = {row["name"]: row for row in json.loads(written.read_text())}
        for _, row in trained:
            row["canary"] = served.get(row["name"], {}).get("canary")
    write_rows(state, [row for _, row in trained])


def _scores(scorer: EvaluationConfig, model: Path) -> list[float]:
    """Return the scores of the model's answers to held-out prompts by the reward model."""
    prompts = [row.messages for row in read_prompts(scorer.held_out_prompts)]
    answers = ChatModel(model).answer(prompts, scorer.sampling)
    rows = [(prompts[answer.prompt], answer.text) for answer in answers]
    reward = load_reward_model(scorer.reward_model_directory, scorer.reward_model_base)
    tokens = scorer.sampling.max_prompt_tokens + scorer.sampling.max_response_tokens
    return score(reward, load_chat(scorer.reward_model_base), rows, tokens)


def write_rows(state: Path, rows: Sequence[Fields]) -> None:
    """Write the figures of all candidates."""
    (state / "candidates.json").write_text(json.dumps(rows, indent=1) + "\n")


async def serve(system: System, users: Demonstration, row: Fields) -> Fields:
    """Serve a candidate to half of the users; return both arms and the canary's verdict."""
    layout = system.layout
    identity = training_identity(os.environ, layout.state)
    version, directory = row["version"], Path(row["directory"])
    with (
        closing(FeedbackLog(layout.target("feedback"), identity=identity)) as log,
        closing(RolloutClient(layout.target("generator"), identity=identity)) as rollout,
    ):
        view = rollout.view()
        stable = view.stable
        if view.candidate:  # of an interrupted call
            rollout.finish(view.candidate, Verdict.ROLL_BACK, "served for a comparison only")
        await asyncio.to_thread(rollout.start, version, directory, 0.5, CANARY_SECONDS)
        try:
            since, before = datetime.now(UTC), await system.committed()
            counts = await users.fill()
            await system.wait_committed(Rows(before.feedback + counts.events, before.turns))
            arms = log.version_feedback((version, stable), since)
        finally:
            rollout.finish(version, Verdict.ROLL_BACK, "served for a comparison only")
    none = VersionFigures()
    new, old = arms.get(version, none), arms.get(stable, none)
    reading = evaluate(new, old, CanaryConfig(share=0.5))
    return {
        "users": asdict(new.approval),
        "stable_users": asdict(old.approval),
        "verdict": reading.verdict.value,
    }


async def measure(
    state: Path, thumbs: int, canary_thumbs: int, names: Sequence[str], go_on: bool
) -> None:
    """Train the candidates on thumbs of nano-0, then serve each to users; write all figures.

    Args:
        go_on: use the thumbs and models of an interrupted call.
    """
    if not go_on:
        remove_previous(state, say)
    settings = demonstration_settings(state, thumbs, 120)
    # As many users as thumbs, so that most users give one or two.
    served = demonstration_settings(state, canary_thumbs, canary_thumbs)
    async with (
        running_system(*find_system(state, "nano", 0, 0, say), say) as system,
        open_client(system.gateway) as client,
    ):
        layout = system.layout
        if not go_on:
            counts = await Demonstration(settings, system, client).fill()
            await system.wait_committed(Rows(counts.events, counts.turns))
        words = (sys.executable, "-m", "benchmarks.loop.reward_and_canary", "--train", str(state))
        targets = (layout.target("feedback"), layout.target("generator"))
        command = (*words, *targets, "--only", ",".join(names))
        if await run_training_process(command, loop_environment(state), layout.loop, say):
            raise RuntimeError("the training of the candidates failed")
        rows: list[Fields] = json.loads((state / "candidates.json").read_text())
        users = Demonstration(replace(served, seed=1), system, client)
        for row in (row for row in rows if not row.get("canary")):
            row["canary"] = await serve(system, users, row)
            write_rows(state, rows)
            say(f"{row['name']}: {row['canary']}")
    print("\n".join(table(rows)))


def pearson(x: Array, y: Array) -> float:
    """Return the correlation, NaN without variation."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def ranks(values: Array) -> Array:
    """Return ranks from 0; ties have their mean rank."""
    below, same = (values < values[:, None]).sum(1), (values == values[:, None]).sum(1)
    found: Array = below + (same - 1) / 2
    return found


def spearman(x: Array, y: Array) -> float:
    """Return the correlation of the ranks."""
    return pearson(ranks(x), ranks(y))


def interval(x: Array, y: Array, statistic: Callable[[Array, Array], float]) -> tuple[float, ...]:
    """Return the statistic with its 95 % bootstrap interval (percentiles) over candidates."""
    rng = np.random.default_rng(SEED)
    drawn = [statistic(x[i], y[i]) for i in rng.integers(0, len(x), (RESAMPLES, len(x)))]
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return statistic(x, y), float(low), float(high)


def gains(rows: Sequence[Fields]) -> Array:
    """Return the canary's figure of each candidate, against nano-0 in all canaries together."""
    old = [approval_of(row["canary"]["stable_users"]) for row in rows]
    stable = sum(arm.users * arm.share for arm in old) / sum(arm.users for arm in old)
    return np.array([approval_of(row["canary"]["users"]).share - stable for row in rows])


def table(rows: Sequence[Fields]) -> Iterator[str]:
    """Yield the candidates by the reward model's score, then the correlations."""
    found = gains(rows)
    columns = {
        "reward": np.array([row["reward"] for row in rows]),
        "judge": np.array([row["judge"] for row in rows]),
        "preference": np.array([row["preference"]["rate"] for row in rows]),
    }
    yield (
        f"{'candidate':<16}{'reward':>8}{'rank':>6}{'judge':>8}{'rank':>6}{'preference':>12}"
        f"{'canary':>9}{'error':>7}{'rank':>6}{'tokens':>8}  verdict    gate"
    )
    order = {name: len(rows) - ranks(values) for name, values in columns.items()}
    canary_ranks = len(rows) - ranks(found)
    for i in np.argsort(-columns["reward"]):
        row = rows[i]
        approval = approval_of(row["canary"]["users"])
        # The variance of shares is at most that of events.
        error = (approval.share * (1 - approval.share) / max(approval.users, 1)) ** 0.5
        failed = [f"{c['name']}: {c['result']}" for c in row["gate"]["checks"] if not c["passed"]]
        yield (
            f"{row['name']:<16}{columns['reward'][i]:>+8.2f}{order['reward'][i]:>6.1f}"
            f"{columns['judge'][i]:>8.3f}{order['judge'][i]:>6.1f}"
            f"{columns['preference'][i]:>12.3f}{found[i]:>+9.3f}{error:>7.3f}"
            f"{canary_ranks[i]:>6.1f}{row['tokens']:>8.1f}  {row['canary']['verdict']:<11}"
            f"{row['gate']['verdict']} {'; '.join(failed)}"
        )
    known = np.array([keeps_knowledge(row) for row in rows])
    for label, chosen in (("all", np.full(len(rows), True)), ("knowledge kept", known)):
        for name, values in columns.items():
            for statistic in (pearson, spearman):
                value, low, high = interval(values[chosen], found[chosen], statistic)
                yield (
                    f"{label}, {chosen.sum()} candidates: {name} against canary, "
                    f"{statistic.__name__}: {value:.3f} ({low:.2f} to {high:.2f})"
                )


def keeps_knowledge(row: Fields) -> bool:
    """Return True if the gate's row of knowledge passed; no reward model measures knowledge."""
    return any(c["name"] == "knowledge" and c["passed"] for c in row["gate"]["checks"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Reward model against canary.")
    parser.add_argument("--thumbs", type=int, default=1000, help="thumbs of the snapshot")
    parser.add_argument("--canary-thumbs", type=int, default=400, help="thumbs of each canary")
    parser.add_argument("--only", default=",".join(VARIANTS), help="candidates")
    parser.add_argument("--into", type=Path, default=Path(".state/reward-and-canary"))
    parser.add_argument("--go-on", action="store_true", help="continue an interrupted call")
    parser.add_argument(
        "--train", nargs=3, metavar=("STATE", "FEEDBACK", "GENERATOR"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := set(names) - VARIANTS.keys():
        parser.error(f"--only: {', '.join(sorted(unknown))} unknown; known: {', '.join(VARIANTS)}")
    if options.train:
        train_all(Path(options.train[0]), options.train[1], options.train[2], names)
    else:
        into, thumbs = options.into.resolve(), options.canary_thumbs
        asyncio.run(measure(into, options.thumbs, thumbs, names, options.go_on))


if __name__ == "__main__":
    main()
