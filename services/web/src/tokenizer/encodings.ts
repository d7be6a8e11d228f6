// Encodings of the page. Their files are loaded from this origin when an encoding is first shown.
import cl100kUrl from "../../../../models/encodings/cl100k_base.tiktoken.gz?url";
import o200kUrl from "../../../../models/encodings/o200k_base.tiktoken.gz?url";
import p50kUrl from "../../../../models/encodings/p50k_base.tiktoken.gz?url";
import r50kUrl from "../../../../models/encodings/r50k_base.tiktoken.gz?url";
import nanoUrl from "../../../../models/nano/tokenizer.json?url";
import type { Ranks } from "./bytePairs";

export interface Encoding {
  name: string;
  models: string;
  /** Number of ids, including control tokens. */
  vocabulary: number;
  split: RegExp;
  url: string;
}

// Patterns of tiktoken_ext/openai_public.py (tiktoken 0.14). JavaScript's \s has U+FEFF and lacks
// U+0085, unlike Unicode's property; (?i:…) is spelled out for older browsers. It also covers the
// long s (U+017F), which is left out here, since no token joins it with a neighbour.
const SPACE = String.raw`\p{White_Space}`;
const LAST_OF_RUN = String.raw`${SPACE}+(?!\P{White_Space})`;
const MARKS = String.raw` ?[^${SPACE}\p{L}\p{N}]+`;
const SUFFIX = "'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])";
const UPPER = String.raw`[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`;
const LOWER = String.raw`[\p{Ll}\p{Lm}\p{Lo}\p{M}]`;
const BEFORE = String.raw`[^\r\n\p{L}\p{N}]?`;

const R50K = new RegExp(
  String.raw`'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+|${MARKS}|${SPACE}+$|${LAST_OF_RUN}|${SPACE}`,
  "gu",
);
const CL100K = new RegExp(
  String.raw`${SUFFIX}|${BEFORE}\p{L}+|\p{N}{1,3}|${MARKS}[\r\n]*|${SPACE}+$|${SPACE}*[\r\n]|${LAST_OF_RUN}|${SPACE}`,
  "gu",
);
const O200K = new RegExp(
  String.raw`${BEFORE}${UPPER}*${LOWER}+(?:${SUFFIX})?|${BEFORE}${UPPER}+${LOWER}*(?:${SUFFIX})?` +
    String.raw`|\p{N}{1,3}|${MARKS}[\r\n/]*|${SPACE}*[\r\n]+|${LAST_OF_RUN}|${SPACE}+`,
  "gu",
);

/** Limit of ids that are not in the file of an encoding: control tokens and gaps. */
export const MAX_CONTROL_TOKENS = 24;

export const ENCODINGS: readonly Encoding[] = [
  { name: "o200k_base", models: "GPT-4o and later", vocabulary: 200_019, split: O200K, url: o200kUrl },
  { name: "cl100k_base", models: "GPT-3.5 and GPT-4", vocabulary: 100_277, split: CL100K, url: cl100kUrl },
  { name: "p50k_base", models: "Codex", vocabulary: 50_281, split: R50K, url: p50kUrl },
  { name: "r50k_base", models: "GPT-2 and GPT-3", vocabulary: 50_257, split: R50K, url: r50kUrl },
  // GPT-2's own expression, which splits like the one of r50k.
  { name: "nano", models: "Thumbwheel's smallest model", vocabulary: 1_024, split: R50K, url: nanoUrl },
];

/** Load the ranks of an encoding. A failed or incomplete load throws. */
export async function loadRanks(encoding: Encoding): Promise<Ranks> {
  const response = await fetch(encoding.url);
  if (!response.ok) throw new Error(`${encoding.name}: HTTP ${response.status}`);
  const text = await decoded(await response.arrayBuffer());
  const ranks = encoding.url.includes(".json") ? readTokenizer(text) : readRanks(text);
  if (ranks.size < encoding.vocabulary - MAX_CONTROL_TOKENS) throw new Error(`${encoding.name}: incomplete`);
  return ranks;
}

/** Return the text of a file, decompressed unless the HTTP layer has done that already. */
export async function decoded(content: ArrayBuffer): Promise<string> {
  const [first, second] = new Uint8Array(content);
  const body = new Response(content).body!;
  const isGzip = first === 0x1f && second === 0x8b;
  return new Response(isGzip ? body.pipeThrough(new DecompressionStream("gzip")) : body).text();
}

/** Read a rank file: a line has a token in base64 and its rank. */
export function readRanks(text: string): Ranks {
  const ranks = new Map<string, number>();
  for (const line of text.split("\n")) {
    const space = line.indexOf(" ");
    if (space > 0) ranks.set(atob(line.slice(0, space)), Number(line.slice(space + 1)));
  }
  return ranks;
}

interface TokenizerFile {
  added_tokens: { content: string }[];
  model: { vocab: Record<string, number> };
}

/** Read the byte pairs of a tokenizer.json, without its control tokens. */
export function readTokenizer(text: string): Ranks {
  const { added_tokens, model } = JSON.parse(text) as TokenizerFile;
  const control = new Set(added_tokens.map((token) => token.content));
  const letters = byteLetters();
  const ranks = new Map<string, number>();
  for (const [token, id] of Object.entries(model.vocab)) {
    if (!control.has(token)) ranks.set(Array.from(token, (letter) => letters.get(letter)).join(""), id);
  }
  return ranks;
}

/** Return the byte of each letter of GPT-2's byte alphabet (encoder.py). */
function byteLetters(): Map<string, string> {
  const letters = new Map<string, string>();
  let others = 0;
  for (let byte = 0; byte < 256; byte++) {
    const isPrintable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
    letters.set(String.fromCodePoint(isPrintable ? byte : 256 + others++), String.fromCharCode(byte));
  }
  return letters;
}
