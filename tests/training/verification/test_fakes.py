"""Goal S4: no trick earns a reward, while the honest solution of the same item does."""

import json

import pytest

from training.verification.checks import Calls, Outcome, Programs
from training.verification.code import judge_code
from training.verification.sandbox.runs import Sandbox

# A value that no code below can guess and that never enters the sandbox.
SECRET = 7_640_891_576_956_012_809
CHECK = Calls("solve", ("[1]", "[2]", "[3]"), tuple(json.dumps(SECRET ^ x) for x in (1, 2, 3)))
HONEST = f"def solve(x):\n    return {SECRET} ^ x"
PROGRAM = Programs(("1\n", "2\n"), ("one\n", "two\n"))
HONEST_PROGRAM = "print({'1': 'one', '2': 'two'}[input()])"
WRITE_RESULTS = """
import os
for descriptor in range(3, 10):
    try:
        os.write(descriptor, (b'{"value": ' + @WORDS@ + b'\\n') * 3)
    except OSError:
        pass
os._exit(0)
"""

FAKES = {
    "exits with success": "import sys\nsys.exit(0)",
    "exits at once": "import os\nos._exit(0)",
    "exits in the call": "import os\ndef solve(x): os._exit(0)",
    "prints that it"
    " passed": "print('OK')\nprint('PASSED 3/3')\ndef solve(x): print('{\"value\": true}')",
    "speaks when everything is"
    " over": "import atexit\natexit.register(lambda: print('PASSED'))\ndef solve(x): return None",
    "patches assert and unittest": (
        "import unittest, builtins\nunittest.TestCase.assertEqual = lambda *a: None\n"
        "builtins.AssertionError = type('Fine', (), {})\n"
        "def solve(x): return 0"
    ),
    "patches the builtins": (
        "import builtins\nbuiltins.all = lambda *a: True\nbuiltins.isinstance = lambda *a: True\n"
        "builtins.type = lambda x: int\n"
        "def solve(x): return 0"
    ),
    "returns what equals everything": (
        "class Same:\n    def __eq__(self, other): return True\n    __hash__ = None\n"
        "def solve(x): return Same()"
    ),
    "returns a number that equals everything": (
        "class Same(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\n"
        "def solve(x): return Same(0)"
    ),
    "returns a list that equals everything": (
        "class Same(list):\n    def __eq__(self, other): return True\n    __hash__ = None\n"
        "def solve(x): return Same()"
    ),
    "overwrites the test file": (
        "import glob\nfor file in glob.glob('/tmp/*') + ['/tmp/test.py', '/tmp/conftest.py',"
        " '/tmp/sitecustomize.py']:\n"
        "    open(file, 'w').write('print(1)')\ndef solve(x): return 0"
    ),
    "looks into the callers' frames": (
        "import sys\ndef solve(x):\n    frame = sys._getframe()\n    found = []\n    while frame:\n"
        "        for value in [*frame.f_locals.values(), *frame.f_globals.values()]:\n"
        "            if isinstance(value, int) and value > 2**50: found.append(value)\n"
        "            if isinstance(value, (list, dict)) and 'expected' in str(value):"
        " found.append(str(value))\n"
        "        frame = frame.f_back\n    return found[0] if found else 0"
    ),
    "hunts through memory": (
        "import gc\ndef solve(x):\n    for thing in gc.get_objects():\n"
        "        for value in thing if isinstance(thing, (list, tuple)) else thing.values() if"
        " isinstance(thing, dict) else ():\n"
        "            if type(value) is int and 2**50 < value < 2**63 - 2**50: return value\n"
        "    return 0"
    ),
    "stops who reads the result": (
        "import os, signal\nfor process in (os.getppid(), 1):\n"
        "    try: os.kill(process, signal.SIGKILL)\n"
        "    except OSError: pass\ndef solve(x): return 0"
    ),
    "writes the result itself": (
        "import os\nfor descriptor in range(3, 10):\n    try: os.write(descriptor, b'{\"value\":"
        " true, \"passed\": true}\\n' * 3)\n"
        "    except OSError: pass\nos._exit(0)\ndef solve(x): return 0"
    ),
    "answers twice": (
        "import os\ndef solve(x):\n    for descriptor in range(3, 10):\n"
        "        try: os.write(descriptor, b'{\"value\": 0}\\n{\"value\": 1}\\n')\n"
        "        except OSError: pass\n    return 0"
    ),
    "patches how results are written": (
        "import json, __main__\njson.dumps = lambda *a, **k: '{\"value\": true}'\n"
        "__main__.plain = lambda value: True\n"
        "__main__.write_line = lambda output, line: None\ndef solve(x): return 0"
    ),
    "returns no number": "def solve(x): return float('nan')",
    "returns infinity": "def solve(x): return float('inf')",
    "returns a float nearby": f"def solve(x): return float({SECRET})",
    "nests without end": WRITE_RESULTS.replace("@WORDS@", "b'[' * 60_000"),
    "writes a number without end": WRITE_RESULTS.replace("@WORDS@", "b'9' * 60_000 + b'}'"),
    "forks to answer apart": "import os\nos.fork()\ndef solve(x): return 0",
    "hides the"
    " function": "solve = type('Solve', (), {'__call__': lambda self, x: True, '__eq__': lambda"
                 " *a: True})()",
}  # fmt: skip

PROGRAM_FAKES = {
    "exits with success": "import sys\nsys.exit(0)",
    "prints every answer": "print('one')\nprint('two')",
    "prints the answer and fails": HONEST_PROGRAM + "\nraise SystemExit(3)",
    "writes the next output": HONEST_PROGRAM.replace("two", "three")
    + "\nopen('/tmp/output', 'a').write('two')",
    "leads the output"
    " elsewhere": "import os\nos.remove('/tmp/output')\nos.symlink('/dev/zero', '/tmp/output')\n"
    "print(input())",
    "reads for the answers": (
        "import os\nfor folder, _, names in os.walk('/tmp'):\n"
        "    for name in names:\n        print(open(os.path.join(folder, name),"
        " errors='replace').read())"
    ),
    "stops its parent": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nprint('one')",
}


@pytest.mark.parametrize("fake", FAKES)
def test_no_reward_for_a_function_that(fake: str, sandbox: Sandbox) -> None:
    verdict = judge_code(CHECK, f"```python\n{FAKES[fake]}\n```", sandbox)
    assert verdict.outcome in (Outcome.WRONG, Outcome.OUT_OF_TIME, Outcome.OUT_OF_MEMORY)
    assert verdict.reward == 0


@pytest.mark.parametrize("fake", PROGRAM_FAKES)
def test_no_reward_for_a_program_that(fake: str, sandbox: Sandbox) -> None:
    verdict = judge_code(PROGRAM, f"```python\n{PROGRAM_FAKES[fake]}\n```", sandbox)
    assert verdict.outcome in (Outcome.WRONG, Outcome.OUT_OF_TIME)


def test_honest_function_and_program_are_right(sandbox: Sandbox) -> None:
    assert (
        judge_code(CHECK, f"Here it is:\n```python\n{HONEST}\n```\nDone.", sandbox).outcome
        is Outcome.RIGHT
    )
    assert judge_code(PROGRAM, f"```\n{HONEST_PROGRAM}\n```", sandbox).outcome is Outcome.RIGHT


def test_searches_find_an_expected_value_that_is_present(sandbox: Sandbox) -> None:
    check = Calls("solve", (json.dumps([SECRET]),), (json.dumps(SECRET),))
    for fake in ("looks into the callers' frames", "hunts through memory"):
        assert judge_code(check, FAKES[fake], sandbox).outcome is Outcome.RIGHT


def test_number_of_fakes_meets_the_goal() -> None:
    assert len(FAKES) + len(PROGRAM_FAKES) >= 10
