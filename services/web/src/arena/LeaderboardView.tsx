// Ranking of the models by the votes of the tenant, with intervals, and the results of each pair.
import { useEffect, useState } from "react";
import { problemOf, type Api } from "../api";
import { Interval } from "../Interval";
import type { Leaderboard } from "../wire";
import { fragilityOf, shownEntries, topicChoices, votesOf, winShare, type ShownEntry } from "./leaderboard";

export function LeaderboardView({ api }: { api: Api }) {
  const [topic, setTopic] = useState("");
  const [style, setStyle] = useState(false);
  const [board, setBoard] = useState<Leaderboard | null>(null);
  const [problem, setProblem] = useState("");

  useEffect(() => {
    let gone = false;
    setProblem("");
    api.leaderboard(topic, style).then(
      (found) => !gone && setBoard(found),
      (error: unknown) => !gone && setProblem(problemOf(error)),
    );
    return () => {
      gone = true;
    };
  }, [api, topic, style]);

  return (
    <>
      <div className="filters">
        <label>
          Topic{" "}
          <select value={topic} onChange={(event) => setTopic(event.target.value)}>
            {topicChoices(board, topic).map(([value, label]) => <option key={value} value={value}>{label}</option>)}
          </select>
        </label>
        <label className="switch">
          <input type="checkbox" role="switch" aria-describedby="style-note" checked={style} onChange={(event) => setStyle(event.target.checked)} />
          Control for style
        </label>
        <span id="style-note" className="quiet">Compares answers as if they had the same length and markup.</span>
      </div>
      {problem && <p className="problem" role="alert">{problem}</p>}
      {board && (
        <>
          <p role="status">{votesOf(board)}</p>
          {board.entries.length > 0 ? <Ranking entries={shownEntries(board.entries)} /> : <p className="quiet">No model has a vote yet.</p>}
          {fragilityOf(board) && <p>{fragilityOf(board)}</p>}
          {board.pairs.length > 0 && <Wins board={board} />}
        </>
      )}
    </>
  );
}

function Ranking({ entries }: { entries: ShownEntry[] }) {
  return (
    <div className="wide">
      <table aria-label="Leaderboard">
        <thead>
          <tr>
            <th scope="col">Rank</th>
            <th scope="col">Model</th>
            <th scope="col">Developer</th>
            <th scope="col">Score</th>
            <th scope="col">95 % interval</th>
            <th scope="col">Votes</th>
            <th scope="col">Votes needed</th>
            <th scope="col">Licence</th>
          </tr>
        </thead>
        <tbody>
          {entries.map((entry) => (
            <tr key={entry.model}>
              <td>{entry.rank || "–"}</td>
              <th scope="row">{entry.model}</th>
              <td>{entry.developer || "–"}</td>
              <td>{entry.score || "no rating yet"}</td>
              <td>{entry.bar && <Interval {...entry.bar} words={entry.range} />}</td>
              <td>{entry.votes}</td>
              <td>{entry.toSeparate || "–"}</td>
              <td>{entry.licence || "–"}</td>
            </tr>
          ))}
        </tbody>
      </table>
      <p className="quiet">
        Score: 400 points are odds of 10 to 1; the mean is 1000. Rank: 1 and the number of models whose interval is completely
        above. Votes needed: estimate until the interval of the next model is apart.
      </p>
    </div>
  );
}

function Wins({ board }: { board: Leaderboard }) {
  const models = board.entries.filter((entry) => Number(entry.votes) > 0).map((entry) => entry.model);
  return (
    <section aria-labelledby="wins-title" className="wide">
      <h2 id="wins-title">Wins of the row against the column</h2>
      <table aria-label="Wins of the row against the column">
        <thead>
          <tr>
            <td />
            {models.map((model) => <th key={model} scope="col">{model}</th>)}
          </tr>
        </thead>
        <tbody>
          {models.map((model) => (
            <tr key={model}>
              <th scope="row">{model}</th>
              {models.map((other) => {
                const share = winShare(board.pairs, model, other);
                return <td key={other}>{share ? <>{share.percent} % <small>of {share.votes}</small></> : "–"}</td>;
              })}
            </tr>
          ))}
        </tbody>
      </table>
      <p className="quiet">Ties count as half a win.</p>
    </section>
  );
}
