import { expect, test } from "vitest";
import { newest, shown } from "../src/arms";
import type { ExperimentArm } from "../src/wire";

function arm(modelVersion: string, more: Partial<ExperimentArm> = {}): ExperimentArm {
  return { modelVersion, arm: "stable", exposedUsers: "3", up: "2", down: "1", upRateLow: 0.1, upRateHigh: 0.95, ...more };
}

test("an interval is rounded outwards", () => {
  expect(shown(arm("a", { upRateLow: 0.5199, upRateHigh: 0.8101 })).likely).toEqual({ low: 51, high: 82 });
});

test("an arm without thumbs has no interval", () => {
  expect(shown(arm("a", { up: "0", down: "0", upRateLow: 0, upRateHigh: 1 })).likely).toBeNull();
});

test("the stable version has no label, a candidate is on trial", () => {
  expect(shown(arm("a")).arm).toBe("");
  expect(shown(arm("a", { arm: "candidate" })).arm).toBe("on trial");
  expect(shown(arm("a", { arm: "battle" })).arm).toBe("in the arena");
  expect(shown(arm("a", { arm: "new kind" })).arm).toBe("new kind");
});

test("the newest versions come first with all their arms", () => {
  const arms = [arm("c", { arm: "candidate" }), arm("c"), arm("b"), arm("a")];
  const [first, others] = newest(arms, 2);
  expect(first.map((one) => one.key)).toEqual(["c/candidate", "c/stable", "b/stable"]);
  expect(others.map((one) => one.key)).toEqual(["a/stable"]);
});
