// Figures of the leaderboard for display.
import type { Leaderboard, LeaderboardEntry, PairResult } from "../wire";

const ALL_TOPICS = "All topics";
const TOPIC_NAMES: Readonly<Record<string, string>> = {
  code: "Code",
  question_answering: "Questions about facts",
  chat: "Conversation",
  creative: "Stories and poems",
};

/** Return the value and the label of each topic with votes, after that of all topics. */
export function topicChoices(board: Leaderboard | null, selected: string): [string, string][] {
  const topics = (board?.topics ?? []).map(({ topic, votes }): [string, string] => [topic, `${nameOf(topic)} (${count(votes)})`]);
  // The selected topic stays in the list without a vote, for example after an erasure.
  const isMissing = selected !== "" && !topics.some(([topic]) => topic === selected);
  return [["", ALL_TOPICS], ...topics, ...(isMissing ? [[selected, nameOf(selected)] as [string, string]] : [])];
}

function nameOf(topic: string): string {
  return TOPIC_NAMES[topic] ?? topic;
}

export interface ShownEntry {
  model: string;
  /** Empty for a model without a rating, as are score and range. */
  rank: string;
  score: string;
  range: string;
  developer: string;
  licence: string;
  votes: string;
  toSeparate: string;
  /** Places on the common scale in percent; null without a rating. */
  bar: { low: number; high: number; mark: number } | null;
}

/** Return the entries with the places of their intervals on a scale from the lowest to the highest end. */
export function shownEntries(entries: readonly LeaderboardEntry[]): ShownEntry[] {
  const rated = entries.filter((entry) => entry.rank > 0);
  const low = Math.min(...rated.map((entry) => entry.ratingLow));
  const high = Math.max(...rated.map((entry) => entry.ratingHigh));
  const place = (rating: number) => (high > low ? (100 * (rating - low)) / (high - low) : 50);
  return entries.map((entry, index) => {
    const { model, developer, licence, rank, rating, ratingLow, ratingHigh } = entry;
    const names = { model, developer, licence, votes: count(entry.votes) };
    if (rank === 0) return { ...names, rank: "", score: "", range: "", toSeparate: "", bar: null };
    const isLast = index === rated.length - 1;
    return {
      ...names,
      rank: `${rank}`,
      score: `${Math.round(rating)} ± ${Math.ceil((ratingHigh - ratingLow) / 2)}`,
      // Rounded outwards, so that the displayed interval is never narrower than the computed one.
      range: `${Math.floor(ratingLow)} to ${Math.ceil(ratingHigh)}`,
      toSeparate: isLast ? "" : Number(entry.votesToSeparate) === 0 ? "apart" : count(entry.votesToSeparate),
      bar: { low: place(ratingLow), high: place(ratingHigh), mark: place(rating) },
    };
  });
}

/** Return how a model did against another one, with ties as half a win; null without votes. */
export function winShare(pairs: readonly PairResult[], model: string, other: string): { percent: number; votes: number } | null {
  let wins = 0;
  let votes = 0;
  for (const { first, second, firstWins, secondWins, ties } of pairs) {
    const isFirst = first === model && second === other;
    if (!isFirst && !(first === other && second === model)) continue;
    wins += Number(isFirst ? firstWins : secondWins) + Number(ties) / 2;
    votes += Number(firstWins) + Number(secondWins) + Number(ties);
  }
  return votes > 0 ? { percent: Math.round((100 * wins) / votes), votes } : null;
}

/** Return the sentence about the influence of few votes on the leader; empty if there is none to name. */
export function fragilityOf(board: Leaderboard): string {
  const rated = board.entries.filter((entry) => entry.rank > 0);
  if (rated.length < 2) return "";
  const { fragility } = board;
  if (!fragility) return "No removal of less than half of the votes changes the leader.";
  const votes = Number(fragility.votes) === 1 ? "1 vote" : `${count(fragility.votes)} votes`;
  return `Without ${votes} of ${count(board.votes)} the leader would be ${fragility.newLeader}.`;
}

/** Return the sentence about the votes behind the leaderboard. */
export function votesOf({ votes, setAside, quarantined }: Leaderboard): string {
  const others = [
    Number(setAside) > 0 ? `${count(setAside)} set aside` : "",
    Number(quarantined) > 0 ? `${count(quarantined)} of quarantined accounts` : "",
  ].filter(Boolean);
  return `${count(votes)} ${Number(votes) === 1 ? "vote counts" : "votes count"}${others.length ? `; not counted: ${others.join(", ")}` : ""}.`;
}

function count(number: string): string {
  return Number(number).toLocaleString("en");
}
