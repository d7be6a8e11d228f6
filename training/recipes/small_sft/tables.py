"""Examples generated from tables: capitals, phrases in four languages, sums and small functions.

All tables were written for this project.
"""

from __future__ import annotations

import random

from training.recipes.small_sft.sources import Example

GENERATED = ("capitals", "phrases", "sums")  # sources of LICENCES.md
_ASK_CAPITAL = (
    "What is the capital of {}?",
    "capital of {}",
    "Which city is the capital of {}?",
    "What's the capital of {}?",
    "Tell me the capital of {}.",
    "Name the capital city of {}.",
)

# Without the countries of the held-out questions.
CAPITALS = {
    "Germany": "Berlin", "Spain": "Madrid", "Austria": "Vienna", "Poland": "Warsaw",
    "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki", "Denmark": "Copenhagen",
    "Ireland": "Dublin", "Belgium": "Brussels", "the Netherlands": "Amsterdam",
    "Hungary": "Budapest", "the Czech Republic": "Prague", "Russia": "Moscow", "Ukraine": "Kyiv",
    "Turkey": "Ankara", "Egypt": "Cairo", "Kenya": "Nairobi", "Morocco": "Rabat",
    "the United States": "Washington, D.C.", "Mexico": "Mexico City", "Cuba": "Havana",
    "Brazil": "Brasília", "Argentina": "Buenos Aires", "Chile": "Santiago", "Peru": "Lima",
    "Colombia": "Bogotá", "China": "Beijing", "India": "New Delhi", "Thailand": "Bangkok",
    "Vietnam": "Hanoi", "South Korea": "Seoul", "Indonesia": "Jakarta", "Iran": "Tehran",
    "Iraq": "Baghdad", "Australia": "Canberra", "New Zealand": "Wellington", "Nepal": "Kathmandu",
    "Pakistan": "Islamabad", "Switzerland": "Bern", "Romania": "Bucharest",
    "Iceland": "Reykjavik", "the United Kingdom": "London", "Italy": "Rome", "Japan": "Tokyo",
    "Croatia": "Zagreb", "Serbia": "Belgrade", "Bulgaria": "Sofia", "Slovakia": "Bratislava",
    "Slovenia": "Ljubljana", "Estonia": "Tallinn", "Latvia": "Riga", "Lithuania": "Vilnius",
    "Albania": "Tirana", "Malta": "Valletta", "Cyprus": "Nicosia", "Scotland": "Edinburgh",
    "Wales": "Cardiff", "Algeria": "Algiers", "Tunisia": "Tunis", "Libya": "Tripoli",
    "Ethiopia": "Addis Ababa", "Ghana": "Accra", "Nigeria": "Abuja", "Senegal": "Dakar",
    "Uganda": "Kampala", "Zimbabwe": "Harare", "Saudi Arabia": "Riyadh", "Lebanon": "Beirut",
    "Syria": "Damascus", "Jordan": "Amman", "Afghanistan": "Kabul", "Bangladesh": "Dhaka",
    "Malaysia": "Kuala Lumpur", "the Philippines": "Manila", "North Korea": "Pyongyang",
    "Mongolia": "Ulaanbaatar", "Venezuela": "Caracas", "Ecuador": "Quito", "Uruguay": "Montevideo",
    "Bolivia": "Sucre", "Jamaica": "Kingston", "Panama": "Panama City",
}  # fmt: skip

LANGUAGES = ("German", "French", "Spanish", "Italian")
_ASK_PHRASE = (
    'Translate "{}" to {}.',
    'Translate "{}" into {}.',
    'How do you say "{}" in {}?',
    "translate {} to {}",
    'What is "{}" in {}?',
    "how do i say {} in {}",
)
# English, then a column for each language.
_PHRASES = """
good morning|Guten Morgen|Bonjour|Buenos días|Buongiorno
good evening|Guten Abend|Bonsoir|Buenas tardes|Buonasera
good night|Gute Nacht|Bonne nuit|Buenas noches|Buonanotte
good day|Guten Tag|Bonne journée|Buen día|Buona giornata
hello|Hallo|Bonjour|Hola|Ciao
goodbye|Auf Wiedersehen|Au revoir|Adiós|Arrivederci
see you tomorrow|Bis morgen|À demain|Hasta mañana|A domani
see you later|Bis später|À plus tard|Hasta luego|A più tardi
thank you|Danke|Merci|Gracias|Grazie
thank you very much|Vielen Dank|Merci beaucoup|Muchas gracias|Grazie mille
no, thank you|Nein, danke|Non, merci|No, gracias|No, grazie
please|Bitte|S'il vous plaît|Por favor|Per favore
yes|Ja|Oui|Sí|Sì
no|Nein|Non|No|No
excuse me|Entschuldigung|Excusez-moi|Perdón|Scusi
I am sorry|Es tut mir leid|Je suis désolé|Lo siento|Mi dispiace
how are you|Wie geht es dir?|Comment ça va ?|¿Cómo estás?|Come stai?
I am fine|Mir geht es gut|Je vais bien|Estoy bien|Sto bene
what is your name|Wie heißt du?|Comment t'appelles-tu ?|¿Cómo te llamas?|Come ti chiami?
my name is Anna|Ich heiße Anna|Je m'appelle Anna|Me llamo Anna|Mi chiamo Anna
I love you|Ich liebe dich|Je t'aime|Te quiero|Ti amo
I am hungry|Ich habe Hunger|J'ai faim|Tengo hambre|Ho fame
I do not understand|Ich verstehe nicht|Je ne comprends pas|No entiendo|Non capisco
I need help|Ich brauche Hilfe|J'ai besoin d'aide|Necesito ayuda|Ho bisogno di aiuto
where is Anna|Wo ist Anna?|Où est Anna ?|¿Dónde está Anna?|Dov'è Anna?
how much does it cost|Wie viel kostet das?|Combien ça coûte ?|¿Cuánto cuesta?|Quanto costa?
good luck|Viel Glück|Bonne chance|Buena suerte|Buona fortuna
happy birthday|Alles Gute zum Geburtstag|Joyeux anniversaire|Feliz cumpleaños|Buon compleanno
welcome|Willkommen|Bienvenue|Bienvenido|Benvenuto
water|Wasser|Eau|Agua|Acqua
a glass of water|Ein Glas Wasser|Un verre d'eau|Un vaso de agua|Un bicchiere d'acqua
bread|Brot|Pain|Pan|Pane
milk|Milch|Lait|Leche|Latte
coffee|Kaffee|Café|Café|Caffè
apple|Apfel|Pomme|Manzana|Mela
house|Haus|Maison|Casa|Casa
friend|Freund|Ami|Amigo|Amico
dog|Hund|Chien|Perro|Cane
cat|Katze|Chat|Gato|Gatto
book|Buch|Livre|Libro|Libro
school|Schule|École|Escuela|Scuola
sun|Sonne|Soleil|Sol|Sole
today|Heute|Aujourd'hui|Hoy|Oggi
tomorrow|Morgen|Demain|Mañana|Domani
one, two, three|Eins, zwei, drei|Un, deux, trois|Uno, dos, tres|Uno, due, tre
""".strip()
# Held-out questions ask for these.
HELD_OUT_PHRASES = {
    ("good morning", "German"), ("thank you", "German"), ("good night", "French"),
    ("I love you", "French"), ("please", "Spanish"), ("water", "Spanish"),
    ("see you tomorrow", "Italian"),
}  # fmt: skip

_ASK_SUM = ("What is {}?", "{}", "{} = ?", "Calculate {}.", "How much is {}?", "what's {}")
_SPOKEN = {"+": " plus ", "-": " minus ", "×": " times "}
# Pairs of the held-out questions, in either order.
HELD_OUT_SUMS = {
    frozenset(pair)
    for pair in (
        (17, 26), (17, 25), (7, 8), (24, 38), (17, 45), (52, 17), (9, 6), (120, 45), (81, 36),
    )
}  # fmt: skip
_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_HUNDRED = 100


def make_capitals(rng: random.Random) -> list[Example]:
    """Return one question per country, and for a third of them which country a capital is in."""
    examples = []
    for country, city in CAPITALS.items():
        asked = rng.choice(_ASK_CAPITAL).format(country)
        answer = f"The capital of {country} is {city.rstrip('.')}."
        examples.append(Example((asked,), answer, "capitals"))
        if rng.random() < 0.33:
            asked = f"{city.rstrip('.')} is the capital of which country?"
            answer = f"{city.rstrip('.')} is the capital of {country}."
            examples.append(Example((asked,), answer, "capitals"))
    return examples


def make_phrases(rng: random.Random) -> list[Example]:
    """Return a translation of each phrase into each language, without HELD_OUT_PHRASES."""
    examples = []
    for row in _PHRASES.splitlines():
        english, *translations = row.split("|")
        for language, translated in zip(LANGUAGES, translations, strict=True):
            if (english, language) in HELD_OUT_PHRASES:
                continue
            asked = rng.choice(_ASK_PHRASE).format(english, language)
            answer = f'"{english[0].upper() + english[1:]}" in {language} is "{translated}".'
            examples.append(Example((asked,), answer, "phrases"))
    return examples


def make_sums(count: int, rng: random.Random) -> list[Example]:
    """Return distinct sums of numbers up to three digits, without HELD_OUT_SUMS.

    Sums of two larger numbers are answered in steps, because a small model adds a multiple of ten
    and a digit more reliably than two numbers at once.
    """
    drawn: dict[str, tuple[int, str, int]] = {}
    while len(drawn) < count:
        a, sign, b = _draw(rng)
        if frozenset((a, b)) not in HELD_OUT_SUMS:
            drawn[f"{a} {sign} {b}"] = (a, sign, b)
    examples = []
    for text, (a, sign, b) in drawn.items():
        written = text.replace("×", rng.choice(("x", "*", "×")))
        style = rng.random()
        if style < 0.2:
            written = text.replace(f" {sign} ", _SPOKEN[sign])
        elif style < 0.35 and max(a, b) < _HUNDRED:
            written = f"{in_words(a)}{_SPOKEN[sign]}{in_words(b)}"
        elif style < 0.5:
            written = written.replace(" ", "")
        asked = rng.choice(_ASK_SUM).format(written)
        examples.append(Example((asked,), solve(a, sign, b), "sums"))
    return examples


def solve(a: int, sign: str, b: int) -> str:
    """Return the answer to a sum, with its steps if it has any."""
    result = {"+": a + b, "-": a - b, "×": a * b}[sign]
    parts = [digit * 10**place for place, digit in enumerate(map(int, reversed(str(b)))) if digit][
        ::-1
    ]
    if sign == "×" and max(a, b) > 12:
        tens, ones = a - a % 10, a % 10
        if ones:
            products = f"{tens} × {b} = {tens * b} and {ones} × {b} = {ones * b}"
            return f"{products}. So {a} × {b} = {result}."
    elif sign != "×" and len(parts) > 1 and a > 10:
        steps, reached = [], a
        for part in parts:
            after = reached + part if sign == "+" else reached - part
            steps.append(f"{reached} {sign} {part} = {after}")
            reached = after
        return f"{' and '.join(steps)}. So {a} {sign} {b} = {result}."
    return f"{a} {sign} {b} = {result}."


def in_words(number: int) -> str:
    """Return a number from 0 to 99 in English words."""
    if number < len(_UNITS):
        return _UNITS[number]
    tens, ones = _TENS[number // 10 - 2], number % 10
    return f"{tens}-{_UNITS[ones]}" if ones else tens


def _draw(rng: random.Random) -> tuple[int, str, int]:
    kind = rng.random()
    # Digits are the steps of which larger sums consist.
    most = 9 if rng.random() < 0.4 else 99
    if kind < 0.55:
        high = 99 if rng.random() < 0.8 else 899
        return rng.randint(2, high), "+", rng.randint(2, most)
    if kind < 0.8:
        high = 99 if rng.random() < 0.85 else 899
        a, b = sorted((rng.randint(2, high), rng.randint(2, most)), reverse=True)
        return a, "-", b
    if rng.random() < 0.7:
        return rng.randint(2, 12), "×", rng.randint(2, 12)
    return rng.randint(13, 99), "×", rng.randint(2, 9)
