// One question to several models. The first answer stores the question; the others answer it again.
import { useEffect, useRef, useState } from "react";
import { problemOf, type Api } from "../api";
import { wholeTurn } from "../turn";
import type { ChatEvent, SendRequest } from "../wire";
import { applied, emptyColumns, failed, isWriting } from "./columns";

export function useColumns(api: Api) {
  const [columns, setColumns] = useState(emptyColumns(0));
  const [busy, setBusy] = useState(false);
  // Number of the present question. Events of an earlier question are ignored.
  const present = useRef(0);
  useEffect(() => () => void (present.current += 1), []);

  /**
   * Ask all models.
   *
   * @returns True if an answer has begun.
   */
  async function ask(text: string, asTyped: boolean, models: readonly string[]): Promise<boolean> {
    const number = ++present.current;
    const isPresent = () => present.current === number;
    setColumns(emptyColumns(models.length));
    setBusy(true);
    let others: Promise<unknown> = Promise.resolve();
    let began = false;

    async function follow(column: number, request: Omit<SendRequest, "requestId">, started: (event: ChatEvent) => void) {
      const asked = column === 0 ? { text, parentId: "" } : undefined;
      const first = api.send({ ...request, model: models[column]!, requestId: crypto.randomUUID() });
      try {
        for await (const event of wholeTurn(first, (answer, after) => api.resume(answer, after))) {
          if (!isPresent()) return;
          setColumns((now) => applied(now, column, event, asked));
          if (event.started) started(event);
        }
      } catch (error) {
        if (isPresent()) setColumns((now) => failed(now, column, problemOf(error, "The connection broke.")));
      }
    }

    await follow(0, { input: { text }, skipEnhancer: asTyped }, ({ started }) => {
      if (!started || began) return;
      began = true;
      const request = { conversationId: started.conversationId, regenerate: { messageId: started.userMessageId } };
      others = Promise.all(models.slice(1).map((_, index) => follow(index + 1, request, () => undefined)));
    });
    await others;
    if (isPresent()) setBusy(false);
    return began;
  }

  async function stop(): Promise<void> {
    const running = columns.ids.filter((_, column) => isWriting(columns, column));
    await Promise.allSettled(running.map((id) => api.cancel(id)));
  }

  function clear(): void {
    present.current += 1;
    setColumns(emptyColumns(0));
    setBusy(false);
  }

  return { columns, busy, ask, stop, clear };
}
