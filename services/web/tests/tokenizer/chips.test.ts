import { describe, expect, it } from "vitest";
import { toBytes, type Token } from "../../src/tokenizer/bytePairs";
import { toChips } from "../../src/tokenizer/chips";
import { limited, MAX_CHARACTERS } from "../../src/tokenizer/limits";

function tokens(...texts: string[]): Token[] {
  return texts.map((text, id) => ({ id, bytes: toBytes(text) }));
}

function shown(text: string): string[] {
  return toChips(tokens(text))[0]!.parts.map((part) => (part.isMark ? `[${part.text}]` : part.text));
}

describe("characters without a glyph are marks", () => {
  it.each([
    ["a word", " fine", ["[·]", "fine"]],
    ["line ends and tabs", "\n\t\r\n", ["[⏎]", "[→]", "[U+000D]", "[⏎]"]],
    ["a byte order mark", "\ufeffx", ["[U+FEFF]", "x"]],
    ["other spaces", "\u00a0\u2003", ["[U+00A0]", "[U+2003]"]],
    ["direction marks", "a\u202e", ["a", "[U+202E]"]],
    ["a joiner inside an emoji", "👩\u200d👧", ["👩\u200d👧"]],
    ["a joiner alone", "\u200d", ["[U+200D]"]],
    ["a combining accent at the start", "\u0301x", ["◌\u0301x"]],
    ["right-to-left text", "שלום", ["שלום"]],
  ])("%s", (_, text, expected) => {
    expect(shown(text)).toEqual(expected);
  });
});

it("shows the bytes of a character that is split among tokens, and names the character", () => {
  const chips = toChips([
    { id: 7, bytes: "\xf0\x9f" },
    { id: 8, bytes: "\x98" },
    { id: 9, bytes: "\x80!" },
  ]);
  expect(chips.map((chip) => chip.parts)).toEqual([
    [{ text: "F0 9F", isMark: true }],
    [{ text: "98", isMark: true }],
    [{ text: "80 21", isMark: true }],
  ]);
  expect(chips.every((chip) => chip.isCut)).toBe(true);
  expect(chips[1]!.title).toBe("1 byte: 98, part of 😀 U+1F600");
  expect(chips[2]!.title).toBe("2 bytes: 80 21, part of 😀 U+1F600, ! U+0021");
});

it("names bytes and invisible characters in the title", () => {
  const [chip] = toChips(tokens("a\u200b"));
  expect(chip!.title).toBe("4 bytes: 61 E2 80 8B, U+200B");
});

it("limits a long text without cutting a character", () => {
  expect(limited("x".repeat(MAX_CHARACTERS))).toHaveLength(MAX_CHARACTERS);
  expect(limited("x".repeat(MAX_CHARACTERS + 1))).toHaveLength(MAX_CHARACTERS);
  expect(limited("x".repeat(MAX_CHARACTERS - 1) + "😀")).toBe("x".repeat(MAX_CHARACTERS - 1));
});
