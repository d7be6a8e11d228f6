// Agreement of the reviewers and differences of their reviews for display.
import type { Review, ReviewAgreement, ReviewItem, ScaleAgreement } from "../wire";
import { orderOf } from "./draft";
import { NOT_APPLICABLE, SCALES } from "./scales";

export interface ShownAgreement {
  scale: string;
  /** Empty if alpha is not defined, as is the range. */
  alpha: string;
  range: string;
  units: string;
  /** Places in percent on the common scale, whose end is alpha 1; null without an interval. */
  bar: { low: number; high: number; mark: number } | null;
}

export function shownAgreements(agreements: readonly ScaleAgreement[]): ShownAgreement[] {
  // Alpha may be negative. The scale begins at 0, or at the lowest end.
  const start = Math.min(0, ...agreements.map(({ low }) => (typeof low === "number" ? low : 0)));
  const place = (alpha: number) => (100 * (alpha - start)) / (1 - start);
  return agreements.map(({ scale, alpha, low, high, units }) => {
    const named = { scale: SCALES.find((each) => each.scale === scale)?.title ?? "Ranking", units: Number(units).toLocaleString("en") };
    if (typeof alpha !== "number") return { ...named, alpha: "", range: "", bar: null };
    const shown = { ...named, alpha: rounded(alpha, Math.round) };
    if (typeof low !== "number" || typeof high !== "number") return { ...shown, range: "", bar: null };
    return {
      ...shown,
      // Rounded outwards, so that the displayed interval is never narrower than the computed one.
      range: `${rounded(low, Math.floor)} to ${rounded(high, Math.ceil)}`,
      bar: { low: place(low), high: place(high), mark: place(alpha) },
    };
  });
}

function rounded(alpha: number, round: (number: number) => number): string {
  // A sum of binary fractions may be slightly above a whole hundredth.
  return (round(Number((100 * alpha).toFixed(6))) / 100).toFixed(2).replace("-", "−");
}

/** Return the sentence about the reviews behind the agreement. */
export function countsOf({ items, reviews, disagreements }: ReviewAgreement): string {
  const waiting = Number(disagreements) === 0 ? "no disagreement waits" : `${counted(disagreements, "disagreement")} ${Number(disagreements) === 1 ? "waits" : "wait"}`;
  return `${counted(reviews, "review")} of ${counted(items, "item")}; ${waiting} for a final judgement.`;
}

/** Return a number with its noun. */
export function counted(number: string | number, noun: string): string {
  return `${Number(number).toLocaleString("en")} ${noun}${Number(number) === 1 ? "" : "s"}`;
}

export interface ComparedRow {
  name: string;
  /** By review; "–" where a scale does not apply, or without a ranking. */
  values: string[];
  /** Difference of the scores; empty for rankings and for fewer than two scores. */
  difference: string;
  /** The difference is the largest one of the item, and not 0. */
  isLargest: boolean;
}

/** Return the scores and rankings of several reviews as rows of a table. */
export function comparedRows({ answers, appeal }: ReviewItem, reviews: readonly Review[]): ComparedRow[] {
  if (appeal) {
    const values = reviews.map(({ blockDecision }) => (blockDecision === "BLOCK_DECISION_WRONG" ? "wrong" : "right"));
    return [{ name: "The block was", values, difference: "", isLargest: false }];
  }
  const rows = answers.flatMap(({ answerId }) =>
    SCALES.map(({ scale, title }) => {
      const scores = reviews.map((review) => review.scores.find((each) => each.answerId === answerId)?.[scale] ?? NOT_APPLICABLE);
      const used = scores.filter((score) => score !== NOT_APPLICABLE);
      const difference = used.length > 1 ? Math.max(...used) - Math.min(...used) : undefined;
      const values = scores.map((score) => (score === NOT_APPLICABLE ? "–" : `${score}`));
      return { name: `${answerId.toUpperCase()}: ${title.toLowerCase()}`, values, difference };
    }),
  );
  const largest = Math.max(1, ...rows.map(({ difference }) => difference ?? 0));
  const shown = rows.map((row) => ({ ...row, difference: `${row.difference ?? ""}`, isLargest: row.difference === largest }));
  if (answers.length < 2) return shown;
  const order = reviews.map(({ ranks }) => orderOf(ranks) || "–");
  return [...shown, { name: "Ranking", values: order, difference: "", isLargest: false }];
}

/** Return the title of each review: reviewers are numbered, since no reviewer is named. */
export function reviewTitles(reviews: readonly Review[]): string[] {
  return reviews.map(({ own }, index) => (own ? `Reviewer ${index + 1} (you)` : `Reviewer ${index + 1}`));
}
