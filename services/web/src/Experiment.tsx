// Feedback on the newest versions: users, thumbs, and the confidence interval of the rate of thumbs
// up.
import { useEffect, useState } from "react";
import type { Api } from "./api";
import { newest, type ShownArm } from "./arms";
import { Interval } from "./Interval";
import type { ExperimentArm } from "./wire";

const LOOK_MS = 20_000;
const SHOWN_VERSIONS = 3;

export function Experiment({ api }: { api: Api }) {
  const [arms, setArms] = useState<ExperimentArm[]>([]);

  useEffect(() => {
    let gone = false;
    async function look() {
      try {
        const next = await api.experiment();
        if (!gone) setArms(next);
      } catch {
        // Optional information: keep the last values and try again at the next interval.
      }
    }
    void look();
    const timer = window.setInterval(() => void look(), LOOK_MS);
    return () => {
      gone = true;
      clearInterval(timer);
    };
  }, [api]);

  if (!arms.length) return null;
  const [first, others] = newest(arms, SHOWN_VERSIONS);
  return (
    <div className="experiment" aria-live="off">
      <h3>What people think</h3>
      <Arms arms={first} label="The newest versions" />
      {others.length > 0 && (
        <details>
          <summary>Earlier versions</summary>
          <Arms arms={others} label="Earlier versions" />
        </details>
      )}
      <p className="quiet">Bars: where the true rate of thumbs up lies, with 95 %.</p>
    </div>
  );
}

function Arms({ arms, label }: { arms: ShownArm[]; label: string }) {
  return (
    <table aria-label={label}>
      <thead>
        <tr>
          <th scope="col">Version</th>
          <th scope="col">Users</th>
          <th scope="col">Up</th>
          <th scope="col">Down</th>
        </tr>
      </thead>
      {arms.map((arm) => (
        <tbody key={arm.key}>
          <tr>
            <th scope="row">{arm.version}{arm.arm && <small> {arm.arm}</small>}</th>
            <td>{arm.users}</td>
            <td>{arm.up}</td>
            <td>{arm.down}</td>
          </tr>
          <tr>
            <td colSpan={4}>{arm.likely ? <Interval {...arm.likely} words={`${arm.likely.low}–${arm.likely.high} %`} /> : <small>No thumbs yet.</small>}</td>
          </tr>
        </tbody>
      ))}
    </table>
  );
}
