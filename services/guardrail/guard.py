"""Guard: judges the texts of users, and the release of an answer."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.chassis.threads import Checkpoint, no_checkpoint
from services.contracts.chat import Action
from services.guardrail.cascade import Cascade, Unsure
from services.guardrail.detection.normalization import variants
from services.guardrail.detection.rules import match_answer, match_request
from services.guardrail.detection.views import find_spans
from services.guardrail.hold_back import DecidedPrefix, decide_prefix
from services.guardrail.policy import Policy
from services.guardrail.verdict import (
    JUDGED,
    Category,
    Judgement,
    Stage,
    Verdict,
    judgement_by_rule,
    strictest,
)

Observer = Callable[[Stage, Verdict], None]

# Size of the cache of judgements by hash of the text. A prompt is needed again with every part of
# the answer, and with every later message of a client that sends its own history.
CACHED_PROMPTS = 4_096
# Length of released text that rules see. A match spans a request, a few words and an action, so
# that more text cannot matter, but costs a millisecond per part.
RULE_CHARACTERS = 300


@dataclass(frozen=True)
class Release:
    """Result of an output check.

    Args:
        verdict: verdict on the pending text.
        text: text to show, with replacements.
        held_characters: characters at the end of the pending text that are held back.
    """

    verdict: Verdict
    text: str
    held_characters: int


class Guard:
    """Combination of rules, classifiers and detectors; `version` is a hash over all of them."""

    def __init__(self, cascade: Cascade, phone_region: str, observe: Observer) -> None:
        self._cascade = cascade
        self._phone_region = phone_region
        self._observe = observe
        self.policy = Policy()
        # Shared by the event loop and the threads of the servicer without a lock: each access is
        # one call of a method in C on keys of bytes, which no other thread interrupts. At worst
        # two threads judge one prompt twice, with equal results, or drop one entry too many.
        self._prompts: OrderedDict[bytes, Judgement | Unsure] = OrderedDict()
        self.version = policy_version(cascade.digest, phone_region)

    def is_unsure(self, text: str, *, is_instruction: bool = False) -> bool:
        """Return whether the encoder has to judge the text, which takes 5 ms and more."""
        return isinstance(self._first_result(text, is_instruction=is_instruction)[1], Unsure)

    def judge_input(
        self,
        texts: Sequence[str],
        checkpoint: Checkpoint = no_checkpoint,
        *,
        instructions: Sequence[str] = (),
    ) -> Verdict:
        """Return the strictest verdict on the texts of a user.

        Args:
            texts: texts in the roles user and assistant.
            checkpoint: called before each text.
            instructions: texts in the role system.

        Raises:
            AbandonedError: `checkpoint` raised the error between two texts.
        """
        verdicts = []
        for text in dict.fromkeys(texts):
            checkpoint()
            verdicts.append(self._judge_prompt(text))
        for text in dict.fromkeys(instructions):
            checkpoint()
            verdicts.append(self._judge_prompt(text, is_instruction=True))
        verdict = strictest(verdicts)
        self._observe(Stage.INPUT, verdict)
        return verdict

    def judge_output(
        self,
        prompt: str,
        released_tail: str,
        pending: str,
        final: bool,
        checkpoint: Checkpoint = no_checkpoint,
    ) -> Release:
        """Decide how much of the pending text of an answer may be shown.

        Args:
            prompt: the user's text that is being answered.
            released_tail: end of the text that was shown before.
            pending: text of the answer that was not shown yet.
            final: the answer ends with `pending`.
            checkpoint: called before each word and each step.

        Returns:
            The decided text with replaced secrets and personal data, or a block without text.

        Raises:
            AbandonedError: `checkpoint` raised the error.
        """
        decided = decide_prefix(
            pending,
            lambda window, before: find_spans(window, self._phone_region, before),
            final=final,
            checkpoint=checkpoint,
        )
        checkpoint()
        blocked = self._blocked(prompt, released_tail, pending, decided)
        release = Release(blocked, "", 0) if blocked else _release(self.policy, pending, decided)
        self._observe(Stage.OUTPUT, release.verdict)
        return release

    def _blocked(
        self, prompt: str, released_tail: str, pending: str, decided: DecidedPrefix
    ) -> Verdict | None:
        """Return a blocking verdict if the exchange is harmful or the rest cannot be decided."""
        if decided.unbounded:
            category = Category.SECRET if "PRIVATE KEY" in pending else Category.UNREADABLE
            return self.policy.decide(judgement_by_rule(category))
        asked = self._judge_prompt(prompt)
        if asked.action is Action.BLOCK:
            return asked
        # Released text is included, because a match may start before the pending text.
        text = released_tail[-RULE_CHARACTERS:] + pending[: decided.length]
        match = match_answer(variants(text))
        return self.policy.decide(judgement_by_rule(match.category)) if match else None

    def _judge_prompt(self, prompt: str, *, is_instruction: bool = False) -> Verdict:
        key, result = self._first_result(prompt, is_instruction=is_instruction)
        if isinstance(result, Unsure):
            result = self._prompts[key] = self._cascade.second_stage(result)
            JUDGED.labels(result.judge).inc()
        return self.policy.decide(result)

    def _first_result(
        self, prompt: str, *, is_instruction: bool
    ) -> tuple[bytes, Judgement | Unsure]:
        """Return the key in the cache, and the judgement or the parts for the encoder."""
        key = hashlib.sha256(prompt.encode()).digest() + bytes((is_instruction,))
        result = self._prompts.get(key)
        if result is None:
            result = self._prompts[key] = self._judge_request(prompt, is_instruction=is_instruction)
            if len(self._prompts) > CACHED_PROMPTS:
                self._prompts.popitem(last=False)
        return key, result

    def _judge_request(self, text: str, *, is_instruction: bool) -> Judgement | Unsure:
        text_variants = variants(text)
        if match := match_request(text_variants, is_instruction=is_instruction):
            by_rule = judgement_by_rule(match.category)
            JUDGED.labels(by_rule.judge).inc()
            return by_rule
        # The plain text, and the text with all obfuscation removed.
        judged = tuple(dict.fromkeys((text_variants[0], text_variants[-1])))
        first = self._cascade.first_stage(judged, is_instruction=is_instruction)
        if isinstance(first, Unsure):
            return first
        JUDGED.labels(first.judge).inc()
        return first


def _release(policy: Policy, pending: str, decided: DecidedPrefix) -> Release:
    held = len(pending) - decided.length
    if not decided.spans:
        return Release(Verdict(), pending[: decided.length], held)
    parts, position = [], 0
    for span in decided.spans:
        parts += [pending[position : span.start], span.replacement]
        position = span.end
    category = (
        Category.SECRET
        if any(span.category is Category.SECRET for span in decided.spans)
        else Category.PII
    )
    text = "".join([*parts, pending[position : decided.length]])
    return Release(policy.decide_spans(judgement_by_rule(category)), text, held)


def policy_version(weights_digest: str, phone_region: str) -> str:
    """Return a hash of everything that affects verdicts: weights, settings, and this package."""
    digest = hashlib.sha256(f"{weights_digest} {phone_region}".encode())
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
