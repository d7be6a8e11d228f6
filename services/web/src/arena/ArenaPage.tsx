// The arena: battles, versions side by side, and the leaderboard.
import { useEffect, useMemo, useState } from "react";
import { Api } from "../api";
import type { Account } from "../wire";
import { BattleView } from "./BattleView";
import { LeaderboardView } from "./LeaderboardView";
import { SideBySide } from "./SideBySide";

const VIEWS = { battle: "Arena", "side-by-side": "Side by side", leaderboard: "Leaderboard" };

type View = keyof typeof VIEWS;

/** View that the fragment of the address names; the battle without one. */
function viewOf(fragment: string): View {
  const name = fragment.slice(1);
  return name in VIEWS ? (name as View) : "battle";
}

interface Props {
  account: Account;
  /** Called if the session has ended, or was replaced by another tab. */
  lost: () => void;
}

export function ArenaPage({ account, lost }: Props) {
  const api = useMemo(() => new Api(account.csrfToken ?? "", lost), [account, lost]);
  const [view, setView] = useState(viewOf(location.hash));

  useEffect(() => {
    const changed = () => setView(viewOf(location.hash));
    window.addEventListener("hashchange", changed);
    return () => window.removeEventListener("hashchange", changed);
  }, []);

  return (
    <div className="arena">
      <header>
        <a className="brand" href="./">
          <img src="./icon.svg" alt="" width="26" height="26" />
          <strong>Thumbwheel</strong>
        </a>
        <nav aria-label="Arena">
          {Object.entries(VIEWS).map(([name, title]) => (
            <a key={name} href={`#${name}`} aria-current={name === view ? "page" : undefined}>{title}</a>
          ))}
        </nav>
      </header>
      {/* A hidden view keeps its answers; the leaderboard is read again. */}
      <main hidden={view !== "battle"}><BattleView api={api} mayVote={account.scopes.includes("feedback")} /></main>
      <main hidden={view !== "side-by-side"}><SideBySide api={api} /></main>
      {view === "leaderboard" && <main><LeaderboardView api={api} /></main>}
    </div>
  );
}
