// Versions of the loop: origin, checks of the gate, result and scores. Loaded when opened.
import { useState } from "react";
import type { Api } from "./api";
import { origin, shownCheck, shownScore } from "./versions";
import type { LoopVersion } from "./wire";

export function Versions({ api }: { api: Api }) {
  const [versions, setVersions] = useState<LoopVersion[] | null>(null);
  const [problem, setProblem] = useState("");

  async function load() {
    try {
      setVersions(await api.versions());
      setProblem("");
    } catch (error) {
      setProblem(error instanceof Error ? error.message : String(error));
    }
  }

  return (
    <details className="experiment" onToggle={(event) => event.currentTarget.open && void load()}>
      <summary>Versions and their evaluation</summary>
      {problem && <p role="alert">{problem}</p>}
      {versions?.length === 0 && <p className="quiet">No run has begun, and no version was evaluated.</p>}
      {versions?.map((version) => <Version key={version.version} version={version} />)}
    </details>
  );
}

function Version({ version }: { version: LoopVersion }) {
  const checks = (version.gate?.checks ?? []).map(shownCheck);
  return (
    <section className="version" aria-label={version.version}>
      <h3>{version.version} {version.result && <small>{version.result.result.replaceAll("_", " ")}</small>}</h3>
      <p className="quiet">{origin(version)}</p>
      {version.result?.reason && <p className="quiet">{version.result.reason}</p>}
      {checks.length > 0 && (
        <details>
          <summary>Gate: {checks.filter((check) => check.result === "pass").length} of {checks.length} checks passed</summary>
          <table aria-label={`Gate of ${version.version}`}>
            <tbody>
              {checks.map((check) => (
                <tr key={check.name} title={check.reason}>
                  <th scope="row">{check.name}</th>
                  <td>{check.value}</td>
                  <td>{check.result}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </details>
      )}
      {version.scores.length > 0 && (
        <table aria-label={`Scores of ${version.version}`}>
          <tbody>
            {version.scores.map(shownScore).map((score) => (
              <tr key={score.task}>
                <th scope="row">{score.task}</th>
                <td>{score.text} {score.note && <small>{score.note}</small>}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </section>
  );
}
