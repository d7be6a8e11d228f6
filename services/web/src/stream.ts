// Server-sent events over fetch, because EventSource supports neither POST nor request headers.

export interface ServerEvent {
  event: string;
  data: string;
}

/** Splits a stream of text into complete events; an incomplete event waits for the next chunk. */
export class EventCutter {
  private rest = "";

  push(piece: string): ServerEvent[] {
    const blocks = (this.rest + piece).replaceAll("\r\n", "\n").split("\n\n");
    this.rest = blocks.pop() ?? "";
    return blocks.map(readBlock).filter((event) => event.data !== "");
  }
}

function readBlock(block: string): ServerEvent {
  let event = "message";
  const data: string[] = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) event = line.slice(6).trim();
    if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
  }
  return { event, data: data.join("\n") };
}

export async function* readEvents(response: Response): AsyncGenerator<ServerEvent> {
  const cutter = new EventCutter();
  const decoder = new TextDecoder();
  const reader = response.body!.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield* cutter.push(decoder.decode(value, { stream: true }));
  }
}
