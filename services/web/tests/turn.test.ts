import { describe, expect, it } from "vitest";
import { ApiError } from "../src/api";
import { wholeTurn } from "../src/turn";
import type { ChatEvent } from "../src/wire";

const BROKEN = new TypeError("network error");
const ELSEWHERE = new ApiError("resume through another gateway", 0, 0, "resume_elsewhere");
const TURN: ChatEvent[] = [
  { sequence: "1", messageId: "m", started: { conversationId: "c", userMessageId: "u" } },
  { sequence: "2", messageId: "m", textDelta: { text: "The " } },
  { sequence: "3", messageId: "m", textDelta: { text: "answer." } },
  { sequence: "4", messageId: "m", completed: { finishReason: "FINISH_REASON_STOP" } },
];

/** A connection that delivers some events of the turn and then ends, with an error if any. */
async function* connection(events: ChatEvent[], error?: unknown): AsyncGenerator<ChatEvent> {
  yield* events;
  if (error) throw error;
}

/** Read a turn over connections that end after some sequence, and note the calls of `resume`. */
async function read(ends: { at: number; error?: unknown }[]) {
  const seen: ChatEvent[] = [];
  const resumed: string[] = [];
  const waited: number[] = [];
  const next = (after: number) => {
    const { at, error } = ends.shift()!;
    return connection(TURN.slice(after, at), error);
  };
  const resume = (answerId: string, after: string) => {
    resumed.push(`${answerId} ${after}`);
    return next(Number(after));
  };
  let failure: unknown;
  try {
    for await (const event of wholeTurn(next(0), resume, async (seconds) => void waited.push(seconds))) seen.push(event);
  } catch (error) {
    failure = error;
  }
  return { seen, resumed, waited, failure };
}

describe("a turn", () => {
  it.each([
    ["a broken connection", BROKEN],
    ["a gateway that shuts down", ELSEWHERE],
    ["an unavailable gateway", new ApiError("unavailable", 503)],
    ["a connection that ends early", undefined],
  ])("continues after %s without gap or repetition", async (_, error) => {
    const { seen, resumed, failure } = await read([{ at: 2, error }, { at: 2, error }, { at: 4 }]);
    expect(seen).toEqual(TURN);
    expect(resumed).toEqual(["m 2", "m 2"]);
    expect(failure).toBeUndefined();
  });

  it("is resumed again after each new event", async () => {
    const { seen, waited } = await read([1, 1, 1, 2, 2, 2, 3, 4].map((at) => ({ at, error: BROKEN })));
    expect(seen).toEqual(TURN);
    expect(waited).toEqual([1, 2, 4, 1, 2, 4, 1]);
  });

  it("fails if it cannot be resumed", async () => {
    const { seen, waited, failure } = await read([2, 2, 2, 2].map((at) => ({ at, error: BROKEN })));
    expect(seen).toEqual(TURN.slice(0, 2));
    expect(waited).toEqual([1, 2, 4]);
    expect(failure).toBe(BROKEN);
  });

  it.each([
    ["an error of the turn", 2, new ApiError("the answering gateway was lost", 0, 0, "gateway_lost")],
    ["an error after the end", 4, BROKEN],
    ["an error before the first event", 0, BROKEN],
  ])("is not resumed after %s", async (_, at, error) => {
    const { resumed, failure } = await read([{ at, error }]);
    expect(resumed).toEqual([]);
    expect(failure).toBe(error);
  });
});
