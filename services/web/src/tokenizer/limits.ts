// Bounds of the tokenizer page: encoding runs in the thread of the page, and a token is an element.

/** Length of the text that is split, in units of UTF-16. */
export const MAX_CHARACTERS = 50_000;
/** Tokens shown at first and with each further step. */
export const CHIPS_STEP = 300;

/** Return the beginning of a text, without half a character at its end. */
export function limited(text: string): string {
  if (text.length <= MAX_CHARACTERS) return text;
  const last = text.charCodeAt(MAX_CHARACTERS - 1);
  return text.slice(0, last >= 0xd800 && last < 0xdc00 ? MAX_CHARACTERS - 1 : MAX_CHARACTERS);
}
