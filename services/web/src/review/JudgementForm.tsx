// Form of a judgement: scores of each answer, a ranking, a better answer and a comment.
import { useEffect, useId, useRef, useState, type ReactNode } from "react";
import type { BlockDecision, GivenReview, ReviewItem } from "../wire";
import { Choices } from "./Choices";
import { EMPTY_DRAFT, missingOf, orderOf, ranksOf, reviewOf, withPlace, withScore, type Draft, type Drafts } from "./draft";
import { reviewProblem, type Problem } from "./problems";
import { answerTitle, NOT_APPLICABLE, SCALES, SCORES, type ScaleText } from "./scales";

// Limits of the API, in characters.
const MOST_WRITTEN = 8_192;
const MOST_COMMENT = 2_000;

interface Props {
  item: ReviewItem;
  drafts: Drafts;
  /** Label of the button that stores the judgement. */
  label: string;
  store: (review: GivenReview) => Promise<void>;
  /** Called after the judgement was stored. */
  stored: () => void;
  /** Called to leave the item after an error that no further attempt mends. */
  leave: () => void;
  /** Further buttons. */
  children?: ReactNode;
}

export function JudgementForm({ item, drafts, label, store, stored, leave, children }: Props) {
  const [draft, setDraft] = useState(() => drafts.read(item.itemId));
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<Problem | null>(null);
  const alert = useRef<HTMLDivElement>(null);

  useEffect(() => {
    if (problem) alert.current?.focus();
  }, [problem]);

  function change(next: Draft) {
    setDraft(next);
    drafts.keep(item.itemId, next);
  }

  async function submit() {
    const missing = missingOf(draft, item);
    if (missing) {
      setProblem({ text: missing, isFinal: false });
      return;
    }
    setBusy(true);
    setProblem(null);
    try {
      await store(reviewOf(draft, item));
      drafts.remove(item.itemId);
      stored();
    } catch (error) {
      const found = reviewProblem(error);
      if (found.isFinal) drafts.remove(item.itemId);
      setProblem(found);
    } finally {
      setBusy(false);
    }
  }

  if (problem?.isFinal) {
    return (
      <div className="judgement">
        <div ref={alert} tabIndex={-1} className="problem" role="alert">{problem.text}</div>
        <div className="actions"><button className="send" onClick={leave}>Continue</button></div>
      </div>
    );
  }
  return (
    <form
      className="judgement"
      onSubmit={(event) => {
        event.preventDefault();
        void submit();
      }}
    >
      {item.appeal ? (
        <DecisionField draft={draft} change={change} />
      ) : (
        <>
          <div className="scales">
            {SCALES.map((scale) => (
              <ScaleField key={scale.scale} scale={scale} item={item} draft={draft} change={change} />
            ))}
          </div>
          {item.answers.length > 1 && <RankingField item={item} draft={draft} change={change} />}
          <label>
            <strong>A better answer</strong> <span className="quiet">(optional; trains the model)</span>
            <textarea rows={4} maxLength={MOST_WRITTEN} value={draft.written} onChange={(event) => change({ ...draft, written: event.target.value })} />
          </label>
        </>
      )}
      <label>
        <strong>Comment</strong> <span className="quiet">(optional; for other reviewers)</span>
        <textarea rows={2} maxLength={MOST_COMMENT} value={draft.comment} onChange={(event) => change({ ...draft, comment: event.target.value })} />
      </label>
      {problem && <div ref={alert} tabIndex={-1} className="problem" role="alert">{problem.text}</div>}
      <div className="actions">
        <button type="submit" className="send" disabled={busy}>{label}</button>
        {children}
        <button type="button" className="link" disabled={busy || draft === EMPTY_DRAFT} onClick={() => change(EMPTY_DRAFT)}>Clear the form</button>
      </div>
    </form>
  );
}

const DECISIONS: readonly BlockDecision[] = ["BLOCK_DECISION_RIGHT", "BLOCK_DECISION_WRONG"];

function DecisionField({ draft, change }: Omit<FieldProps, "item">) {
  const id = useId();
  return (
    <section className="judged" aria-labelledby={`${id}-title`}>
      <h2 id={`${id}-title`}>Decision</h2>
      <p id={id} className="quiet">Judge the message, not its user. Two reviewers must agree.</p>
      <Choices
        title="The block was"
        label="The block was"
        describedBy={id}
        options={[[0, "right"], [1, "wrong"]]}
        chosen={draft.block && DECISIONS.indexOf(draft.block)}
        choose={(place) => change({ ...draft, block: DECISIONS[place]! })}
      />
    </section>
  );
}

interface FieldProps {
  item: ReviewItem;
  draft: Draft;
  change: (draft: Draft) => void;
}

function ScaleField({ scale: { scale, title, meanings }, item, draft, change }: FieldProps & { scale: ScaleText }) {
  const id = useId();
  const options = [...SCORES.map((score) => [score, `${score}`] as const), [NOT_APPLICABLE, "does not apply"] as const];
  return (
    <section className="judged" aria-labelledby={`${id}-title`}>
      <h2 id={`${id}-title`}>{title}</h2>
      <p id={id} className="quiet">
        {meanings.map(([score, meaning], place) => (
          <span key={score}><strong>{score}</strong> {meaning}{place < meanings.length - 1 && "; "}</span>
        ))}
      </p>
      {item.answers.map(({ answerId }) => (
        <Choices
          key={answerId}
          title={answerTitle(answerId)}
          label={`${title} of ${answerTitle(answerId)}`}
          describedBy={id}
          options={options}
          chosen={draft.scores[answerId]?.[scale]}
          choose={(score) => change(withScore(draft, answerId, scale, score))}
        />
      ))}
    </section>
  );
}

function RankingField({ item, draft, change }: FieldProps) {
  const id = useId();
  const options = item.answers.map((_, place) => [place + 1, `${place + 1}`] as const);
  const ranks = ranksOf(draft.places, item);
  return (
    <section className="judged" aria-labelledby={`${id}-title`}>
      <h2 id={`${id}-title`}>Ranking</h2>
      <p id={id} className="quiet"><strong>1</strong> is the best answer; answers with the same place are ties. Optional.</p>
      {item.answers.map(({ answerId }) => (
        <Choices
          key={answerId}
          title={answerTitle(answerId)}
          label={`Place of ${answerTitle(answerId)}`}
          describedBy={id}
          options={options}
          chosen={draft.places[answerId]}
          choose={(place) => change(withPlace(draft, answerId, place))}
        />
      ))}
      <div className="order">
        <span role="status">{ranks.length > 0 && `Order: ${orderOf(ranks)}.`}</span>
        {ranks.length > 0 && <button type="button" className="link" onClick={() => change({ ...draft, places: {} })}>Remove the ranking</button>}
      </div>
    </section>
  );
}
