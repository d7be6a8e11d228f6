// Adds Markdown fences around unfenced code of an answer, for display only: the stored text does
// not change.

// Evidence of one line. A run of lines is code from a sum of ENOUGH on; weak lines alone ("x = 5",
// "name: value") are not.
const ENOUGH = 4;
const CERTAIN = 4;
const LIKELY = 2;
const WEAK = 1;

type Signs = [evidence: number, sign: RegExp][];

const PROGRAMS =
  "sudo|apt|apt-get|pip3?|pipx|uv|conda|npm|npx|yarn|pnpm|git|docker|kubectl|cd|ls|mkdir|rm|cp|mv|curl|wget|chmod|ssh|pytest";
const COMMAND = `(?:${PROGRAMS}|brew|cargo|helm|node|bash|python3?)`;
/** Words that follow the name of a program in a sentence. */
const SENTENCE_WORDS = "is|are|was|has|can|does|will|and|or|to|the|a";
/** Name of a function up to its bracket; "Student(in)" does not match. */
const CALLEE = "(?:[a-z_$][\\w$]*|[\\w$]+(?:\\.|::|->)[\\w$.:>-]+)(?:!|<[\\w, |]+>)?\\(";
const INLINE_TAGS = "(?:a|b|i|u|s|q|em|br|hr|sub|sup|del|ins|code|kbd|mark|small|span|strong|think)";

/** Signs that never occur in prose. Strings are replaced by "" (see `Line.bare`). */
const FIRM: Signs = [
  // Declarations and imports.
  [CERTAIN, /^(?:async )?def \w+[!?]? ?\(|^class [A-Z_]\w*(?:\(.*\))?:$|^(?:(?:export|default|async) )*function\*?(?: \w+)?\(/],
  [CERTAIN, /^from [\w.]+ import\b|^import (?:.+ from )?""|^import \w+ as \w+$|^export (?:default|const|type|interface) /],
  [CERTAIN, /^#(?:!|include\b|define\b)|^<!doctype /i],
  [LIKELY, /^(?:const|let|var) (?:\w+|[{[][\w\s,:]*[}\]])(?:: [^=]+)? = \S/],
  // Brackets, comments, and other lines around a block.
  [CERTAIN, /[\w)\]>"*=:,(] ?\{\}?$|^(?:if|elif|for|while|until) .*; (?:then|do)$/],
  [LIKELY, /^[{[(]$|[\w=(:,] ?[[(]$|^[\])}]+[;,]*$|^\/[/*]/],
  [LIKELY, /^except(?: [\w.]+| \(.*\))?(?: as \w+)?:$|^(?:async )?with .*\(.*:$|^@\w[\w.]*\(|^[\w.]+ ?= ?\w?""["']/],
  [WEAK, /^[\])}]|^\[[a-z][\w.-]*\]$|^[@#][^\s#]/],
  // A call with a string, prompts, commands.
  [CERTAIN, /^(?:(?:await|return|yield|throw|raise) )?[a-z_$][\w$.:]*!?\(.*"".*\);?$/],
  [CERTAIN, /^\$ [a-z./~]|^>>> (?:.*[\d(=[.+]|(?:import|from) )/],
  [CERTAIN, RegExp(`^${COMMAND} (?:(?:.* )?--?[a-z]|\\S+\\.(?:py|js|sh)\\b)`)],
  [CERTAIN, RegExp(`^${COMMAND} (?:install|add|clone|init|run|build|push) [\\w@./~:[\\]",=-]+$`)],
  [LIKELY, RegExp(`^(?:${PROGRAMS}) (?!(?:${SENTENCE_WORDS})\\b)[\\w./~@:$"-]+(?: |$)(?!.*\\p{L}[.!?:,]$)`, "u")],
  // SQL.
  [CERTAIN, /^(?:SELECT\b.* FROM|INSERT INTO|DELETE FROM|CREATE (?:[A-Z]+ )*(?:TABLE|INDEX|VIEW)|(?:ALTER|DROP) TABLE) /],
  [CERTAIN, /^(?=.*[*=(])(?:select .* from|insert into|update \w+ set|delete from|create table|alter table) .*;$/],
  [LIKELY, /^SELECT\b|^(?:FROM|WHERE|(?:[A-Z]+ )*JOIN|(?:GROUP|ORDER) BY|HAVING|LIMIT|VALUES|SET|AND|ON) [a-z\d("'[.*]/],
  // Tags, objects in one line, a rule of CSS in one line, a member of JSON.
  [CERTAIN, RegExp(`^<(?!${INLINE_TAGS}\\b)([a-z][\\w-]*)(?:>| [^>]*>).*</\\1>$`, "i")],
  [LIKELY, RegExp(`^</?(?!${INLINE_TAGS}\\b)[a-z][\\w-]*(?: [^<>]*)?/?>`, "i")],
  [CERTAIN, /^(?:[[{] ?\{? ?""|\{ ?\w+) ?:.*[\]}]$|^[\w.#:*[][^{}]*\{ ?[\w-]+ ?: ?[^{}]*\}$/],
  [WEAK, /^"" ?: ?(?:""|-?\d[\d.eE+-]*|true|false|null|[{[].*),?$/],
];

/** Signs that count only in a line that does not read like a sentence. */
const LOOSE: Signs = [
  // Statements with a semicolon, C-style declarations.
  [CERTAIN, /^(?:[\w<>[\]*&,:]+ ){0,3}[\w$.*&[\]>:-]+ ?(?:(?:[-+*/|&%]?=|<<) ?\S.*|\+\+|--);$|^(?:if|for|while) ?\(.*;$/],
  [CERTAIN, RegExp(`^(?:[\\w<>[\\]*&,:]+ ){0,3}${CALLEE}.*(?<!&\\w+);$`)],
  [LIKELY, /^(?:return|throw|int|char|float|double|long|bool|String|let|var) [\w.[\]*&]+;$|^(?:break|continue|return);$/],
  [LIKELY, /^(?:int|void|char|float|double|long|bool|public|private|static|unsigned)\b[\w\s*<>[\],]*\w\(.*\)$/],
  [LIKELY, /^(?:import|package|namespace) [\w.*]+(?:, [\w.]+)*;?$|^(?:import|using|use) [\w.:*{}, ]+;$/],
  // Calls, in one line or several, and assignments.
  [LIKELY, RegExp(`^(?:(?:await|return|yield|raise|throw) )?${CALLEE}.*\\)(?:\\.\\w+)*$`)],
  [LIKELY, /^(?:\w+[*&]* )*[\w$.]+\([^)]*,$|^[^(]*\);$/],
  [LIKELY, /^[\w., ]+ := |^(?:export )?[A-Z_]+=\S/],
  [LIKELY, /^(?:\w+ )?[\w$.[\]"]+(?:, ?[\w.]+)*(?:: [\w[\], |.]+)? ?(?:[-+*/|&%]?=|<-) ?(?:.*[\w.)\]])?["([{]/],
  [WEAK, /^(?:\w+ )?[\w$.[\]", ]+(?:: [\w[\], |.]+)? ?(?:[-+*/|&%]?=|<-) ?\S/],
  // Statements without brackets, and pairs as in YAML.
  [WEAK, /^(?:return|raise|yield|assert|del|echo|puts) \S|^(?:if|elif|while|except|case|for .* in|with .* as) ?.*:$/],
  [WEAK, /^[a-z_][\w.-]*:(?: \S+){0,3}$/],
];

const KEYWORDS =
  "if|else|and|or|not|in|is|for|new|import|await|async|lambda|public|private|protected|static|final|const|unsigned";
const WORD = `(?!(?:${KEYWORDS})\\b)\\p{L}+`;
/** Three words in a row, none of them a keyword. */
const PHRASE = RegExp(`(?:^|\\s)${WORD},? ${WORD},? ${WORD}(?![\\w(.[=/])`, "u");
/**
 * A word with a capital letter, or one of a script without them (Chinese, Arabic), not used as a
 * name.
 */
const SENTENCE_START = /^\P{L}*(?:\p{Lu}[\p{Ll}'’-]*(?![\p{L}\d_.(<[{=])|\p{Lo})/u;
const SENTENCE_END = /[\p{L}\d)"`*][.!?:…]$/u;
const MARKDOWN = /^(?:#{2,6} |[-*+] (?!\{)|\d{1,9}[.)] |>(?!>> )|\||(?:[-*_] ?){3,}$)/;
const LIST_ITEM = /^\s*(?:[-*+]|\d{1,9}[.)])\s(?!\{)/;
const FENCE = /^\s*(?:(?:[-*+]|\d{1,9}[.)])\s+)?(`{3,}(?=[^`]*$)|~{3,})/;
const COMMENT = /^(?:#|--)(?:\s|$)/;

interface Line {
  text: string;
  /** Columns of white space before the text; a tab counts as four. */
  indent: number;
  /** Text without indentation, contents of strings, and a final comment. */
  bare: string;
  evidence: number;
}

function read(text: string): Line {
  const start = text.slice(0, text.length - text.trimStart().length);
  // Both ends of a very long line suffice and keep the time linear.
  const probe = (text.length > 400 ? `${text.slice(0, 200)} ${text.slice(-200)}` : text).trim();
  const bare = probe
    .replace(/"(?:[^"\\]|\\.)*"|`[^`]+`|(?<![\p{L}\d])'(?:[^'\\]|\\.)*'/gu, '""')
    .replace(/(?<=\S)\s+(?:# |\/\/).*$/, "");
  const loose = !PHRASE.test(bare) && !/[\p{L}\d)][.!?…]$/u.test(bare);
  const signs = !probe || MARKDOWN.test(probe) || COMMENT.test(probe) ? [] : loose ? [...FIRM, ...LOOSE] : FIRM;
  const evidence = Math.max(0, ...signs.filter(([, sign]) => sign.test(bare)).map(([weight]) => weight));
  return { text, indent: start.replaceAll("\t", "    ").length, bare, evidence };
}

/**
 * Return `text` with ``` lines around its runs of code. Fenced and indented code, lists, tables and
 * prose do not change.
 * With `growing` the last line is incomplete, so that its first letters do not end the code above.
 */
export function fenceCode(text: string, growing = false): string {
  const lines = text.split("\n").map(read);
  const shown: string[] = [];
  let inList = false;
  // After a blank line or other indented code, four columns are indented code of Markdown.
  let mayIndent = true;
  for (let at = 0, end = 0; at < lines.length; at = end) {
    const line = lines[at]!;
    const fence = FENCE.exec(line.text)?.[1];
    inList = LIST_ITEM.test(line.text) || (inList && (!line.bare || line.indent > 0));
    mayIndent &&= line.indent >= 4;
    let isCode = false;
    if (fence) end = endOfFence(lines, at, fence);
    else if (inList || mayIndent || !opens(lines, at)) end = at + 1;
    else [end, isCode] = readRun(lines, at, growing);
    mayIndent ||= !lines[end - 1]!.bare;
    if (isCode) shown.push("```");
    for (const { text } of lines.slice(at, end)) shown.push(text);
    if (isCode) shown.push("```");
  }
  return shown.join("\n");
}

function endOfFence(lines: Line[], start: number, fence: string): number {
  const closing = RegExp(`^\\s*${fence}${fence[0]}*\\s*$`);
  for (let at = start + 1; at < lines.length; at++) if (closing.test(lines[at]!.text)) return at + 1;
  return lines.length;
}

/** Return the end of the run that begins at `start`, and true if the run is code. */
function readRun(lines: Line[], start: number, growing: boolean): [end: number, isCode: boolean] {
  let end = start + 1;
  let total = lines[start]!.evidence;
  let strongest = total;
  let inString = opensString(lines[start]!);
  for (let at = end; at < lines.length; at++) {
    const [line, previous] = [lines[at]!, lines[end - 1]!];
    if (!line.bare) continue;
    if (FENCE.test(line.text) && line.indent < 4) break;
    const isUnfinished = growing && at === lines.length - 1 && !readsAsText(line);
    if (!inString && !isUnfinished && !continues(lines, at, end, lines[start]!.indent)) break;
    inString = inString !== opensString(line);
    const isBody = at === end && line.indent > previous.indent && previous.bare.endsWith(":") && !readsAsText(line);
    const evidence = line.evidence + (isBody ? LIKELY : 0);
    total += evidence;
    strongest = Math.max(strongest, evidence);
    end = at + 1;
  }
  return [end, total >= ENOUGH && strongest >= LIKELY];
}

/**
 * Return true if line `at` can begin a run or continue one after a blank line. Weak lines and
 * comments need code directly below.
 */
function opens(lines: Line[], at: number): boolean {
  const [line, next] = [lines[at]!, lines[at + 1]];
  if (line.evidence >= LIKELY) return true;
  if (!next?.bare || !(line.evidence || COMMENT.test(line.bare))) return false;
  const isLabel = line.evidence > 0 && line.bare.endsWith(":");
  return next.indent > line.indent || (!isLabel && (next.evidence > 0 || COMMENT.test(next.bare)));
}

/**
 * Return true if line `at` belongs to the run whose last line is before `end` and whose first line
 * has the indentation `base`.
 */
function continues(lines: Line[], at: number, end: number, base: number): boolean {
  const [line, previous, next] = [lines[at]!, lines[end - 1]!, lines[at + 1]];
  if (at === end) {
    const isText = readsAsText(line) && !COMMENT.test(line.bare) && !next?.bare.startsWith("</");
    return line.indent > base || !isText;
  }
  if (line.indent > base) return previous.indent > base || /[:{([,]$/.test(previous.bare);
  return opens(lines, at);
}

/** Return true if a triple-quoted string of Python begins or ends in the line, but not both. */
function opensString({ text }: Line): boolean {
  return text.split(/"""|'''/).length % 2 === 0;
}

function readsAsText({ bare, evidence }: Line): boolean {
  if (evidence) return false;
  return MARKDOWN.test(bare) || SENTENCE_START.test(bare) || SENTENCE_END.test(bare) || PHRASE.test(bare);
}
