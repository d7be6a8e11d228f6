"""Commands `thumbwheel review draw`, `thumbwheel review export` and `thumbwheel review appeals`.

Modules with imports of seconds are imported on use.
"""

from __future__ import annotations

import argparse
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from training.data_commands import identity, objects, require_state, tls_files
from training.reviews.rules import AMOUNTS, DrawConfig, Rule

if TYPE_CHECKING:
    from training.remote import FeedbackLog, ReviewItems

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

DESCRIPTIONS = {
    Rule.BLOCKED: "that the guardrail blocked or changed",
    Rule.DISAGREEMENT: "on which users disagree",
    Rule.NEW_VERSION: "of new versions",
    Rule.RANDOM: "of all others",
}
DEFAULTS = DrawConfig()


def describe(commands: Commands, services: argparse.ArgumentParser) -> None:
    """Add the commands to the command line.

    Args:
        services: parser with the options for the state and the feedback service.
    """
    reviews = argparse.ArgumentParser(add_help=False, parents=[services])
    reviews.add_argument(
        "--review",
        default="127.0.0.1:50058",
        metavar="HOST:PORT",
        help="the review service (default: %(default)s)",
    )
    reviews.add_argument(
        "--patience",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="time to wait for an unavailable service (default: 0)",
    )
    reviews.add_argument(
        "--language",
        default=DEFAULTS.language,
        metavar="CODE",
        help="ISO 639-1 code of the users, which selects national numbers to replace "
        "(default: %(default)s)",
    )
    drawing = commands.add_parser("draw", parents=[reviews])
    for rule, description in DESCRIPTIONS.items():
        drawing.add_argument(
            f"--{rule.replace('_', '-')}",
            type=int,
            default=AMOUNTS[rule],
            metavar="N",
            help=f"new items of each tenant with answers {description} (default: %(default)s)",
        )
    drawing.add_argument(
        "--days",
        type=float,
        default=DEFAULTS.days,
        metavar="DAYS",
        help="greatest age of an answer; below TW_REVIEW_ITEM_DAYS (default: %(default)s)",
    )
    drawing.add_argument(
        "--new-version-days",
        type=float,
        default=DEFAULTS.new_version_days,
        metavar="DAYS",
        help="time for which a version is new after its first answer (default: %(default)s)",
    )
    drawing.add_argument(
        "--seed",
        type=int,
        default=DEFAULTS.seed,
        metavar="N",
        help="selects the answers (default: %(default)s)",
    )
    drawing.set_defaults(command=draw_items, resumption="the same command draws the rest")
    describe_export(commands, reviews)


def describe_export(commands: Commands, reviews: argparse.ArgumentParser) -> None:
    """Add the command `export` with the options of `reviews`."""
    exporting = commands.add_parser("export", parents=[reviews])
    exporting.add_argument(
        "--out",
        dest="output",
        type=Path,
        required=True,
        metavar="FILE",
        help="JSON lines that inspect-ai and lm-eval read",
    )
    exporting.add_argument(
        "--tenant", default="", metavar="NAME", help="only this tenant (default: all)"
    )
    exporting.set_defaults(command=export_reviews, resumption="nothing was written")
    appealing = commands.add_parser("appeals", parents=[reviews])
    appealing.add_argument(
        "--out",
        dest="output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder of lookalikes.tsv, requests.tsv and cases.jsonl, for a person to commit",
    )
    appealing.add_argument(
        "--tenant-texts",
        type=int,
        default=50,
        metavar="N",
        help="most texts of a tenant in an export (default: %(default)s)",
    )
    appealing.add_argument(
        "--user-texts",
        type=int,
        default=5,
        metavar="N",
        help="most texts of a user in an export (default: %(default)s)",
    )
    appealing.set_defaults(command=export_decided_appeals, resumption="nothing was written")


def draw_items(options: argparse.Namespace) -> int:
    """Remove items without consent, draw new ones, and print counts."""
    from training.reviews.draw import draw

    require_state(options)
    config = DrawConfig(
        amounts={rule: getattr(options, rule.value) for rule in Rule},
        days=options.days,
        new_version_days=options.new_version_days,
        seed=options.seed,
        language=options.language,
    )
    with closing(_feedback(options)) as log, closing(_review(options)) as queue:
        result = draw(log, objects(options), queue, config, time.time_ns() // 1000)
    print(result.text())
    return 0


def export_reviews(options: argparse.Namespace) -> int:
    """Write the complete items with their reviews, and print counts."""
    from training.reviews.export import export

    require_state(options)
    with closing(_feedback(options)) as log, closing(_review(options)) as items:
        result = export(
            items.reviewed(), log, options.output, options.language, tenant=options.tenant
        )
    print(result.text())
    return 0


def export_decided_appeals(options: argparse.Namespace) -> int:
    """Write the decided appeals for the guard, and print counts."""
    from training.reviews.appeals import ExportLimits, export_appeals

    require_state(options)
    limits = ExportLimits(options.tenant_texts, options.user_texts)
    with closing(_feedback(options)) as log, closing(_review(options)) as items:
        result = export_appeals(
            items.reviewed(), items.quarantined(), log, options.output, options.language, limits
        )
    print(result.text())
    return 0


def _feedback(options: argparse.Namespace) -> FeedbackLog:
    from training.remote import FeedbackLog

    return FeedbackLog(options.feedback, tls_files(options), options.patience, identity(options))


def _review(options: argparse.Namespace) -> ReviewItems:
    from training.remote import ReviewItems

    return ReviewItems(options.review, tls_files(options), options.patience, identity(options))
