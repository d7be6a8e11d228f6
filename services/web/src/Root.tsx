// The session around the page: sign-in, the question before another user's key is used, sign-out.
import { useCallback, useEffect, useRef, useState, type ReactNode } from "react";
import { AccountBar } from "./AccountBar";
import { KeyForm } from "./KeyForm";
import { KeyQuestion } from "./KeyQuestion";
import { offer, offerLink, restore, shown, signIn, signOut, start, type Session } from "./session";
import type { Account } from "./wire";

interface Props {
  /** Key in the address at the start, or an empty text. */
  linkKey: string;
  /** Remove the key from the address and return it; an empty text without a key. */
  takeLinkKey: () => string;
  oldKey: string;
  forgetOldKey: () => void;
  /** Return the page of a user; `lost` is called if the session has ended, or was replaced. */
  page: (account: Account, lost: () => void) => ReactNode;
}

export function Root({ linkKey, takeLinkKey, oldKey, forgetOldKey, page }: Props) {
  const [session, setSession] = useState<Session>({ state: "loading" });

  // Changes run one after another, so that an earlier, slower one does not replace a question.
  const last = useRef(Promise.resolve());
  const change = useCallback((make: () => Promise<Session>) => {
    last.current = last.current.then(() => shown(make)).then(setSession);
  }, []);

  useEffect(() => change(() => start(linkKey, oldKey, forgetOldKey)), [change, linkKey, oldKey, forgetOldKey]);

  // Another tab may have signed in or out. An unchanged session keeps its object, so that nothing
  // is loaded again.
  const look = useCallback(() => {
    restore().then(
      (found) =>
        setSession((now) => {
          if (now.state !== "signed-in") return now;
          return found.state === "signed-in" && found.account.csrfToken === now.account.csrfToken ? now : found;
        }),
      () => undefined, // While the gateway is unavailable the page shows the errors of its calls.
    );
  }, []);

  useEffect(() => {
    const taken = () => {
      const key = takeLinkKey();
      if (key) change(() => offerLink(key));
    };
    // The address may have changed before the listener was added.
    taken();
    window.addEventListener("hashchange", taken);
    window.addEventListener("focus", look);
    return () => {
      window.removeEventListener("hashchange", taken);
      window.removeEventListener("focus", look);
    };
  }, [change, look, takeLinkKey]);

  switch (session.state) {
    case "loading":
      return null;
    case "signed-out":
      return <KeyForm problem={session.problem} enter={(key) => change(() => offer(key))} />;
    case "question":
      return (
        <KeyQuestion
          present={session.account}
          offered={session.offered}
          keep={() =>
            setSession(
              session.account
                ? { state: "signed-in", account: session.account, problem: "" }
                : { state: "signed-out", problem: "" },
            )
          }
          replace={() => change(() => signIn(session.key))}
        />
      );
    case "signed-in":
      return (
        <div className="root">
          <AccountBar
            account={session.account}
            problem={session.problem}
            enter={(key) => change(() => offer(key))}
            leave={() => change(() => signOut(session.account))}
          />
          {page(session.account, look)}
        </div>
      );
  }
}
