// Appeal against a block of the guard: the form, and the state of the appeal.
import { useCallback, useEffect, useState } from "react";
import { problemOf, type Api } from "./api";
import type { Appeal as StoredAppeal, AppealState, FinishReason, Message } from "./wire";

// Limit of the API, in characters.
const MOST_REASON = 500;
const BLOCKED: (FinishReason | undefined)[] = ["FINISH_REASON_INPUT_BLOCKED", "FINISH_REASON_OUTPUT_BLOCKED"];
const STATES: Record<AppealState, string> = {
  APPEAL_STATE_UNSPECIFIED: "Your appeal was received.",
  APPEAL_STATE_OPEN: "Your appeal was received. Two reviewers will judge the block.",
  APPEAL_STATE_UPHELD: "Reviewers agree: this was blocked wrongly.",
  APPEAL_STATE_REJECTED: "Reviewers decided that the block was right.",
};

export function isBlocked(message: Message): boolean {
  return BLOCKED.includes(message.finishReason);
}

/** Appeals of the user by message, read once a blocked message is shown. */
export function useAppeals(api: Api, shown: readonly Message[]) {
  const [appeals, setAppeals] = useState<Readonly<Record<string, AppealState>>>({});
  const needed = shown.some(isBlocked);
  useEffect(() => {
    if (!needed) return;
    api.appeals().then(
      (found) => setAppeals((now) => ({ ...now, ...Object.fromEntries(found.map(stateOf)) })),
      // Without the states, the same appeal can be sent again.
      () => undefined,
    );
  }, [api, needed]);
  const submit = useCallback(
    async (messageId: string, reason: string) => {
      const stored = await api.appeal(messageId, reason);
      setAppeals((now) => ({ ...now, ...Object.fromEntries([stateOf(stored)]) }));
    },
    [api],
  );
  return { appeals, submit };
}

function stateOf({ messageId, state }: StoredAppeal): [string, AppealState] {
  return [messageId, state];
}

interface Props {
  /** Undefined without an appeal. */
  state: AppealState | undefined;
  submit: (reason: string) => Promise<void>;
}

export function Appeal({ state, submit }: Props) {
  const [isOpen, setIsOpen] = useState(false);
  const [reason, setReason] = useState("");
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState("");

  async function send() {
    setBusy(true);
    setProblem("");
    try {
      await submit(reason.trim());
    } catch (error) {
      setProblem(problemOf(error));
    } finally {
      setBusy(false);
    }
  }

  if (state) return <p className="quiet" role="status">{STATES[state]}</p>;
  if (!isOpen) return <button className="link" onClick={() => setIsOpen(true)}>This was blocked wrongly</button>;
  return (
    <form
      className="panel"
      onSubmit={(event) => {
        event.preventDefault();
        void send();
      }}
    >
      <p>Reviewers of your organisation will read your message as you typed it, and decide.</p>
      <input aria-label="Reason" placeholder="Why was it wrong? (optional)" maxLength={MOST_REASON} value={reason} onChange={(event) => setReason(event.target.value)} autoFocus />
      {problem && <p className="problem" role="alert">{problem}</p>}
      <div className="actions">
        <button type="submit" disabled={busy}>Send</button>
        <button type="button" disabled={busy} onClick={() => setIsOpen(false)}>Close</button>
      </div>
    </form>
  );
}
