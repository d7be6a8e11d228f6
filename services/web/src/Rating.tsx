// Thumbs, reasons, and "a better answer would be…". A thumb counts at once; what follows it is optional.
import { useState } from "react";
import type { FeedbackValue, Message } from "./wire";

const REASONS = ["wrong", "unclear", "too long", "too short", "rude", "not what I asked"];

export function Rating({ message, rate }: { message: Message; rate: (value: FeedbackValue) => Promise<boolean> }) {
  const [panel, setPanel] = useState<"" | "reasons" | "better">("");
  const [thanks, setThanks] = useState("");

  async function thumb(up: boolean) {
    if (message.thumbUp === up && !panel) return;
    if (!(await rate({ thumb: { up } }))) return;
    setPanel(up ? "" : "reasons");
    setThanks("Thank you: noted.");
  }

  async function tell(value: FeedbackValue) {
    if (!(await rate(value))) return;
    setPanel("");
    setThanks("Thank you: noted.");
  }

  return (
    <>
      <button className={message.thumbUp === true ? "thumb on" : "thumb"} aria-label="Good answer" aria-pressed={message.thumbUp === true} onClick={() => void thumb(true)}>
        <ThumbIcon />
      </button>
      <button className={message.thumbUp === false ? "thumb on" : "thumb"} aria-label="Bad answer" aria-pressed={message.thumbUp === false} onClick={() => void thumb(false)}>
        <ThumbIcon down />
      </button>
      <button className="link" onClick={() => setPanel(panel === "better" ? "" : "better")}>A better answer would be…</button>
      {thanks && !panel && <span className="quiet" role="status">{thanks}</span>}
      {panel === "reasons" && <Reasons tell={tell} skip={() => setPanel("")} />}
      {panel === "better" && <Better tell={tell} skip={() => setPanel("")} />}
    </>
  );
}

/** Drawn, because not every machine has a font with emoji. */
function ThumbIcon({ down = false }: { down?: boolean }) {
  return (
    <svg viewBox="0 0 24 24" width="18" height="18" aria-hidden="true" className={down ? "icon down" : "icon"}>
      <path d="M7.500 11v9H4v-9zM7.500 11l4-8c1.400 0 2.500 1.100 2.500 2.500V9.500h4.700c1.200 0 2.100 1.100 1.900 2.300l-1.100 6.400c-.2 1-1.100 1.800-2.100 1.800H7.500" />
    </svg>
  );
}

function Reasons({ tell, skip }: { tell: (value: FeedbackValue) => Promise<void>; skip: () => void }) {
  const [chosen, setChosen] = useState<string[]>([]);
  const [comment, setComment] = useState("");
  return (
    <form
      className="panel"
      onSubmit={(event) => {
        event.preventDefault();
        void tell({ thumb: { up: false, reasons: chosen, comment } });
      }}
    >
      <p>What was wrong with it?</p>
      <div className="chips">
        {REASONS.map((reason) => (
          <button
            key={reason}
            type="button"
            aria-pressed={chosen.includes(reason)}
            className={chosen.includes(reason) ? "chip on" : "chip"}
            onClick={() => setChosen((now) => (now.includes(reason) ? now.filter((other) => other !== reason) : [...now, reason]))}
          >
            {reason}
          </button>
        ))}
      </div>
      <input aria-label="Comment" placeholder="In your own words (optional)" maxLength={2000} value={comment} onChange={(event) => setComment(event.target.value)} />
      <div className="actions">
        <button type="submit">Send</button>
        <button type="button" onClick={skip}>Close</button>
      </div>
    </form>
  );
}

function Better({ tell, skip }: { tell: (value: FeedbackValue) => Promise<void>; skip: () => void }) {
  const [text, setText] = useState("");
  return (
    <form
      className="panel"
      onSubmit={(event) => {
        event.preventDefault();
        void tell({ correction: { text } });
      }}
    >
      <p>A better answer would be…</p>
      <textarea aria-label="A better answer" rows={3} maxLength={8192} value={text} onChange={(event) => setText(event.target.value)} autoFocus />
      <div className="actions">
        <button type="submit" disabled={!text.trim()}>Send</button>
        <button type="button" onClick={skip}>Close</button>
      </div>
    </form>
  );
}
