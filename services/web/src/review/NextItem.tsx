// The next item of the queue and the form of its review.
import { useCallback, useEffect, useRef, useState } from "react";
import type { Api } from "../api";
import type { NextItem as Next } from "../wire";
import { counted } from "./agreement";
import type { Drafts } from "./draft";
import { ItemView } from "./ItemView";
import { JudgementForm } from "./JudgementForm";
import { isEmptyQueue, reviewProblem } from "./problems";

export function NextItem({ api, drafts }: { api: Api; drafts: Drafts }) {
  // Undefined before the first answer, null without an item.
  const [next, setNext] = useState<Next | null>();
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState("");
  const [done, setDone] = useState("");
  const title = useRef<HTMLHeadingElement>(null);
  const gone = useRef(false);

  const load = useCallback(async () => {
    setProblem("");
    setBusy(true);
    try {
      const found = await api.nextItem();
      if (!gone.current) setNext(found);
    } catch (error) {
      if (gone.current) return;
      if (isEmptyQueue(error)) setNext(null);
      else setProblem(reviewProblem(error).text);
    } finally {
      if (!gone.current) setBusy(false);
    }
  }, [api]);

  useEffect(() => {
    gone.current = false;
    void load();
    return () => {
      gone.current = true;
    };
  }, [load]);

  // After a review, the reader of the page begins with the next item.
  useEffect(() => {
    if (next !== undefined && done) title.current?.focus();
  }, [next, done]);

  function go(what: string) {
    setDone(what);
    setNext(undefined);
    void load();
  }

  async function skip(itemId: string) {
    setBusy(true);
    setProblem("");
    try {
      await api.skipItem(itemId);
      drafts.remove(itemId);
      go("The item was skipped.");
    } catch (error) {
      const { text, isFinal } = reviewProblem(error);
      if (isFinal) go(text);
      else setProblem(text);
      setBusy(false);
    }
  }

  return (
    <>
      <p role="status" className="quiet status">
        {done} {next && `${counted(next.remaining, "item")} left to judge.`}
      </p>
      {problem && <p className="problem" role="alert">{problem}</p>}
      {problem && !next && <button disabled={busy} onClick={() => void load()}>Try again</button>}
      {next === null && !problem && (
        <div className="welcome">
          <h1 ref={title} tabIndex={-1}>Nothing is left to judge</h1>
          <p>Items appear here when they are drawn from conversations of users who allow it, and when users appeal.</p>
          <button disabled={busy} onClick={() => go("")}>Look again</button>
        </div>
      )}
      {next && (
        <>
          <h1 ref={title} tabIndex={-1}>{next.item.appeal ? "Was this blocked wrongly?" : next.item.answers.length > 1 ? `Judge ${next.item.answers.length} answers` : "Judge the answer"}</h1>
          <ItemView item={next.item} />
          <JudgementForm
            key={next.item.itemId}
            item={next.item}
            drafts={drafts}
            label="Submit the review"
            store={(review) => api.submitReview(next.item.itemId, review)}
            stored={() => go("Your review is stored.")}
            leave={() => go("")}
          >
            <button type="button" disabled={busy} onClick={() => void skip(next.item.itemId)}>Skip this item</button>
          </JudgementForm>
        </>
      )}
    </>
  );
}
