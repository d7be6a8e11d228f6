"""Code, commands, technical terms and names do not change; the words around are corrected."""

import pytest

from services.enhancer.correction.known_words import ABBREVIATIONS
from services.enhancer.correction.protected import commands, technical_terms
from services.enhancer.prompt import Enhancer

# Blocks are separated by an empty line; the first line of a block is its name.
BLOCKS = dict(
    block.strip("\n").split("\n", 1)
    for block in r"""
Python
import os
class Foo(Bar):
  pass
def lern(x):
    retrun x
for i in rnage(10):
  x += i
  print("teh")

Python in two spaces
async def lern(x):
  retrun x
await lern(3)

JavaScript
const x = 1
let y = fetchh(url)
function foo(a, b) {
  retrun a + b
}
export default foo
foo.map(x => x)

C
#include <stdio.h>
#define MAX 10
struct foo *bar
int main(void)
{
  printf("teh\n");
  retrun 0;
}

SQL
SELECT nmae, count(*)
FROM usres
WHERE id = 3
GROUP BY nmae
order by nmae desc

shell
#!/bin/bash
export FOO=bar
if [ -f foo ]; then
  ehco teh
fi
for f in *.txt; do
  mv $f $f.bak
done
sudo apt install foo
grep -r foo .

YAML
apiVersion: v1
kind: Pod
metadata:
  nmae: my-pod
spec:
  containers:
  - name: foo
    imgae: nginx

JSON
{
  "nmae": "foo",
  "lsit": [1, 2],
  "nested": {"a": true}
}

diff
diff --git a/foo.py b/foo.py
--- a/foo.py
+++ b/foo.py
@@ -1,3 +1,3 @@
 teh context
-def foo(x):
-    retrun x
+    return x

trace
Traceback (most recent call last):
  File "foo.py", line 3, in <module>
    lern(x)
NameError: name 'lern' is not defined

trace in Java
Exception in thread "main" java.lang.NullPointerException
	at com.foo.Bar.baz(Bar.java:10)
Caused by: java.io.IOException: teh file

log
2024-01-01 12:00:00,123 INFO starting servr
[error] conection refused
ERROR: could not instal foo
npm ERR! missing scirpt start

compiler
foo.c:10:5: error: expected ';' befor 'retrun'
error[E0382]: borow of moved value: `x`
""".split("\n\n")
)
LINES = [
    "def f(x):", "async def f():", "lambda x: x", "return x", "assert x", "yield x", "print x",
    "raise ValueError", "@decorator", "x = [i for i in y]", "import os", "if x > 3:",
    "for (int i = 0; i < n; i++)", "if (x === 3) return", "var z", "x => x + 1",
    "export default foo", "char *p = malloc(n)", "struct foo *bar", "select * from usres",
    "select name from users where id = 3", "join orders on users.id = orders.id",
    "order by nmae desc", "drop table foo", "kind: Pod", '"nmae": "foo",', '{"nmae": [1, 2]}',
    "^(\\w+)@(\\w+)\\.com$", "+    retrun y", "-def foo(x):", "@@ -1,3 +1,3 @@",
    "TypeError: teh operand is wrnog", "panic: runtime eror: index out of range",
    "goroutine 1 [running]:", "Segmentation fault (core dumped)",
    'level=info msg="teh end" caller=main.go',
    "Jan 01 12:00:00 host sshd[123]: faild password for root", "ls", "grep", "kubectl get pods",
    "grep -r foo .", "git push origin main", "git rebase vs merge", "npm install react",
    "docker ps", "docker compose up -d", "cat foo.txt | sort | uniq -c", "find . -name foo",
    "make test", "ps aux | grep nginx", "tar xzf archive.tar.gz", "rm -rf build", "cd src && make",
    "curl -s localhost | jq .name", "sudo systemctl restart nginx", "pip install numpy",
    "chmod +x run.sh", "echo foo >> bar", "export FOO=bar", "tcp and udp", "vim or emacs",
    "nat vs bridge",
]  # fmt: skip
TERMS = (
    "tcp udp http dns ssh sql gpu gpus cpu ram nlp llm rlhf ppo sft dpo api apis json yaml "
    "css html k8s aws gcp jwt oauth grpc tls "
    "ssl vpn mqtt imap dhcp cors csrf ide cli gui orm cron regex utf8 lstm cnn vae pca ocr "
    "iot pcie nvme numpy pytorch scipy keras "
    "kubectl nginx postgres kafka redis mysql mongodb golang cmake systemd terraform github"
).split()


@pytest.mark.parametrize("line", LINES)
def test_code_line_alone_does_not_change(enhancer: Enhancer, line: str) -> None:
    assert enhancer.enhance(line).text == line


@pytest.mark.parametrize(
    "line", [line for line in LINES if " " in line and " or " not in line and " vs " not in line]
)
def test_code_line_below_a_question_does_not_change(enhancer: Enhancer, line: str) -> None:
    assert enhancer.enhance(f"wat does this do\n{line}").text.split("\n") == [
        "What does this do",
        line,
    ]


@pytest.mark.parametrize("between", ["\n", "\n\n"])
@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_code_block_does_not_change_and_prose_around_is_corrected(
    enhancer: Enhancer, block: str, between: str
) -> None:
    text = enhancer.enhance(
        f"plese fix teh code below{between}{block}{between}why does it not wrok"
    ).text
    before, inside, after = text.partition(block)
    assert inside == block
    assert before.strip().lower().startswith("please fix the code below")
    assert after.strip().lower().startswith("why does it not work")


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_code_block_alone_does_not_change(enhancer: Enhancer, block: str) -> None:
    assert enhancer.enhance(block).text == block


@pytest.mark.parametrize("term", TERMS)
def test_technical_term_does_not_change_at_the_start_and_inside_a_sentence(
    enhancer: Enhancer, term: str
) -> None:
    assert enhancer.enhance(f"{term} is realy good").text == f"{term} is really good."
    assert enhancer.enhance(f"wat is {term}").text == f"What is {term}?"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("how do i use grep to find files", "How do I use grep to find files?"),
        ("what does chmod do", "What does chmod do?"),
        ("what does tar -xzf do", "What does tar -xzf do?"),
        ("how do i run grep -r foo . in a foldre", "How do I run grep -r foo . in a folder?"),
        (
            "how do i run docker run -it ubuntu bash and exit",
            "How do I run docker run -it ubuntu bash and exit?",
        ),
        ("write teh output of ls -la to a file", "Write the output of ls -la to a file."),
        ("make install fails on my machien", "make install fails on my machine"),
        ("curl returns an eror why", "curl returns an error why"),
        ("docker tutorial for beginers", "docker tutorial for beginners"),
        ("cd is not wroking", "cd is not working."),
        ("find the capital of frnace", "Find the capital of France."),
        ("make me a sandwich plz", "Make me a sandwich please."),
        ("sort these words by lenght", "Sort these words by length."),
        ("print the lsit", "Print the list"),
        ("select a good book for me", "Select a good book for me"),
        ("if you can, tell me this:", "If you can, tell me this:"),
        ("- recieve mail\n- send mail", "- receive mail\n- send mail"),
        ("what is 2 + 2", "What is 2 + 2?"),
        ("explain ^[a-z]+\\d*$ to me", "Explain ^[a-z]+\\d*$ to me."),
        ("what does \\bteh\\b match", "What does \\bteh\\b match?"),
        ("what does (foo|brr)+ match", "What does (foo|brr)+ match?"),
        ("what does my_fucntion return", "What does my_fucntion return?"),
        ("why is getUserNmae undefined", "Why is getUserNmae undefined?"),
        ("what is np.lianlg.norm", "What is np.lianlg.norm?"),
        ("what does --no-cahce do", "What does --no-cahce do?"),
        ("what is in mian.py", "What is in mian.py?"),
        ("what is $PTAH", "What is $PTAH?"),
        ("what does `retrun` do", "What does `retrun` do?"),
        ("why does foo[0] raise an eror", "Why does foo[0] raise an error?"),
        (
            'here is my json {"nmae": "foo"} is it valid',
            'Here is my json {"nmae": "foo"} is it valid.',
        ),
    ],
)
def test_code_in_a_sentence_does_not_change_and_the_sentence_is_corrected(
    enhancer: Enhancer, typed: str, meant: str
) -> None:
    assert enhancer.enhance(typed).text == meant


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("who was van gogh", "Who was van gogh?"),
        ("tell me about frida kahlo", "Tell me about frida kahlo."),
        ("is elon musk rich", "Is elon musk rich?"),
        ("who is satya nadella", "Who is satya nadella?"),
        ("what is an iPhone", "What is an iPhone?"),
        ("is eBay safe", "Is eBay safe?"),
        ("what is zmq and xdr", "What is zmq and xdr?"),
    ],
)
def test_names_and_short_unknown_words_do_not_change(
    enhancer: Enhancer, typed: str, meant: str
) -> None:
    assert enhancer.enhance(typed).text == meant


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("machien lerning", "machine learning"),
        ("what is machien lerning", "What is machine learning?"),
        ("how do i lern pyhton", "How do I learn Python?"),
        ("i recieve teh mail", "I receive the mail"),
        ("explain this algoritm", "Explain this algorithm."),
        ("what is a databse", "What is a database?"),
        ("what is a langauge modle", "What is a language model?"),
        ("definately the best pyhton book", "Definitely the best Python book"),
        ("what is a nueral netwrok", "What is a neural network?"),
        ("explain teh tcp protocal", "Explain the tcp protocol."),
        ("whats the diffrence between tcp and udp", "What's the difference between tcp and udp?"),
        ("how do i conect to postgres with pyhton", "How do I connect to postgres with Python?"),
        (
            "write a fucntion in pyhton that sorts a lsit",
            "Write a function in Python that sorts a list.",
        ),
        ("my javascritp code dosent work", "My JavaScript code doesn't work."),
        ("wat is a kuberntes deploymnet", "What is a kubernetes deployment?"),
        ("use git to undo my last comit", "Use git to undo my last commit."),
    ],
)
def test_typo_next_to_technical_terms_is_corrected(
    enhancer: Enhancer, typed: str, meant: str
) -> None:
    assert enhancer.enhance(typed).text.lower() == meant.lower()


@pytest.mark.parametrize(
    "text",
    ["ciao come stai", "danke schon", "como instalar numpy", "que es tcp y udp", "was ist das"],
)
def test_short_text_in_another_language_is_not_misspelled_english(
    enhancer: Enhancer, text: str
) -> None:
    assert enhancer.enhance(text).text == text


def test_long_line_of_punctuation_does_not_change(enhancer: Enhancer) -> None:
    text = "+" * 7_000
    assert enhancer.enhance(text).text == text


def test_technical_terms_are_neither_abbreviations_nor_english_commands() -> None:
    only_commands, also_words = commands()
    assert technical_terms() >= only_commands
    assert not technical_terms() & also_words
    assert not technical_terms() & ABBREVIATIONS.keys()
    assert all(term == term.lower().strip() and term for term in technical_terms() | also_words)


@pytest.mark.parametrize(
    "text",
    "hola|merci|hallo|chien|nein|buch|takk|salut|hola amigo|mein hund|chien noir|mi "
    "gato|buenas noches|merci beaucoup|"
    "wie geht es dir|que hora es|ich bin mude|feliz navidad".split("|"),
)
def test_short_texts_in_other_languages_do_not_change(enhancer: Enhancer, text: str) -> None:
    assert enhancer.enhance(text).text == text


def test_misspelled_greeting_is_corrected(enhancer: Enhancer) -> None:
    assert enhancer.enhance("helo").text == "hello"
