// A battle: one question, two anonymous answers, a vote, and then the names of the models.
import { useEffect, useRef, useState } from "react";
import { problemOf, type Api } from "../api";
import { Composer } from "../Composer";
import type { Battle, Outcome } from "../wire";
import { AnswerColumns } from "./AnswerColumns";
import { isVotable, isWriting, OUTCOMES, stateOf } from "./columns";
import { noticeOf } from "./external";
import { useColumns } from "./useColumns";

export function BattleView({ api, mayVote }: { api: Api; mayVote: boolean }) {
  const { columns, busy, ask, stop, clear } = useColumns(api);
  const [battle, setBattle] = useState<Battle | null>(null);
  const [calling, setCalling] = useState(false);
  const [problem, setProblem] = useState("");
  // Null until known: no question is sent before the notice can be read.
  const [notice, setNotice] = useState<string | null>(null);
  const next = useRef<HTMLButtonElement>(null);
  const revealed = (battle?.modelVersions.length ?? 0) > 0;
  const begun = columns.ids.some((id) => id !== "");

  useEffect(() => {
    if (revealed) next.current?.focus();
  }, [revealed]);

  useEffect(() => {
    let gone = false;
    api.models().then(
      ({ external }) => !gone && setNotice(noticeOf(external)),
      (error: unknown) => !gone && setProblem(problemOf(error)),
    );
    return () => {
      gone = true;
    };
  }, [api]);

  async function start(text: string, asTyped: boolean): Promise<boolean> {
    setProblem("");
    setCalling(true);
    try {
      const created = await api.createBattle();
      setBattle(created);
      return await ask(text, asTyped, created.models);
    } catch (error) {
      setProblem(problemOf(error));
      return false;
    } finally {
      setCalling(false);
    }
  }

  async function vote(outcome: Outcome) {
    setProblem("");
    setCalling(true);
    try {
      setBattle(await api.vote(battle!.battleId, columns.ids, outcome));
    } catch (error) {
      setProblem(problemOf(error, "Your vote was not stored."));
    } finally {
      setCalling(false);
    }
  }

  function another() {
    clear();
    setBattle(null);
    setProblem("");
  }

  const titles = ["A", "B"].map((side, column) => {
    const version = battle?.modelVersions[column];
    return version ? `Answer ${side}: ${version}` : `Answer ${side}`;
  });
  return (
    <>
      {!begun && (
        <div className="welcome">
          <h1>Which answer is better?</h1>
          <p>Two models answer your question. Their names are shown after your vote.</p>
          {notice && <p className="quiet">{notice}</p>}
        </div>
      )}
      {battle && (begun || columns.problems.some(Boolean)) && <AnswerColumns columns={columns} titles={titles} />}
      {battle && begun && (
        <div className="vote">
          <p role="status">{stateOf(battle, columns, busy)}</p>
          {!revealed && mayVote && (
            <div role="group" aria-label="Your vote" className="actions">
              {OUTCOMES.map(([outcome, label]) => (
                <button key={outcome} disabled={busy || calling || !isVotable(columns)} onClick={() => void vote(outcome)}>{label}</button>
              ))}
            </div>
          )}
          {!mayVote && <p className="quiet">This key may not vote: it lacks the scope feedback.</p>}
          {revealed && <p className="quiet">You voted: {OUTCOMES.find(([outcome]) => outcome === battle.outcome)?.[1]}</p>}
          <div className="actions">
            {busy ? (
              <button className="stop" disabled={!columns.ids.some((_, column) => isWriting(columns, column))} onClick={() => void stop()}>Stop</button>
            ) : (
              <button ref={next} className={revealed ? undefined : "link"} disabled={calling} onClick={another}>
                {revealed ? "Next battle" : "Next battle without a vote"}
              </button>
            )}
          </div>
        </div>
      )}
      {problem && <p className="problem" role="alert">{problem}</p>}
      {!begun && notice !== null && <Composer busy={busy || calling} canStop={false} send={start} stop={() => undefined} />}
    </>
  );
}
