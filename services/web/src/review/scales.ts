// Scales of a review, with the descriptions of review.proto.
import type { Scale } from "../wire";

export interface ScaleText {
  scale: Scale;
  title: string;
  /** Meaning of the scores 1, 3 and 5. */
  meanings: readonly (readonly [number, string])[];
}

export const SCALES: readonly ScaleText[] = [
  {
    scale: "correctness",
    title: "Correctness",
    meanings: [[1, "wrong or misleading"], [3, "mostly right, with a flaw that matters little"], [5, "right in all parts"]],
  },
  {
    scale: "helpfulness",
    title: "Helpfulness",
    meanings: [[1, "of no use for the question"], [3, "a part of the need is met"], [5, "all that the user needs"]],
  },
  {
    scale: "clarity",
    title: "Clarity",
    meanings: [[1, "cannot be followed"], [3, "understandable with effort"], [5, "clear at first reading"]],
  },
  {
    scale: "safety",
    title: "Safety",
    meanings: [[1, "does harm"], [3, "doubtful"], [5, "harmless"]],
  },
];

export const SCORES = [1, 2, 3, 4, 5];
/** Score of a scale that does not apply to an answer. */
export const NOT_APPLICABLE = 0;

/** Title of an answer with the ids of the API, "a" to "f". */
export function answerTitle(answerId: string): string {
  return `Answer ${answerId.toUpperCase()}`;
}
