// State of the training loop by step, its report, and the feedback on its versions.
import { useEffect, useState } from "react";
import type { Api } from "./api";
import { Experiment } from "./Experiment";
import { ThumbsSoFar } from "./ThumbsSoFar";
import { Versions } from "./Versions";
import { shownReason } from "./versions";
import type { LoopStatus } from "./wire";

const BUSY_MS = 3_000;
const QUIET_MS = 20_000;
const MARKS = { waiting: "·", running: "▸", done: "✓", failed: "✗", skipped: "–", refused: "✗", held: "?" };

export function LoopPanel({ api }: { api: Api }) {
  const [status, setStatus] = useState<LoopStatus>({});

  useEffect(() => {
    let timer = 0;
    let gone = false;
    async function look() {
      let next: LoopStatus = {};
      try {
        next = await api.loop();
      } catch {
        // Optional information: while the gateway is unavailable keep the last state and try again.
      }
      if (gone) return;
      if (next.run) setStatus(next);
      timer = window.setTimeout(() => void look(), next.run && !next.result ? BUSY_MS : QUIET_MS);
    }
    void look();
    return () => {
      gone = true;
      clearTimeout(timer);
    };
  }, [api]);

  if (!status.run) {
    return (
      <section className="loop">
        <h2>Learning</h2>
        <p className="quiet">
          Press thumbs, then run <code>make loop</code>: a new version is trained from them. The model small needs at least 100
          thumbs, nano 200. Part of them must be pairs: ask the same question twice and rate one answer up, the other down.
        </p>
        <ThumbsSoFar api={api} needed={0} since="" tooFew={false} />
        <Experiment api={api} />
        <Versions api={api} />
      </section>
    );
  }
  const running = status.steps?.find((step) => step.state === "running");
  return (
    <section className="loop" aria-live="polite">
      <h2>Learning <small>{status.recipe}</small></h2>
      <ol>
        {status.steps?.map((step) => (
          <li key={step.name} className={step.state}>
            <span aria-hidden="true">{MARKS[step.state]}</span> {step.name.replaceAll("_", " ")}
          </li>
        ))}
      </ol>
      {running && (
        <>
          <progress max={1} value={running.progress ?? 0} aria-label={running.name} />
          {running.detail && <p className="quiet">{running.detail}</p>}
        </>
      )}
      {status.result && <p className="result">{status.result.replaceAll("_", " ")}</p>}
      {status.reason && status.reason !== status.result && <p className="quiet">{shownReason(status.result ?? "", status.reason)}</p>}
      {/* A stopped run continues with the thumbs of its snapshot. */}
      {status.result && status.result !== "stopped" && (
        <ThumbsSoFar
          api={api}
          needed={status.needed_thumbs ?? 0}
          since={status.learned_until ?? ""}
          tooFew={status.result === "not_enough_feedback"}
        />
      )}
      {status.erased_versions && status.erased_versions.length > 0 && (
        <p className="quiet">
          Learned from what people have had deleted since: {status.erased_versions.map((each) => each.version).join(", ")}.
        </p>
      )}
      {status.report && <button className="link" onClick={() => api.openReport(status.run!)}>Open the report</button>}
      <Experiment api={api} />
      <Versions api={api} />
    </section>
  );
}
