import { describe, expect, test } from "vitest";
import { Copies } from "../src/copies";
import type { Message } from "../src/wire";

const ANSWER = { id: "a", role: "ROLE_ASSISTANT", modelVersion: "v1" } as Message;

/** A log that refuses some calls, and what was reported. */
function log(refusals = 0): { signal: (id: string, signal: { kind: string }) => Promise<void>; reported: string[] } {
  const reported: string[] = [];
  return {
    reported,
    signal: async (id, { kind }) => {
      reported.push(`${kind} ${id}`);
      if (refusals-- > 0) throw new Error("full");
    },
  };
}

describe("copies", () => {
  test("a copied answer is reported once", async () => {
    const server = log();
    const copies = new Copies(server);
    await copies.copied(ANSWER, true);
    await copies.copied(ANSWER, true);
    await copies.copied({ ...ANSWER, id: "b" }, true);
    expect(server.reported).toEqual(["copied a", "copied b"]);
  });

  test("nothing is reported without consent", async () => {
    const server = log();
    const copies = new Copies(server);
    await copies.copied(ANSWER, false);
    expect(server.reported).toEqual([]);
    // Consent that is given later counts from then on.
    await copies.copied(ANSWER, true);
    expect(server.reported).toEqual(["copied a"]);
  });

  test("an answer without a version is not reported", async () => {
    const server = log();
    await new Copies(server).copied({ id: "a", role: "ROLE_ASSISTANT" }, true);
    expect(server.reported).toEqual([]);
  });

  test("a refused report is no error, and the next copy is reported again", async () => {
    const server = log(1);
    const copies = new Copies(server);
    await copies.copied(ANSWER, true);
    await copies.copied(ANSWER, true);
    await copies.copied(ANSWER, true);
    expect(server.reported).toEqual(["copied a", "copied a"]);
  });
});
