"""Texts with their ids for the unit tests of the page's tokenizers.

`python -m tests.support.page_encodings` writes services/web/tests/encodings.json with the ids of
tiktoken and, for nano, of the library `tokenizers`.
"""

import json
import random
from pathlib import Path
from typing import Any

from training.tokenization.published import PUBLISHED, open_published
from training.tokenization.text_tokenizer import open_tokenizer

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "services" / "web" / "tests" / "encodings.json"
NANO = ROOT / "models" / "nano"
SEED = 20_261_129
# Article 1 of the Universal Declaration of Human Rights (United Nations), first sentence.
LANGUAGES = (
    "All human beings are born free and equal in dignity and rights.",
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti.",
    "Todos os seres humanos nascem livres e iguais em dignidade e em direitos.",
    "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren.",
    "Alla människor är födda fria och lika i värde och rättigheter.",
    "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan.",
    "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.",
    "Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti a práv.",
    "Minden emberi lény szabadon születik és egyenlő méltósága és joga van.",
    "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar.",
    "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.",
    "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "Всі люди народжуються вільними і рівними у своїй гідності та правах.",
    "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια.",
    "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.",
    "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में समानता प्राप्त है।",
    "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে।",
    "மனிதப் பிறிவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்.",
    "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "人人生而自由，在尊严和权利上一律平等。",
    "すべての人間は、生まれながらにして自由であり、平等である。",
    "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "ყველა ადამიანი იბადება თავისუფალი და თანასწორი.",
    "Բոլոր մարդիկ ծնվում են ազատ ու հավասար։",
    "ሁሉም ሰው ነጻና እኩል ክብርና መብት ይዞ የተወለደ ነው።",
    "ព្រះសង្ឃ មនុស្សទាំងអស់កើតមកមានសេរីភាព",
)
CASES = (
    "",
    "I love machine learning!",
    "It's perfectly fine. It's perfectely fine.",
    "perfectly",
    " perfectly",
    "perfectely",
    " perfectely",
    "walking walked walks",
    "I'm you're he's we'll they've I'd don't",
    "I'M YOU'RE HE'S WE'LL THEY'VE I'D DON'T",
    "'ſ 'S 'ſx it'ſ IT'ſ K 'K",  # long s folds to s, the Kelvin sign to k
    "HTTPServer getURLsFor XMLHttpRequest iPhone McDonald's",
    "1 12 123 1234 12345 3.14159 1,000,000 0x1F ½ ² Ⅷ ١٢٣٤",
    " ",
    "   ",
    "   x",
    "x   ",
    "x   y",
    "\n",
    "\n\n\n",
    "x\n\ny\r\nz\r\n\r\n",
    " \n \n x",
    "\t\tx\t",
    "a\u0085b\u0085\u0085 c",
    "a\ufeffb \ufeff\ufeffc",
    "a\u00a0b\u2003c\u2028d\u2029e\u3000f\u180eg\u200bh",
    "a\x0bb\x0cc\x1cd\x1ee\0f\x7f",
    "e\u0301 \u0301x n\u0303o \u0334",
    "😀 👩‍👩‍👧 🇩🇪 ❤️ 👍🏽 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "def total(rows):\n    # all\n\treturn sum(row * 2 for row in rows)\n",
    "for (let i = 0; i < 10; i++) { console.log(`${i}\\n`); }\n",
    "SELECT * FROM t WHERE a != 'b' -- c;",
    "https://example.org/a/b?c=d&e=%20f#g user@example.org C:\\temp\\x",
    '<p class="x">a &amp; b</p>',
    "//////// ===== ----- ..... !!!??? ((())) /*\n/\n",
    "<|endoftext|> <|endofprompt|> <|fim_prefix|> <|im_start|>user",
    "<|begin|><|user|>hello<|end|>",
    "a" * 1000,
    "ab" * 400,
    "=" * 333 + " " * 200 + "\n" * 50,
    "\u4e00\u4e8c\u4e09" * 60,
    "ǅ ǈ ǋ ʰ ª º ꟸ 𝐀𝑏 𐐀𐐨",
    "\ufffd \uffff \U0010ffff \ue000",
)
# Ranges of random texts: Latin, Greek to Cyrillic, Hebrew to Arabic, Indic, Thai to Georgian,
# punctuation, CJK, Hangul, presentation forms, emoji.
RANGES = (
    (0x20, 0x7F),
    (0x80, 0x250),
    (0x370, 0x530),
    (0x590, 0x700),
    (0x900, 0xE00),
    (0xE00, 0x1100),
    (0x2000, 0x2070),
    (0x3000, 0x3100),
    (0x4E00, 0x9000),
    (0xAC00, 0xD7A0),
    (0xFB00, 0xFE00),
    (0x1F300, 0x1F650),
)
RANDOM_TEXTS = 150


def golden_texts() -> list[str]:
    """Return at least 200 texts of many scripts; equal in each call."""
    chance = random.Random(SEED)
    mixed = [
        "".join(
            chance.choice((" ", "", "", "\n", "'s", "12"))
            + "".join(chr(chance.randrange(*span)) for _ in range(chance.randint(1, 6)))
            for span in chance.choices(RANGES, k=chance.randint(1, 8))
        )
        for _ in range(RANDOM_TEXTS)
    ]
    return [*LANGUAGES, *CASES, *mixed]


def golden() -> dict[str, Any]:
    """Return the texts, and their ids by encoding."""
    texts = golden_texts()
    encodings = {**{name: open_published(name) for name in PUBLISHED}, "nano": open_tokenizer(NANO)}
    ids = {name: [one.encode(text) for text in texts] for name, one in encodings.items()}
    return {"texts": texts, "ids": ids}


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(golden(), separators=(",", ":")) + "\n")
