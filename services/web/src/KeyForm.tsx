// Form for the key, shown without a key or after the gateway refused the key.
import { useState } from "react";

export function KeyForm({ problem, enter }: { problem: string; enter: (key: string) => void }) {
  const [text, setText] = useState("");
  return (
    <form
      className="key-form"
      onSubmit={(event) => {
        event.preventDefault();
        enter(text.trim());
      }}
    >
      <h1>Thumbwheel</h1>
      <p>Open the address that <code>make up</code> printed: it carries your key. Or paste the key here.</p>
      {problem && <p className="problem" role="alert">{problem}</p>}
      <input aria-label="API key" value={text} onChange={(event) => setText(event.target.value)} placeholder="tw_…" autoFocus />
      <button type="submit" disabled={!text.trim()}>Enter</button>
    </form>
  );
}
