// A message of the user: the text for the model, the edits of the enhancer, and editing.
import { useState } from "react";
import { Siblings } from "./Siblings";
import type { Message } from "./wire";

interface Props {
  message: Message;
  siblings: Message[];
  busy: boolean;
  show: (message: Message) => void;
  edit: (text: string) => void;
  sendAsTyped: () => void;
}

export function Question({ message, siblings, busy, show, edit, sendAsTyped }: Props) {
  const [draft, setDraft] = useState<string | null>(null);
  const changed = Boolean(message.originalText) && message.originalText !== message.text;

  if (draft !== null) {
    return (
      <form
        className="question editing"
        onSubmit={(event) => {
          event.preventDefault();
          setDraft(null);
          edit(draft);
        }}
      >
        <textarea aria-label="Edit your message" value={draft} rows={3} onChange={(event) => setDraft(event.target.value)} autoFocus />
        <div className="actions">
          <button type="submit" disabled={!draft.trim()}>Ask again</button>
          <button type="button" onClick={() => setDraft(null)}>Keep it</button>
        </div>
      </form>
    );
  }
  return (
    <article className="question">
      <div className="bubble">{message.text}</div>
      {changed && (
        <details className="changes">
          <summary>Typing corrected</summary>
          <p><Original message={message} /></p>
          <button className="link" disabled={busy} onClick={sendAsTyped}>Send it as I typed it</button>
        </details>
      )}
      <div className="actions">
        <Siblings message={message} all={siblings} show={show} />
        <button className="link" disabled={busy} onClick={() => setDraft(message.originalText || message.text || "")}>Edit</button>
      </div>
    </article>
  );
}

/**
 * The typed text with marked edits and their replacements. Offsets count code points, not UTF-16
 * units.
 */
function Original({ message }: { message: Message }) {
  const letters = Array.from(message.originalText ?? "");
  const parts = [];
  let at = 0;
  for (const edit of message.edits ?? []) {
    const [start, end] = [edit.start ?? 0, edit.end ?? 0];
    parts.push(letters.slice(at, start).join(""));
    if (end > start) parts.push(<del key={`d${start}`}>{letters.slice(start, end).join("")}</del>);
    if (edit.replacement) parts.push(<ins key={`i${start}`} title={edit.kind}>{edit.replacement}</ins>);
    at = end;
  }
  parts.push(letters.slice(at).join(""));
  return <>{parts}</>;
}
