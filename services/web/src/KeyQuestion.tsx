// Question before a key of another user replaces the session, since links from others may carry keys.
import type { Account } from "./wire";

interface Props {
  present: Account;
  offered: Account;
  keep: () => void;
  replace: () => void;
}

export function KeyQuestion({ present, offered, keep, replace }: Props) {
  return (
    <main className="key-form" role="alertdialog" aria-labelledby="key-question" aria-describedby="key-question-note">
      <h1 id="key-question">Sign in as another user?</h1>
      <dl>
        <dt>You are signed in as</dt>
        <dd><Identity account={present} /></dd>
        <dt>The new key belongs to</dt>
        <dd><Identity account={offered} /></dd>
      </dl>
      <p id="key-question-note">
        Continue only if you know this key. All that you write then belongs to its user, and others who have the
        key can read it.
      </p>
      <button className="send" onClick={keep} autoFocus>Stay signed in as {present.user} of {present.tenant}</button>
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
