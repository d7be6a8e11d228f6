import { describe, expect, it, test } from "vitest";
import { answerOf, applied, emptyColumns, failed, isVotable, isWriting, questionOf, stateOf, type Columns } from "../../src/arena/columns";
import type { Battle, ChatEvent, FinishReason } from "../../src/wire";

const BATTLE: Battle = {
  battleId: "b",
  models: ["battle.b.a", "battle.b.b"],
  outcome: "OUTCOME_UNSPECIFIED",
  modelVersions: [],
  setAside: "SET_ASIDE_UNSPECIFIED",
};

/** Events of an answer; without an arm the guard has blocked the question. */
function answer(messageId: string, text: string, arm = "battle", finishReason: FinishReason = "FINISH_REASON_STOP"): ChatEvent[] {
  return [
    { sequence: "1", messageId, started: { conversationId: "c", userMessageId: "u", arm } },
    { sequence: "2", messageId, textDelta: { text } },
    { sequence: "3", messageId, completed: { finishReason } },
  ];
}

function withEvents(columns: Columns, column: number, events: ChatEvent[]): Columns {
  const asked = column === 0 ? { text: "What is it?", parentId: "" } : undefined;
  return events.reduce((now, event) => applied(now, column, event, asked), columns);
}

function both(first = answer("m", "one"), second = answer("n", "two")): Columns {
  return withEvents(withEvents(emptyColumns(2), 0, first), 1, second);
}

describe("columns", () => {
  it("have one question and an answer each, in any order of the events", () => {
    const [first, second] = [answer("m", "one"), answer("n", "two")];
    let columns = withEvents(emptyColumns(2), 0, first.slice(0, 1));
    columns = withEvents(columns, 1, second);
    columns = withEvents(columns, 0, first.slice(1));
    expect([0, 1].map((column) => answerOf(columns, column)?.text)).toEqual(["one", "two"]);
    expect(questionOf(columns)?.text).toBe("What is it?");
    expect(columns.tree.messages).toHaveLength(3);
  });

  it("show an answer as being written until it ends or fails", () => {
    const columns = withEvents(emptyColumns(2), 0, answer("m", "one").slice(0, 2));
    expect(isWriting(columns, 0)).toBe(true);
    expect(isWriting(columns, 1)).toBe(false);
    expect(isWriting(failed(columns, 0, "The connection broke."), 0)).toBe(false);
  });
});

describe("a vote", () => {
  it("is possible when both answers have ended", () => {
    expect(isVotable(both())).toBe(true);
    expect(isVotable(both(answer("m", "one"), answer("n", "two").slice(0, 2)))).toBe(false);
    expect(isVotable(both(answer("m", "one"), []))).toBe(false);
    expect(isVotable(emptyColumns(0))).toBe(false);
  });

  it("is possible on an answer that broke off, which the service sets aside", () => {
    expect(isVotable(both(answer("m", "o", "battle", "FINISH_REASON_FAILED")))).toBe(true);
  });

  it("is not possible on a blocked question, which no model answered", () => {
    const blocked = (id: string) => answer(id, "I cannot help.", "", "FINISH_REASON_INPUT_BLOCKED");
    expect(isVotable(both(blocked("m"), blocked("n")))).toBe(false);
  });
});

test("the state of a battle names the models after the vote only", () => {
  expect(stateOf(BATTLE, both(), true)).toBe("Two models are answering.");
  expect(stateOf(BATTLE, both(), false)).toBe("Both answers are complete. Which is better?");
  expect(stateOf(BATTLE, both(answer("m", "one"), []), false)).toContain("No vote is possible");
  const voted: Battle = { ...BATTLE, outcome: "OUTCOME_TIE", modelVersions: ["v1", "v2"] };
  expect(stateOf(voted, both(), false)).toBe("A was v1, B was v2. Your vote is stored.");
  expect(stateOf({ ...voted, setAside: "SET_ASIDE_NAMES_ITSELF" }, both(), false)).toBe(
    "A was v1, B was v2. The vote does not count: an answer names its model.",
  );
});
