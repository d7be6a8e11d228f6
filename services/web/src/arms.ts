// Arms of an experiment for display: names, percentages, and the order of versions.
import type { ExperimentArm } from "./wire";

const ARMS: Record<string, string> = { candidate: "on trial", pinned: "asked for by name", battle: "in the arena" };

export interface ShownArm {
  key: string;
  version: string;
  /** Empty for the stable version. */
  arm: string;
  users: number;
  up: number;
  down: number;
  /** Confidence interval of the rate of thumbs up, in percent; null without thumbs. */
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
    // Rounded outwards, so that the displayed interval is never narrower than the computed one.
    likely: up + down ? { low: Math.floor(100 * arm.upRateLow), high: Math.ceil(100 * arm.upRateHigh) } : null,
  };
}

/**
 * Split arms into those of the newest versions and the others. The gateway sends the newest version
 * first.
 */
export function newest(arms: ExperimentArm[], versions: number): [ShownArm[], ShownArm[]] {
  const first = new Set([...new Set(arms.map((arm) => arm.modelVersion))].slice(0, versions));
  const all = arms.map(shown);
  return [all.filter((arm) => first.has(arm.version)), all.filter((arm) => !first.has(arm.version))];
}
