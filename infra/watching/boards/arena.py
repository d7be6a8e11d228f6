"""Arena and reviews: votes and reviews, their way to training, leaderboard and quarantine."""

from infra.watching.panels import Dashboard, Panel, Query, Row, Unit, figure, quantiles, rate

REVIEW = "thumbwheel_review"

SUMMARY = Row(
    "Summary",
    (
        figure(
            "Votes and reviews in the outbox",
            "Not yet accepted by feedback.",
            Unit.COUNT,
            f"max({REVIEW}_outbox_votes)",
            alert="VotesWait.votes",
        ),
        figure(
            "Refused events",
            "In the last hour. Feedback accepts every valid event.",
            Unit.COUNT,
            f"sum(increase({REVIEW}_votes_refused_total[1h]))",
            red_from=1,
        ),
        figure(
            "Time since erasures were applied",
            "Normally about a minute.",
            Unit.SECONDS,
            f"time() - max({REVIEW}_erasures_time_seconds)",
            alert="VoteErasureWaits.seconds",
        ),
        figure(
            "Accounts quarantined",
            "In the last hour. Each waits for the decision of an operator.",
            Unit.COUNT,
            f"sum(increase({REVIEW}_accounts_quarantined_total[1h]))",
            red_from=1,
        ),
        figure(
            "Failed transactions",
            "In the last five minutes.",
            Unit.COUNT,
            f"sum(increase({REVIEW}_transactions_failed_total[5m]))",
            alert="ReviewDatabaseFails.transactions",
        ),
    ),
)
VOTES = Row(
    "Battles and votes",
    (
        Panel(
            "Battles",
            "New battles. Many without votes: users do not finish them.",
            Unit.PER_SECOND,
            [Query(rate(f"{REVIEW}_battles_total"), "battles")],
        ),
        Panel(
            "Votes by outcome",
            "All votes, also those that do not count.",
            Unit.PER_SECOND,
            [Query(rate(f"{REVIEW}_votes_total", "outcome"), "{{outcome}}")],
        ),
        Panel(
            "Votes that do not count",
            "no_weight: too soon after the answers, or above the daily limit. The other reasons "
            "are about the answers.",
            Unit.PER_SECOND,
            [
                Query(
                    f'sum by (uncounted) (rate({REVIEW}_votes_total{{uncounted!=""}}[5m]))',
                    "{{uncounted}}",
                )
            ],
        ),
        Panel(
            "Time to compute a leaderboard",
            "Grows with the number of votes. At most a tenth of the time is spent on it.",
            Unit.SECONDS,
            quantiles(f"{REVIEW}_leaderboard_seconds", of=(0.5, 0.99)),
        ),
    ),
)
REVIEWS = Row(
    "Reviews",
    (
        Panel(
            "Reviews and resolutions",
            "Stored judgements of reviewers.",
            Unit.PER_SECOND,
            [Query(rate(f"{REVIEW}_reviews_total", "kind"), "{{kind}}")],
        ),
        Panel(
            "Items after their last review",
            "Disagreed items wait for a resolution. Many of them: the scales or the rules for "
            "reviewers are unclear.",
            Unit.PER_SECOND,
            [Query(rate(f"{REVIEW}_items_judged_total", "outcome"), "{{outcome}}")],
        ),
    ),
)
PROGRESS = Row(
    "Way to training, erasure and quarantine",
    (
        Panel(
            "Outbox over time",
            "Not yet accepted by feedback, without those of quarantined accounts.",
            Unit.COUNT,
            [Query(f"max({REVIEW}_outbox_votes)", "waiting")],
            alert="VotesWait.votes",
        ),
        Panel(
            "Events accepted and refused by feedback",
            "A refused event is sent again later. VotesRefused fires at the first.",
            Unit.PER_SECOND,
            [
                Query(rate(f"{REVIEW}_votes_relayed_total"), "accepted"),
                Query(rate(f"{REVIEW}_votes_refused_total"), "refused"),
            ],
        ),
        Panel(
            "Age of the erasures",
            "Time since erasures were applied; normally about a minute.",
            Unit.SECONDS,
            [Query(f"time() - max({REVIEW}_erasures_time_seconds)", "age")],
            alert="VoteErasureWaits.seconds",
        ),
        Panel(
            "Accounts quarantined by the search",
            "Each waits for the decision of an operator.",
            Unit.COUNT,
            [
                Query(
                    f"sum by (reason) (increase({REVIEW}_accounts_quarantined_total[1h]))",
                    "{{reason}} per hour",
                )
            ],
        ),
        Panel(
            "Failed transactions over time",
            "Of the review database.",
            Unit.PER_SECOND,
            [Query(rate(f"{REVIEW}_transactions_failed_total"), "failed")],
        ),
    ),
)

BOARD = Dashboard(
    "arena",
    "arena",
    "Battles, votes, ratings and reviews of the review service.",
    (SUMMARY, VOTES, REVIEWS, PROGRESS),
)
