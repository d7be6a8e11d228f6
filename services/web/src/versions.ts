// Versions of the loop for display: scores with their errors, verdicts, and the origin of a version.
import type { GateCheck, LoopVersion, TaskScore } from "./wire";

export interface ShownScore {
  task: string;
  text: string;
  /** "" for a complete list of items. */
  note: string;
}

/** Format a score with its standard error; shares of items or answers in percent. */
export function shownScore(score: TaskScore): ShownScore {
  const isShare = /^(acc|as_expected|exact_match|pass|share|f1)/.test(score.metric);
  const text = isShare
    ? `${(100 * score.value).toFixed(1)} ± ${(100 * score.standard_error).toFixed(1)} %`
    : `${score.value.toPrecision(4)} ± ${score.standard_error.toPrecision(2)} ${score.metric.replaceAll("_", " ")}`;
  return { task: score.task.replaceAll("_", " "), text, note: score.is_complete ? "" : `${score.items} items, for a look` };
}

export interface ShownCheck {
  name: string;
  value: string;
  result: "pass" | "fail" | "not enough data" | "uninformative";
  reason: string;
}

/** Gate files of earlier releases have `passed` only. */
export function shownCheck(check: GateCheck): ShownCheck {
  const given = check.result?.toLowerCase().replaceAll("_", " ");
  const result = given === "pass" || given === "fail" || given === "not enough data" || given === "uninformative" ? given : check.passed ? "pass" : "fail";
  return { name: check.name.replaceAll("_", " "), value: check.value, result, reason: check.reason };
}

const OUTCOMES: [ShownCheck["result"], string][] = [
  ["fail", "failed"],
  ["not enough data", "with too little data"],
  ["pass", "passed"],
  ["uninformative", "not counted"],
];

/** Count the checks by result, those that prevent a promotion first. */
export function checkCounts(checks: ShownCheck[]): string {
  const counts = OUTCOMES.map(([result, words]) => [checks.filter((check) => check.result === result).length, words] as const);
  return counts.filter(([count]) => count > 0).map(([count, words]) => `${count} ${words}`).join(", ");
}

/** Order the checks by result, those that prevent a promotion first. */
export function byResult(checks: ShownCheck[]): ShownCheck[] {
  return OUTCOMES.flatMap(([result]) => checks.filter((check) => check.result === result));
}

/** Return the reason of a result without the result, with which reasons of the gate begin. */
export function shownReason(result: string, reason: string): string {
  const words = result.replaceAll("_", " ");
  return reason.startsWith(`${words}: `) ? reason.slice(words.length + 2) : reason;
}

/** Describe the origin of a version in one sentence. */
export function origin(version: LoopVersion): string {
  if (!version.incumbent) return "Not trained by a run of the loop.";
  const parts = [`Trained from ${version.incumbent}`];
  const snapshot = version.snapshot;
  if (snapshot) {
    const counts = snapshot.is_stored
      ? ` (${snapshot.thumbs_up ?? 0} thumbs up, ${snapshot.thumbs_down ?? 0} down of ${snapshot.principals ?? 0} users who allowed training)`
      : " (no longer stored)";
    parts.push(` and ${snapshot.id}${counts}`);
    if (snapshot.erasures) parts.push(`; ${snapshot.erasures} erasures since`);
  }
  return `${parts.join("")}.`;
}
