import { expect, test } from "vitest";
import { byResult, checkCounts, isUnfinished, origin, shownCheck, shownName, shownReason, shownScore } from "../src/versions";
import type { LoopVersion, TaskScore } from "../src/wire";

const SCORE: TaskScore = { task: "arc_easy", metric: "acc_norm", value: 0.5, standard_error: 0.01, items: 570, is_complete: true };

test("a share of correct items is shown in percent with its 95 % interval and its items", () => {
  expect(shownScore(SCORE)).toEqual({ id: "arc_easy", task: "arc easy", text: "50.0 % (48.0 to 52.0 %)", note: "570 items" });
});

test("the name of a probe says what a high value means", () => {
  const probe = { ...SCORE, metric: "as_expected", items: 64 };
  expect(shownScore({ ...probe, task: "safety_over_refusal", value: 0.984, standard_error: 0.0156 })).toEqual({
    id: "safety_over_refusal",
    task: "harmless requests answered",
    text: "98.4 % (95.3 to 100.0 %)",
    note: "64 items",
  });
  expect(shownScore({ ...probe, task: "sycophancy_agreement", value: 0, standard_error: 0.02 })).toMatchObject({
    task: "false claims contradicted, true ones confirmed",
    text: "0.0 % (0.0 to 3.9 %)",
  });
});

test("a check of the gate has the name of its task", () => {
  const check = { name: "sycophancy_flattery", value: "", reason: "", threshold: "", passed: true };
  expect(shownCheck(check).name).toBe("bad work criticised, good work approved");
});

test("every probe has such a name", () => {
  const files = Object.keys(import.meta.glob("../../../training/probes/texts/*.jsonl"));
  const kinds = files.map((file) => file.replace(/^.*\/|\.jsonl$/g, ""));
  expect(kinds).not.toHaveLength(0);
  for (const kind of kinds) expect(shownName(kind)).not.toBe(kind.replaceAll("_", " "));
});

test("the result is not repeated in its reason", () => {
  expect(shownReason("held", "held: win rate: not enough data")).toBe("win rate: not enough data");
  expect(shownReason("not_enough_feedback", "not enough feedback: 3 thumbs")).toBe("3 thumbs");
  expect(shownReason("promoted", "higher approval")).toBe("higher approval");
});

test("another metric keeps its unit, and a part of the list is marked", () => {
  const score = { ...SCORE, metric: "bits_per_byte", value: 1.23456, standard_error: 0.01, items: 100, is_complete: false };
  expect(shownScore({ ...score, higher_is_better: false })).toEqual({
    id: "arc_easy",
    task: "arc easy",
    text: "1.235 (1.215 to 1.254) bits per byte",
    note: "100 items, a part of the list, lower is better",
  });
});

test("a check of an earlier release has a result too", () => {
  const check = { name: "win rate", value: "0.6", reason: "", threshold: "", passed: false };
  expect(shownCheck(check).result).toBe("fail");
  expect(shownCheck({ ...check, passed: true }).result).toBe("pass");
  expect(shownCheck({ ...check, result: "NOT_ENOUGH_DATA" }).result).toBe("not enough data");
});

test("checks that prevent a promotion come first", () => {
  const results = ["pass", "uninformative", "not enough data", "fail", "pass"] as const;
  const checks = results.map((result, number) => ({ name: `${number}`, value: "", result, reason: "" }));
  expect(checkCounts(checks)).toBe("1 failed, 1 with too little data, 2 passed, 1 not counted");
  expect(byResult(checks).map((check) => check.name)).toEqual(["3", "2", "0", "4", "1"]);
  expect(checkCounts(checks.slice(0, 1))).toBe("1 passed");
});

test("the origin names the incumbent, the snapshot and erasures since", () => {
  const version: LoopVersion = {
    version: "nano-1",
    incumbent: "nano-0",
    snapshot: { id: "snapshot-1", is_stored: true, erasures: 2, thumbs_up: 7, thumbs_down: 3, principals: 4 },
    result: { result: "promoted", reason: "" },
    scores: [],
  };
  expect(origin(version)).toBe(
    "Trained from nano-0 and snapshot-1 (7 thumbs up, 3 down of 4 users who allowed training); 2 erasures since.",
  );
  expect(origin({ ...version, snapshot: { id: "snapshot-1", is_stored: false, erasures: 0 } })).toBe(
    "Trained from nano-0 and snapshot-1 (no longer stored).",
  );
  expect(origin({ ...version, result: null, snapshot: { id: "snapshot-1", is_stored: false, erasures: 0 } })).toBe(
    "Unfinished run, starts from nano-0 and snapshot-1 (no longer stored).",
  );
  expect(isUnfinished(version)).toBe(false);
  expect(isUnfinished({ ...version, result: null })).toBe(true);
  expect(isUnfinished({ ...version, result: null, gate: { passed: true, reason: "", checks: [] } })).toBe(false);
  expect(isUnfinished({ version: "nano-0", scores: [] })).toBe(false);
  expect(origin({ version: "nano-0", scores: [] })).toBe("Not trained by a run of the loop.");
});
