// One encoding: its counts and the tokens of the text as coloured chips.
import { memo, useEffect, useMemo, useState } from "react";
import { encode, type Ranks } from "./bytePairs";
import { toChips, type Chip } from "./chips";
import { loadRanks, type Encoding } from "./encodings";
import { CHIPS_STEP } from "./limits";

interface Props {
  encoding: Encoding;
  text: string;
  /** Length of the text in UTF-8. */
  bytes: number;
  ids: boolean;
}

const COLOURS = 6;

// Memoized, so that a key press waits for no panel: panels follow with the deferred text.
export const EncodingPanel = memo(function EncodingPanel({ encoding, text, bytes, ids }: Props) {
  const { ranks, problem, retry } = useRanks(encoding);
  const [limit, setLimit] = useState(CHIPS_STEP);
  const tokens = useMemo(() => (ranks ? encode(text, ranks, encoding.split) : []), [ranks, text, encoding]);
  const chips = useMemo(() => toChips(tokens.slice(0, limit)), [tokens, limit]);
  const hidden = tokens.length - chips.length;
  const heading = `encoding-${encoding.name}`;

  return (
    <section aria-labelledby={heading} aria-busy={!ranks && !problem}>
      <h2 id={heading}>{encoding.name}</h2>
      <p className="quiet">
        {encoding.vocabulary.toLocaleString("en")} tokens in all · {encoding.models}
      </p>
      {problem && (
        <p className="problem" role="alert">
          {problem} <button onClick={retry}>Try again</button>
        </p>
      )}
      {!ranks && !problem && <p role="status">Loading…</p>}
      {ranks && (
        <>
          <p className="counts" role="status">
            <strong>{tokens.length.toLocaleString("en")}</strong> {tokens.length === 1 ? "token" : "tokens"}
            {tokens.length > 0 && <>, {(bytes / tokens.length).toFixed(2)} bytes per token</>}
          </p>
          <ol className="tokens" aria-label={`Tokens of ${encoding.name}`}>
            {chips.map((chip, place) => (
              <TokenChip key={place} chip={chip} ids={ids} colour={place % COLOURS} />
            ))}
          </ol>
          {hidden > 0 && (
            <p>
              {hidden.toLocaleString("en")} more tokens.{" "}
              <button onClick={() => setLimit(limit + CHIPS_STEP)}>
                Show {Math.min(CHIPS_STEP, hidden).toLocaleString("en")} more
              </button>
            </p>
          )}
        </>
      )}
    </section>
  );
});

interface ChipProps {
  chip: Chip;
  ids: boolean;
  colour: number;
}

const TokenChip = memo(function TokenChip({ chip, ids, colour }: ChipProps) {
  return (
    <li className={`token c${colour}${chip.isCut ? " cut" : ""}`} title={`id ${chip.id}, ${chip.title}`}>
      <bdi>
        {chip.parts.map((part, place) => (part.isMark ? <i key={place}>{part.text}</i> : part.text))}
      </bdi>
      {ids && <small>{chip.id}</small>}
    </li>
  );
}, isSame);

/** Return true if an element stays as it is; id and title determine the other fields of a chip. */
function isSame(before: ChipProps, after: ChipProps): boolean {
  const [one, other] = [before.chip, after.chip];
  return one.id === other.id && one.title === other.title && before.ids === after.ids && before.colour === after.colour;
}

/** Load the ranks of an encoding when it is first shown; other panels of it share them. */
function useRanks(encoding: Encoding) {
  const [ranks, setRanks] = useState<Ranks | undefined>();
  const [problem, setProblem] = useState("");
  const [attempt, setAttempt] = useState(0);

  useEffect(() => {
    let isCurrent = true;
    load(encoding).then(
      (found) => isCurrent && setRanks(found),
      () => isCurrent && setProblem(`The encoding ${encoding.name} could not be loaded.`),
    );
    return () => {
      isCurrent = false;
    };
  }, [encoding, attempt]);

  function retry() {
    setProblem("");
    setAttempt(attempt + 1);
  }
  return { ranks, problem, retry };
}

const loading = new Map<string, Promise<Ranks>>();

function load(encoding: Encoding): Promise<Ranks> {
  const running = loading.get(encoding.name) ?? loadRanks(encoding);
  loading.set(encoding.name, running);
  running.catch(() => loading.delete(encoding.name));
  return running;
}
