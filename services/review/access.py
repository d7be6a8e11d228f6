"""Allowed callers of the review service, by method; a method without an entry is denied.

The gateway serves ArenaService, AppealService and ReviewService to users, checks their scopes, and
forwards the calls.
"""

from collections.abc import Mapping

GATEWAY = frozenset({"gateway"})
TRAINING = frozenset({"training", "operator"})

CALLERS: Mapping[str, frozenset[str]] = {
    "thumbwheel.review.v1.ArenaService.CreateBattle": GATEWAY,
    "thumbwheel.review.v1.ArenaService.GetBattle": GATEWAY,
    "thumbwheel.review.v1.ArenaService.VoteBattle": GATEWAY,
    "thumbwheel.review.v1.ArenaService.GetLeaderboard": GATEWAY,
    "thumbwheel.review.v1.BattleModelService.ResolveBattleModel": GATEWAY,
    "thumbwheel.review.v1.AppealService.SubmitAppeal": GATEWAY,
    "thumbwheel.review.v1.AppealService.ListAppeals": GATEWAY,
    "thumbwheel.review.v1.ReviewService.GetNextItem": GATEWAY,
    "thumbwheel.review.v1.ReviewService.SubmitReview": GATEWAY,
    "thumbwheel.review.v1.ReviewService.SkipItem": GATEWAY,
    "thumbwheel.review.v1.ReviewService.ListDisagreements": GATEWAY,
    "thumbwheel.review.v1.ReviewService.ResolveDisagreement": GATEWAY,
    "thumbwheel.review.v1.ReviewService.GetAgreement": GATEWAY,
    "thumbwheel.review.v1.ReviewItemService.AddItems": TRAINING,
    "thumbwheel.review.v1.ReviewItemService.RemoveItems": TRAINING,
    "thumbwheel.review.v1.ReviewItemService.ListQuarantinedAccounts": TRAINING,
    "thumbwheel.review.v1.ReviewItemService.ListReviews": TRAINING,
}
