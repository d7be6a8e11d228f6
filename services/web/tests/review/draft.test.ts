import { describe, expect, it, test } from "vitest";
import { Drafts, EMPTY_DRAFT, missingOf, orderOf, ranksOf, reviewOf, withPlace, withScore, type Draft } from "../../src/review/draft";
import { SCALES } from "../../src/review/scales";
import { item, scores } from "./items";

const TWO = item("a", "b");

/** Draft with one score on all scales of the answers. */
function scored(score: number, ...ids: string[]): Draft {
  return ids.reduce((draft, id) => SCALES.reduce((now, { scale }) => withScore(now, id, scale, score), draft), EMPTY_DRAFT);
}

function placed(places: Record<string, number>): Draft {
  return Object.entries(places).reduce((draft, [id, place]) => withPlace(draft, id, place), EMPTY_DRAFT);
}

class FakeStorage implements Storage {
  readonly items = new Map<string, string>();
  isFull = false;
  get length() {
    return this.items.size;
  }
  key = (place: number) => [...this.items.keys()][place] ?? null;
  getItem = (key: string) => this.items.get(key) ?? null;
  removeItem = (key: string) => void this.items.delete(key);
  clear = () => this.items.clear();
  setItem(key: string, value: string) {
    if (this.isFull) throw new DOMException("full", "QuotaExceededError");
    this.items.set(key, value);
  }
}

describe("a draft is complete", () => {
  it("with scores, a ranking, or a better answer alone", () => {
    expect(missingOf(scored(3, "a", "b"), TWO)).toBe("");
    expect(missingOf(placed({ a: 1, b: 1 }), TWO)).toBe("");
    expect(missingOf({ ...EMPTY_DRAFT, written: "It is tea." }, TWO)).toBe("");
  });

  it("not without any of them", () => {
    expect(missingOf(EMPTY_DRAFT, TWO)).toContain("needs scores, a ranking or a better answer");
    expect(missingOf({ ...EMPTY_DRAFT, comment: "hm", written: "  \n" }, TWO)).toContain("needs scores");
    expect(missingOf(scored(0, "a", "b"), TWO)).toContain("needs scores");
  });

  it("not if one scale of one answer is missing, which is named", () => {
    expect(missingOf(scored(3, "a"), TWO)).toContain("Correctness of Answer B");
    const { safety, ...rest } = scored(3, "a", "b").scores["a"]!;
    expect(safety).toBe(3);
    expect(missingOf({ ...scored(3, "a", "b"), scores: { a: rest, b: scored(3, "b").scores["b"]! } }, TWO)).toContain("Safety of Answer A");
  });

  it("not with a ranking of some answers", () => {
    expect(missingOf(placed({ a: 1, c: 2 }), item("a", "b", "c"))).toContain("place of Answer B");
  });
});

test("a scale that does not apply is 0 in the review", () => {
  const draft = withScore(scored(4, "a", "b"), "b", "safety", 0);
  expect(missingOf(draft, TWO)).toBe("");
  expect(reviewOf(draft, TWO).scores).toEqual([scores("a", 4), scores("b", 4, { safety: 0 })]);
});

test("a review of a ranking alone has scores that do not apply", () => {
  expect(reviewOf({ ...placed({ a: 2, b: 1 }), comment: " close " }, TWO)).toEqual({
    scores: [scores("a", 0), scores("b", 0)],
    ranks: [{ answerId: "a", rank: 2 }, { answerId: "b", rank: 1 }],
    writtenAnswer: "",
    comment: "close",
    blockDecision: "BLOCK_DECISION_UNSPECIFIED",
  });
});

it("an appeal needs a decision and nothing else", () => {
  const appeal = { isAnswer: false, category: "violence", score: 0.9, policyVersion: "p", reason: "" };
  const appealed = { ...item("a"), appeal };
  expect(missingOf(EMPTY_DRAFT, appealed)).toContain("decision is missing");
  const decided: Draft = { ...EMPTY_DRAFT, block: "BLOCK_DECISION_WRONG" };
  expect(missingOf(decided, appealed)).toBe("");
  expect(reviewOf(decided, appealed)).toMatchObject({ scores: [scores("a", 0)], blockDecision: "BLOCK_DECISION_WRONG" });
});


test("ranks have no gaps, and equal places are ties", () => {
  const three = item("a", "b", "c");
  const ranks = (places: Record<string, number>) => ranksOf(placed(places).places, three).map(({ rank }) => rank);
  expect(ranks({ a: 3, b: 1, c: 3 })).toEqual([2, 1, 2]);
  expect(ranks({ a: 2, b: 3, c: 2 })).toEqual([1, 2, 1]);
  expect(ranks({ a: 1, b: 2, c: 3 })).toEqual([1, 2, 3]);
  expect(ranks({})).toEqual([]);
});

test("an order names the best answer first and ties together", () => {
  expect(orderOf([{ answerId: "a", rank: 2 }, { answerId: "b", rank: 1 }, { answerId: "c", rank: 2 }])).toBe("B, then A and C");
  expect(orderOf([])).toBe("");
});

describe("kept drafts", () => {
  const draft = { ...placed({ a: 1, b: 2 }), written: "It is tea." };

  it("are read again, by item, user and kind", () => {
    const storage = new FakeStorage();
    new Drafts("t/ada", "review", storage).keep("i", draft);
    expect(new Drafts("t/ada", "review", storage).read("i")).toEqual(draft);
    expect(new Drafts("t/ada", "review", storage).read("j")).toBe(EMPTY_DRAFT);
    expect(new Drafts("t/bob", "review", storage).read("i")).toBe(EMPTY_DRAFT);
    expect(new Drafts("t/ada", "resolution", storage).read("i")).toBe(EMPTY_DRAFT);
  });

  it("leave nothing behind after the removal, or when the form is cleared", () => {
    const storage = new FakeStorage();
    const drafts = new Drafts("t/ada", "review", storage);
    drafts.keep("i", draft);
    drafts.keep("j", draft);
    drafts.remove("i");
    drafts.keep("j", EMPTY_DRAFT);
    expect(storage.length).toBe(0);
  });

  it("do not break the page when the storage is full", () => {
    const storage = new FakeStorage();
    storage.isFull = true;
    new Drafts("t/ada", "review", storage).keep("i", draft);
    expect(storage.length).toBe(0);
  });
});
