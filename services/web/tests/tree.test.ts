import { describe, expect, it } from "vitest";
import { EMPTY, apply, branch, change, choose, noted, prepend, siblings, type Tree } from "../src/tree";
import type { ChatEvent, FeedbackValue } from "../src/wire";

function turn(tree: Tree, user: string, answer: string, text: string, parentId = "", asked = true): Tree {
  const events: Omit<ChatEvent, "sequence">[] = [
    { messageId: answer, started: { conversationId: "c", userMessageId: user, modelVersion: "m-0", arm: "stable" } },
    { messageId: answer, textDelta: { text: text.slice(0, 1) } },
    { messageId: answer, textDelta: { text: text.slice(1) } },
    { messageId: answer, completed: { finishReason: "FINISH_REASON_STOP" } },
  ];
  return events.reduce(
    (now, event, index) => apply(now, { sequence: `${index + 1}`, ...event }, asked ? { text: `ask ${user}`, parentId } : undefined),
    tree,
  );
}

const texts = (tree: Tree) => branch(tree).map((message) => message.text);

describe("the tree of a conversation", () => {
  it("shows a turn as it streams in", () => {
    expect(texts(turn(EMPTY, "u1", "a1", "hello"))).toEqual(["ask u1", "hello"]);
  });

  it("shows the newest of two answers, and the other answer when chosen", () => {
    const first = turn(EMPTY, "u1", "a1", "one");
    const second = turn(first, "u1", "a2", "two", "", false);
    expect(texts(second)).toEqual(["ask u1", "two"]);
    const shown = branch(second).at(-1)!;
    expect(siblings(second, shown).map((message) => message.id)).toEqual(["a1", "a2"]);
    expect(texts(choose(second, siblings(second, shown)[0]!))).toEqual(["ask u1", "one"]);
  });

  it("adds an edit as a sibling of the edited message", () => {
    const first = turn(turn(EMPTY, "u1", "a1", "one"), "u2", "a2", "two", "a1");
    const edited = turn(first, "u3", "a3", "three", "a1");
    expect(texts(edited)).toEqual(["ask u1", "one", "ask u3", "three"]);
  });

  it("starts with the oldest loaded message and keeps the branch when older ones are added", () => {
    const whole = turn(turn(turn(EMPTY, "u1", "a1", "one"), "u2", "a2", "two", "a1"), "u3", "a3", "three", "");
    // The newest turn continues the first branch; u3 edited the first message.
    const { messages } = turn(whole, "u4", "a4", "four", "a2");
    const page: Tree = { messages: messages.slice(-2), chosen: {} };
    expect(texts(page)).toEqual(["ask u4", "four"]);
    const more = prepend(page, messages.slice(1, 7));
    expect(texts(more)).toEqual(["one", "ask u2", "two", "ask u4", "four"]);
    const all = prepend(more, messages.slice(0, 2));
    expect(texts(all)).toEqual(["ask u1", "one", "ask u2", "two", "ask u4", "four"]);
    expect(all.messages.map((message) => message.id)).toEqual(messages.map((message) => message.id));
  });

  it("restarts the text of an answer when its events are replayed", () => {
    const once = turn(EMPTY, "u1", "a1", "hello");
    expect(texts(turn(once, "u1", "a1", "hello", "", false))).toEqual(["ask u1", "hello"]);
  });

  it("keeps both texts of an enhanced message", () => {
    const tree = apply(turn(EMPTY, "u1", "a1", "x"), {
      sequence: "2",
      messageId: "a1",
      enhanced: { originalText: "hw", text: "How", edits: [{ end: 2, replacement: "How", kind: "spelling" }] },
    });
    expect(branch(tree)[0]).toMatchObject({ originalText: "hw", text: "How" });
  });

  it("shows the latest feedback on an answer until its retraction", () => {
    const said = (values: FeedbackValue[]) =>
      branch(values.reduce((now, value) => change(now, "a1", noted(value)), turn(EMPTY, "u1", "a1", "x"))).at(-1)!;
    const down: FeedbackValue = { thumb: { up: false, reasons: ["wrong"], comment: "no" } };
    const better: FeedbackValue = { correction: { text: "Paris." } };
    expect(said([down, better])).toMatchObject({ thumbUp: false, thumbReasons: ["wrong"], thumbComment: "no", correction: "Paris." });
    expect(said([down, better, { thumb: { up: true } }])).toMatchObject({ thumbUp: true, thumbReasons: [], thumbComment: "", correction: "Paris." });
    expect(said([down, better, { retraction: { kind: "thumb" } }])).toMatchObject({ thumbUp: undefined, thumbReasons: [], correction: "Paris." });
    expect(said([down, better, { retraction: { kind: "correction" } }])).toMatchObject({ thumbUp: false, correction: "" });
  });
});
