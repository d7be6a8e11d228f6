// Decisions of a user about their data: consent to training, and deletion.
import { useEffect, useRef, useState } from "react";
import { problemOf, type Api } from "./api";
import { Deletion } from "./Deletion";
import type { Account, Consent } from "./wire";

interface Props {
  api: Api;
  account: Account;
  consent: Consent | null;
  said: (consent: Consent) => void;
  erased: () => void;
  close: () => void;
}

export function YourData({ api, account, consent, said, erased, close }: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [problem, setProblem] = useState("");
  const [saving, setSaving] = useState(false);

  useEffect(() => {
    dialog.current?.showModal();
    // Another client may have changed the consent since the page was opened.
    api.consent().then(said, (error: unknown) => setProblem(problemOf(error)));
  }, [api, said]);

  async function allow(training: boolean) {
    setSaving(true);
    setProblem("");
    try {
      said(await api.setConsent(training));
    } catch (error) {
      setProblem(problemOf(error));
    }
    setSaving(false);
  }

  return (
    <dialog ref={dialog} className="dialog" aria-labelledby="your-data-title" onClose={close}>
      <header>
        <h2 id="your-data-title">Your data</h2>
        <button className="link" onClick={() => dialog.current?.close()}>Close</button>
      </header>
      <p>You are known here as <strong>{account.user}</strong> of <strong>{account.tenant}</strong>.</p>
      <section>
        <label className="switch">
          <input
            type="checkbox"
            role="switch"
            aria-describedby="training-note"
            checked={consent?.training ?? false}
            disabled={!consent}
            aria-busy={saving}
            onChange={(event) => void allow(event.target.checked)}
          />
          <span>Use my chats and thumbs to make the model better</span>
        </label>
        <p id="training-note" className="quiet">
          {consent && !consent.updateTime && "The operator of this system chose this setting; you can change it. "}
          A change holds from the next training on, for what you said before too.
          While this is on, the system also counts for each version how often answers are asked for
          again, edited, stopped or copied, and how often a conversation ends after them. These counts
          compare versions and train nothing. They are deleted with your data and with a deleted
          conversation.
        </p>
        {problem && <p className="problem" role="alert">{problem}</p>}
      </section>
      <Deletion api={api} owner={`${account.tenant}/${account.user}`} erased={erased} />
    </dialog>
  );
}
