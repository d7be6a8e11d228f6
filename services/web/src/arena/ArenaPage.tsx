// The arena: battles, versions side by side, and the leaderboard.
import { useMemo } from "react";
import { Api } from "../api";
import { useView, ViewsPage } from "../ViewsPage";
import type { Account } from "../wire";
import { BattleView } from "./BattleView";
import { LeaderboardView } from "./LeaderboardView";
import { SideBySide } from "./SideBySide";

const VIEWS = { battle: "Arena", "side-by-side": "Side by side", leaderboard: "Leaderboard" };

interface Props {
  account: Account;
  /** Called if the session has ended, or was replaced by another tab. */
  lost: () => void;
}

export function ArenaPage({ account, lost }: Props) {
  const api = useMemo(() => new Api(account.csrfToken ?? "", lost), [account, lost]);
  const view = useView(["battle", "side-by-side", "leaderboard"]);
  return (
    <ViewsPage label="Arena" views={VIEWS} view={view}>
      {/* A hidden view keeps its answers; the leaderboard is read again. */}
      <main hidden={view !== "battle"}><BattleView api={api} mayVote={account.scopes.includes("feedback")} /></main>
      <main hidden={view !== "side-by-side"}><SideBySide api={api} /></main>
      {view === "leaderboard" && <main><LeaderboardView api={api} /></main>}
    </ViewsPage>
  );
}
