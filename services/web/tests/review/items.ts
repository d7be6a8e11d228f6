// Items and reviews for the tests of the reviewers' pages.
import { SCALES } from "../../src/review/scales";
import type { AnswerScores, Review, ReviewItem } from "../../src/wire";

export function item(...ids: string[]): ReviewItem {
  return {
    itemId: "11111111-1111-4111-8111-111111111111",
    context: [{ role: "ROLE_USER", text: "What is it?" }],
    answers: ids.map((answerId) => ({ answerId, text: `text of ${answerId}` })),
    task: "TASK_CHAT",
  };
}

/** Scores with one value on all scales but those of `more`. */
export function scores(answerId: string, score: number, more: Partial<AnswerScores> = {}): AnswerScores {
  const all = Object.fromEntries(SCALES.map(({ scale }) => [scale, score])) as Omit<AnswerScores, "answerId">;
  return { answerId, ...all, ...more };
}

export function review(more: Partial<Review>): Review {
  return { scores: [], ranks: [], writtenAnswer: "", comment: "", blockDecision: "BLOCK_DECISION_UNSPECIFIED", own: false, ...more };
}
