import { describe, expect, test } from "vitest";
import { ApiError, patiently, problemOf } from "../src/api";

/** A server that refuses some calls, and the seconds that were waited. */
function refusing(times: number, error: unknown): { call: () => Promise<string>; wait: (s: number) => Promise<void>; waited: number[] } {
  const waited: number[] = [];
  return {
    waited,
    wait: async (seconds) => void waited.push(seconds),
    call: async () => {
      if (times-- > 0) throw error;
      return "answer";
    },
  };
}

describe("patiently", () => {
  test("a call to an overloaded server is retried after its delay", async () => {
    const { call, wait, waited } = refusing(3, new ApiError("full", 429, 2));
    expect(await patiently(call, wait)).toBe("answer");
    expect(waited).toEqual([2, 2, 2]);
  });

  test("the error is raised after one minute of retries", async () => {
    const error = new ApiError("full", 429, 2);
    const { call, wait, waited } = refusing(100, error);
    await expect(patiently(call, wait)).rejects.toBe(error);
    expect(waited).toHaveLength(30);
  });

  test.each([
    ["a quota of the day", new ApiError("used up", 429, 3600)],
    ["a refusal without a time", new ApiError("full", 429)],
    ["another status", new ApiError("wrong", 400, 1)],
    ["another error", new TypeError("network")],
  ])("%s is shown at once", async (_, error) => {
    const { call, wait, waited } = refusing(1, error);
    await expect(patiently(call, wait)).rejects.toBe(error);
    expect(waited).toEqual([]);
  });
});

test("the message of an error is shown, or a fixed text for anything else", () => {
  expect(problemOf(new ApiError("the answer is still being written", 409))).toBe("the answer is still being written");
  expect(problemOf("no error", "The connection broke.")).toBe("The connection broke.");
  expect(problemOf(undefined)).toBe("The server did not answer as it should.");
});
