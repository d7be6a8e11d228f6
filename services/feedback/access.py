"""Services allowed to call each method, identified by token and client certificate.

Methods missing from the table are denied.
"""

from collections.abc import Mapping

GATEWAY = frozenset({"gateway"})
SESSION = frozenset({"session"})
LOOP = frozenset({"training", "operator"})
# Sends votes, and removes the votes of erased users.
REVIEW = frozenset({"review"})
# Compares versions after a promotion.
GENERATOR = frozenset({"generator"})

CALLERS: Mapping[str, frozenset[str]] = {
    "thumbwheel.feedback.v1.FeedbackLogService.RecordFeedback": GATEWAY | REVIEW,
    "thumbwheel.feedback.v1.FeedbackLogService.AppendTurns": SESSION,
    "thumbwheel.feedback.v1.FeedbackLogService.ListSegments": LOOP,
    "thumbwheel.feedback.v1.FeedbackLogService.CountThumbs": LOOP | GATEWAY,
    "thumbwheel.feedback.v1.FeedbackLogService.GetExperiment": LOOP | GATEWAY,
    "thumbwheel.feedback.v1.FeedbackLogService.GetVersionFeedback": LOOP | GENERATOR,
    "thumbwheel.feedback.v1.FeedbackLogService.GetThumbs": GATEWAY,
    "thumbwheel.feedback.v1.FeedbackLogService.GetPrincipalConsent": GATEWAY,
    "thumbwheel.feedback.v1.FeedbackLogService.SetPrincipalConsent": GATEWAY,
    "thumbwheel.feedback.v1.FeedbackLogService.ErasePrincipal": GATEWAY,
    "thumbwheel.feedback.v1.FeedbackLogService.GetPrincipalErasure": GATEWAY,
    "thumbwheel.feedback.v1.FeedbackLogService.GetDataKeys": LOOP,
    "thumbwheel.feedback.v1.FeedbackLogService.ListErasures": LOOP | REVIEW,
}
