"""`thumbwheel life`: from web pages on loopback to a chat model, offline, with one page of results.

Each step is skipped once it is finished; the same command continues an interrupted run. Read `live`
from top to bottom.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.install import documentation
from infra.life.children import CommandFailedError, run_command
from infra.life.site import ADDRESS, SiteError, article_seeds, manual_seeds, serve, write_site
from infra.machine.servers.errors import ServerError
from infra.run.supervision.interruption import as_command
from training.corpus.sources.config import CRAWL_LOG, LATEST_CRAWL
from training.errors import DetailedError
from training.recipes.life.plan import FULL_MINUTES, Journal, Plan
from training.runs import exclusive

if TYPE_CHECKING:
    from training.recipes.life.stages import Stages
    from training.runtime.context import Progress

AGENT = "ThumbwheelLife/1.0 (+http://127.0.0.1/)"
SITE, PORT = "site", "port"
MANUALS, ARTICLES = "manuals", "articles"
SAY_EVERY_SECONDS = 10.0
FAST = ("--delay", "0", "--concurrency", "8")  # the site is our own


def main() -> None:
    options = _parser().parse_args()
    work: Path = options.work.absolute()
    # StoppedError of a training stage is a KeyboardInterrupt.
    with as_command(ServerError, SiteError, CommandFailedError, DetailedError):
        try:
            page = live(work, Plan(options.minutes))
        except KeyboardInterrupt:
            say("the same command continues where this one stopped")
            raise
    say(f"the page: {page}")


def live(work: Path, plan: Plan) -> Path:
    """Run all steps in a folder and return the page.

    Raises:
        CommandFailedError: a command of the data path failed.
        ConfigError: the folder has a run of another size.
        LoopRunningError: another run uses the folder.
    """
    # Imports of torch and of the data path take seconds.
    from training.data_commands import code_commit
    from training.recipes.life import page, texts
    from training.recipes.life.stages import BASE, RAW_BASE, Stages

    journal = Journal(work, plan, say)
    clean, raw = work / texts.CLEAN, work / texts.RAW
    raw_shards = work / "raw-shards"
    crawls = {name: work / "crawl" / name for name in (MANUALS, ARTICLES)}
    stages = Stages(work, clean, plan, code_commit(), Teller())
    with exclusive(work, "a run of the tour"):
        journal.step("site", lambda: make_site(work))
        for name, seeds in ((MANUALS, manual_seeds()), (ARTICLES, article_seeds())):
            journal.step(f"crawl {name}", partial(crawl, work, crawls[name], seeds, plan))
        sources = {name: folder / LATEST_CRAWL for name, folder in crawls.items()}
        journal.step("corpus", lambda: build(clean, texts.settings(sources, plan)))

        def write_raw() -> Mapping[str, Any]:
            build_corpus(raw, texts.raw_settings(sources))
            return texts.write_raw_shards(clean, raw, raw_shards)

        journal.step("raw texts", write_raw)
        for name, run in (
            ("pre-training", lambda: stages.pretrain(BASE, texts.shards_of(clean))),
            ("pre-training on raw texts", lambda: stages.pretrain(RAW_BASE, raw_shards)),
            ("fine-tuning", stages.fine_tune),
            ("reward model", stages.reward),
            ("PPO", stages.optimise),
            ("evaluation", lambda: evaluate(stages)),
        ):
            journal.step(name, run)
            written = page.write_life_page(journal, work / "runs", work)
    return written


def make_site(work: Path) -> Mapping[str, Any]:
    """Write the pages of the site; manuals and articles are installed with the first run."""
    from training.data.packages import installed
    from training.recipes.pretraining.texts import PACKAGES, SUMMARIES

    manuals = documentation.install(say)
    found = json.loads((installed(PACKAGES) / SUMMARIES).read_text())
    articles = [{"title": title, **found[title]} for title in sorted(found)]
    write_site(work / SITE, manuals, articles)
    return {"articles": len(articles)}


def crawl(work: Path, out: Path, seeds: list[str], plan: Plan) -> Mapping[str, Any]:
    """Crawl the site and return the number of URLs by fate."""
    stored = work / PORT
    port = int(stored.read_text()) if stored.exists() else 0
    with serve(work / SITE, port) as port:
        # URLs contain the port, so an interrupted crawl needs the same one.
        stored.write_text(str(port))
        urls = [f"http://{ADDRESS}:{port}/{seed}" for seed in seeds]
        limits = ("--pages", str(plan.pages))
        options = ("--agent", AGENT, "--private-addresses", "--no-sitemaps", *FAST)
        run_command(["data", "crawl", "--seeds", *urls, "--out", str(out), *limits, *options])
    with (out / LATEST_CRAWL / CRAWL_LOG).open() as lines:
        fates = Counter(json.loads(line)["fate"] for line in lines)
    return {"fates": dict(fates.most_common())}


def build_corpus(out: Path, settings: str) -> None:
    """Run `thumbwheel data build` with these settings.

    One process, as more would start Ray, which takes longer than it saves here.
    """
    config = out.with_suffix(".toml")
    config.write_text(settings)
    run_command(["data", "build", str(config), "--out", str(out), "--workers", "1"])


def build(out: Path, settings: str) -> Mapping[str, Any]:
    """Build the cleaned corpus and return its figures."""
    from training.artifacts.manifest import read_manifest
    from training.corpus.document import Stage
    from training.data_path.log import RESULT
    from training.data_path.pipeline import SUMMARY
    from training.data_path.summary import Summary
    from training.recipes.life.texts import examples, shards_of

    build_corpus(out, settings)
    summary = Summary.read(out / RESULT / SUMMARY)
    train = read_manifest(shards_of(out)).report["train"]
    dropped = {
        str(stage): count
        for stage in Stage
        if stage is not Stage.KEPT and (count := summary.sizes(stage)["documents"])
    }
    return {
        "records": summary.items,
        "dropped": dropped,
        **summary.sizes(Stage.KEPT),
        "tokens": train["tokens"],
        "bytes_per_token": train["bytes_per_token"],
        "redacted": sum(summary.redacted.values()),
        "samples": examples(out),
    }


def evaluate(stages: Stages) -> Mapping[str, Any]:
    """Measure the models of all stages."""
    from training.recipes.life.stages import BASE, PPO, RAW_BASE, SFT

    return {
        "bits_per_byte": {name: stages.bits_per_byte(name) for name in (BASE, RAW_BASE, SFT, PPO)},
        "chats": {name: stages.judged(name) for name in (BASE, SFT, PPO)},
    }


class Teller:
    """Says the progress of training stages every few seconds."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._said >= SAY_EVERY_SECONDS or progress.step == progress.total_steps:
            self._said = now
            loss = progress.metrics.get("loss")
            shown = "" if loss is None else f", loss {loss:.3f}"
            say(f"  {progress.stage} {progress.step:,} of {progress.total_steps:,}{shown}")


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"life: {text}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="thumbwheel life",
        description="Crawl, clean, train and chat with a small model, offline, with one page.",
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path(".state") / "life",
        help="folder of the run; continues one that was interrupted (default: %(default)s)",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=FULL_MINUTES,
        help="size of the run in minutes on two quiet cores (default: %(default)g)",
    )
    return parser


if __name__ == "__main__":
    main()
