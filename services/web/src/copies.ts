// Copies of answers, reported once for each answer and only with the user's consent.
import type { Message, Signal } from "./wire";

interface SignalLog {
  signal: (messageId: string, signal: Signal) => Promise<void>;
}

export class Copies {
  private readonly reported = new Set<string>();

  constructor(private readonly log: SignalLog) {}

  /**
   * Report that the user has copied text of a finished answer.
   *
   * @param allowed True if the user allows training; unknown is not allowed.
   */
  async copied(answer: Message, allowed: boolean): Promise<void> {
    if (!allowed || !answer.modelVersion || this.reported.has(answer.id)) return;
    this.reported.add(answer.id);
    try {
      await this.log.signal(answer.id, { kind: "copied" });
    } catch {
      // A lost signal is no problem of the user. The next copy is reported again.
      this.reported.delete(answer.id);
    }
  }
}
