import { describe, expect, it, test } from "vitest";
import { comparedRows, countsOf, reviewTitles, shownAgreements } from "../../src/review/agreement";
import type { ScaleAgreement } from "../../src/wire";
import { item, review, scores } from "./items";

function agreement(alpha: ScaleAgreement["alpha"], low: ScaleAgreement["low"], high: ScaleAgreement["high"]): ScaleAgreement {
  return { scale: "clarity", alpha, low, high, units: "1200" };
}

describe("agreement", () => {
  it("has an interval that is rounded outwards", () => {
    const [shown] = shownAgreements([agreement(0.716, 0.5071, 0.8911)]);
    expect(shown).toMatchObject({ scale: "Clarity", alpha: "0.72", range: "0.50 to 0.90", units: "1,200" });
    expect(shownAgreements([agreement(0.29, 0.29, 0.29)])[0]!.range).toBe("0.29 to 0.29");
  });

  it("has places on one scale, which begins below 0 if an interval does", () => {
    expect(shownAgreements([agreement(0.5, 0.25, 1)])[0]!.bar).toEqual({ low: 25, high: 100, mark: 50 });
    const [first, second] = shownAgreements([agreement(0, -1, 0.5), agreement(1, 1, 1)]);
    expect(first!.range).toBe("−1.00 to 0.50");
    expect(first!.bar).toEqual({ low: 0, high: 75, mark: 50 });
    expect(second!.bar).toEqual({ low: 100, high: 100, mark: 100 });
  });

  it("that is not defined has neither value nor interval", () => {
    expect(shownAgreements([{ ...agreement("NaN", "NaN", "NaN"), scale: "ranking" }])[0]).toEqual({
      scale: "Ranking", alpha: "", range: "", units: "1,200", bar: null,
    });
    expect(shownAgreements([agreement(0.5, "NaN", "NaN")])[0]).toMatchObject({ alpha: "0.50", bar: null });
  });
});

test("counts are one sentence", () => {
  const none = { agreements: [], items: "5", reviews: "1", disagreements: "0" };
  expect(countsOf(none)).toBe("1 review of 5 items; no disagreement waits for a final judgement.");
  expect(countsOf({ ...none, items: "1", reviews: "1200", disagreements: "1" })).toBe(
    "1,200 reviews of 1 item; 1 disagreement waits for a final judgement.",
  );
  expect(countsOf({ ...none, disagreements: "2" })).toContain("2 disagreements wait for");
});

describe("compared reviews", () => {
  const reviews = [
    review({ scores: [scores("a", 5), scores("b", 2, { safety: 0 })], ranks: [{ answerId: "a", rank: 1 }, { answerId: "b", rank: 2 }] }),
    review({ scores: [scores("b", 4), scores("a", 2)], own: true }),
  ];

  it("have a row for each scale of each answer, and one for the ranking", () => {
    const rows = comparedRows(item("a", "b"), reviews);
    expect(rows).toHaveLength(9);
    expect(rows[0]).toEqual({ name: "A: correctness", values: ["5", "2"], difference: "3", isLargest: true });
    expect(rows[4]).toMatchObject({ name: "B: correctness", difference: "2", isLargest: false });
    expect(rows[7]).toEqual({ name: "B: safety", values: ["–", "4"], difference: "", isLargest: false });
    expect(rows[8]).toEqual({ name: "Ranking", values: ["A, then B", "–"], difference: "", isLargest: false });
  });

  it("with equal scores have no largest difference", () => {
    const equal = [reviews[1]!, { ...reviews[1]!, own: false }];
    expect(comparedRows(item("a", "b"), equal).some(({ isLargest }) => isLargest)).toBe(false);
  });

  it("of one answer have no ranking", () => {
    expect(comparedRows(item("a"), reviews).map(({ name }) => name)).not.toContain("Ranking");
  });

  it("name no reviewer but the user", () => {
    expect(reviewTitles(reviews)).toEqual(["Reviewer 1", "Reviewer 2 (you)"]);
  });
});
