// JSON of the public API as protobuf writes it: camelCase, 64-bit numbers as strings, unset
// enums as …_UNSPECIFIED.

export type FinishReason =
  | "FINISH_REASON_UNSPECIFIED"
  | "FINISH_REASON_STOP"
  | "FINISH_REASON_LENGTH"
  | "FINISH_REASON_CANCELLED"
  | "FINISH_REASON_INPUT_BLOCKED"
  | "FINISH_REASON_OUTPUT_BLOCKED"
  | "FINISH_REASON_FAILED";

export interface TextEdit {
  start?: number;
  end?: number;
  replacement?: string;
  kind?: string;
}

export interface ChatEvent {
  sequence: string;
  messageId: string;
  started?: { conversationId: string; userMessageId: string; modelVersion?: string; arm?: string };
  enhanced?: { originalText: string; text: string; edits?: TextEdit[] };
  textDelta?: { text: string };
  verdict?: { stage: string; action: string; category: string };
  usage?: { promptTokens?: number; completionTokens?: number };
  completed?: { finishReason: FinishReason };
}

export interface Message {
  id: string;
  parentId?: string;
  role: "ROLE_SYSTEM" | "ROLE_USER" | "ROLE_ASSISTANT";
  text?: string;
  originalText?: string;
  edits?: TextEdit[];
  modelVersion?: string;
  arm?: string;
  finishReason?: FinishReason;
  /** Current feedback of the user. */
  thumbUp?: boolean | undefined;
  thumbReasons?: string[];
  thumbComment?: string;
  correction?: string;
}

export interface MessagePage {
  messages?: Message[];
  /** Absent or empty on the page with the oldest messages. */
  nextPageToken?: string;
}

export interface Conversation {
  id: string;
  title?: string;
}

export interface SendRequest {
  conversationId?: string;
  parentMessageId?: string;
  input?: { text: string };
  regenerate?: { messageId: string };
  requestId: string;
  skipEnhancer?: boolean;
  /** A served version, or a model of a battle. Absent: selected by the rollout. */
  model?: string;
}

export type FeedbackValue =
  | { thumb: { up: boolean; reasons?: string[]; comment?: string } }
  | { correction: { text: string } }
  | { retraction: { kind: "thumb" | "correction" } };

/** What the user did with an answer. It is counted by version and is no opinion. */
export interface Signal {
  kind: "copied";
}

export interface Account {
  tenant: string;
  user: string;
  scopes: ("chat" | "feedback" | "account" | "operate" | "review")[];
  /** Required by every request of the session that changes something; absent for a key. */
  csrfToken?: string;
}

export interface Consent {
  training: boolean;
  /** Absent while the operator's default applies. */
  updateTime?: string;
}

export interface Erasure {
  erasureId: string;
  requestTime: string;
  shredTime: string;
  /** Absent while objects with unreadable rows of the user remain. */
  rewriteTime?: string;
}

export interface ExperimentArm {
  modelVersion: string;
  arm: string;
  exposedUsers: string;
  up: string;
  down: string;
  upRateLow: number;
  upRateHigh: number;
}

export interface LoopStep {
  name: string;
  state: "waiting" | "running" | "done" | "failed" | "skipped" | "refused" | "held";
  progress?: number;
  detail?: string;
}

export interface LoopStatus {
  run?: string;
  recipe?: string;
  step?: string;
  steps?: LoopStep[];
  result?: string | null;
  /** Reason for the result of the run, one sentence. */
  reason?: string;
  /** Versions trained on data that was erased later. */
  erased_versions?: { version: string }[];
  report?: string | null;
  /** Number of thumbs that a run of the recipe needs; absent before the first run. */
  needed_thumbs?: number;
  /** Start of the last run with enough thumbs. */
  learned_until?: string;
}

export interface TaskScore {
  task: string;
  metric: string;
  value: number;
  standard_error: number;
  /** Absent in files of earlier releases. */
  higher_is_better?: boolean;
  items: number;
  is_complete: boolean;
}

export interface GateCheck {
  name: string;
  value: string;
  threshold: string;
  passed: boolean;
  reason: string;
  /** Absent in files of earlier releases. */
  result?: string;
}

export interface LoopVersion {
  version: string;
  incumbent?: string;
  snapshot?: {
    id: string;
    is_stored: boolean;
    erasures: number;
    thumbs_up?: number;
    thumbs_down?: number;
    principals?: number;
  } | null;
  result?: { result: string; reason: string } | null;
  gate?: { passed: boolean; reason: string; checks: GateCheck[] } | null;
  scores: TaskScore[];
}

export interface ThumbCount {
  up: string;
  down: string;
}

export type Outcome = "OUTCOME_UNSPECIFIED" | "OUTCOME_FIRST" | "OUTCOME_SECOND" | "OUTCOME_TIE" | "OUTCOME_BOTH_BAD";

export type SetAside =
  | "SET_ASIDE_UNSPECIFIED"
  | "SET_ASIDE_NAMES_ITSELF"
  | "SET_ASIDE_INCOMPLETE"
  | "SET_ASIDE_EQUAL_TEXTS";

export interface Battle {
  battleId: string;
  /** Two names for SendRequest.model, in the order of the answers. */
  models: string[];
  outcome: Outcome;
  /** Versions in the order of the answers; empty before the vote. */
  modelVersions: string[];
  setAside: SetAside;
}

/** Model of another provider, which gets the questions of its battles. */
export interface ExternalModel {
  model: string;
  developer: string;
  licence: string;
}

export interface Models {
  models: string[];
  external: ExternalModel[];
}

export interface LeaderboardEntry {
  /** 0 for a model without a rating. */
  rank: number;
  model: string;
  developer: string;
  licence: string;
  rating: number;
  ratingLow: number;
  ratingHigh: number;
  votes: string;
  /** Further votes until the intervals of this model and the next one are apart. */
  votesToSeparate: string;
}

export interface PairResult {
  first: string;
  second: string;
  firstWins: string;
  secondWins: string;
  ties: string;
}

export interface Leaderboard {
  entries: LeaderboardEntry[];
  pairs: PairResult[];
  /** Absent if few votes have no influence on the leader, or with fewer than two rated models. */
  fragility?: { votes: string; newLeader: string };
  votes: string;
  setAside: string;
  quarantined: string;
  /** Counted votes of each topic with votes; absent from earlier services. */
  topics?: { topic: string; votes: string }[];
}

export type Task = "TASK_UNSPECIFIED" | "TASK_CODE" | "TASK_QUESTION_ANSWERING" | "TASK_CHAT" | "TASK_CREATIVE";

export type Scale = "correctness" | "helpfulness" | "clarity" | "safety";

export type AppealState = "APPEAL_STATE_UNSPECIFIED" | "APPEAL_STATE_OPEN" | "APPEAL_STATE_UPHELD" | "APPEAL_STATE_REJECTED";

/** Appeal of the user against a block of the guard. */
export interface Appeal {
  messageId: string;
  reason: string;
  state: AppealState;
}

/** Block against which a user appeals, as reviewers see it. */
export interface AppealedBlock {
  /** The guard ended the answer; false: it refused the question. */
  isAnswer: boolean;
  category: string;
  score: number;
  policyVersion: string;
  reason: string;
}

export type BlockDecision = "BLOCK_DECISION_UNSPECIFIED" | "BLOCK_DECISION_RIGHT" | "BLOCK_DECISION_WRONG";

export interface ReviewItem {
  itemId: string;
  /** Conversation up to the question, oldest first. */
  context: { role: Message["role"]; text: string }[];
  /** 1 to 6 answers. */
  answers: { answerId: string; text: string }[];
  task: Task;
  /** Absent unless the item is an appeal. */
  appeal?: AppealedBlock;
}

/** Scores of 1 to 5; 0 for a scale that does not apply. */
export type AnswerScores = { answerId: string } & Record<Scale, number>;

export interface GivenReview {
  /** One for each answer. */
  scores: AnswerScores[];
  /** 1 for the best answer, equal ranks for ties, without gaps; empty without a ranking. */
  ranks: { answerId: string; rank: number }[];
  writtenAnswer: string;
  comment: string;
  /** Specified for an appeal only. */
  blockDecision: BlockDecision;
}

export interface Review extends GivenReview {
  /** Review of the user. */
  own: boolean;
}

export interface NextItem {
  item: ReviewItem;
  /** Number of items that the user can still judge, this one included. */
  remaining: string;
}

export interface Disagreement {
  item: ReviewItem;
  /** Oldest first. */
  reviews: Review[];
}

export interface DisagreementPage {
  disagreements: Disagreement[];
  /** Empty on the last page. */
  nextPageToken: string;
}

export interface ScaleAgreement {
  scale: Scale | "ranking";
  /** Krippendorff's alpha and its interval; "NaN" if too few reviews exist, or all scores are equal. */
  alpha: number | "NaN";
  low: number | "NaN";
  high: number | "NaN";
  units: string;
}

export interface ReviewAgreement {
  items: string;
  reviews: string;
  disagreements: string;
  agreements: ScaleAgreement[];
}
