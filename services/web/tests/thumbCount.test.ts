import { describe, expect, it } from "vitest";
import { thumbCount } from "../src/thumbCount";

describe("the text about the number of thumbs", () => {
  it("counts before the first run", () => {
    expect(thumbCount(0, 0, 0, false, false)).toBe("0 thumbs so far.");
    expect(thumbCount(1, 1, 0, false, false)).toBe("1 thumb so far.");
  });

  it("names the number that a run needs while there are fewer", () => {
    expect(thumbCount(99, 99, 100, false, false)).toBe("99 thumbs so far: a run needs 100.");
    expect(thumbCount(60, 20, 100, true, false)).toBe("60 thumbs so far, 20 since the last run: a run needs 100.");
  });

  it("suggests a run with enough new thumbs", () => {
    expect(thumbCount(100, 100, 100, false, false)).toBe("100 thumbs so far: enough to run make loop, if there are pairs among them (a liked and a disliked answer to the same question).");
    expect(thumbCount(120, 1, 100, true, false)).toBe("120 thumbs so far, 1 since the last run: enough to run make loop, if there are pairs among them (a liked and a disliked answer to the same question).");
    expect(thumbCount(120, 0, 100, true, false)).toBe("120 thumbs so far, 0 since the last run: nothing new to learn.");
  });

  it("does not call thumbs enough that a run found too few", () => {
    const lacking = thumbCount(200, 200, 200, false, true);
    expect(lacking).not.toContain("enough to run");
    expect(lacking).toContain("ask a question twice");
    expect(thumbCount(200, 0, 200, true, true)).toContain("nothing new to learn");
    expect(thumbCount(99, 99, 200, false, true)).toContain("a run needs 200");
  });
});
