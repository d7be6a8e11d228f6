// Versions of the loop in a dialog: origin, checks of the gate, result and scores.
import { useEffect, useRef, useState } from "react";
import { problemOf, type Api } from "./api";
import { byResult, checkCounts, isUnfinished, origin, shownCheck, shownReason, shownScore } from "./versions";
import type { LoopVersion } from "./wire";

export function Versions({ api }: { api: Api }) {
  const [open, setOpen] = useState(false);
  return (
    <>
      <button className="link" onClick={() => setOpen(true)}>Versions and their evaluation</button>
      {open && <VersionsDialog api={api} close={() => setOpen(false)} />}
    </>
  );
}

function VersionsDialog({ api, close }: { api: Api; close: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [versions, setVersions] = useState<LoopVersion[] | null>(null);
  const [problem, setProblem] = useState("");

  useEffect(() => {
    dialog.current?.showModal();
    api.versions().then(setVersions, (error: unknown) => setProblem(problemOf(error)));
  }, [api]);

  return (
    <dialog ref={dialog} className="dialog versions" aria-labelledby="versions-title" onClose={close}>
      <header>
        <h2 id="versions-title">Versions and their evaluation</h2>
        <button className="link" onClick={() => dialog.current?.close()}>Close</button>
      </header>
      {problem && <p className="problem" role="alert">{problem}</p>}
      {versions?.length === 0 && <p className="quiet">No run has begun, and no version was evaluated.</p>}
      {versions?.map((version) => <Version key={version.version} version={version} />)}
      {versions && versions.length > 0 && (
        <p className="quiet">
          In parentheses: 95 % interval. For refusals, claims, work, doubted answers and knowledge 100 % is the best value. For the
          style of answers no value is right.
        </p>
      )}
    </dialog>
  );
}

function Version({ version }: { version: LoopVersion }) {
  const result = isUnfinished(version) ? "unfinished" : version.result?.result.replaceAll("_", " ");
  const checks = (version.gate?.checks ?? []).map(shownCheck);
  return (
    <section aria-label={version.version}>
      <h3>{version.version} {result && <small>{result}</small>}</h3>
      <p className="quiet">{origin(version)}</p>
      {version.result?.reason && <p className="quiet">{shownReason(version.result.result, version.result.reason)}</p>}
      {checks.length > 0 && (
        <details>
          <summary>Gate: {checkCounts(checks)}</summary>
          <table aria-label={`Gate of ${version.version}`}>
            <tbody>
              {byResult(checks).map((check) => (
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
              <tr key={score.id} title={score.id}>
                <th scope="row">{score.task}</th>
                <td>{score.text}</td>
                <td><small>{score.note}</small></td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </section>
  );
}
