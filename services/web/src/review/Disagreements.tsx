// Items on which reviewers disagree, their reviews side by side, and the final judgement.
import { useCallback, useEffect, useRef, useState } from "react";
import type { Api } from "../api";
import type { Disagreement } from "../wire";
import { comparedRows, counted, reviewTitles } from "./agreement";
import type { Drafts } from "./draft";
import { ItemView } from "./ItemView";
import { JudgementForm } from "./JudgementForm";
import { reviewProblem } from "./problems";

export function Disagreements({ api, drafts }: { api: Api; drafts: Drafts }) {
  // Null before the first page.
  const [found, setFound] = useState<Disagreement[] | null>(null);
  const [more, setMore] = useState("");
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState("");
  const [done, setDone] = useState("");
  const status = useRef<HTMLParagraphElement>(null);
  const gone = useRef(false);

  const load = useCallback(
    async (pageToken: string) => {
      setProblem("");
      setBusy(true);
      try {
        const page = await api.disagreements(pageToken);
        if (gone.current) return;
        setFound((now) => (pageToken ? [...(now ?? []), ...page.disagreements] : page.disagreements));
        setMore(page.nextPageToken);
      } catch (error) {
        if (!gone.current) setProblem(reviewProblem(error).text);
      } finally {
        if (!gone.current) setBusy(false);
      }
    },
    [api],
  );

  useEffect(() => {
    gone.current = false;
    void load("");
    return () => {
      gone.current = true;
    };
  }, [load]);

  function leave(itemId: string, what: string) {
    setFound((now) => (now ?? []).filter(({ item }) => item.itemId !== itemId));
    setDone(what);
    status.current?.focus();
  }

  return (
    <>
      <h1>Items on which reviewers disagree</h1>
      <p ref={status} tabIndex={-1} role="status" className="quiet status">
        {done} {found && (found.length === 0 && !more ? "No item waits for a final judgement." : `${counted(found.length, "item")}${more ? " and more" : ""}, the most different reviews first.`)}
      </p>
      {found?.map((each) => (
        <Item key={each.item.itemId} api={api} drafts={drafts} disagreement={each} leave={(what) => leave(each.item.itemId, what)} />
      ))}
      {problem && <p className="problem" role="alert">{problem}</p>}
      {problem && !found && <button disabled={busy} onClick={() => void load("")}>Try again</button>}
      {more && <button disabled={busy} onClick={() => void load(more)}>Show more items</button>}
    </>
  );
}

interface ItemProps {
  api: Api;
  drafts: Drafts;
  disagreement: Disagreement;
  /** Called with what was done, for the status line. */
  leave: (what: string) => void;
}

function Item({ api, drafts, disagreement: { item, reviews }, leave }: ItemProps) {
  const [isOpen, setIsOpen] = useState(false);
  const question = item.context.at(-1)?.text ?? "";
  return (
    <details className="disagreement" onToggle={(event) => setIsOpen(event.currentTarget.open)}>
      <summary>
        <span className="excerpt">{question}</span>
        <span className="quiet">
          {counted(item.answers.length, "answer")}, {counted(reviews.length, "review")}
          {reviews.some(({ own }) => own) && ", one of them yours"}
        </span>
      </summary>
      {/* Not before it is opened: items have up to 160,000 characters. */}
      {isOpen && (
        <>
          <ItemView item={item} />
          <ReviewTable disagreement={{ item, reviews }} />
          <h2>Final judgement</h2>
          {reviews.some(({ own }) => own) && (
            <p className="quiet">You have judged this item. Unless the operator allows it, another reviewer makes the final judgement.</p>
          )}
          <JudgementForm
            item={item}
            drafts={drafts}
            label="Store the final judgement"
            store={(review) => api.resolve(item.itemId, review)}
            stored={() => leave("The final judgement is stored.")}
            leave={() => leave("")}
          />
        </>
      )}
    </details>
  );
}

function ReviewTable({ disagreement: { item, reviews } }: { disagreement: Disagreement }) {
  const titles = reviewTitles(reviews);
  return (
    <>
      <h2>Reviews</h2>
      <div className="wide compared">
        <table aria-label="Reviews side by side">
          <thead>
            <tr>
              <td />
              {titles.map((title) => <th key={title} scope="col">{title}</th>)}
              <th scope="col">Difference</th>
            </tr>
          </thead>
          <tbody>
            {comparedRows(item, reviews).map(({ name, values, difference, isLargest }) => (
              <tr key={name}>
                <th scope="row">{name}</th>
                {values.map((value, place) => <td key={titles[place]}>{value}</td>)}
                <td className={isLargest ? "largest" : undefined}>{difference}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {reviews.map(({ writtenAnswer, comment }, place) => (
        <ReviewTexts key={titles[place]} title={titles[place]!} writtenAnswer={writtenAnswer} comment={comment} />
      ))}
    </>
  );
}

function ReviewTexts({ title, writtenAnswer, comment }: { title: string; writtenAnswer: string; comment: string }) {
  if (!writtenAnswer && !comment) return null;
  return (
    <section className="own-words" aria-label={`Texts of ${title}`}>
      {comment && <p><span className="quiet">{title}, comment: </span>{comment}</p>}
      {writtenAnswer && <p><span className="quiet">{title}, better answer: </span>{writtenAnswer}</p>}
    </section>
  );
}
