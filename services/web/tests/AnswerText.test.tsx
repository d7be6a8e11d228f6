import { renderToStaticMarkup } from "react-dom/server";
import { describe, expect, test } from "vitest";
import { AnswerText } from "../src/AnswerText";

const shown = (text: string, running = false) => renderToStaticMarkup(<AnswerText message={{ text }} running={running} />);

const TABLE = "| city | people |\n|---|--:|\n| Bern | 134,000 |\n";

describe("text of an answer", () => {
  test("a table is a table, and scrolls alone", () => {
    const page = shown(TABLE);
    expect(page).toContain('<div class="wide"><table>');
    expect(page).toContain("<td>Bern</td>");
    expect(page).not.toContain("|");
  });

  test("a table that is being written is a table from its second line on", () => {
    expect(shown("| city | people |\n|---|---|\n| Be", true)).toContain("<td>Be</td>");
  });

  test("a single tilde is no deletion, two are", () => {
    expect(shown("~5 km and ~6 km")).not.toContain("<del>");
    expect(shown("~~wrong~~ right")).toContain("<del>wrong</del>");
  });

  test("an image is not loaded, and tags are text", () => {
    const page = shown(`![plan](https://example.org/a.png) <b>bold</b>\n\n${TABLE}| <img src=x> | 1 |`);
    expect(page).not.toMatch(/<img|<b>/);
  });

  test("a link cannot run a script", () => {
    expect(shown("[a](javascript:alert(1)) javascript:alert(2)")).not.toMatch(/href="javascript/);
  });
});
