"""Rules on what users ask: few, sure, and read on the text without disguise. What they miss is the classifier's to find.

A rule is a wish ("how do I", "help me", "write") close before a harmful deed; the deed alone (a question about history) passes.
"""

import re
from dataclasses import dataclass

from services.guardrail.verdict import Category

# A word may stand between wish and deed, not a sentence.
NEAR = r"(?:\W+\w+){0,5}?\W+"
WISH = (
    r"(?:how (?:to|do i|can i|do you|would i|could i|should i|does one|can one|might one)|help me|teach me|show me|tell me how|"
    r"(?:ways?|steps?|instructions?|guide|tutorial|recipe|plan|script|program|code|best way) (?:to|for|on|that|of)|"
    r"(?:give|write|create|generate|develop|draft|make|provide|explain)(?: me| us)?|i (?:want|need|am going|plan|would like) to|"
    r"i'm going to)"
)
DEEDS = {
    "weapons": (
        r"(?:make|build|create|assemble|construct|detonate|manufacture|plant|making|building)(?:\W+\w+){0,3}?\W+"
        r"(?:(?<!bath )(?<!photo )bombs?(?! calorimeter)|explosives?|grenades?|molotovs?(?: cocktails?)?|land ?mines?|napalm|"
        r"nerve (?:gas|agents?)|sarin|ricin|mustard gas|chemical weapons?|biological weapons?|bioweapons?|dirty bomb|ghost guns?|silencers?)"
    ),
    "drugs": (
        r"(?:make|cook|synthesi[sz]e|manufacture|produce|extract|smuggle|sell|cooking|making)(?:\W+\w+){0,3}?\W+"
        r"(?:meth|methamphetamine|crystal meth|heroin|cocaine|crack cocaine|fentanyl|mdma|ecstasy|lsd|ghb|date rape drugs?)"
    ),
    "killing": (
        r"(?:kill|murder|assassinate|poison|stab|strangle|shoot|kidnap|abduct|torture|behead)\W+(?:and\W+\w+\W+)?"
        r"(?:my|a|an|the|some|another|his|her|someone|somebody|people|person|him|her|them|everyone|children|kids)"
        r"(?:\W+(?:wife|husband|boss|neighbou?rs?|girlfriend|boyfriend|ex|family|parents?|mother|father|brother|sister|child|children|"
        r"kids?|baby|person|people|man|woman|coworkers?|classmates?|teachers?|president|politicians?|police officers?|crowd)|"
        r"(?<=someone|omebody|veryone)|(?<=people)|(?<=person)|(?<=\bhim|\bher)(?!\W+\w)|(?<=\bthem)(?!\W+\w))"
    ),
    "shooting": r"(?:commit|carry out|plan|planning|committing)(?:\W+\w+){0,2}?\W+(?:mass shooting|school shooting|terror(?:ist)? attack|massacre|genocide|murder|suicide bombing)",
    "intrusion": (
        r"(?:hack(?:ing)?(?: in(?:to)?)?|break into|crack|phish|ddos|steal|hijack|bypass)(?:\W+\w+){0,3}?\W+"
        r"(?:(?:someone|somebody|anyone|people|neighbou?r|girlfriend|boyfriend|wife|husband|ex|boss|victim)(?:'?s)?\W+(?:\w+\W+)?"
        r"(?:accounts?|phone|email|password|computer|wi-?fi|instagram|facebook|webcam|messages)|bank accounts?|atms?|credit cards?|"
        r"credit card numbers?|identit(?:y|ies)|social security numbers?|government (?:database|network|website|server)s?)"
    ),
    "malware": r"(?:ransomware|malware|keylogger|computer (?:virus|worm)|trojan horse|botnet|spyware|phishing (?:email|e-mail|page|site|website|message)s?|rootkit)(?! (?:work|scan|protect|detect|removal|analys|defen|prevent))",
    "fraud": (
        r"(?:launder money|money laundering|counterfeit (?:money|bills|currency)|print (?:fake|counterfeit) money|forge (?:a |an |my )?(?:passport|id|signature|documents?|prescription)|"
        r"fake (?:passports?|ids?|driver'?s licen[sc]es?|prescriptions?)|clone (?:a )?credit cards?|evade taxes|tax evasion|insider trading|ponzi scheme|pyramid scheme|identity theft|credit card fraud)(?! (?:work|detect|prevent|law))"
    ),
    "abuse": (
        r"(?:stalk|blackmail|dox|doxx|groom|traffic|molest|rape|sexually abuse|harass|bully|threaten)\W+(?:my|a|an|the|some|someone|somebody|people|"
        r"children|kids|minors?|women|girls?|boys?|him|her|ex)\b"
    ),
    "minors": r"(?:child (?:porn\w*|sexual)|sexual\w*(?:\W+\w+){0,3}?\W+(?:child(?:ren)?|minors?|kids?|underage|toddlers?|preteens?)|(?:underage|preteen) (?:sex|porn|nudes?)|lolicon)",
}
SELF_HARM = re.compile(
    r"\b(?:i (?:want|wish|am going|am planning|plan|need) to (?:die|kill myself|end (?:my life|it all))|i'm going to (?:kill myself|end my life)|"
    r"i(?:'m| am) suicidal|i want to (?:hurt|cut|harm) myself|(?:how|ways?|best way|easiest way|painless(?:ly)?)\b.{0,40}\b(?:kill|hang|poison|hurt|cut|starve) myself|"
    r"how (?:to|do i|can i) (?:commit suicide|die painlessly|end my life)|(?:lethal|fatal) dose\b.{0,40}\b(?:myself|for me)|"
    r"painless (?:suicide|way to die)|suicide methods?)\b"
)
INJECTION = re.compile(
    r"\b(?:(?:ignore|disregard|forget|override|bypass|skip)(?:\W+\w+){0,4}?\W+"
    r"(?:previous|prior|above|earlier|preceding|foregoing|system|original|initial|your|safety)(?:\W+\w+){0,2}?\W+"
    r"(?:instructions?|prompts?|rules|directions?|guidelines|directives?|programming|restrictions|filters?|commands?|polic(?:y|ies))|"
    r"ignore (?:everything|all) (?:above|before|you were told|i said|i told you)|"
    r"(?:reveal|show|print|repeat|output|tell me|give me|display|leak|expose|what (?:is|are|was)|copy|paste)(?:\W+\w+){0,3}?\W+"
    r"(?:system prompt|(?:your|the) (?:(?:hidden|secret|initial|original|full|exact|internal|system) )+(?:instructions?|prompts?|rules|message))|"
    r"(?:you are|you're|act as|become|pretend to be|enter|enable|activate|switch to)(?:\W+\w+){0,4}?\W+"
    r"(?:dan\b|do anything now|jailb(?:reak|roken)(?: mode)?|developer mode|god mode|evil (?:ai|mode|assistant)|unrestricted (?:ai|mode|assistant|model)|"
    r"unfiltered (?:ai|mode|assistant|model)|(?:ai|assistant|model|chatbot) (?:with no|without(?: any)?) (?:restrictions?|rules|filters?|limits|ethics|guidelines|morals))|"
    r"(?:pretend|imagine|act as if|act like) (?:that )?you (?:have no|don't have(?: any)?|do not have(?: any)?|are not bound by(?: any)?) (?:restrictions?|rules|guidelines|filters?|limits|limitations|ethics)|"
    r"do anything now|developer mode enabled|without (?:any )?(?:ethical|moral|safety) (?:restrictions?|guidelines|constraints?|limits?))"
)
HARM = re.compile(rf"\b{WISH}{NEAR}(?:{'|'.join(f'(?P<{name}>{deed})' for name, deed in DEEDS.items())})\b")


@dataclass(frozen=True)
class Hit:
    """A rule that holds, and its category."""

    category: Category
    rule: str


def match_rules(readings: tuple[str, ...]) -> Hit | None:
    """The first rule that holds on any reading of the text (disguise.readings: in lower case)."""
    for reading in readings:
        if SELF_HARM.search(reading):
            return Hit(Category.SELF_HARM, "self_harm")
        if found := HARM.search(reading):
            return Hit(Category.HARMFUL_INTENT, str(found.lastgroup))
        if INJECTION.search(reading):
            return Hit(Category.INJECTION, "injection")
    return None
