import { expect, it } from "vitest";
import { noticeOf } from "../../src/arena/external";

const model = (developer: string) => ({ model: `external.${developer}`, developer, licence: "proprietary" });

it("has no notice without external models", () => {
  expect(noticeOf([])).toBe("");
});

it("names each developer once", () => {
  expect(noticeOf([model("Example"), model("Acme"), model("Example")])).toContain("(Acme and Example)");
});
