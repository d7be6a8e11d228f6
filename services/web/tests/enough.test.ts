import { describe, expect, it } from "vitest";
import { enough } from "../src/enough";

describe("the text about the number of thumbs", () => {
  it("counts before the first run", () => {
    expect(enough(0, 0, 0, false)).toBe("0 thumbs so far.");
    expect(enough(1, 1, 0, false)).toBe("1 thumb so far.");
  });

  it("names the number that a run needs while there are fewer", () => {
    expect(enough(99, 99, 100, false)).toBe("99 thumbs so far: a turn needs 100.");
    expect(enough(60, 20, 100, true)).toBe("60 thumbs so far, 20 since the last turn: a turn needs 100.");
  });

  it("suggests a run with enough new thumbs", () => {
    expect(enough(100, 100, 100, false)).toBe("100 thumbs so far: enough to run make loop.");
    expect(enough(120, 1, 100, true)).toBe("120 thumbs so far, 1 since the last turn: enough to run make loop.");
    expect(enough(120, 0, 100, true)).toBe("120 thumbs so far, 0 since the last turn: nothing new to learn.");
  });
});
