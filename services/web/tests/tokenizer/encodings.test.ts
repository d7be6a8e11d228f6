// Ids of the page against tiktoken's, from the committed rank files.
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { encode, toBytes, type Ranks } from "../../src/tokenizer/bytePairs";
import { decoded, ENCODINGS, MAX_CONTROL_TOKENS, readRanks, readTokenizer, type Encoding } from "../../src/tokenizer/encodings";
import golden from "../encodings.json";

const MODELS = new URL("../../../../models/", import.meta.url);
const GOLDEN = golden as { texts: string[]; ids: Record<string, number[][]> };

async function ranksOf({ name }: Encoding): Promise<Ranks> {
  if (name === "nano") return readTokenizer(readFileSync(new URL("nano/tokenizer.json", MODELS), "utf8"));
  const file = readFileSync(new URL(`encodings/${name}.tiktoken.gz`, MODELS));
  return readRanks(await decoded(new Uint8Array(file).buffer));
}

const LOADED = new Map(await Promise.all(ENCODINGS.map(async (one) => [one.name, await ranksOf(one)] as const)));

function encodingOf(name: string): [ranks: Ranks, split: RegExp] {
  const { split } = ENCODINGS.find((one) => one.name === name)!;
  return [LOADED.get(name)!, split];
}

function ids(text: string, name: string): number[] {
  return encode(text, ...encodingOf(name)).map((token) => token.id);
}

function pieces(text: string, name: string): string[] {
  return encode(text, ...encodingOf(name)).map((token) => token.bytes);
}

describe.each(ENCODINGS)("$name", ({ name, vocabulary }) => {
  it("gives the ids of tiktoken for more than 200 texts of many scripts", () => {
    expect(GOLDEN.texts.length).toBeGreaterThan(200);
    const differing = GOLDEN.texts.filter((text, n) => ids(text, name).join() !== GOLDEN.ids[name]![n]!.join());
    expect(differing).toEqual([]);
  });

  it("gives tokens whose bytes are the text", () => {
    for (const text of GOLDEN.texts) expect(pieces(text, name).join("")).toBe(toBytes(text));
  });

  it("has the published number of tokens, of which few are control tokens", () => {
    const highest = Array.from(LOADED.get(name)!.values()).reduce((one, other) => Math.max(one, other));
    expect(highest).toBeLessThan(vocabulary);
    expect(vocabulary - LOADED.get(name)!.size).toBeLessThanOrEqual(MAX_CONTROL_TOKENS);
  });
});

it("gives the published ids of a sentence in GPT-3.5's encoding", () => {
  expect(ids("I love machine learning!", "cl100k_base")).toEqual([40, 3021, 5780, 6975, 0]);
});

it("splits a misspelled word into more tokens", () => {
  expect(pieces(" perfectly", "cl100k_base")).toEqual([" perfectly"]);
  expect(pieces(" perfectely", "cl100k_base")).toEqual([" perfect", "ely"]);
  expect(pieces(" perfectely", "r50k_base")).toEqual([" perfect", "e", "ly"]);
});

it("splits a long run of one letter in steps that grow little faster than its length", () => {
  // 100,000 letters are one piece. A scan of all pairs for each merge takes half a minute.
  const text = "a".repeat(100_000);
  expect(pieces(text, "o200k_base").join("")).toBe(text);
  expect(new Set(ids(text, "o200k_base")).size).toBeLessThan(5);
});

it("encodes unpaired surrogates as U+FFFD", () => {
  expect(ids("a\ud800b", "o200k_base")).toEqual(ids("a\ufffdb", "o200k_base"));
});

it("reads a rank file that the HTTP layer has decompressed already", async () => {
  const plain = new TextEncoder().encode("IQ== 0\nIg== 1\n");
  expect(readRanks(await decoded(plain.buffer))).toEqual(new Map([["!", 0], ['"', 1]]));
});
