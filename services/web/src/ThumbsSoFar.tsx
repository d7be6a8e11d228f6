// How many thumbs there are for the next turn of the loop, so that a person knows when it makes sense to run it.
import { useEffect, useState } from "react";
import type { Api } from "./api";
import { enough } from "./enough";

const LOOK_MS = 10_000;

interface Props {
  api: Api;
  /** How many a turn needs; 0: not known before the first. */
  needed: number;
  /** When the last turn that had enough began; empty: there was none. */
  since: string;
}

export function ThumbsSoFar({ api, needed, since }: Props) {
  const [counts, setCounts] = useState<{ all: number; fresh: number } | null>(null);

  useEffect(() => {
    let gone = false;
    async function look() {
      try {
        const all = await api.countThumbs();
        const fresh = since ? await api.countThumbs(since) : all;
        if (!gone) setCounts({ all, fresh });
      } catch {
        // A side show, as the rest of the panel: it keeps what it knows and asks again.
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
      {needed > 0 && <progress max={needed} value={Math.min(counts.all, needed)} aria-label="Thumbs for the next turn" />}
      <p className="quiet">{enough(counts.all, counts.fresh, needed, since !== "")}</p>
    </div>
  );
}
