"""Page of the run: figures and samples of every finished step, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.progress_log import PROGRESS, SAMPLES, read_progress, read_samples
from training.recipes.life.plan import Journal
from training.recipes.life.stages import BASE, PPO, RAW_BASE, REWARD, SFT
from training.reporting.pages import Chart, chart, write_page
from training.runtime.context import Progress, Sample

TEMPLATE, PAGE = "life.html.jinja", "life.html"
STEPS = (
    *("site", "crawl manuals", "crawl articles", "corpus", "raw texts", "pre-training"),
    *("pre-training on raw texts", "fine-tuning", "reward model", "PPO", "evaluation"),
)
# Figures of a stage that its charts show.
DRAWN: Mapping[str, tuple[str, ...]] = {
    BASE: ("loss",),
    RAW_BASE: ("loss",),
    SFT: ("loss", "held_out_loss"),
    REWARD: ("loss", "held_out_accuracy"),
    PPO: ("reward", "score", "kl", "response_tokens"),
}


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        figures: values by name.
        table: rows; the first one is the head.
        samples: texts with a title.
    """

    title: str
    about: str
    seconds: float
    figures: Mapping[str, str] = field(default_factory=dict)
    table: Sequence[Sequence[str]] = ()
    samples: Sequence[Mapping[str, str]] = ()
    charts: Sequence[Chart] = ()
    link: str = ""


def write_life_page(journal: Journal, runs: Path, folder: Path) -> Path:
    """Write the page of the steps that are finished.

    Args:
        runs: folder with the progress of the training stages.
        folder: folder of the page, to which its links are relative.
    """
    makers = (_crawl, _corpus, _base, _tuning, _rewards, _ppo, _evaluation)
    sections = [section for make in makers if (section := make(journal, runs)) is not None]
    steps = [(name, step["seconds"]) for name, step in journal.steps.items()]
    facts = {
        "minutes": journal.plan.minutes,
        "sections": sections,
        "steps": steps,
        "total": sum(seconds for _, seconds in steps),
        "waiting": [name for name in STEPS if name not in journal.steps],
    }
    return write_page(folder / PAGE, TEMPLATE, facts)


def _crawl(journal: Journal, _: Path) -> Section | None:
    names = [name for name in ("crawl manuals", "crawl articles") if name in journal.steps]
    if not names:
        return None
    rows: list[list[str]] = [["crawl", "URLs", "seconds", "URLs by fate"]]
    for name in names:
        fates = journal.figures(name)["fates"]
        listed = ", ".join(f"{fate} {count:,}" for fate, count in fates.items())
        seconds = journal.steps[name]["seconds"]
        rows.append([name, f"{sum(fates.values()):,}", f"{seconds:.0f}", listed])
    return Section(
        "Crawl",
        "A site on loopback serves manuals of Debian packages and openings of Wikipedia articles. "
        "The crawler follows links within the site, obeys robots.txt, and writes WARC files.",
        sum(journal.steps[name]["seconds"] for name in names),
        table=rows,
    )


def _corpus(journal: Journal, _: Path) -> Section | None:
    if "corpus" not in journal.steps:
        return None
    found = journal.figures("corpus")
    rows = [["stage", "dropped", "remaining"], ["records", "", f"{found['records']:,}"]]
    remaining = found["records"]
    for stage, count in found["dropped"].items():
        remaining -= count
        rows.append([stage, f"{count:,}", f"{remaining:,}"])
    is_decontaminated = journal.plan.decontaminate
    decontamination = "decontamination against the benchmarks, " if is_decontaminated else ""
    return Section(
        "Corpus",
        f"Extraction, language, quality rules, duplicates, personal data, {decontamination}a "
        "tokenizer trained on the result, token shards. Each record has one row in the document "
        "log.",
        journal.steps["corpus"]["seconds"],
        figures={
            "documents": f"{found['documents']:,}",
            "text": f"{found['bytes'] / 1e6:,.2f} MB",
            "tokens": f"{found['tokens']:,}",
            "bytes per token": f"{found['bytes_per_token']:.2f}",
            "placeholders for personal data": f"{found['redacted']:,}",
        },
        table=rows,
        samples=found["samples"],
        link="clean/result/report.html",
    )


def _base(journal: Journal, runs: Path) -> Section | None:
    if "pre-training" not in journal.steps:
        return None
    rows = [["trained on", "tokens available", "steps", "parameters", "loss at the end"]]
    for name, step in (("cleaned texts", "pre-training"), ("raw", "pre-training on raw texts")):
        if step in journal.steps:
            found = journal.figures(step)
            row = [f"{found[key]:,}" for key in ("tokens", "steps", "parameters")]
            rows.append([name, *row, f"{found['loss']:.3f}"])
    return Section(
        "Pre-training",
        "A decoder with random initial weights learns to continue texts. A second one learns from "
        "the same pages without filters, with the same steps, tokens per step and tokenizer. Pages "
        "behind held-out texts are left out of both.",
        journal.steps["pre-training"]["seconds"],
        table=rows,
        samples=_last_samples(runs / BASE),
        charts=_charts(runs, BASE, RAW_BASE),
    )


def _tuning(journal: Journal, runs: Path) -> Section | None:
    if "fine-tuning" not in journal.steps:
        return None
    found = journal.figures("fine-tuning")
    return Section(
        "Supervised fine-tuning",
        "The base learns the form of a chat from conversations of a toy world, answered in five "
        "styles with equal probability: terse, friendly, rambling, grumpy and wrong.",
        journal.steps["fine-tuning"]["seconds"],
        figures={name: f"{found[name]:,}" for name in ("examples", "steps")},
        samples=_last_samples(runs / SFT),
        charts=_charts(runs, SFT),
    )


def _rewards(journal: Journal, runs: Path) -> Section | None:
    if "reward model" not in journal.steps:
        return None
    found = journal.figures("reward model")
    shown = ("held_out_accuracy", "held_out_accuracy_low", "held_out_accuracy_high")
    return Section(
        "Reward model",
        "Simulated users compare two answers and prefer friendly and correct ones; a tenth of "
        "their judgements is wrong, so that no model can agree with more than nine tenths.",
        journal.steps["reward model"]["seconds"],
        figures={name.replace("_", " "): f"{found[name]:.3f}" for name in shown if name in found},
        charts=_charts(runs, REWARD),
    )


def _ppo(journal: Journal, runs: Path) -> Section | None:
    if "PPO" not in journal.steps:
        return None
    found = journal.figures("PPO")
    return Section(
        "PPO",
        "The chat model answers, the reward model scores, and the policy moves towards better "
        "scores, with a penalty on the distance from the fine-tuned model.",
        journal.steps["PPO"]["seconds"],
        figures={
            name.replace("_", " "): f"{value:.4g}"
            for name, value in found.items()
            if isinstance(value, float)
        },
        samples=_last_samples(runs / PPO),
        charts=_charts(runs, PPO),
    )


def _evaluation(journal: Journal, _: Path) -> Section | None:
    if "evaluation" not in journal.steps:
        return None
    found = journal.figures("evaluation")
    judged: Mapping[str, Mapping[str, Any]] = found["chats"]
    kinds = list(next(iter(judged.values()))["probes"])
    head = ["model", "bits per byte", "right", "friendly", "right and friendly", *kinds]
    rows = [head]
    for name, bits in found["bits_per_byte"].items():
        chat = judged.get(name)
        shares = [chat[key] for key in ("right", "friendly", "preferred")] if chat else []
        shares += [chat["probes"][kind] for kind in kinds] if chat else []
        row = [f"{share:.0%}" for share in shares] or ["–"] * (len(head) - 2)
        rows.append([name, f"{bits:.4f}", *row])
    gain = 1 - found["bits_per_byte"][BASE] / found["bits_per_byte"][RAW_BASE]
    return Section(
        "Evaluation and chat",
        "Bits per byte are measured on held-out cleaned texts; less is better. Chats are judged on "
        "held-out questions and the probes of the toy world. No judged pair is about a request "
        "that should be refused, so PPO can lower the share of refusals; the gate of the loop "
        "refuses such a version. The dialogues are the first held-out questions with the answers "
        "after PPO.",
        journal.steps["evaluation"]["seconds"],
        figures={"bits per byte saved by cleaning": f"{gain:+.1%}"},
        table=rows,
        samples=judged[PPO]["dialogues"],
    )


def _last_samples(directory: Path) -> list[dict[str, str]]:
    """Return the samples of the last sampled step of a stage."""
    path = directory / SAMPLES
    samples: Sequence[Sample] = read_samples(path) if path.exists() else []
    if not samples:
        return []
    last = max(sample.step for sample in samples)
    shown = [sample for sample in samples if sample.step == last][:6]
    return [{"title": sample.prompt, "text": sample.text} for sample in shown]


def _charts(runs: Path, *names: str) -> list[Chart]:
    courses: dict[str, list[Progress]] = {
        name: read_progress(runs / name / PROGRESS)
        for name in names
        if (runs / name / PROGRESS).exists()
    }
    drawn = []
    for figure in DRAWN[names[0]]:
        lines = {
            name if len(courses) > 1 else figure: [
                (step.step, step.metrics[figure]) for step in steps if figure in step.metrics
            ]
            for name, steps in courses.items()
        }
        if made := chart(figure, lines):
            drawn.append(made)
    return drawn
