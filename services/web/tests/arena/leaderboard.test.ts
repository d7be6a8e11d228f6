import { describe, expect, it, test } from "vitest";
import { fragilityOf, shownEntries, topicChoices, votesOf, winShare } from "../../src/arena/leaderboard";
import type { Leaderboard, LeaderboardEntry, PairResult } from "../../src/wire";

function entry(model: string, rank: number, rating: number, more: Partial<LeaderboardEntry> = {}): LeaderboardEntry {
  const names = { developer: "us", licence: "Apache-2.0", votes: "1200", votesToSeparate: "0" };
  return { model, rank, rating, ratingLow: rating - 20.2, ratingHigh: rating + 20.2, ...names, ...more };
}

const ENTRIES = [
  entry("first", 1, 1100.4),
  entry("second", 1, 1080, { votesToSeparate: "1500" }),
  entry("third", 3, 900),
  entry("new", 0, 0, { votes: "0" }),
];
const PAIRS: PairResult[] = [
  { first: "first", second: "second", firstWins: "6", secondWins: "2", ties: "2" },
  { first: "third", second: "first", firstWins: "1", secondWins: "3", ties: "0" },
];

function board(more: Partial<Leaderboard> = {}): Leaderboard {
  return { entries: ENTRIES, pairs: PAIRS, votes: "14", setAside: "0", quarantined: "0", ...more };
}

describe("entries", () => {
  const shown = shownEntries(ENTRIES);

  it("have a score with the half width of the interval, rounded outwards", () => {
    expect(shown.map(({ score }) => score)).toEqual(["1100 ± 21", "1080 ± 21", "900 ± 21", ""]);
    expect(shown[0]!.range).toBe("1080 to 1121");
  });

  it("have intervals on one scale from 0 to 100 %", () => {
    const bars = shown.slice(0, 3).map(({ bar }) => bar!);
    expect(bars[2]!.low).toBe(0);
    expect(bars[0]!.high).toBeCloseTo(100);
    expect(bars.every(({ low, mark, high }) => low < mark && mark < high)).toBe(true);
  });

  it("say how many votes are needed, except for the last rated model", () => {
    expect(shown.map(({ toSeparate }) => toSeparate)).toEqual(["apart", "1,500", "", ""]);
  });

  it("without a rating have neither rank nor interval", () => {
    expect(shown[3]).toMatchObject({ model: "new", rank: "", bar: null, votes: "0" });
  });

  it("of equal ends are in the middle", () => {
    const [only] = shownEntries([entry("only", 1, 1000, { ratingLow: 1000, ratingHigh: 1000 })]);
    expect(only!.bar).toEqual({ low: 50, high: 50, mark: 50 });
  });
});

test("wins count from the side of the row, with ties as half a win", () => {
  expect(winShare(PAIRS, "first", "second")).toEqual({ percent: 70, votes: 10 });
  expect(winShare(PAIRS, "second", "first")).toEqual({ percent: 30, votes: 10 });
  expect(winShare(PAIRS, "first", "third")).toEqual({ percent: 75, votes: 4 });
  expect(winShare(PAIRS, "second", "third")).toBeNull();
  expect(winShare(PAIRS, "first", "first")).toBeNull();
});

test("the influence of few votes on the leader is one sentence", () => {
  const fragility = { votes: "3", newLeader: "second" };
  expect(fragilityOf(board({ fragility }))).toBe("Without 3 votes of 14 the leader would be second.");
  expect(fragilityOf(board({ fragility: { ...fragility, votes: "1" } }))).toContain("Without 1 vote of 14");
  expect(fragilityOf(board())).toContain("No removal of less than half");
  expect(fragilityOf(board({ entries: ENTRIES.slice(2) }))).toBe("");
});

test("votes that do not count are named", () => {
  expect(votesOf(board())).toBe("14 votes count.");
  expect(votesOf(board({ votes: "1", setAside: "2", quarantined: "1200" }))).toBe(
    "1 vote counts; not counted: 2 set aside, 1,200 of quarantined accounts.",
  );
});

describe("topics", () => {
  const topics = [
    { topic: "chat", votes: "1200" },
    { topic: "code", votes: "3" },
  ];

  it("are those with votes", () => {
    const labels = topicChoices(board({ topics }), "code").map(([, label]) => label);
    expect(labels).toEqual(["All topics", "Conversation (1,200)", "Code (3)"]);
    expect(topicChoices(board(), "")).toEqual([["", "All topics"]]);
    expect(topicChoices(null, "")).toEqual([["", "All topics"]]);
  });

  it("keep the selected one", () => {
    expect(topicChoices(board({ topics }), "creative").at(-1)).toEqual(["creative", "Stories and poems"]);
  });
});
