// Byte pair encoding as in tiktoken. Bytes are strings with one character (U+0000 to U+00FF) a byte,
// because such strings are keys of a Map.

/** Rank, and id, of each token by its bytes. */
export type Ranks = ReadonlyMap<string, number>;

/** One token of a text. */
export interface Token {
  id: number;
  bytes: string;
}

/**
 * Return the tokens of a text. Control tokens in it are text.
 *
 * @param split global expression whose matches are merged separately
 */
export function encode(text: string, ranks: Ranks, split: RegExp): Token[] {
  const tokens: Token[] = [];
  for (const [piece] of text.matchAll(split)) {
    const bytes = toBytes(piece);
    const id = ranks.get(bytes);
    if (id === undefined) merge(bytes, ranks, tokens);
    else tokens.push({ id, bytes });
  }
  return tokens;
}

const utf8 = new TextEncoder();

/** Return the UTF-8 of a text; an unpaired surrogate is U+FFFD. */
export function toBytes(text: string): string {
  if (/^[\x00-\x7f]*$/.test(text)) return text;
  let bytes = "";
  for (const byte of utf8.encode(text)) bytes += String.fromCharCode(byte);
  return bytes;
}

// A key of the heap orders pairs by rank, then by their place in the piece.
const PLACES = 2 ** 30;
const NO_PAIR = -1;

/**
 * Merge the pair with the lowest rank, the leftmost of equal ones, until no pair is a token. Append
 * the result to the tokens.
 *
 * The heap keeps the time at n log n: pasted text may be one piece of 100,000 letters.
 */
function merge(bytes: string, ranks: Ranks, tokens: Token[]): void {
  const size = bytes.length;
  // The part that begins at a place ends at next[place]; pair[place] is the rank of this part with
  // the following one.
  const next = new Int32Array(size + 1);
  const previous = new Int32Array(size + 1);
  const pair = new Int32Array(size + 1).fill(NO_PAIR);
  const heap = new Heap();

  function look(place: number): void {
    const middle = next[place]!;
    const rank = middle < size ? ranks.get(bytes.slice(place, next[middle])) : undefined;
    pair[place] = rank ?? NO_PAIR;
    if (rank !== undefined) heap.push(rank * PLACES + place);
  }

  for (let place = 0; place <= size; place++) {
    next[place] = place + 1;
    previous[place] = place - 1;
  }
  for (let place = 0; place < size; place++) look(place);

  for (let key = heap.pop(); key !== undefined; key = heap.pop()) {
    const place = key % PLACES;
    if (pair[place] !== Math.floor(key / PLACES)) continue; // changed since it was pushed
    const middle = next[place]!;
    const end = next[middle]!;
    next[place] = end;
    previous[end] = place;
    pair[middle] = NO_PAIR;
    look(place);
    if (place > 0) look(previous[place]!);
  }

  for (let place = 0; place < size; place = next[place]!) {
    const part = bytes.slice(place, next[place]);
    tokens.push({ id: ranks.get(part)!, bytes: part });
  }
}

/** Binary heap of numbers, the smallest first. */
class Heap {
  private readonly keys: number[] = [];

  push(key: number): void {
    const { keys } = this;
    let at = keys.push(key) - 1;
    while (at > 0) {
      const above = (at - 1) >> 1;
      if (keys[above]! <= key) break;
      keys[at] = keys[above]!;
      at = above;
    }
    keys[at] = key;
  }

  pop(): number | undefined {
    const { keys } = this;
    const smallest = keys[0];
    const last = keys.pop();
    if (last === undefined || keys.length === 0) return smallest;
    let at = 0;
    for (;;) {
      let below = 2 * at + 1;
      if (below + 1 < keys.length && keys[below + 1]! < keys[below]!) below += 1;
      if (below >= keys.length || keys[below]! >= last) break;
      keys[at] = keys[below]!;
      at = below;
    }
    keys[at] = last;
    return smallest;
  }
}
