// Client of the gateway's HTTP API. The browser sends the session's cookie, and every call its CSRF
// token; an error has the message of the gateway.
import { readEvents } from "./stream";
import type {
  Appeal,
  Battle,
  ChatEvent,
  Consent,
  Conversation,
  DisagreementPage,
  Erasure,
  ExperimentArm,
  FeedbackValue,
  GivenReview,
  Leaderboard,
  LoopStatus,
  LoopVersion,
  MessagePage,
  Models,
  NextItem,
  Outcome,
  ReviewAgreement,
  SendRequest,
  Signal,
  ThumbCount,
} from "./wire";

export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
    /** Seconds after which the server accepts a retry; 0 if unknown. */
    readonly retryAfter = 0,
    readonly code = "",
  ) {
    super(message);
  }
}

/**
 * Refusals with a longer delay are not retried, for example those of a daily quota. Retries end
 * after PATIENCE_SECONDS.
 */
const LONGEST_RETRY_SECONDS = 5;
const PATIENCE_SECONDS = 60;

export class Api {
  /**
   * @param csrfToken Token of the session.
   * @param lost Called if the session has ended, or was replaced by another tab.
   */
  constructor(
    private readonly csrfToken: string,
    private readonly lost: () => void,
  ) {}

  async *send(request: SendRequest): AsyncGenerator<ChatEvent> {
    yield* this.events(await patiently(() => this.call("POST", "/api/messages", request)));
  }

  async *resume(messageId: string, after: string): AsyncGenerator<ChatEvent> {
    yield* this.events(await this.call("GET", `/api/messages/${messageId}/events?after=${after}`));
  }

  async cancel(messageId: string): Promise<void> {
    await this.call("POST", `/api/messages/${messageId}/cancel`);
  }

  async feedback(messageId: string, value: FeedbackValue): Promise<void> {
    await this.call("POST", "/api/feedback", { messageId, requestId: crypto.randomUUID(), ...value });
  }

  /** Report a signal. The same signal on the same answer is one event. */
  async signal(messageId: string, signal: Signal): Promise<void> {
    await this.call("POST", "/api/feedback", { messageId, requestId: `${signal.kind}-${messageId}`, signal });
  }

  /** Appeal against a block. The same appeal can be sent again. */
  async appeal(messageId: string, reason: string): Promise<Appeal> {
    return ((await (await this.call("POST", "/api/appeals", { messageId, reason })).json()) as { appeal: Appeal }).appeal;
  }

  /** Return the newest appeals of the user. */
  async appeals(): Promise<Appeal[]> {
    return ((await (await this.call("GET", "/api/appeals")).json()) as { appeals?: Appeal[] }).appeals ?? [];
  }

  async consent(): Promise<Consent> {
    return ((await (await this.call("GET", "/api/consent")).json()) as { consent: Consent }).consent;
  }

  async setConsent(training: boolean): Promise<Consent> {
    return ((await (await this.call("PUT", "/api/consent", { training })).json()) as { consent: Consent }).consent;
  }

  async erase(): Promise<{ erasure: Erasure; removedConversations: number }> {
    return (await (await this.call("POST", "/api/erasure")).json()) as { erasure: Erasure; removedConversations: number };
  }

  async erasure(id: string): Promise<Erasure> {
    return ((await (await this.call("GET", `/api/erasure/${id}`)).json()) as { erasure: Erasure }).erasure;
  }

  async experiment(): Promise<ExperimentArm[]> {
    return ((await (await this.call("GET", "/api/experiment")).json()) as { arms?: ExperimentArm[] }).arms ?? [];
  }

  /** Count the current thumbs, all or those given since a time. */
  async countThumbs(since = ""): Promise<number> {
    const path = since ? `/api/thumbs?since=${encodeURIComponent(since)}` : "/api/thumbs";
    const { counts = [] } = (await (await this.call("GET", path)).json()) as { counts?: ThumbCount[] };
    return counts.reduce((sum, { up, down }) => sum + Number(up) + Number(down), 0);
  }

  async conversations(): Promise<Conversation[]> {
    const page = (await (await this.call("GET", "/api/conversations")).json()) as { conversations?: Conversation[] };
    return page.conversations ?? [];
  }

  /** Return the newest messages, or those before an earlier page. */
  async messages(conversationId: string, pageToken = ""): Promise<MessagePage> {
    const query = pageToken && `?page_token=${encodeURIComponent(pageToken)}`;
    return (await (await this.call("GET", `/api/conversations/${conversationId}${query}`)).json()) as MessagePage;
  }

  async remove(conversationId: string): Promise<void> {
    await this.call("DELETE", `/api/conversations/${conversationId}`);
  }

  async loop(): Promise<LoopStatus> {
    return (await (await this.call("GET", "/api/loop")).json()) as LoopStatus;
  }

  async versions(): Promise<LoopVersion[]> {
    return ((await (await this.call("GET", "/api/loop/versions")).json()) as { versions: LoopVersion[] }).versions;
  }

  /** Return the versions that a request may name, and the external models of battles. */
  async models(): Promise<Models> {
    return (await (await this.call("GET", "/api/models")).json()) as Models;
  }

  async createBattle(): Promise<Battle> {
    const body = { requestId: crypto.randomUUID() };
    return ((await (await this.call("POST", "/api/arena/battles", body)).json()) as { battle: Battle }).battle;
  }

  /** Vote on the answers of a battle. Returns the battle with its versions. */
  async vote(battleId: string, messageIds: readonly string[], outcome: Outcome): Promise<Battle> {
    const path = `/api/arena/battles/${battleId}/vote`;
    return ((await (await this.call("POST", path, { messageIds, outcome })).json()) as { battle: Battle }).battle;
  }

  /** @param topic Task of the questions, or an empty text for all. */
  async leaderboard(topic: string, styleControl: boolean): Promise<Leaderboard> {
    const query = new URLSearchParams({ topic, style_control: `${styleControl}` });
    return (await (await this.call("GET", `/api/arena/leaderboard?${query}`)).json()) as Leaderboard;
  }

  /** Return the next item to judge, the same one until it is judged or skipped. */
  async nextItem(): Promise<NextItem> {
    return (await (await this.call("GET", "/api/reviews/next")).json()) as NextItem;
  }

  /** Store the user's review of an item. The same review can be sent again. */
  async submitReview(itemId: string, review: GivenReview): Promise<void> {
    await this.call("POST", `/api/reviews/${itemId}`, { review });
  }

  /** Leave an item to other reviewers. */
  async skipItem(itemId: string): Promise<void> {
    await this.call("POST", `/api/reviews/${itemId}/skip`);
  }

  async disagreements(pageToken = ""): Promise<DisagreementPage> {
    const query = pageToken && `?page_token=${encodeURIComponent(pageToken)}`;
    return (await (await this.call("GET", `/api/reviews/disagreements${query}`)).json()) as DisagreementPage;
  }

  /** Store the final judgement of an item. */
  async resolve(itemId: string, review: GivenReview): Promise<void> {
    await this.call("POST", `/api/reviews/${itemId}/resolution`, { review });
  }

  async agreement(): Promise<ReviewAgreement> {
    return (await (await this.call("GET", "/api/reviews/agreement")).json()) as ReviewAgreement;
  }

  /** Open a report in a new tab, which sends the cookie of the session. */
  openReport(run: string): void {
    window.open(`/api/loop/report/${run}`, "_blank", "noopener");
  }

  private async *events(response: Response): AsyncGenerator<ChatEvent> {
    for await (const { event, data } of readEvents(response)) {
      if (event === "error") throw new ApiError(errorText(data), 0, 0, errorCode(data));
      yield JSON.parse(data) as ChatEvent;
    }
  }

  private async call(method: string, path: string, body?: unknown): Promise<Response> {
    try {
      return await request(method, path, { "x-tw-csrf": this.csrfToken }, body);
    } catch (error) {
      if (error instanceof ApiError && (error.status === 401 || error.code === "csrf_token_invalid")) this.lost();
      throw error;
    }
  }
}

/** Make a request; a response with an error status raises ApiError. */
export async function request(
  method: string,
  path: string,
  headers: Record<string, string> = {},
  body?: unknown,
): Promise<Response> {
  const sent = body === undefined ? headers : { ...headers, "content-type": "application/json" };
  const response = await fetch(path, { method, headers: sent, body: body === undefined ? null : JSON.stringify(body) });
  if (!response.ok) {
    const retryAfter = Number(response.headers.get("retry-after")) || 0;
    const text = await response.text();
    throw new ApiError(errorText(text), response.status, retryAfter, errorCode(text));
  }
  return response;
}

/** Make a call and retry it after the delay that an overloaded server names. */
export async function patiently<Result>(call: () => Promise<Result>, wait = sleep): Promise<Result> {
  for (let waited = 0; ; ) {
    try {
      return await call();
    } catch (error) {
      const seconds = error instanceof ApiError && error.status === 429 ? error.retryAfter : 0;
      if (!seconds || seconds > LONGEST_RETRY_SECONDS || waited + seconds > PATIENCE_SECONDS) throw error;
      await wait(seconds);
      waited += seconds;
    }
  }
}

export function sleep(seconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
}

/** Message of an error, or a fixed text for anything else that was thrown. */
export function problemOf(error: unknown, otherwise = "The server did not answer as it should."): string {
  return error instanceof Error ? error.message : otherwise;
}

function errorText(body: string): string {
  try {
    return (JSON.parse(body) as { error: { message: string } }).error.message;
  } catch {
    return "The server did not answer as it should.";
  }
}

function errorCode(body: string): string {
  try {
    return (JSON.parse(body) as { error: { code: string } }).error.code;
  } catch {
    return "";
  }
}
