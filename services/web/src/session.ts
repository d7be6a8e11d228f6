// Session of the page: an HttpOnly cookie that the gateway sets for a key. No script can read the
// cookie, and no key stays in the browser.
import { ApiError, request } from "./api";
import type { Account } from "./wire";

export type Session =
  | { state: "loading" }
  | { state: "signed-out"; problem: string }
  | { state: "signed-in"; account: Account; problem: string }
  /** A key that came by a link, or that belongs to another user than the session: the user decides. */
  | { state: "question"; account: Account | null; offered: Account; key: string };

const NOT_KEPT = "The browser did not keep the session: its cookie requires HTTPS (TW_GATEWAY_PAGE_SESSION_SECURE).";

/** Read the session of this browser. */
export async function restore(): Promise<Session> {
  try {
    const account = (await (await request("GET", "/api/account")).json()) as Account;
    return { state: "signed-in", account, problem: "" };
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) return { state: "signed-out", problem: "" };
    throw error;
  }
}

/**
 * Return the session of a page that was just opened.
 *
 * @param link Key in the address, or an empty text.
 * @param old Key that earlier versions kept in the browser. Used once if there is no session.
 * @param forgetOld Called after the old key was used or is not needed.
 */
export async function start(link: string, old: string, forgetOld: () => void): Promise<Session> {
  return shown(async () => {
    let session = await restore();
    if (session.state === "signed-out" && old) session = await signIn(old);
    forgetOld();
    return link ? await askFor(session, link) : session;
  });
}

/** Sign in with a key that the user typed. If that would replace another user, the result is a question. */
export async function offer(key: string): Promise<Session> {
  return shown(async () => {
    const session = await restore();
    return session.state === "signed-in" ? askFor(session, key) : signIn(key);
  });
}

/** Use a key from a link. Others may have written the link, so the user is asked before. */
export async function offerLink(key: string): Promise<Session> {
  return shown(async () => askFor(await restore(), key));
}

async function askFor(session: Session, key: string): Promise<Session> {
  const account = session.state === "signed-in" ? session.account : null;
  try {
    const offered = (await (await request("GET", "/api/account", bearer(key))).json()) as Account;
    return account && isSame(account, offered) ? session : { state: "question", account, offered, key };
  } catch (error) {
    if (!isRefusal(error)) throw error;
    if (!account) return { state: "signed-out", problem: error.message };
    return { state: "signed-in", account, problem: `The other key was refused: ${error.message}` };
  }
}

/** Create a session for a key, in place of the present session. */
export async function signIn(key: string): Promise<Session> {
  try {
    await request("POST", "/api/session", bearer(key));
  } catch (error) {
    if (!isRefusal(error)) throw error;
    return { state: "signed-out", problem: error.message };
  }
  const session = await restore();
  return session.state === "signed-in" ? session : { state: "signed-out", problem: NOT_KEPT };
}

/** Remove the session. A session that is no longer valid counts as removed. */
export async function signOut(account: Account): Promise<Session> {
  try {
    await request("DELETE", "/api/session", csrf(account));
  } catch (error) {
    // Another tab may have replaced the session, which the user then sees.
    if (isRefusal(error)) return shown(restore);
    return { state: "signed-in", account, problem: words(error) };
  }
  return { state: "signed-out", problem: "" };
}

/** Return the headers of a request with a session. */
export function csrf(account: Account): Record<string, string> {
  return { "x-tw-csrf": account.csrfToken ?? "" };
}

/** Make a session, with a failure as its problem. */
export async function shown(make: () => Promise<Session>): Promise<Session> {
  try {
    return await make();
  } catch (error) {
    return { state: "signed-out", problem: words(error) };
  }
}

function bearer(key: string): Record<string, string> {
  return { authorization: `Bearer ${key}` };
}

function isSame(one: Account, other: Account): boolean {
  const text = ({ tenant, user, scopes }: Account) => JSON.stringify([tenant, user, scopes]);
  return text(one) === text(other);
}

function isRefusal(error: unknown): error is ApiError {
  return error instanceof ApiError && error.status >= 400 && error.status < 404;
}

function words(error: unknown): string {
  return error instanceof ApiError ? error.message : "The server did not answer as it should.";
}
