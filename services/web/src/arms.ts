// What an experiment's arms say to people: names, percentages, and which versions are shown first.
import type { ExperimentArm } from "./wire";

const ARMS: Record<string, string> = { candidate: "on trial", pinned: "asked for by name" };

export interface ShownArm {
  key: string;
  version: string;
  /** Empty for the version that answers everybody. */
  arm: string;
  users: number;
  up: number;
  down: number;
  /** Where the rate of thumbs up lies, in percent; null: nobody has said anything. */
  likely: { low: number; high: number } | null;
}

export function shown(arm: ExperimentArm): ShownArm {
  const up = Number(arm.up);
  const down = Number(arm.down);
  return {
    key: `${arm.modelVersion}/${arm.arm}`,
    version: arm.modelVersion,
    arm: ARMS[arm.arm] ?? (arm.arm === "stable" ? "" : arm.arm),
    users: Number(arm.exposedUsers),
    up,
    down,
    // Outwards, so that what is shown is never narrower than what is known.
    likely: up + down ? { low: Math.floor(100 * arm.upRateLow), high: Math.ceil(100 * arm.upRateHigh) } : null,
  };
}

/** The arms of the versions met last, and those of the others. The gateway sends the newest version first. */
export function newest(arms: ExperimentArm[], versions: number): [ShownArm[], ShownArm[]] {
  const first = new Set([...new Set(arms.map((arm) => arm.modelVersion))].slice(0, versions));
  const all = arms.map(shown);
  return [all.filter((arm) => first.has(arm.version)), all.filter((arm) => !first.has(arm.version))];
}
