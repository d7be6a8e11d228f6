import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { offer, offerLink, restore, signIn, signOut, start } from "../src/session";
import type { Account } from "../src/wire";

const ADA: Account = { tenant: "acme", user: "ada", scopes: ["chat", "account"] };
const EVE: Account = { tenant: "umbrella", user: "eve", scopes: ["chat", "account"] };
const KEYS: Record<string, Account> = { tw_ada: ADA, tw_ada2: ADA, tw_eve: EVE };

/** Gateway with one cookie, as the browser would keep it. */
let cookie = "";
let keepsCookies = true;
let away = false;
const sessionCalls: string[] = [];

function answer(status: number, body: unknown): Response {
  return new Response(JSON.stringify(body), { status });
}

async function gateway(path: string, init: RequestInit): Promise<Response> {
  if (away) throw new TypeError("network");
  const headers = init.headers as Record<string, string>;
  const key = headers["authorization"]?.replace("Bearer ", "") ?? "";
  const account = key ? KEYS[key] : KEYS[cookie];
  if (!account) return answer(401, { error: { message: "not known", code: "api_key_invalid" } });
  if (path === "/api/account") return answer(200, key ? account : { ...account, csrfToken: `csrf ${cookie}` });
  sessionCalls.push(`${init.method} ${key || cookie}`);
  if (init.method === "POST") cookie = keepsCookies ? key : "";
  if (init.method === "DELETE") {
    if (headers["x-tw-csrf"] !== `csrf ${cookie}`) return answer(403, { error: { message: "csrf", code: "csrf_token_invalid" } });
    cookie = "";
  }
  return answer(200, {});
}

beforeEach(() => {
  [cookie, keepsCookies, away] = ["", true, false];
  sessionCalls.length = 0;
  vi.stubGlobal("fetch", gateway);
});
afterEach(() => vi.unstubAllGlobals());

describe("a key in a link", () => {
  test.each([
    ["at the start", (key: string) => start(key, "", () => undefined)],
    ["in an open page", offerLink],
  ])("%s signs nobody in without an answer (finding N-12)", async (_, open) => {
    expect(await open("tw_eve")).toEqual({ state: "question", account: null, offered: EVE, key: "tw_eve" });
    expect([cookie, sessionCalls]).toEqual(["", []]);
    expect(await open("tw_unknown")).toMatchObject({ state: "signed-out", problem: "not known" });
  });

  test("that the user typed signs in", async () => {
    const session = await offer("tw_ada");
    expect(session).toEqual({ state: "signed-in", account: { ...ADA, csrfToken: "csrf tw_ada" }, problem: "" });
    expect(cookie).toBe("tw_ada");
  });

  test("of another user replaces nothing without an answer (finding S-13)", async () => {
    cookie = "tw_ada";
    const session = await start("tw_eve", "", () => undefined);
    expect(session).toMatchObject({ state: "question", account: ADA, offered: EVE });
    expect([cookie, sessionCalls]).toEqual(["tw_ada", []]);
    expect(await signIn("tw_eve")).toMatchObject({ state: "signed-in", account: EVE });
  });

  test("does not replace the key of an earlier version without an answer (finding S-13)", async () => {
    expect(await start("tw_eve", "tw_ada", () => undefined)).toMatchObject({ state: "question", account: ADA, offered: EVE });
    expect(sessionCalls).toEqual(["POST tw_ada"]);
  });

  test("of the same user changes nothing", async () => {
    cookie = "tw_ada";
    expect(await offer("tw_ada2")).toMatchObject({ state: "signed-in", account: ADA, problem: "" });
    expect(cookie).toBe("tw_ada");
  });

  test("that is refused leaves the session", async () => {
    cookie = "tw_ada";
    const session = await offer("tw_unknown");
    expect(session).toMatchObject({ state: "signed-in", account: ADA });
    expect(session).toHaveProperty("problem", expect.stringContaining("not known"));
  });

  test("does not sign in while the present session is unknown", async () => {
    [cookie, away] = ["tw_ada", true];
    expect(await offer("tw_eve")).toMatchObject({ state: "signed-out" });
    expect(cookie).toBe("tw_ada");
  });
});

describe("the key of an earlier version (finding S-24)", () => {
  test.each(["tw_ada", "tw_unknown"])("%s is used once and forgotten", async (old) => {
    const forget = vi.fn();
    const session = await start("", old, forget);
    expect(session.state).toBe(old === "tw_ada" ? "signed-in" : "signed-out");
    expect(forget).toHaveBeenCalledOnce();
  });

  test("stays while the gateway is unavailable", async () => {
    away = true;
    const forget = vi.fn();
    await start("", "tw_ada", forget);
    expect(forget).not.toHaveBeenCalled();
  });
});

describe("sign-in and sign-out", () => {
  test("a browser that keeps no cookie is named as the cause", async () => {
    keepsCookies = false;
    expect(await signIn("tw_ada")).toHaveProperty("problem", expect.stringContaining("HTTPS"));
  });

  test("sign-out removes the session (finding S-24)", async () => {
    const session = await signIn("tw_ada");
    if (session.state !== "signed-in") throw new Error(session.state);
    expect(await signOut(session.account)).toEqual({ state: "signed-out", problem: "" });
    expect(await restore()).toEqual({ state: "signed-out", problem: "" });
  });

  test("sign-out in a tab of another user shows the present user", async () => {
    cookie = "tw_eve";
    expect(await signOut({ ...ADA, csrfToken: "csrf tw_ada" })).toMatchObject({ state: "signed-in", account: EVE });
    expect(cookie).toBe("tw_eve");
  });
});
