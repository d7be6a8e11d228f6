"""Names, products, new words and chat abbreviations that the word lists lack.

Names that are also words (may, turkey, polish, swift, go, rust, excel, will, mark) are omitted, and
so are technical terms, which are protected (words/technical.txt).
"""

from services.enhancer.correction.protected import technical_terms

# Always written as here: languages, countries, cities, days, months, people, holidays.
PLACES_AND_NAMES = """
English French German Spanish Italian Portuguese Russian Chinese Japanese Korean Arabic Hindi Dutch
Swedish Norwegian Danish
Greek Latin Hebrew Persian Urdu Bengali Punjabi Vietnamese Thai Indonesian Ukrainian Romanian
Hungarian Czech Finnish
Mandarin Cantonese Swahili Esperanto American British European African Asian Canadian Australian
Mexican Indian Irish Scottish
France Germany Spain Italy Portugal Russia China Japan Korea India Brazil Mexico Canada Australia
England Scotland Ireland
Britain America Argentina Colombia Peru Cuba Egypt Nigeria Kenya Ethiopia Morocco Algeria Iran Iraq
Israel Syria Afghanistan
Pakistan Bangladesh Nepal Thailand Vietnam Indonesia Malaysia Singapore Philippines Taiwan Ukraine
Poland Romania Hungary
Austria Switzerland Belgium Netherlands Denmark Norway Sweden Finland Iceland Serbia Croatia
Bulgaria Venezuela
Europe Asia Africa Antarctica Pacific Atlantic Mediterranean Alps Himalayas Everest Sahara Amazonia
Paris London Berlin Madrid Rome Lisbon Vienna Prague Budapest Warsaw Moscow Kyiv Athens Dublin
Amsterdam Brussels Zurich Geneva
Stockholm Oslo Copenhagen Helsinki Barcelona Milan Munich Hamburg Istanbul Cairo Dubai Mumbai Delhi
Bangalore Beijing Shanghai
Tokyo Osaka Kyoto Seoul Bangkok Jakarta Sydney Melbourne Toronto Vancouver Montreal Boston Chicago
Seattle Houston Miami
California Texas Florida Hawaii Alaska Arizona Michigan Manhattan Brooklyn Hollywood
Monday Tuesday Wednesday Thursday Friday Saturday Sunday
January February April June July September October November December
Christmas Easter Halloween Thanksgiving Ramadan Hanukkah Diwali
Shakespeare Einstein Newton Darwin Mozart Beethoven Picasso Napoleon Lincoln Gandhi Jesus Buddha
Muhammad
"""
PRODUCTS = """
Python JavaScript TypeScript Java Kotlin ChatGPT Debian Haskell COBOL MATLAB iPhone iPad iOS macOS
YouTube Google
Facebook Instagram Twitter WhatsApp TikTok LinkedIn Netflix Microsoft Wikipedia Minecraft Bitcoin
Ethereum PowerPoint
Photoshop Bluetooth USA UK EU UN
"""
# Newer words that the lists (from 2006) lack; without capitals.
NEW_WORDS = """
math maths persona personas simile chatbot chatbots carb carbs holdem emoji emojis selfie blockchain
dataset datasets
backend frontend pandas plugin plugins microservice microservices hashmap hashtable middleware
podcast podcasts
hashtag hashtags crypto cryptocurrency smartwatch vlog vlogs webinar timestamp timestamps boolean
tuple tuples enum
refactor refactoring docstring autocomplete dropdown workflow workflows onboarding deepfake malware
ransomware vegan
vegans gluten keto lockdown ok okay hi hey wifi tv sudoku anime manga ramen tofu quinoa hummus
kombucha smoothie
smoothies upvote unfollow login logout config repo repos
"""
NEW_WORD_COUNT = 20_000_000
# Shorter technical terms are never candidates: too many typos of other words look like them.
MIN_CANDIDATE_TERM_LETTERS = 6

# Chat spelling → possible meanings; with several meanings the neighbouring words decide.
ABBREVIATIONS: dict[str, tuple[str, ...]] = {
    "hw": ("how", "homework"),
    "wat": ("what",),
    "wht": ("what",),
    "wut": ("what",),
    "wot": ("what",),
    "whats": ("what's",),
    "wats": ("what's",),
    "hows": ("how's",),
    "wheres": ("where's",),
    "whos": ("who's",),
    "y": ("why",),
    "u": ("you",),
    "ur": ("your", "you're"),
    "urself": ("yourself",),
    "r": ("are",),
    "pls": ("please",),
    "plz": ("please",),
    "plss": ("please",),
    "plzz": ("please",),
    "thx": ("thanks",),
    "thnx": ("thanks",),
    "tnx": ("thanks",),
    "thanx": ("thanks",),
    "ty": ("thank you",),
    "hlp": ("help",),
    "bcz": ("because",),
    "bcoz": ("because",),
    "bcuz": ("because",),
    "cuz": ("because",),
    "coz": ("because",),
    "bc": ("because",),
    "becuz": ("because",),
    "b4": ("before",),
    "l8r": ("later",),
    "gr8": ("great",),
    "m8": ("mate",),
    "2day": ("today",),
    "2moro": ("tomorrow",),
    "2nite": ("tonight",),
    "tmrw": ("tomorrow",),
    "tmr": ("tomorrow",),
    "tonite": ("tonight",),
    "ppl": ("people",),
    "sb": ("somebody",),
    "sth": ("something",),
    "smth": ("something",),
    "somthin": ("something",),
    "abt": ("about",),
    "cn": ("can",),
    "cud": ("could",),
    "shud": ("should",),
    "wud": ("would",),
    "wld": ("would",),
    "shld": ("should",),
    "cld": ("could",),
    "hv": ("have",),
    "hav": ("have",),
    "gv": ("give",),
    "mk": ("make",),
    "wnt": ("want",),
    "nt": ("not",),
    "nd": ("and",),
    "n": ("and",),
    "d": ("the",),
    "da": ("the",),
    "dis": ("this",),
    "dat": ("that",),
    "tht": ("that",),
    "thru": ("through",),
    "tho": ("though",),
    "wen": ("when",),
    "wit": ("with",),
    "w/": ("with",),
    "frm": ("from",),
    "fr": ("for",),
    "msg": ("message",),
    "txt": ("text",),
    "pic": ("picture",),
    "idk": ("I don't know",),
    "dunno": ("don't know",),
    "lemme": ("let me",),
    "gimme": ("give me",),
    "alot": ("a lot",),
    "infact": ("in fact",),
    "aswell": ("as well",),
    "eachother": ("each other",),
    "incase": ("in case",),
    "kinda": ("kind of",),
    "sorta": ("sort of",),
    "wanna": ("want to",),
    "gonna": ("going to",),
    "gotta": ("have to",),
    "im": ("I'm",),
    "ive": ("I've",),
    "dont": ("don't",),
    "dosent": ("doesn't",),
    "dosnt": ("doesn't",),
    "helo": ("hello",),
    "doesnt": ("doesn't",),
    "didnt": ("didn't",),
    "cant": ("can't",),
    "couldnt": ("couldn't",),
    "shouldnt": ("shouldn't",),
    "wouldnt": ("wouldn't",),
    "wont": ("won't",),
    "isnt": ("isn't",),
    "arent": ("aren't",),
    "wasnt": ("wasn't",),
    "werent": ("weren't",),
    "hasnt": ("hasn't",),
    "havent": ("haven't",),
    "hadnt": ("hadn't",),
    "thats": ("that's",),
    "theres": ("there's",),
    "heres": ("here's",),
    "youre": ("you're",),
    "theyre": ("they're",),
    "youve": ("you've",),
    "youll": ("you'll",),
    "theyve": ("they've",),
    "weve": ("we've",),
    "itll": ("it'll",),
    "hes": ("he's",),
    "shes": ("she's",),
    "lets": ("let's", "lets"),
    "ot": ("to",),
    "fo": ("of",),
    "si": ("is",),
    "nad": ("and",),
    "hte": ("the",),
    "adn": ("and",),
}
# Abbreviations that are also variables, letters or words. They are expanded only after a word of
# the first set or before a word of the second set.
ABBREVIATION_CONTEXTS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "r": (
        frozenset(
            "how what where who why when we you u they these those there things ppl people".split()
        ),
        frozenset("u you we they these those there".split()),
    ),
    "y": (
        frozenset({"but", "so", "and"}),
        frozenset("do does did is are r u you cant dont".split()),
    ),
    "n": (
        frozenset({"me", "you", "u", "him", "her", "it"}),
        frozenset({"then", "u", "you", "i", "me"}),
    ),
    "d": (
        frozenset({"in", "of", "on", "to", "is", "at", "for", "from", "all", "what"}),
        frozenset(),
    ),
    "nt": (
        frozenset(
            "do does did is are was were can could should would will i am im has have".split()
        ),
        frozenset(),
    ),
    "cn": (
        frozenset({"how", "i", "u", "you", "we", "what", "where"}),
        frozenset({"u", "i", "you", "we"}),
    ),
    "fr": (
        frozenset("is it this that them me thanks thx good code looking".split()),
        frozenset({"me", "my", "the", "a", "d"}),
    ),
    "wit": (
        frozenset("help hlp with me come work go problem issue deal start".split()),
        frozenset({"my", "the", "this", "u", "you", "me"}),
    ),
    "mk": (frozenset({"to", "i", "u", "you", "2"}), frozenset({"a", "me", "it", "the", "my"})),
    "sb": (frozenset({"help", "ask", "tell", "can", "if", "for", "with", "to"}), frozenset()),
    "bc": (frozenset(), frozenset("i im it its my the we they you u he she".split())),
    "dis": (
        frozenset("is in do with at of how like what".split()),
        frozenset("is one thing".split()),
    ),
    "da": (
        frozenset({"in", "of", "on", "to", "is", "at", "for", "from", "all", "what", "whats"}),
        frozenset(),
    ),
    "hes": (frozenset(), frozenset("a not the my so very really going always been never".split())),
}


def canonical_forms() -> dict[str, str]:
    """Return the written form of names and products by their form in lower case."""
    return {word.lower(): word for word in f"{PLACES_AND_NAMES} {PRODUCTS}".split()}


def extra_counts() -> dict[str, int]:
    """Return counts for names, products, new words and technical terms."""
    terms = [
        term
        for term in technical_terms()
        if len(term) >= MIN_CANDIDATE_TERM_LETTERS and term.isalpha()
    ]
    return dict.fromkeys([*canonical_forms(), *NEW_WORDS.split(), *terms], NEW_WORD_COUNT)
