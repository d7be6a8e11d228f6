// Errors of the API in the words of the reviewers' pages, by their code.
import { ApiError, problemOf } from "../api";

const FINAL: Record<string, string> = {
  not_found: "This item is no longer available. Its user may have withdrawn consent or erased the conversation.",
  item_closed: "Other reviewers have completed this item in the meantime. Your review was not stored.",
  item_has_review: "You have already judged this item, with another review. The first one stays.",
  no_disagreement: "The reviewers no longer disagree on this item. Your judgement was not stored.",
  item_has_resolution: "This item already has another final judgement. Yours was not stored.",
  own_review: "You have judged this item yourself, so another reviewer makes the final judgement.",
};

export const NO_SCOPE = "This key may not review: it lacks the scope review.";
export const NO_ANSWER = "The service did not answer. Please try again.";
const REJECTED = "The guard rejects your better answer or your comment: leave out harmful content, secrets and personal data.";

export interface Problem {
  text: string;
  /** A further attempt at this item has no effect, so the page offers the next one. */
  isFinal: boolean;
}

export function reviewProblem(error: unknown): Problem {
  // A connection that breaks raises TypeError.
  if (!(error instanceof ApiError) || error.status >= 500) return { text: NO_ANSWER, isFinal: false };
  if (error.code === "scope_missing") return { text: NO_SCOPE, isFinal: false };
  if (error.code === "review_rejected") return { text: REJECTED, isFinal: false };
  // Of errors in fields the gateway names field and limit.
  return { text: FINAL[error.code] ?? problemOf(error), isFinal: error.code in FINAL };
}

/** Return true for the answer that nothing is left to judge. */
export function isEmptyQueue(error: unknown): boolean {
  return error instanceof ApiError && error.code === "no_item";
}
