// A review that is being written, kept in the session storage of the tab until it is submitted.
import type { BlockDecision, GivenReview, ReviewItem, Scale } from "../wire";
import { answerTitle, NOT_APPLICABLE, SCALES } from "./scales";

export interface Draft {
  /** By answer; a missing scale was not judged yet. */
  scores: Readonly<Record<string, Partial<Record<Scale, number>>>>;
  /** Places as chosen, by answer; numbers may be left out. */
  places: Readonly<Record<string, number>>;
  written: string;
  comment: string;
  /** Decision on an appeal. */
  block?: BlockDecision;
}

export const EMPTY_DRAFT: Draft = { scores: {}, places: {}, written: "", comment: "" };

export function withScore(draft: Draft, answerId: string, scale: Scale, score: number): Draft {
  return { ...draft, scores: { ...draft.scores, [answerId]: { ...draft.scores[answerId], [scale]: score } } };
}

export function withPlace(draft: Draft, answerId: string, place: number): Draft {
  return { ...draft, places: { ...draft.places, [answerId]: place } };
}

/** Return what a draft lacks before it can be submitted, in a sentence; an empty text if it is complete. */
export function missingOf(draft: Draft, item: ReviewItem): string {
  if (item.appeal) return draft.block ? "" : "A decision is missing: was the block right or wrong?";
  const ids = item.answers.map(({ answerId }) => answerId);
  const isScored = ids.some((id) => Object.keys(draft.scores[id] ?? {}).length > 0);
  if (isScored) {
    for (const { scale, title } of SCALES) {
      const id = ids.find((each) => draft.scores[each]?.[scale] === undefined);
      if (id) return `${title} of ${answerTitle(id)} is missing: choose 1 to 5, or “does not apply”.`;
    }
  }
  const placed = ids.filter((id) => draft.places[id]);
  if (placed.length > 0 && placed.length < ids.length) {
    return `The place of ${answerTitle(ids.find((id) => !draft.places[id])!)} is missing: rank all answers, or none.`;
  }
  const isEmpty = !ids.some((id) => Object.values(draft.scores[id] ?? {}).some((score) => score !== NOT_APPLICABLE));
  if (isEmpty && placed.length === 0 && !draft.written.trim()) return "A review needs scores, a ranking or a better answer.";
  return "";
}

/** Return the ranks of chosen places without gaps: 1, 3, 3 becomes 1, 2, 2. */
export function ranksOf(places: Draft["places"], item: ReviewItem): GivenReview["ranks"] {
  const placed = item.answers.filter(({ answerId }) => places[answerId]);
  const used = [...new Set(placed.map(({ answerId }) => places[answerId]!))].sort((one, other) => one - other);
  return placed.map(({ answerId }) => ({ answerId, rank: 1 + used.indexOf(places[answerId]!) }));
}

/** Return the review of a complete draft. */
export function reviewOf(draft: Draft, item: ReviewItem): GivenReview {
  const scores = item.answers.map(({ answerId }) => {
    const given = draft.scores[answerId] ?? {};
    const of = (scale: Scale) => given[scale] ?? NOT_APPLICABLE;
    return { answerId, correctness: of("correctness"), helpfulness: of("helpfulness"), clarity: of("clarity"), safety: of("safety") };
  });
  return { scores, ranks: ranksOf(draft.places, item), writtenAnswer: draft.written.trim(), comment: draft.comment.trim(), blockDecision: draft.block ?? "BLOCK_DECISION_UNSPECIFIED" };
}

/** Return a ranking in words, the best answer first: "A, then B and C". */
export function orderOf(ranks: GivenReview["ranks"]): string {
  const groups = new Map<number, string[]>();
  for (const { answerId, rank } of [...ranks].sort((one, other) => one.rank - other.rank)) {
    groups.set(rank, [...(groups.get(rank) ?? []), answerId.toUpperCase()]);
  }
  return [...groups.values()].map((names) => names.join(" and ")).join(", then ");
}

export type DraftKind = "review" | "resolution";

/** Drafts of a user in the session storage, by item. */
export class Drafts {
  /** @param owner Tenant and user, since another user may sign in on the same tab. */
  constructor(
    private readonly owner: string,
    private readonly kind: DraftKind,
    private readonly storage: Storage = sessionStorage,
  ) {}

  read(itemId: string): Draft {
    const kept = this.storage.getItem(this.key(itemId));
    return kept === null ? EMPTY_DRAFT : (JSON.parse(kept) as Draft);
  }

  keep(itemId: string, draft: Draft): void {
    if (draft === EMPTY_DRAFT) {
      this.remove(itemId);
      return;
    }
    try {
      this.storage.setItem(this.key(itemId), JSON.stringify(draft));
    } catch {
      // The storage is full: the draft stays on the page and does not survive a reload.
    }
  }

  remove(itemId: string): void {
    this.storage.removeItem(this.key(itemId));
  }

  private key(itemId: string): string {
    return `thumbwheel.${this.kind}.${this.owner}/${itemId}`;
  }
}
