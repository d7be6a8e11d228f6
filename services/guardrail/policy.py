"""The policy: what a user may ask, and what of an answer may be shown."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.guardrail.classifier import Classifier
from services.guardrail.disguise import readings
from services.guardrail.hold_back import Shown, decide
from services.guardrail.personal_spans import personal_spans
from services.guardrail.rules import match_answer, match_request
from services.guardrail.secret_spans import secret_spans
from services.guardrail.spans import Span
from services.guardrail.verdict import Action, Category, Stage, Verdict, strictest

Observer = Callable[[Stage, Verdict], None]

# What a user says is judged again with every piece of the answer, and with every later message of a
# client that keeps its own history: a verdict is kept under the text's hash.
KEPT_PROMPTS = 4_096
# A rule spans a wish, a few words and a deed: more of the released text cannot matter, and costs a
# millisecond a piece.
RULE_CHARACTERS = 300
# Of a verdict, rules are the surest.
RULE_SCORE = 1.0


@dataclass(frozen=True)
class Release:
    """What may be shown of the pending text, the verdict on it, and how many characters of its end
    stay held back.
    """

    verdict: Verdict
    text: str
    held_characters: int


class Policy:
    """Rules, classifier and span finders together. `version` names all of them by their hash."""

    def __init__(self, classifier: Classifier, phone_region: str, observe: Observer) -> None:
        self._classifier = classifier
        self._phone_region = phone_region
        self._observe = observe
        self._prompts: OrderedDict[bytes, Verdict] = OrderedDict()
        self.version = policy_version(classifier.digest, phone_region)

    def judge_input(self, texts: Sequence[str]) -> Verdict:
        """The strictest verdict over what the user says to the model."""
        verdict = strictest(self._judge_prompt(text) for text in texts)
        self._observe(Stage.INPUT, verdict)
        return verdict

    def judge_output(self, prompt: str, released_tail: str, pending: str, final: bool) -> Release:
        """How much of the pending text may be shown, with secrets and personal data replaced, or
        that none may be.
        """
        shown = decide(pending, self._find_spans, final=final)
        blocked = self._blocked(prompt, released_tail, pending, shown)
        release = Release(blocked, "", 0) if blocked else _release(pending, shown)
        self._observe(Stage.OUTPUT, release.verdict)
        return release

    def _blocked(
        self, prompt: str, released_tail: str, pending: str, shown: Shown
    ) -> Verdict | None:
        """Why nothing more of the answer may be shown: the exchange is harmful, or the rest can
        never be checked.
        """
        if shown.overlong:
            category = Category.SECRET if "PRIVATE KEY" in pending else Category.UNREADABLE
            return Verdict(Action.BLOCK, category, RULE_SCORE)
        asked = self._judge_prompt(prompt)
        if asked.action is Action.BLOCK:
            return asked
        hit = match_answer(readings(released_tail[-RULE_CHARACTERS:] + pending[: shown.length]))
        return Verdict(Action.BLOCK, hit.category, RULE_SCORE) if hit else None

    def _judge_prompt(self, prompt: str) -> Verdict:
        key = hashlib.sha256(prompt.encode()).digest()
        verdict = self._prompts.get(key)
        if verdict is None:
            verdict = self._prompts[key] = self._judge_request(prompt)
            if len(self._prompts) > KEPT_PROMPTS:
                self._prompts.popitem(last=False)
        return verdict

    def _judge_request(self, text: str) -> Verdict:
        ways = readings(text)
        if hit := match_request(ways):
            return Verdict(Action.BLOCK, hit.category, RULE_SCORE)
        # The text as it stands, and with every disguise off.
        suspicions = [self._classifier.judge(way) for way in dict.fromkeys((ways[0], ways[-1]))]
        surest = max(suspicions, key=lambda one: (one.over_threshold, one.probability))
        if surest.over_threshold:
            return Verdict(Action.BLOCK, surest.category, surest.probability)
        return Verdict(score=surest.probability)

    def _find_spans(self, text: str) -> list[Span]:
        return [*secret_spans(text), *personal_spans(text, self._phone_region)]


def _release(pending: str, shown: Shown) -> Release:
    held = len(pending) - shown.length
    if not shown.spans:
        return Release(Verdict(), pending[: shown.length], held)
    parts, place = [], 0
    for span in shown.spans:
        parts += [pending[place : span.start], span.replacement]
        place = span.end
    category = (
        Category.SECRET
        if any(span.category is Category.SECRET for span in shown.spans)
        else Category.PII
    )
    text = "".join([*parts, pending[place : shown.length]])
    return Release(Verdict(Action.REDACT, category, RULE_SCORE), text, held)


def policy_version(weights_digest: str, phone_region: str) -> str:
    """Hash of all that decides: the weights, the settings, and the rules as they stand in this
    package's source.
    """
    digest = hashlib.sha256(f"{weights_digest} {phone_region}".encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
