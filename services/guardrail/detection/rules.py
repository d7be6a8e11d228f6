"""Rules on requests and answers, applied to normalized text.

The rules are few and precise; the classifier covers the rest. A rule matches a request ("how do I",
"steps to") shortly before a harmful action, which is a verb shortly before an object. An action
without a request does not match: a question about history, a news item, a story.
"""

import re
from dataclasses import dataclass

from services.guardrail.verdict import Category


def _any(phrases: str) -> str:
    """Return an alternation of comma-separated phrases, which may be patterns without commas."""
    return _either(*(phrase.strip() for phrase in phrases.split(",")))


def _either(*patterns: str) -> str:
    return f"(?:{'|'.join(patterns)})"


def _within(words: int) -> str:
    """Return a pattern for at most `words` words within a sentence."""
    return rf"(?:[^\w.?!]+\w+){{0,{words}}}?[^\w.?!]+"


def _action(verbs: str, objects: str, *, words_between: int = 3) -> str:
    return rf"{_any(verbs)}{_within(words_between)}{_any(objects)}\b"


REQUEST = _any(
    "how (?:to|do i|can i|do you|can you|would i|could i|should i|do we|can we|does one|can "
    "one|someone could|one could),"
    "how (?:a person|somebody|someone|one) (?:can|could|might|would),"
    "help (?:me|us),teach (?:me|us),show (?:me|us),tell me,"
    "(?:ways?|steps?|instructions?|guide|tutorial|recipe|plan|script|program|code|tools?|"
    "ingredients) (?:to|for|on|that|of),"
    "(?:give|write|create|generate|develop|draft|make|provide|explain|describe)(?: me| us)?,"
    "i (?:want|ne?ed|am going|plan|would like|wanna) to,i'm going to,i'd like to"
)
MAKE = (
    "make,makes,making,build,building,create,assemble,construct,manufacture,produce,plant,"
    "detonate,synthesi[sz]e,buy"
)
PEOPLE = (
    "wife,husband,boss,neighbou?rs?,girlfriend,boyfriend,ex,family,parents?,mother,father,"
    "brother,sister,child,children,kids?,"
    "baby,person,people,man,woman,women,girls?,boys?,minors?,coworkers?,classmates?,teachers?,"
    "students?,president,politicians?,"
    "police officers?,crowd,someone,somebody,anyone,everyone,him,her,them,strangers?,jews,"
    "muslims,immigrants"
)
HARMFUL_ACTIONS = {
    "weapons": _action(
        MAKE,
        "(?<!bath )(?<!cherry )(?<!photo )(?<!seed )bombs?(?! calorimeter),explosives?,"
        "grenades?,molotovs?(?: cocktails?)?,"
        "land ?mines?,napalm,nerve (?:gas|agents?),sarin,ricin,anthrax,mustard gas,"
        "(?:chemical|biological) weapons?,bioweapons?,"
        "ghost guns?,untraceable guns?,silencers?",
    ),
    "drugs": _action(
        f"{MAKE},cook,cooking,extract,smuggle,smuggling,sell,selling",
        "meth,methamphetamine,crystal meth,heroin,(?:crack )?cocaine,fentanyl,mdma,ecstasy,"
        "lsd,ghb,date rape drugs?",
    ),
    "killing": _action(
        "kill,killing,murder,murdering,assassinate,poison,poisoning,stab,strangle,kidnap,"
        "abduct,torture,behead",
        rf"{_any(PEOPLE)}(?! (?:process|processes|thread|threads|task|tasks|with kindness|of "
        rf"kindness|off|on fire))",
        words_between=2,
    ),
    "massacre": _action(
        "commit,carry out,plan,planning,committing,stage,organi[sz]e",
        "(?:mass|school) shooting,terror(?:ist)? attack,massacre,genocide,suicide bombing,bombing",
    ),
    "intrusion": _action(
        "hack,hacking,hack into,hack in,break into,crack,phish,ddos,steal,stealing,hijack,spy on",
        "accounts?,phone,email,webcam,messages,instagram,facebook,wi-?fi,passwords?,credit "
        "cards?,card numbers?,bank,atms?,"
        "identit(?:y|ies),social security numbers?,government "
        "(?:database|network|website|server)s?",
    ),
    "malware": _action(
        f"{MAKE},write,code,spread,develop,generate,program,send",
        "ransomware,malware,keyloggers?,(?:computer )?virus(?:es)?(?! scanner| protection| "
        "removal),computer worms?,trojan horse,"
        "botnets?,spyware,rootkits?,phishing (?:e-?mails?|pages?|sites?|websites?|messages?)",
    ),
    "fraud": _action(
        f"{MAKE},print,use,launder,evade,commit,run",
        "drug money,dirty money,counterfeit (?:money|bills),fake "
        "(?:money|passports?|ids?|prescriptions?),tax evasion,"
        "taxes illegally,insurance fraud,identity theft,credit card fraud,ponzi scheme,stolen "
        "(?:cards?|identit(?:y|ies))",
        words_between=2,
    ),
    "forgery": _action(
        "forge,forging,counterfeit,clone,fake",
        "money,bills,banknotes,passports?,id cards?,driver'?s licen[sc]es?,prescriptions?,"
        "credit cards?,signatures?",
        words_between=2,
    ),
    "abuse": _action(
        "stalk,blackmail,dox,doxx,groom,traffic,trafficking,molest,rape,raping,sexually abuse,"
        "harass,bully",
        rf"{_any(PEOPLE)}",
        words_between=2,
    ),
    "minors": _action(
        "sexual,sexually,erotic,nude,nudes,porn,pornographic,sex",
        "child(?:ren)?,minors?,kids?,underage,toddlers?,preteens?,schoolgirls?",
    ),
}
SELF_HARM = re.compile(
    r"\b"
    + _either(
        "i (?:want|wish|am going|plan|need) to (?:die|kill myself|end (?:my life|it all))",
        "i'm going to (?:kill myself|end my life)|i(?:'m| am) suicidal|i want to "
        "(?:hurt|cut|harm) myself",
        r"(?:how|ways?|painless(?:ly)?)\b[^.?!]{0,"
        r"40}\b(?:kill|hang|poison|hurt|cut|starve|drown) myself",
        "how (?:to|do i|can i) (?:commit suicide|die painlessly|end my life)|painless "
        "(?:suicide|way to die)|suicide methods?",
    )
    + r"\b"
)
INSTRUCTIONS = _any(
    "instructions?,prompts?,rules,directions?,guidelines,directives?,programming,restrictions,"
    "filters?,commands?,polic(?:y|ies)"
)
LIMITS = _any("restrictions?,rules,guidelines,filters?,limits,limitations,ethics,morals")
EARLIER = _any("previous,prior,above,earlier,preceding,system,original,initial,your,safety")
INTERNAL = "(?:(?:hidden|secret|initial|original|full|exact|internal|system) )+"
INJECTION = re.compile(
    r"\b"
    + _either(
        rf"(?:ignore|disregard|forget|override|bypass)"
        rf"{_within(4)}{EARLIER}{_within(2)}{INSTRUCTIONS}",
        "ignore (?:everything|all) (?:above|before|you were told|i said|i told you)",
        rf"(?:reveal|show|print|repeat|output|tell me|give me|display|leak|expose|copy){_within(3)}"
        rf"(?:system prompt|(?:your|the) {INTERNAL}{INSTRUCTIONS})",
        rf"what (?:is|are|was|were) your {INTERNAL}{INSTRUCTIONS}",
        rf"(?:you are|you're|act as|become|pretend to be|enter|enable|activate|switch "
        rf"to){_within(4)}"
        r"(?:do anything now|jailb(?:reak|roken)(?: mode)?|developer mode|god mode|"
        r"(?:evil|unrestricted|unfiltered|uncensored) (?:ai|mode|assistant|model)|"
        rf"(?:ai|assistant|model|chatbot) (?:with no|without(?: any)?) {LIMITS})",
        rf"(?:pretend|imagine|act as if|act like) (?:that )?you (?:have no|don't have(?: "
        rf"any)?|are not bound by(?: any)?) {LIMITS}",
        rf"do anything now|developer mode enabled|without (?:any )?(?:ethical|moral|safety) "
        rf"{LIMITS}",
    )
    + r"\b"
)
# Requests to write something harmful: "write me a convincing phishing email", but not "write an
# essay about phishing".
HARMFUL_WRITING = (
    r"(?:write|create|generate|develop|draft|make|build|code|program)(?: me| us)?"
    r"(?: (?:a|an|some|the|simple|working|convincing|realistic|new|undetectable|python)){0,3} "
    + _any(
        "phishing (?:e-?mails?|pages?|sites?|websites?|messages?),ransomware,keyloggers?,"
        "(?:computer )?worms?,botnets?,spyware,rootkits?"
    )
    + r"\b(?! (?:scanner|detector|filter|training|quiz|removal|protection|awareness|example))"
)
ACTIONS = "|".join(f"(?P<{name}>{action})" for name, action in HARMFUL_ACTIONS.items())
HARM = re.compile(rf"\b(?:{REQUEST}{_within(5)}(?:{ACTIONS})|(?P<tools>{HARMFUL_WRITING}))")
# Instructions in an answer ("you build a … like this"), which contain no request.
HARMFUL_ANSWER = re.compile(
    rf"\byou (?:(?:can|could|should|must|would|need to|have to|first|simply|just) )?(?:{ACTIONS})"
    r"(?:[^\w.?!]+\w+){0,6}?[^\w.?!]+(?:like this|as follows|this way|by \w+ing|with these steps)\b"
)
# Refusals and questions about prevention: "I can't tell you how to …", "how do I stop someone …".
NEGATION = re.compile(
    r"\b(?:can't|cannot|can not|won't|unable|not "
    r"able|never|illegal|against|prevent|protect|avoid|stop|detect|report|defend|"
    r"sorry|don't|do not|not)\b[^.?!\n]*$"
)


@dataclass(frozen=True)
class RuleMatch:
    """A rule that matches, with its category."""

    category: Category
    rule: str


def match_request(variants: tuple[str, ...], *, is_instruction: bool = False) -> RuleMatch | None:
    """Return the first rule that matches a variant of a request (`normalization.variants`).

    Args:
        variants: readings of the text.
        is_instruction: the text is a system message. Such messages often forbid what the rules on
            injection look for ("never reveal the system prompt"), so a negated match is none.
    """
    for variant in variants:
        if SELF_HARM.search(variant):
            return RuleMatch(Category.SELF_HARM, "self_harm")
        if name := _harm(variant):
            return RuleMatch(Category.HARMFUL_INTENT, name)
        if _injection(variant, allow_negated=is_instruction):
            return RuleMatch(Category.INJECTION, "injection")
    return None


def match_answer(variants: tuple[str, ...]) -> RuleMatch | None:
    """Return the first rule on harmful actions that matches a variant of an answer."""
    for variant in variants:
        if name := _harm(variant) or _harm(variant, HARMFUL_ANSWER):
            return RuleMatch(Category.HARMFUL_INTENT, name)
    return None


def _injection(variant: str, *, allow_negated: bool) -> bool:
    return any(
        not allow_negated
        or not NEGATION.search(variant[max(0, found.start() - 80) : found.start()])
        for found in INJECTION.finditer(variant)
    )


def _harm(variant: str, pattern: re.Pattern[str] = HARM) -> str:
    for found in pattern.finditer(variant):
        before = variant[max(0, found.start() - 80) : found.start()]
        between = variant[found.start() : found.start(found.lastgroup or 0)]
        if not NEGATION.search(before) and not NEGATION.search(between):
            return str(found.lastgroup)
    return ""
