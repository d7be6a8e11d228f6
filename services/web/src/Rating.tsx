// Thumbs, reasons and corrections. A thumb counts at once; reasons are optional. Given feedback
// stays visible.
import { useState } from "react";
import { OwnWords } from "./OwnWords";
import type { FeedbackValue, Message } from "./wire";

const REASONS = ["wrong", "unclear", "too long", "too short", "rude", "not what I asked"];

export function Rating({ message, rate }: { message: Message; rate: (value: FeedbackValue) => Promise<boolean> }) {
  const [panel, setPanel] = useState<"" | "reasons" | "better">("");
  const [thanks, setThanks] = useState("");

  async function tell(value: FeedbackValue, next: "" | "reasons" = "") {
    if (!(await rate(value))) return;
    // Do not close a panel that was opened during the call.
    setPanel((now) => (now === panel ? next : now));
    setThanks("retraction" in value ? "Taken back." : "Thank you: noted.");
  }

  function thumb(up: boolean) {
    if (message.thumbUp === up) return tell({ retraction: { kind: "thumb" } });
    return tell({ thumb: { up } }, up ? "" : "reasons");
  }

  return (
    <>
      <Thumb up={true} stands={message.thumbUp === true} press={() => void thumb(true)} />
      <Thumb up={false} stands={message.thumbUp === false} press={() => void thumb(false)} />
      <button className="link" onClick={() => setPanel(panel === "better" ? "" : "better")}>
        {message.correction ? "Change your better answer…" : "A better answer would be…"}
      </button>
      {thanks && !panel && <span className="quiet" role="status">{thanks}</span>}
      {panel === "reasons" && <Reasons message={message} tell={tell} skip={() => setPanel("")} />}
      {panel === "better" && <Better was={message.correction ?? ""} tell={tell} skip={() => setPanel("")} />}
      {!panel && <OwnWords message={message} tell={tell} changeReasons={() => setPanel("reasons")} />}
    </>
  );
}

function Thumb({ up, stands, press }: { up: boolean; stands: boolean; press: () => void }) {
  const name = up ? "Good answer" : "Bad answer";
  return (
    <button className={stands ? "thumb on" : "thumb"} aria-label={name} aria-pressed={stands} title={stands ? "Press again to take it back" : name} onClick={press}>
      {/* An SVG, because some machines have no emoji font. */}
      <svg viewBox="0 0 24 24" width="18" height="18" aria-hidden="true" className={up ? "icon" : "icon down"}>
        <path d="M7.500 11v9H4v-9zM7.500 11l4-8c1.400 0 2.500 1.100 2.500 2.500V9.500h4.700c1.200 0 2.100 1.100 1.900 2.300l-1.100 6.400c-.2 1-1.100 1.800-2.100 1.800H7.500" />
      </svg>
    </button>
  );
}

interface PanelProps {
  tell: (value: FeedbackValue) => Promise<void>;
  skip: () => void;
}

function Reasons({ message, tell, skip }: PanelProps & { message: Message }) {
  const up = message.thumbUp ?? false;
  const [chosen, setChosen] = useState(message.thumbReasons ?? []);
  const [comment, setComment] = useState(message.thumbComment ?? "");
  // Another client may have stored other reasons.
  const offered = [...new Set([...(up ? [] : REASONS), ...(message.thumbReasons ?? [])])];
  return (
    <form
      className="panel"
      onSubmit={(event) => {
        event.preventDefault();
        void tell({ thumb: { up, reasons: chosen, comment } });
      }}
    >
      <p>{up ? "What was good about it?" : "What was wrong with it?"}</p>
      <div className="chips">
        {offered.map((reason) => (
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

function Better({ was, tell, skip }: PanelProps & { was: string }) {
  const [text, setText] = useState(was);
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
        <button type="submit" disabled={!text.trim() || text === was}>Send</button>
        <button type="button" onClick={skip}>Close</button>
      </div>
    </form>
  );
}
