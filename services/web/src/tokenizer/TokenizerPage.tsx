// Tokens of a text in several encodings, side by side. The text stays in the browser.
import { useDeferredValue, useMemo, useState } from "react";
import { EncodingPanel } from "./EncodingPanel";
import { ENCODINGS } from "./encodings";
import { MAX_CHARACTERS, limited } from "./limits";

const EXAMPLE = "It's perfectly fine. It's perfectely fine.\nGrüße aus Zürich, 東京 😀";
const FIRST_SHOWN = ["o200k_base", "cl100k_base"];

export function TokenizerPage() {
  const [text, setText] = useState(EXAMPLE);
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set(FIRST_SHOWN));
  const [ids, setIds] = useState(true);
  // Typing stays fluent while tokens of the last text are computed.
  const deferred = useDeferredValue(text);
  const { shown, characters, bytes } = useMemo(() => measured(deferred), [deferred]);

  function toggle(name: string) {
    const changed = new Set(chosen);
    if (!changed.delete(name)) changed.add(name);
    setChosen(changed);
  }

  return (
    <div className="tokenizer">
      <header>
        <a className="brand" href="./">
          <img src="./icon.svg" alt="" width="26" height="26" />
          <strong>Thumbwheel</strong>
        </a>
        <h1>Tokenizer</h1>
      </header>
      <main>
        <p className="quiet">
          A model reads numbers: each coloured piece is a token, with its id below. Your text stays in
          this browser.
        </p>
        <label htmlFor="text">Text</label>
        <textarea id="text" rows={5} value={text} spellCheck={false} onChange={(event) => setText(event.target.value)} />
        <p className="quiet">
          {characters.toLocaleString("en")} characters, {bytes.toLocaleString("en")} bytes
          {shown.length < deferred.length && (
            <span className="problem" role="alert">
              Only the first {MAX_CHARACTERS.toLocaleString("en")} of {deferred.length.toLocaleString("en")} characters are
              shown.
            </span>
          )}
        </p>
        <fieldset>
          <legend>Encodings</legend>
          {ENCODINGS.map(({ name, models }) => (
            <label key={name}>
              <input type="checkbox" checked={chosen.has(name)} onChange={() => toggle(name)} />
              <span>
                {name} <small>{models}</small>
              </span>
            </label>
          ))}
          <label className="ids">
            <input type="checkbox" checked={ids} onChange={(event) => setIds(event.target.checked)} />
            Show ids
          </label>
        </fieldset>
        <div className="encodings">
          {ENCODINGS.filter(({ name }) => chosen.has(name)).map((encoding) => (
            <EncodingPanel key={encoding.name} encoding={encoding} text={shown} bytes={bytes} ids={ids} />
          ))}
        </div>
        <p className="quiet">
          · is a space, ⏎ a line end, → a tab, U+… a character without a glyph. Pairs such as F0 9F are bytes of a
          character that is split among tokens. Words in the middle of a text have their space in the token.
        </p>
      </main>
    </div>
  );
}

function measured(text: string) {
  const shown = limited(text);
  return { shown, characters: Array.from(shown).length, bytes: new TextEncoder().encode(shown).length };
}
