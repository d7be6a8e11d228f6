import { expect, it } from "vitest";
import { noticeOf, providerOf } from "../../src/arena/external";

const model = (developer: string) => ({ model: `external.${developer}`, developer, licence: "proprietary" });

it("has no notice without external models", () => {
  expect(noticeOf([])).toBe("");
});

it("names each developer once", () => {
  expect(noticeOf([model("Example"), model("Acme"), model("Example")])).toContain("(Acme and Example)");
});

it("names the provider of the model that answers all chats", () => {
  const external = [model("Example"), model("Acme")];
  expect(providerOf({ models: ["external.Acme"], external })).toBe("Acme");
});

it("names no provider where an own model answers beside external ones", () => {
  expect(providerOf({ models: ["small-0"], external: [model("Example")] })).toBe("");
  expect(providerOf({ models: [], external: [] })).toBe("");
});
