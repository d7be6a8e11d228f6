// Answers of several models to one question, in columns.
import { EMPTY, apply, isOpen, type Asked, type Tree } from "../tree";
import type { Battle, ChatEvent, Message, Outcome, SetAside } from "../wire";

export interface Columns {
  tree: Tree;
  /** Id of the answer of each column; empty before the answer begins. */
  ids: readonly string[];
  /** Text of the error of each column; empty without an error. */
  problems: readonly string[];
}

export function emptyColumns(count: number): Columns {
  const none = Array<string>(count).fill("");
  return { tree: EMPTY, ids: none, problems: none };
}

/** Apply an event of the answer in a column. `asked` is the question, for the first column. */
export function applied(columns: Columns, column: number, event: ChatEvent, asked?: Asked): Columns {
  return { ...columns, tree: apply(columns.tree, event, asked), ids: columns.ids.with(column, event.messageId) };
}

export function failed(columns: Columns, column: number, problem: string): Columns {
  return { ...columns, problems: columns.problems.with(column, problem) };
}

export function answerOf({ tree, ids }: Columns, column: number): Message | undefined {
  return ids[column] ? tree.messages.find((message) => message.id === ids[column]) : undefined;
}

export function questionOf({ tree }: Columns): Message | undefined {
  return tree.messages.find((message) => message.role === "ROLE_USER");
}

/** Return true if the answer in a column is being written. */
export function isWriting(columns: Columns, column: number): boolean {
  const answer = answerOf(columns, column);
  return answer !== undefined && isOpen(answer) && !columns.problems[column];
}

/**
 * Return true if a vote is possible: all answers have ended. A question that the guard blocked has
 * no answers of models.
 */
export function isVotable(columns: Columns): boolean {
  const answers = columns.ids.map((_, column) => answerOf(columns, column));
  return answers.length > 0 && answers.every((answer) => answer !== undefined && !isOpen(answer) && answer.arm === "battle");
}

export const OUTCOMES: readonly (readonly [Outcome, string])[] = [
  ["OUTCOME_FIRST", "A is better"],
  ["OUTCOME_SECOND", "B is better"],
  ["OUTCOME_TIE", "Tie"],
  ["OUTCOME_BOTH_BAD", "Both are bad"],
];

const NOT_COUNTED: Partial<Record<SetAside, string>> = {
  SET_ASIDE_NAMES_ITSELF: "an answer names its model",
  SET_ASIDE_INCOMPLETE: "an answer is incomplete",
  SET_ASIDE_EQUAL_TEXTS: "both answers have the same text",
};

/** Return the sentence about the state of a battle that is also read to users of screen readers. */
export function stateOf(battle: Battle, columns: Columns, writing: boolean): string {
  if (battle.modelVersions.length > 0) {
    const [first, second] = battle.modelVersions;
    const reason = NOT_COUNTED[battle.setAside];
    return `A was ${first}, B was ${second}. ${reason ? `The vote does not count: ${reason}.` : "Your vote is stored."}`;
  }
  if (writing) return "Two models are answering.";
  if (isVotable(columns)) return "Both answers are complete. Which is better?";
  return "No vote is possible, because the answer of a model is missing.";
}
