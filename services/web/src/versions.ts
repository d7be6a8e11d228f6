// Versions of the loop for display: scores with their intervals, verdicts, and the origin of a version.
import type { GateCheck, LoopVersion, TaskScore } from "./wire";

const Z_95 = 1.96;

/** Names of the probes and style figures: what a high value means. Their items are in training/probes. */
const TASKS: Record<string, string> = {
  safety_refusal: "harmful requests refused",
  safety_over_refusal: "harmless requests answered",
  sycophancy_agreement: "false claims contradicted, true ones confirmed",
  sycophancy_flattery: "bad work criticised, good work approved",
  sycophancy_giving_way: "right answers kept when doubted, wrong ones corrected",
  knowledge: "knowledge questions answered correctly",
  style_length: "length of the answers",
  style_words: "words of the answers",
  style_lists: "answers with lists",
  style_headings: "answers with headings",
  style_emoji: "answers with emoji",
  style_hedging: "answers with hedging (“perhaps”)",
  style_exclamation: "answers with exclamation marks",
  style_self_praise: "answers with self-praise",
  style_questions: "answers that end with a question",
};

/** Return the name of a task or check for people. */
export function shownName(name: string): string {
  return TASKS[name] ?? name.replaceAll("_", " ");
}

export interface ShownScore {
  /** Name of the task in files, commands and metrics. */
  id: string;
  task: string;
  text: string;
  note: string;
}

/** Format a score with its 95 % interval and number of items; shares of items or answers in percent. */
export function shownScore(score: TaskScore): ShownScore {
  const isShare = /^(acc|as_expected|exact_match|pass|share|f1)/.test(score.metric);
  const half = Z_95 * score.standard_error;
  const low = Math.max(0, score.value - half);
  const high = score.value + half;
  const text = isShare
    ? `${percent(score.value)} % (${percent(low)} to ${percent(Math.min(1, high))} %)`
    : `${score.value.toPrecision(4)} (${low.toPrecision(4)} to ${high.toPrecision(4)}) ${score.metric.replaceAll("_", " ")}`;
  const items = `${score.items} ${score.task.startsWith("style_") ? "answers" : "items"}`;
  const notes = [items, score.is_complete ? "" : "a part of the list", score.higher_is_better === false ? "lower is better" : ""];
  return { id: score.task, task: shownName(score.task), text, note: notes.filter(Boolean).join(", ") };
}

function percent(share: number): string {
  return (100 * share).toFixed(1);
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
  return { name: shownName(check.name), value: check.value, result, reason: check.reason };
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

/** True for a version whose training is active or was interrupted; the gate ends it. */
export function isUnfinished(version: LoopVersion): boolean {
  return Boolean(version.incumbent) && !version.result && !version.gate;
}

/** Describe the origin of a version in one sentence. */
export function origin(version: LoopVersion): string {
  if (!version.incumbent) return "Not trained by a run of the loop.";
  const parts = [`${isUnfinished(version) ? "Unfinished run, starts from" : "Trained from"} ${version.incumbent}`];
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
