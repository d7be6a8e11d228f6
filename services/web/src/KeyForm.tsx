// Form for a key or token, shown without a session and in the dialog for another key.
import { useState } from "react";

export function KeyForm({ problem, enter }: { problem: string; enter: (key: string) => void }) {
  const [text, setText] = useState("");
  return (
    <form
      className="key-form"
      onSubmit={(event) => {
        event.preventDefault();
        enter(text.trim());
        setText("");
      }}
    >
      <h1>Thumbwheel</h1>
      <p>Open the address that <code>make up</code> printed: it carries your key. Or paste the key here.</p>
      {problem && <p className="problem" role="alert">{problem}</p>}
      <input
        type="password"
        autoComplete="off"
        aria-label="API key"
        value={text}
        onChange={(event) => setText(event.target.value)}
        placeholder="tw_…"
        autoFocus
      />
      <button type="submit" disabled={!text.trim()}>Sign in</button>
    </form>
  );
}
