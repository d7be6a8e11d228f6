// Events of a turn across broken connections. The turn continues in the gateway meanwhile.
import { ApiError, sleep } from "./api";
import type { ChatEvent } from "./wire";

/** Seconds before each attempt to resume. An event that arrives starts the list again. */
const PAUSES = [1, 2, 4];

/**
 * Yield the events of a turn to its end. After a broken connection, or when the gateway shuts down,
 * the turn is resumed after its last event.
 *
 * @param first Events of the first connection.
 * @param resume Return the events of an answer after a sequence.
 * @throws The last error, if the turn failed or cannot be resumed.
 */
export async function* wholeTurn(
  first: AsyncGenerator<ChatEvent>,
  resume: (answerId: string, after: string) => AsyncGenerator<ChatEvent>,
  wait = sleep,
): AsyncGenerator<ChatEvent> {
  let answerId = "";
  let last = "0";
  let ended = false;
  let pauses = PAUSES;
  for (let events = first; ; events = resume(answerId, last)) {
    try {
      for await (const event of events) {
        answerId = event.messageId;
        last = event.sequence;
        ended ||= event.completed !== undefined;
        pauses = PAUSES;
        yield event;
      }
      if (ended || !answerId || pauses.length === 0) return;
    } catch (error) {
      if (ended || !answerId || pauses.length === 0 || !isTemporary(error)) throw error;
    }
    await wait(pauses[0]!);
    pauses = pauses.slice(1);
  }
}

/** Return true for a broken connection, a gateway that shuts down, and a gateway that is unavailable. */
function isTemporary(error: unknown): boolean {
  // `fetch` and readers of its streams raise TypeError if the connection breaks.
  if (!(error instanceof ApiError)) return error instanceof TypeError;
  return error.code === "resume_elsewhere" || [502, 503, 504].includes(error.status);
}
