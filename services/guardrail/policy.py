"""The policy: what a user may ask, and what of an answer may be shown."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.guardrail.disguise import readings
from services.guardrail.hold_back import decide
from services.guardrail.personal_spans import personal_spans
from services.guardrail.rules import match_rules
from services.guardrail.secret_spans import secret_spans
from services.guardrail.spans import Span
from services.guardrail.verdict import Action, Category, Stage, Verdict, strictest

Observer = Callable[[Stage, Verdict], None]


@dataclass(frozen=True)
class Release:
    """What may be shown of the pending text, the verdict on it, and how many characters of its end stay held back."""

    verdict: Verdict
    text: str
    held_characters: int


class Policy:
    """Rules, classifier and span finders together. `version` names all of them by their hash."""

    def __init__(self, phone_region: str, observe: Observer) -> None:
        self._phone_region = phone_region
        self._observe = observe
        self.version = rules_version()

    def judge_input(self, texts: Sequence[str]) -> Verdict:
        """The strictest verdict over the texts that the model would see."""
        verdict = strictest(self._judge_request(text) for text in texts)
        self._observe(Stage.INPUT, verdict)
        return verdict

    def judge_output(self, prompt: str, released_tail: str, pending: str, final: bool) -> Release:
        """How much of the pending text may be shown, with secrets and personal data replaced."""
        shown = decide(pending, self._find_spans, final=final)
        if shown.overlong:
            category = Category.SECRET if "PRIVATE KEY" in pending else Category.UNREADABLE
            release = Release(Verdict(Action.BLOCK, category, 1.0), "", 0)
        elif shown.spans:
            category = max(span.category for span in shown.spans)
            text = _replace(pending[: shown.length], shown.spans)
            release = Release(Verdict(Action.REDACT, category, 1.0), text, len(pending) - shown.length)
        else:
            release = Release(Verdict(), pending[: shown.length], len(pending) - shown.length)
        self._observe(Stage.OUTPUT, release.verdict)
        return release

    def _judge_request(self, text: str) -> Verdict:
        hit = match_rules(readings(text))
        return Verdict(Action.BLOCK, hit.category, 1.0) if hit else Verdict()

    def _find_spans(self, text: str) -> list[Span]:
        return [*secret_spans(text), *personal_spans(text, self._phone_region)]


def _replace(text: str, spans: Sequence[Span]) -> str:
    parts, place = [], 0
    for span in spans:
        parts += [text[place : span.start], span.replacement]
        place = span.end
    return "".join([*parts, text[place:]])


def rules_version() -> str:
    """Hash of all that decides: the package's source."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
