"""Grammar corrections with Harper, and of homophones that Harper does not detect.

Of Harper only rules about grammar are used, and only suggestions without an alternative. The other
rules (idioms, names, style) also change correct questions. A lint with all 905 rules takes 2.6 ms,
with the selected rules 0.7 ms.
"""

import re
import threading
from collections.abc import Iterator

import harper

from services.enhancer.correction.edits import Edit, EditKind

RULES = frozenset(
    """
    AnA AnotherAn AnAnother RepeatedWords
    PronounVerbAgreement PronounInflectionBe IAmAgreement WentAheadAndAgreement PronounAre
    DidPast WillNonLemma InflectedVerbAfterTo ProgressiveNeedsBe IsBeenAuxSequence DoubleModal
    ModalOf HadOf
    SimplePastToPastParticiple RegularIrregulars IfWouldve WouldNeverHave WantBe SupposedTo
    UseToUsedTo GetUsedTo HavePassed
    SubjectPronoun CompoundSubjectI MultipleSequentialPronouns ThesesThese OneOfTheSingular
    CriteriaPhenomena SomeWithoutArticle NotBeAfterNot
    ItsContraction PronounContraction YourPredicateAdjective PossessiveYour TheirToThere
    TheirToTheyre ThereToTheir
    TheyreToTheir TheyreConfusions ThereOwn LetsConfusion ThenThan ThatThan TooTo ToTooIdioms
    ToLoseTooLoose
    QuiteQuiet ThoughThought DoesOrDose
    AdjectiveDoubleDegree MoreBetter MostNumber VeryLess HaveNegNoAny
    LookForwardTo LookingForwardTo InterestedIn GoodAt ResponsibleFor AllowTo AskNoPreposition
    Discuss ExceptOf DespiteOf
    ThanksALot HowMach HopHope PleasRequestVerb LetMeKnow
    """.split()
)
# "Did he pay", "help him pay", "the days he can fight": a verb without -s is correct.
BASE_VERB_CONTEXT = re.compile(
    r"\b(?:do|does|did|don't|can|could|will|would|shall|should|may|might|must|to|let|make|"
    r"help|see)\b",
    re.IGNORECASE,
)
CLAUSE_END = re.compile(r"[.?!]")
LIST_MARK = re.compile(r"\s?[).:]")


class Grammar:
    """Wrapper of Harper linters, one for each thread: a linter refuses concurrent calls.

    The first linter of a process takes a second, further ones 35 ms.
    """

    def __init__(self) -> None:
        self._threads = threading.local()
        self._linter()

    def _linter(self) -> harper.Linter:
        linter: harper.Linter | None = getattr(self._threads, "linter", None)
        if linter is None:
            linter = harper.Linter(harper.Dialect.AMERICAN)
            linter.set_lint_config(
                {rule: rule in RULES for rule in linter.get_default_lint_config()}
            )
            self._threads.linter = linter
        return linter

    def edits(self, text: str) -> Iterator[Edit]:
        """Yield Harper's suggested edits, except for names and list markers."""
        for lint in self._linter().lint(text, language="plaintext"):
            if lint.suggestion_count != 1:
                continue
            suggestion = lint.suggestions[0]
            start, end = lint.span.start, lint.span.end
            before = text[:start]
            clause = CLAUSE_END.split(before)[-1]
            if lint.lint_kind == "Agreement" and BASE_VERB_CONTEXT.search(clause):
                continue
            gap = before[len(before.rstrip()) :]
            opens = start == 0 or "\n" in gap or bool(gap and before.rstrip()[-1:] in (*".!?",))
            # A capital within a sentence is a name or an acronym.
            if text[start].isupper() and (not opens or end - start == 1):
                continue
            if end - start == 1 and LIST_MARK.match(text, end):
                continue
            if suggestion.kind == harper.SuggestionKind.INSERT_AFTER:
                start = end
            yield Edit(start, end, suggestion.replacement_text, EditKind.GRAMMAR)


PREDICATE = (
    "a an the not very so too really quite always never just been going hard difficult easy "
    "okay ok important "
    "possible impossible raining snowing driving making getting giving because"
)
HOMOPHONES = (
    (re.compile(rf"\b(it)s(?=\s+(?:{'|'.join(PREDICATE.split())})\b)", re.IGNORECASE), "'s"),
    (
        re.compile(
            r"\b(you)r(?=\s+(?:a|an|the|not|very|so|too|really|going|welcome|doing|being|able|"
            r"always|never)\b)",
            re.IGNORECASE,
        ),
        "'re",
    ),
)


def confusion_edits(text: str) -> Iterator[Edit]:
    """Yield the edits of a text with masked protected parts, in no particular order."""
    for pattern, ending in HOMOPHONES:
        for found in pattern.finditer(text):
            yield Edit(found.end(1), found.end(), ending, EditKind.GRAMMAR)
