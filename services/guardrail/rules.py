"""Rules on wishes and answers: few, sure, and read on the text without disguise. What they miss is
the classifier's to find.

A rule is a wish ("how do I", "steps to") close before a harmful deed, which is a verb close before
its object. The deed alone
passes: a question about history, a news item, a story.
"""

import re
from dataclasses import dataclass

from services.guardrail.verdict import Category


def _any(phrases: str) -> str:
    """An alternation of comma-separated phrases; each may be a small pattern without commas."""
    return _either(*(phrase.strip() for phrase in phrases.split(",")))


def _either(*patterns: str) -> str:
    return f"(?:{'|'.join(patterns)})"


def _within(words: int) -> str:
    """Up to so many words between; sentences are not crossed."""
    return rf"(?:[^\w.?!]+\w+){{0,{words}}}?[^\w.?!]+"


def _deed(verbs: str, objects: str, *, words_between: int = 3) -> str:
    return rf"{_any(verbs)}{_within(words_between)}{_any(objects)}\b"


WISH = _any(
    "how (?:to|do i|can i|do you|can you|would i|could i|should i|do we|can we|does one|can one|someone could|one could),"
    "how (?:a person|somebody|someone|one) (?:can|could|might|would),"
    "help (?:me|us),teach (?:me|us),show (?:me|us),tell me,"
    "(?:ways?|steps?|instructions?|guide|tutorial|recipe|plan|script|program|code|tools?|ingredients) (?:to|for|on|that|of),"
    "(?:give|write|create|generate|develop|draft|make|provide|explain|describe)(?: me| us)?,"
    "i (?:want|ne?ed|am going|plan|would like|wanna) to,i'm going to,i'd like to"
)
MAKE = "make,makes,making,build,building,create,assemble,construct,manufacture,produce,plant,detonate,synthesi[sz]e,buy"
PEOPLE = (
    "wife,husband,boss,neighbou?rs?,girlfriend,boyfriend,ex,family,parents?,mother,father,brother,sister,child,children,kids?,"
    "baby,person,people,man,woman,women,girls?,boys?,minors?,coworkers?,classmates?,teachers?,students?,president,politicians?,"
    "police officers?,crowd,someone,somebody,anyone,everyone,him,her,them,strangers?,jews,muslims,immigrants"
)
DEEDS = {
    "weapons": _deed(
        MAKE,
        "(?<!bath )(?<!cherry )(?<!photo )(?<!seed )bombs?(?! calorimeter),explosives?,grenades?,molotovs?(?: cocktails?)?,"
        "land ?mines?,napalm,nerve (?:gas|agents?),sarin,ricin,anthrax,mustard gas,(?:chemical|biological) weapons?,bioweapons?,"
        "ghost guns?,untraceable guns?,silencers?",
    ),
    "drugs": _deed(
        f"{MAKE},cook,cooking,extract,smuggle,smuggling,sell,selling",
        "meth,methamphetamine,crystal meth,heroin,(?:crack )?cocaine,fentanyl,mdma,ecstasy,lsd,ghb,date rape drugs?",
    ),
    "killing": _deed(
        "kill,killing,murder,murdering,assassinate,poison,poisoning,stab,strangle,kidnap,abduct,torture,behead",
        rf"{_any(PEOPLE)}(?! (?:process|processes|thread|threads|task|tasks|with kindness|of kindness|off|on fire))",
        words_between=2,
    ),
    "massacre": _deed(
        "commit,carry out,plan,planning,committing,stage,organi[sz]e",
        "(?:mass|school) shooting,terror(?:ist)? attack,massacre,genocide,suicide bombing,bombing",
    ),
    "intrusion": _deed(
        "hack,hacking,hack into,hack in,break into,crack,phish,ddos,steal,stealing,hijack,spy on",
        "accounts?,phone,email,webcam,messages,instagram,facebook,wi-?fi,passwords?,credit cards?,card numbers?,bank,atms?,"
        "identit(?:y|ies),social security numbers?,government (?:database|network|website|server)s?",
    ),
    "malware": _deed(
        f"{MAKE},write,code,spread,develop,generate,program,send",
        "ransomware,malware,keyloggers?,(?:computer )?virus(?:es)?(?! scanner| protection| removal),computer worms?,trojan horse,"
        "botnets?,spyware,rootkits?,phishing (?:e-?mails?|pages?|sites?|websites?|messages?)",
    ),
    "fraud": _deed(
        f"{MAKE},print,use,launder,evade,commit,run",
        "drug money,dirty money,counterfeit (?:money|bills),fake (?:money|passports?|ids?|prescriptions?),tax evasion,"
        "taxes illegally,insurance fraud,identity theft,credit card fraud,ponzi scheme,stolen (?:cards?|identit(?:y|ies))",
        words_between=2,
    ),
    "forgery": _deed(
        "forge,forging,counterfeit,clone,fake",
        "money,bills,banknotes,passports?,id cards?,driver'?s licen[sc]es?,prescriptions?,credit cards?,signatures?",
        words_between=2,
    ),
    "abuse": _deed(
        "stalk,blackmail,dox,doxx,groom,traffic,trafficking,molest,rape,raping,sexually abuse,harass,bully",
        rf"{_any(PEOPLE)}",
        words_between=2,
    ),
    "minors": _deed(
        "sexual,sexually,erotic,nude,nudes,porn,pornographic,sex",
        "child(?:ren)?,minors?,kids?,underage,toddlers?,preteens?,schoolgirls?",
    ),
}
SELF_HARM = re.compile(
    r"\b"
    + _either(
        "i (?:want|wish|am going|plan|need) to (?:die|kill myself|end (?:my life|it all))",
        "i'm going to (?:kill myself|end my life)|i(?:'m| am) suicidal|i want to (?:hurt|cut|harm) myself",
        r"(?:how|ways?|painless(?:ly)?)\b[^.?!]{0,40}\b(?:kill|hang|poison|hurt|cut|starve|drown) myself",
        "how (?:to|do i|can i) (?:commit suicide|die painlessly|end my life)|painless (?:suicide|way to die)|suicide methods?",
    )
    + r"\b"
)
RULES = _any(
    "instructions?,prompts?,rules,directions?,guidelines,directives?,programming,restrictions,filters?,commands?,polic(?:y|ies)"
)
FREE = _any("restrictions?,rules,guidelines,filters?,limits,limitations,ethics,morals")
EARLIER = _any("previous,prior,above,earlier,preceding,system,original,initial,your,safety")
INNER = "(?:(?:hidden|secret|initial|original|full|exact|internal|system) )+"
INJECTION = re.compile(
    r"\b"
    + _either(
        rf"(?:ignore|disregard|forget|override|bypass){_within(4)}{EARLIER}{_within(2)}{RULES}",
        "ignore (?:everything|all) (?:above|before|you were told|i said|i told you)",
        rf"(?:reveal|show|print|repeat|output|tell me|give me|display|leak|expose|copy){_within(3)}"
        rf"(?:system prompt|(?:your|the) {INNER}{RULES})",
        rf"what (?:is|are|was|were) your {INNER}{RULES}",
        rf"(?:you are|you're|act as|become|pretend to be|enter|enable|activate|switch to){_within(4)}"
        r"(?:do anything now|jailb(?:reak|roken)(?: mode)?|developer mode|god mode|"
        r"(?:evil|unrestricted|unfiltered|uncensored) (?:ai|mode|assistant|model)|"
        rf"(?:ai|assistant|model|chatbot) (?:with no|without(?: any)?) {FREE})",
        rf"(?:pretend|imagine|act as if|act like) (?:that )?you (?:have no|don't have(?: any)?|are not bound by(?: any)?) {FREE}",
        rf"do anything now|developer mode enabled|without (?:any )?(?:ethical|moral|safety) {FREE}",
    )
    + r"\b"
)
# Here the making itself is the wish: "write me a convincing phishing email", but not "write an
# essay about phishing".
TOOLS = (
    r"(?:write|create|generate|develop|draft|make|build|code|program)(?: me| us)?"
    r"(?: (?:a|an|some|the|simple|working|convincing|realistic|new|undetectable|python)){0,3} "
    + _any(
        "phishing (?:e-?mails?|pages?|sites?|websites?|messages?),ransomware,keyloggers?,(?:computer )?worms?,botnets?,spyware,rootkits?"
    )
    + r"\b(?! (?:scanner|detector|filter|training|quiz|removal|protection|awareness|example))"
)
HARM = re.compile(
    rf"\b(?:{WISH}{_within(5)}(?:{'|'.join(f'(?P<{name}>{deed})' for name, deed in DEEDS.items())})|(?P<tools>{TOOLS}))"
)
# Advice against, and refusals: "I can't tell you how to …", "how do I stop someone who …".
AGAINST = re.compile(
    r"\b(?:can't|cannot|can not|won't|unable|not able|never|illegal|against|prevent|protect|avoid|stop|detect|report|defend|"
    r"sorry|don't|do not|not)\b[^.?!\n]*$"
)


@dataclass(frozen=True)
class Hit:
    """A rule that holds, and its category."""

    category: Category
    rule: str


def match_request(readings: tuple[str, ...]) -> Hit | None:
    """The first rule that holds on any reading of a request (disguise.readings: in lower case)."""
    for reading in readings:
        if SELF_HARM.search(reading):
            return Hit(Category.SELF_HARM, "self_harm")
        if name := _harm(reading):
            return Hit(Category.HARMFUL_INTENT, name)
        if INJECTION.search(reading):
            return Hit(Category.INJECTION, "injection")
    return None


def match_answer(readings: tuple[str, ...]) -> Hit | None:
    """The first rule on deeds that holds on any reading of an answer: instructions, not refusals."""
    for reading in readings:
        if name := _harm(reading):
            return Hit(Category.HARMFUL_INTENT, name)
    return None


def _harm(reading: str) -> str:
    for found in HARM.finditer(reading):
        before = reading[max(0, found.start() - 80) : found.start()]
        between = reading[found.start() : found.start(found.lastgroup or 0)]
        if not AGAINST.search(before) and not AGAINST.search(between):
            return str(found.lastgroup)
    return ""
