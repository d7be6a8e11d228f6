// Question before a key from a link, or one of another user, is used, since links may come from others.
import type { Account } from "./wire";

interface Props {
  /** User of the session, if there is one. */
  present: Account | null;
  offered: Account;
  keep: () => void;
  replace: () => void;
}

export function KeyQuestion({ present, offered, keep, replace }: Props) {
  return (
    <main className="key-form" role="alertdialog" aria-labelledby="key-question" aria-describedby="key-question-note">
      <h1 id="key-question">{present ? "Sign in as another user?" : "Sign in with the key of this link?"}</h1>
      <dl>
        {present && (
          <>
            <dt>You are signed in as</dt>
            <dd><Identity account={present} /></dd>
          </>
        )}
        <dt>The {present ? "new " : ""}key belongs to</dt>
        <dd><Identity account={offered} /></dd>
      </dl>
      <p id="key-question-note">
        Continue only if you know this key, for example because your terminal printed the link. All that you write then belongs to its user, and others who have the
        key can read it.
      </p>
      <button className="send" onClick={keep} autoFocus>
        {present ? `Stay signed in as ${present.user} of ${present.tenant}` : "Do not sign in"}
      </button>
      <button onClick={replace}>Sign in as {offered.user} of {offered.tenant}</button>
    </main>
  );
}

function Identity({ account }: { account: Account }) {
  return (
    <>
      <strong>{account.user}</strong> of <strong>{account.tenant}</strong>{" "}
      <span className="quiet">({account.scopes.join(", ")})</span>
    </>
  );
}
