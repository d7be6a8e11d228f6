// "Delete my data": explanation, confirmation, and progress.
import { useEffect, useRef, useState } from "react";
import { ApiError, problemOf, type Api } from "./api";
import type { Erasure } from "./wire";

const LAST = "thumbwheel.erasure";
const LOOK_MS = 15_000;

interface Props {
  api: Api;
  /** Identity of the caller, because another user may have used the browser before. */
  owner: string;
  erased: () => void;
}

export function Deletion({ api, owner, erased }: Props) {
  const [asking, setAsking] = useState(false);
  const [removed, setRemoved] = useState<number | null>(null);
  const [id, setId] = useState(() => remembered(owner));
  const opener = useRef<HTMLButtonElement>(null);
  const asked = useRef(false);

  useEffect(() => {
    // Return the focus to the button after the confirmation closes.
    if (asked.current && !asking) opener.current?.focus();
    asked.current = asking;
  }, [asking]);

  function done(erasure: Erasure, conversations: number) {
    localStorage.setItem(LAST, JSON.stringify({ owner, id: erasure.erasureId }));
    setId(erasure.erasureId);
    setRemoved(conversations);
    setAsking(false);
    erased();
  }

  return (
    <section>
      <h3>Delete my data</h3>
      {asking ? (
        <Confirmation api={api} done={done} keep={() => setAsking(false)} />
      ) : (
        <>
          {id && <Progress key={id} api={api} id={id} removed={removed} />}
          <button ref={opener} onClick={() => setAsking(true)}>Delete my data…</button>
        </>
      )}
    </section>
  );
}

function Confirmation({ api, done, keep }: { api: Api; done: (erasure: Erasure, removed: number) => void; keep: () => void }) {
  const [running, setRunning] = useState(false);
  const [problem, setProblem] = useState("");

  async function erase() {
    setRunning(true);
    setProblem("");
    try {
      const { erasure, removedConversations } = await api.erase();
      done(erasure, removedConversations);
    } catch (error) {
      setProblem(problemOf(error));
      setRunning(false);
    }
  }

  return (
    <div className="confirmation" role="group" aria-label="Delete my data?">
      <p>This is deleted immediately and permanently:</p>
      <ul>
        <li>all your conversations, and answers that are being written now;</li>
        <li>your thumbs, comments and corrections.</li>
      </ul>
      <p>This stays:</p>
      <ul>
        <li>versions of the model that are trained already: what they learned is not taken out of them. The next ones learn nothing of it;</li>
        <li>your keys and your choice above: you can go on, and what you say then is new;</li>
        <li>counts without words, such as the tokens that you used today.</li>
      </ul>
      {problem && <p className="problem" role="alert">{problem}</p>}
      <div className="actions">
        <button autoFocus disabled={running} onClick={keep}>Keep it</button>
        <button className="danger" disabled={running} onClick={() => void erase()}>
          {running ? "Deleting…" : problem ? "Try again" : "Delete all of it"}
        </button>
      </div>
    </div>
  );
}

function Progress({ api, id, removed }: { api: Api; id: string; removed: number | null }) {
  const [erasure, setErasure] = useState<Erasure | null>(null);
  const over = Boolean(erasure?.rewriteTime);

  useEffect(() => {
    if (over) return;
    let gone = false;
    async function look() {
      try {
        const found = await api.erasure(id);
        if (!gone) setErasure(found);
      } catch (error) {
        if (error instanceof ApiError && error.status === 404) localStorage.removeItem(LAST);
      }
    }
    void look();
    const timer = window.setInterval(() => void look(), LOOK_MS);
    return () => {
      gone = true;
      clearInterval(timer);
    };
  }, [api, id, over]);

  if (!erasure) return null;
  return (
    <p className="progress-of-erasure" role="status">
      Deleted on {time(erasure.shredTime)}{removed ? `, with ${removed} ${removed === 1 ? "conversation" : "conversations"}` : ""}: what you said before cannot be read any more.{" "}
      {erasure.rewriteTime
        ? `Its unreadable remains left the storage on ${time(erasure.rewriteTime)}.`
        : "Its unreadable remains leave the storage with the next clean-up."}
    </p>
  );
}

function remembered(owner: string): string {
  const last = JSON.parse(localStorage.getItem(LAST) ?? "{}") as { owner?: string; id?: string };
  return last.owner === owner ? (last.id ?? "") : "";
}

function time(text: string): string {
  return new Date(text).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}
