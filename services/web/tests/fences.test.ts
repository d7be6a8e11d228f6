import { describe, expect, it } from "vitest";
import { fenceCode } from "../src/fences";

const PRIME = `def is_prime(n):
    if n < 2:
        return False
    for i in range(2, int(n ** 0.5) + 1):
        if n % i == 0:
            return False
    return True`;

/** Answers whose code has no fences; a line of § stands where one is to be added. */
const CODE: [name: string, marked: string][] = [
  ["Python alone", `§\n${PRIME}\n§`],
  ["Python between paragraphs", `Here is a function that checks it:\n\n§\n${PRIME}\n§\n\nThe loop stops at the square root.`],
  ["Python right below and above prose", `Here it is:\n§\n${PRIME}\n§\nThis checks all divisors up to the root.`],
  ["blank lines inside a function and between two", "§\ndef a():\n    x = 1\n\n    return x\n\n\ndef b():\n    return a()\n§\n\nBoth return 1."],
  ["comments that look like headings", "§\n# Read the file\nwith open(\"a.txt\") as f:\n    text = f.read()\n# Count words\nprint(len(text.split()))\n§"],
  ["assignments and a call", "You can write:\n\n§\na = 3\nb = 4\nprint(a * b)\n§"],
  ["imports, a blank line and a call", "§\nimport os\nimport sys\n\nprint(os.listdir(sys.argv[1]))\n§\n\nIt needs one argument."],
  ["one call with a string", "In Python:\n\n§\nprint(\"Hello, *world*!\")\n§\n\nThat is all."],
  ["a class with a docstring", "§\nclass Dog(Animal):\n    \"\"\"A dog. It barks.\"\"\"\n\n    def bark(self):\n        print(\"Woof\")\n\nd = Dog()\nd.bark()\n§"],
  ["a string of several lines", "§\ntext = \"\"\"The sea was calm.\n\nIt was late.\"\"\"\nprint(text)\n§\n\nIt prints both."],
  ["a decorator and a space before the bracket", "§\n@app.route('/users')\ndef users ():\n    return []\n§"],
  ["a Python prompt", "§\n>>> 2 ** 10\n1024\n>>> len(\"abc\")\n3\n§"],
  ["a call that goes over several lines", "§\nmodel = Sequential([\n    Dense(10),\n    Dense(1),\n])\nmodel.fit(x, y)\n§"],
  ["JavaScript", "Use this:\n\n§\nfunction add(a, b) {\n  return a + b; // _sum_\n}\n\nconsole.log(add(2, 3));\n§\n\nIt prints 5."],
  ["JavaScript without semicolons and indentation", "§\nconst add = (a, b) => {\nlet c = a + b\nreturn c\n}\n§"],
  ["TypeScript", "§\nexport interface User {\n  name: string;\n  age?: number;\n}\n\nconst users: User[] = [];\n§"],
  ["C", "§\n#include <stdio.h>\n\nint main(void) {\n    int *p = NULL;\n    printf(\"%d\\n\", 1);\n    return 0;\n}\n§\n\nCompile it with gcc."],
  ["Java", "§\n/**\n * Says hello.\n */\npublic class Main {\n    public static void main(String[] args) {\n        System.out.println(\"Hi\");\n    }\n}\n§"],
  ["Go", "§\npackage main\n\nimport \"fmt\"\n\nfunc main() {\n\tx := 5\n\tfmt.Println(x)\n}\n§"],
  ["Rust", "§\nfn main() {\n    let mut v = vec![1, 2];\n    v.push(3);\n    println!(\"{:?}\", v);\n}\n§"],
  ["SQL", "The query is:\n\n§\nSELECT name, COUNT(*)\nFROM users\nWHERE age > 18\nGROUP BY name;\n§\n\nIt counts by name."],
  ["SQL in one line", "§\nselect * from users where id = 1;\n§"],
  ["shell", "Install it:\n\n§\n$ pip install requests\n$ python3 main.py --verbose\n§\n\nThen open the page."],
  ["a shell script", "§\n#!/bin/bash\nfor f in *.txt; do\n  echo \"$f\"\ndone\n§"],
  ["commands without a prompt", "§\ngit clone https://example.org/a.git\ncd a\nnpm install\n§"],
  ["HTML", "§\n<!DOCTYPE html>\n<html>\n  <body>\n    <div class=\"card\">Hello *there*</div>\n  </body>\n</html>\n§\n\nOpen it in a browser."],
  ["HTML without indentation", "§\n<div>\n<p>\nHello world.\n</p>\n</div>\n§"],
  ["JSON", "§\n{\n  \"name\": \"Ada\",\n  \"tags\": [\"a\", \"b\"]\n}\n§"],
  ["YAML", "§\napiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n    - name: app\n      image: nginx\n§\n\nApply it."],
  ["CSS", "§\n.card {\n  color: red;\n}\n\n* {\n  margin: 0;\n}\n§"],
  ["code in a German answer", `Die Funktion lautet:\n\n§\n${PRIME}\n§\n\nSie prüft alle Teiler; mehr braucht es nicht.`],
  ["code after a list", `1. Read *n*.\n2. Try divisors.\n\n§\n${PRIME}\n§`],
  ["code before fenced code", `§\n${PRIME}\n§\n\nOr:\n\n\`\`\`js\nlet x = 1;\n\`\`\``],
  ["two blocks with prose between", "First:\n\n§\nlet a = [1, 2];\n§\n\nThen you add to it:\n\n§\na.push(3);\n§"],
];

/** Answers that must reach the renderer as they are. */
const TEXT: [name: string, text: string][] = [
  ["nothing", ""],
  ["white space", " \n\n  \n"],
  ["one sentence", "The capital of France is Paris."],
  ["a sentence with a call in it", "Use print(x) to show the value of x."],
  ["a line that ends with a call", "To show it, call print(x)"],
  ["a statement in a sentence", "You end the line with foo(bar);\nand go on."],
  ["paragraphs that end with a colon", "Here is what you need:\n\nFor example:\n\nflour and water."],
  ["semicolons", "I came; I saw; I conquered;\nthat is all; nothing more;"],
  ["an opener that is English", "for example:\nif you want it warm:\nwait a while"],
  ["keywords as words", "import duties are high\nreturn the book\nclass starts at nine\nlet it be"],
  ["headings", "# Title\n\nText.\n\n## Part\nMore text.\n\n# End"],
  ["a bullet list", "Buy:\n- milk (1 l)\n- eggs = 6;\n* bread\n+ salt"],
  ["a numbered list with continuation lines", "1. Call `f(x);`\n   then wait.\n\n   x = f(1);\n   y = g(\"a\");\n2. Stop."],
  ["a list of key and value", "zutaten:\n  - mehl: 200 g\n  - zucker: 100 g"],
  ["code in a list", "- Run:\n\n      git clone a\n      cd a\n\n- Done."],
  ["a table", "| name | call |\n|------|------|\n| a | f(\"x\"); |\n| b | {} |"],
  ["quotes", "> def f(x):\n>     return x\n\nHe said so."],
  ["an e-mail's quotes", ">>> Hello John\n>> Hello Mary\n> How are you?"],
  ["fenced code", `Look:\n\n\`\`\`python\n${PRIME}\n\n# Title\n\`\`\`\n\nDone.`],
  ["a fence that is not closed yet", `\`\`\`python\n${PRIME}`],
  ["a longer fence around a shorter one", "````md\n```\nlet x = f(1);\n```\nlet y = f(2);\n````\nEnd."],
  ["tildes", "~~~\nlet x = f(1);\n```\nlet y = f(2);\n~~~"],
  ["a fence in a list item", "1. ```js\n   let x = f(1);\n   ```\n2. ```js\n   let y = f(2);\n   ```"],
  ["indented code", "Write this:\n\n    def f(x):\n        return x\n\n    print(f(\"a\"))\n\nThat is all."],
  ["German", "Die Funktion prüft, ob eine Zahl prim ist:\nwenn ja, gibt sie wahr zurück;\nsonst falsch.\n\nStudent(in)\nLehrer(in)"],
  ["Spanish without capitals", "esto es un ejemplo: el valor de x;\ny luego termina aquí."],
  ["Chinese", "这个函数检查 n 是否为质数：\n首先调用 print(x)；\n然后返回。"],
  ["Russian", "Функция проверяет число:\nесли оно простое, возвращает True;"],
  ["mathematics", "2x + 3 = 7\n2x = 4\nx = 2\n\nSo the answer is x = 2."],
  ["equations alone", "x = 2\ny = 3\nz = 4\narea = x * y\nvolume = area * z"],
  ["pairs of words", "breakfast: oats\nlunch: rice\nsnack: nuts\ndinner: fish"],
  ["pairs with capitals", "Name: Ada\nBorn: 1815\nFields: mathematics"],
  ["a poem", "the sea was calm,\nand I (alone)\nwent home; the moon\nwas new."],
  ["emphasis and links", "**Note:** see [the page](https://example.org/a?b=c;d) and _this_.\n*Done*"],
  ["inline tags", "<b>Note</b> this is bold.\n<br>\nH<sub>2</sub>O <https://example.org>"],
  ["prices and mentions", "$ 5 per person\n@anna pays\n#holiday"],
  ["inline code on lines of its own", "`x = f(1);`\n\n`print(\"a\")`"],
  ["a dialogue", "Anna: \"Where are you?\"\nBen: \"At home; why?\"\nAnna: \"(laughs)\""],
  ["commands as words", "git is a tool.\nnpm and yarn are others.\npython the snake is long"],
  ["instructions in lower case", "use oil\nuse salt\nbrew tea\nbrew coffee\nlet us go;\nlet us stay;"],
  ["ingredients with amounts", "Flour (200 g);\nsugar (100 g);\n\nFlour = 200 g (sifted)\nSugar = 100 g (white)"],
  ["words in two languages", "\"Hello\": \"Hola\"\n\"Goodbye\": \"Adiós\""],
  ["dashes", "he came -- and left;\ninput -> output;\nit was -- at last -- over;"],
  ["a letter", "Subject: Meeting\n\nDear Anna,\n\nthe meeting (on Monday) is moved.\n\nBest regards,\n[Your Name]"],
  ["formulas", "$$x = \\frac{1}{2}$$\n\nf(x) = 2x + 1\n\nE = mc^2."],
  ["a line that begins with a keyword", "A macro is a\nfunction (and is a kind of procedure) that returns code."],
  ["capitals", "SELECT YOUR MEAL\nFROM THE MENU\nAND THEN WAIT"],
  ["lines that end with carriage returns", "One line;\r\nanother one:\r\n\r\n- end\r\n"],
];

const fenced = (marked: string) => marked.replace(/^§$/gm, "```");
const bare = (marked: string) => marked.replace(/^§\n|\n§$|^§$/gm, "").replace(/^§\n/gm, "");

describe("fences around the code of an answer", () => {
  it.each(CODE)("are added: %s", (_, marked) => {
    expect(fenceCode(bare(marked))).toBe(fenced(marked));
  });

  it.each(CODE)("are added once: %s", (_, marked) => {
    expect(fenceCode(fenced(marked))).toBe(fenced(marked));
  });

  it.each(TEXT)("are not added: %s", (_, text) => {
    expect(fenceCode(text)).toBe(text);
  });

  it("contain all code so far while the text grows", () => {
    const before = "Here is the code:\n\n";
    const code = `${PRIME}\n\n\ndef main():\n    print(is_prime(7))\n\nmain()`;
    for (let length = "def is_prime(".length; length <= code.length; length++) {
      const soFar = code.slice(0, length);
      const block = /```\n([^]*)\n```/.exec(fenceCode(before + soFar, true))?.[1];
      expect(block?.trimEnd(), soFar).toBe(soFar.trimEnd());
    }
  });

  it("end before a fence below the code", () => {
    expect(fenceCode(`${PRIME}\n\n\`\`\``, true)).toBe(`\`\`\`\n${PRIME}\n\`\`\`\n\n\`\`\``);
  });

  it("end before the first letter of prose", () => {
    const after = "\n\nThe loop stops at the root.";
    for (let length = 3; length <= after.length; length++) {
      expect(fenceCode(PRIME + after.slice(0, length), true)).toBe(`\`\`\`\n${PRIME}\n\`\`\`${after.slice(0, length)}`);
    }
  });
});
