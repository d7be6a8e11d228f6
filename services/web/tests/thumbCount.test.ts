import { describe, expect, it } from "vitest";
import { thumbCount } from "../src/thumbCount";

describe("the text about the number of thumbs", () => {
  it("counts before the first run", () => {
    expect(thumbCount(0, 0, 0, false)).toBe("0 thumbs so far.");
    expect(thumbCount(1, 1, 0, false)).toBe("1 thumb so far.");
  });

  it("names the number that a run needs while there are fewer", () => {
    expect(thumbCount(99, 99, 100, false)).toBe("99 thumbs so far: a run needs 100.");
    expect(thumbCount(60, 20, 100, true)).toBe("60 thumbs so far, 20 since the last run: a run needs 100.");
  });

  it("suggests a run with enough new thumbs", () => {
    expect(thumbCount(100, 100, 100, false)).toBe("100 thumbs so far: enough to run make loop.");
    expect(thumbCount(120, 1, 100, true)).toBe("120 thumbs so far, 1 since the last run: enough to run make loop.");
    expect(thumbCount(120, 0, 100, true)).toBe("120 thumbs so far, 0 since the last run: nothing new to learn.");
  });
});
