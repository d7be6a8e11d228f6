// Tokens made visible: text, marks for characters without a glyph, and bytes of cut characters.
import type { Token } from "./bytePairs";

/** A run of text, or a mark for something that has no glyph of its own. */
export interface Part {
  text: string;
  isMark: boolean;
}

export interface Chip {
  id: number;
  parts: Part[];
  /** Bytes, characters without a glyph, and for a part of a character the whole character. */
  title: string;
  /** True for bytes that are not whole characters. */
  isCut: boolean;
}

const MARKS: Record<string, string> = { "\n": "⏎", "\t": "→", " ": "·" };
const MAX_TITLE_BYTES = 24;
// Control, format, private, unassigned, and separators: no glyph, or an effect on its neighbours.
const INVISIBLE = /[\p{Cc}\p{Cf}\p{Co}\p{Cn}\p{Z}]/u;
// Joiners inside a token shape letters and emoji.
const JOINERS = /^[\u200c\u200d]$/;
const DOTTED_CIRCLE = "◌";

// ignoreBOM keeps U+FEFF at the start of a token.
const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const lenient = new TextDecoder("utf-8", { ignoreBOM: true });

/** Return the chips of tokens that follow one another. */
export function toChips(tokens: readonly Token[]): Chip[] {
  return tokens.map(({ id, bytes }, place) => {
    const hex = toHex(bytes);
    const text = wholeText(bytes);
    const count = `${bytes.length} ${bytes.length === 1 ? "byte" : "bytes"}: ${hex}`;
    if (text === undefined) {
      const title = `${count}, part of ${charactersAround(tokens, place)}`;
      return { id, parts: [{ text: hex, isMark: true }], title, isCut: true };
    }
    const unusual = Array.from(text).filter((letter) => letter !== " " && INVISIBLE.test(letter));
    const names = unusual.slice(0, 3).map(codePoint).join(", ");
    return { id, parts: toParts(text), title: names ? `${count}, ${names}` : count, isCut: false };
  });
}

function toParts(text: string): Part[] {
  const letters = Array.from(text);
  const parts: Part[] = [];
  let run = /^\p{M}/u.test(text) ? DOTTED_CIRCLE : "";
  letters.forEach((letter, place) => {
    const isJoining = JOINERS.test(letter) && place > 0 && place < letters.length - 1;
    if (isJoining || !INVISIBLE.test(letter)) {
      run += letter;
      return;
    }
    if (run) parts.push({ text: run, isMark: false });
    run = "";
    parts.push({ text: MARKS[letter] ?? codePoint(letter), isMark: true });
  });
  if (run) parts.push({ text: run, isMark: false });
  return parts;
}

/** Return the characters that contain the bytes of a token, each with its code point. */
function charactersAround(tokens: readonly Token[], place: number): string {
  let first = place;
  let last = place;
  while (first > 0 && isContinuation(tokens[first]!.bytes)) first--;
  while (last + 1 < tokens.length && isContinuation(tokens[last + 1]!.bytes)) last++;
  const bytes = tokens.slice(first, last + 1).map((token) => token.bytes);
  const before = bytes.slice(0, place - first).join("").length;
  const whole = bytes.join("");
  let start = before;
  let end = before + tokens[place]!.bytes.length;
  while (start > 0 && isContinuation(whole[start]!)) start--;
  while (end < whole.length && isContinuation(whole[end]!)) end++;
  const text = lenient.decode(toArray(whole.slice(start, end)));
  return Array.from(text, (letter) => `${INVISIBLE.test(letter) ? "" : `${letter} `}${codePoint(letter)}`).join(", ");
}

/** Return true for bytes that begin in the middle of a character. */
function isContinuation(bytes: string): boolean {
  return (bytes.charCodeAt(0) & 0xc0) === 0x80;
}

function wholeText(bytes: string): string | undefined {
  try {
    return strict.decode(toArray(bytes));
  } catch {
    return undefined;
  }
}

function toArray(bytes: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(bytes, (byte) => byte.charCodeAt(0));
}

function toHex(bytes: string): string {
  const pairs = Array.from(bytes.slice(0, MAX_TITLE_BYTES), (byte) =>
    byte.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0"),
  );
  return pairs.join(" ") + (bytes.length > MAX_TITLE_BYTES ? " …" : "");
}

function codePoint(letter: string): string {
  return `U+${letter.codePointAt(0)!.toString(16).toUpperCase().padStart(4, "0")}`;
}
