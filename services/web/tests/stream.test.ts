import { describe, expect, it } from "vitest";
import { EventCutter } from "../src/stream";

const TEXT = 'id: 1\ndata: {"a":"x"}\n\n: keep-alive\n\nevent: error\ndata: {"b":"é"}\n\nid: 3\ndata: 1\ndata: 2\n\n';

describe("server-sent events", () => {
  it("are complete for any chunks of the text", () => {
    const whole = new EventCutter().push(TEXT);
    expect(whole.map((event) => event.event)).toEqual(["message", "error", "message"]);
    expect(whole.at(-1)!.data).toBe("1\n2");
    for (let cut = 0; cut <= TEXT.length; cut++) {
      const cutter = new EventCutter();
      expect([...cutter.push(TEXT.slice(0, cut)), ...cutter.push(TEXT.slice(cut))]).toEqual(whole);
    }
  });
});
