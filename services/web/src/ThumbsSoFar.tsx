// Number of thumbs for the next run of the loop, as a hint when to start the run.
import { useEffect, useState } from "react";
import type { Api } from "./api";
import { thumbCount } from "./thumbCount";

const LOOK_MS = 10_000;

interface Props {
  api: Api;
  /** Number of thumbs that a run needs; 0 if unknown, before the first run. */
  needed: number;
  /** Start of the last run with enough thumbs; empty before the first. */
  since: string;
  /** The last run had too few thumbs or pairs. */
  tooFew: boolean;
}

export function ThumbsSoFar({ api, needed, since, tooFew }: Props) {
  const [counts, setCounts] = useState<{ all: number; fresh: number } | null>(null);

  useEffect(() => {
    let gone = false;
    async function look() {
      try {
        const all = await api.countThumbs();
        const fresh = since ? await api.countThumbs(since) : all;
        if (!gone) setCounts({ all, fresh });
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
  }, [api, since]);

  if (!counts) return null;
  return (
    <div className="thumbs-so-far">
      {/* A full bar would hide the lack of pairs. */}
      {needed > 0 && !(tooFew && counts.all >= needed) && <progress max={needed} value={Math.min(counts.all, needed)} aria-label="Thumbs for the next training run" />}
      <p className="quiet">{thumbCount(counts.all, counts.fresh, needed, since !== "", tooFew)}</p>
    </div>
  );
}
