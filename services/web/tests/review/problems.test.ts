import { describe, expect, it } from "vitest";
import { ApiError } from "../../src/api";
import { isEmptyQueue, NO_ANSWER, NO_SCOPE, reviewProblem } from "../../src/review/problems";

const failure = (code: string, status: number, message = "text of the server") => new ApiError(message, status, 0, code);

describe("an error of a review", () => {
  it.each([
    ["not_found", 404, "no longer available"],
    ["item_closed", 409, "completed this item"],
    ["item_has_review", 409, "already judged"],
    ["no_disagreement", 409, "no longer disagree"],
    ["item_has_resolution", 409, "another final judgement"],
    ["own_review", 409, "another reviewer makes"],
  ])("%s ends the work on the item", (code, status, words) => {
    const { text, isFinal } = reviewProblem(failure(code, status));
    expect(text).toContain(words);
    expect(isFinal).toBe(true);
  });

  it("in a field has the words of the server, and can be mended", () => {
    expect(reviewProblem(failure("invalid_argument", 400))).toEqual({ text: "text of the server", isFinal: false });
    expect(reviewProblem(failure("rate_limited", 429))).toEqual({ text: "text of the server", isFinal: false });
  });

  it("by the guard names the texts that it judges", () => {
    expect(reviewProblem(failure("review_rejected", 400)).text).toContain("better answer or your comment");
  });

  it("without the scope names it", () => {
    expect(reviewProblem(failure("scope_missing", 403))).toEqual({ text: NO_SCOPE, isFinal: false });
  });

  it("of a service or connection that fails asks for another attempt", () => {
    for (const error of [failure("unavailable", 503), failure("", 502), new TypeError("Failed to fetch")]) {
      expect(reviewProblem(error)).toEqual({ text: NO_ANSWER, isFinal: false });
    }
  });
});

it("an empty queue is no error", () => {
  expect(isEmptyQueue(failure("no_item", 404))).toBe(true);
  expect(isEmptyQueue(failure("not_found", 404))).toBe(false);
  expect(isEmptyQueue(new TypeError("Failed to fetch"))).toBe(false);
});
