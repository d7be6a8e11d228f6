// Bar above the page: the user of the session, sign-in with another key, and sign-out.
import { useRef } from "react";
import { KeyForm } from "./KeyForm";
import type { Account } from "./wire";

interface Props {
  account: Account;
  problem: string;
  enter: (key: string) => void;
  leave: () => void;
}

export function AccountBar({ account, problem, enter, leave }: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  return (
    <div className="account-bar" role="region" aria-label="Account">
      <span>
        Signed in as <strong>{account.user}</strong> of <strong>{account.tenant}</strong>
      </span>
      {problem && <span className="problem" role="alert">{problem}</span>}
      <span className="actions">
        <button className="link" aria-haspopup="dialog" onClick={() => dialog.current?.showModal()}>Use another key</button>
        <button className="link" onClick={leave}>Sign out</button>
      </span>
      <dialog ref={dialog} className="dialog" aria-label="Use another key">
        <KeyForm
          problem=""
          enter={(key) => {
            dialog.current?.close();
            enter(key);
          }}
        />
        <button className="link" onClick={() => dialog.current?.close()}>Cancel</button>
      </dialog>
    </div>
  );
}
