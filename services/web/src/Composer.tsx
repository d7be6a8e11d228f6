// Input of messages. Enter sends, Shift+Enter inserts a line break; a checkbox disables the
// enhancer.
import { useState, type KeyboardEvent } from "react";

const AS_TYPED = "thumbwheel.as-typed";
const MOST_CHARACTERS = 32_768;

interface Props {
  busy: boolean;
  canStop: boolean;
  /** Resolves to false if the message was refused; the text then stays in the box. */
  send: (text: string, asTyped: boolean) => Promise<boolean>;
  stop: () => void;
}

export function Composer({ busy, canStop, send, stop }: Props) {
  const [text, setText] = useState("");
  const [asTyped, setAsTyped] = useState(localStorage.getItem(AS_TYPED) === "yes");

  async function submit() {
    if (busy || !text.trim()) return;
    setText("");
    if (!(await send(text, asTyped))) setText((now) => now || text);
  }

  function onKey(event: KeyboardEvent) {
    if (event.key !== "Enter" || event.shiftKey || event.nativeEvent.isComposing) return;
    event.preventDefault();
    void submit();
  }

  return (
    <form
      className="composer"
      onSubmit={(event) => {
        event.preventDefault();
        void submit();
      }}
    >
      <div className="box">
        <textarea
          aria-label="Your message"
          placeholder="Write a message…"
          rows={Math.min(8, text.split("\n").length)}
          maxLength={MOST_CHARACTERS}
          value={text}
          onChange={(event) => setText(event.target.value)}
          onKeyDown={onKey}
          autoFocus
        />
        {busy ? (
          <button type="button" className="stop" disabled={!canStop} onClick={stop}>Stop</button>
        ) : (
          <button type="submit" className="send" disabled={!text.trim()}>Send</button>
        )}
      </div>
      <label className="quiet">
        <input
          type="checkbox"
          checked={!asTyped}
          onChange={(event) => {
            localStorage.setItem(AS_TYPED, event.target.checked ? "no" : "yes");
            setAsTyped(!event.target.checked);
          }}
        />{" "}
        Correct my typing before the model reads it
      </label>
    </form>
  );
}
