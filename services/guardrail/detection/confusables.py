"""Look-alikes of Latin letters in other scripts, by the Latin letter.

From confusables.txt 17.0.0 of Unicode's security mechanisms (UTS #39, © 2025 Unicode, Inc., Unicode
License v3): the characters whose prototype is a Latin letter, without those that `folding` maps by
their category, name or compatibility form. Of the prototype "l", which stands for I as well, names
that end in "I" or "IOTA" and capitals of an "i" are listed as "I". Small letters of Cherokee are
added, because they have the form of the capitals.
"""

CONFUSABLES = {
    "A": "\u13aa\u15c5\ua4ee\U000102a0\U00016f40",
    "B": "\u13f4\u15f7\u2c82\ua4d0\ua7b4\U00010282\U000102a1\U00010301",
    "C": ("\u03f9\u13df\u2ca4\ua4da\U000102a2\U00010302\U00010415\U0001051c\U000118f2\U0001f74c"),
    "D": "\u13a0\u15de\u15ea\ua4d3",
    "E": "\u13ac\u22ff\u2d39\ua4f0\U00010286\U000118a6\U000118ae",
    "F": ("\u03dc\u15b4\ua4dd\ua798\U00010287\U000102a5\U00010525\U000118a2\U000118c2\U0001d213"),
    "G": "\u050c\u13c0\u13f3\ua4d6",
    "H": "\u13bb\u157c\u2c8e\ua4e7\U000102cf",
    "I": "\u0196\u16c1\u2c92\ua4f2\U00010309",
    "J": "\u037f\u13ab\u148d\ua4d9\ua7b2",
    "K": "\u13e6\u16d5\u2c94\ua4d7\U00010518",
    "L": ("\u13de\u14aa\u2cd0\ua4e1\U0001041b\U00010526\U000118a3\U000118b2\U00016f16\U0001d22a"),
    "M": "\u03fa\u13b7\u15f0\u16d6\u2c98\ua4df\U000102b0\U00010311",
    "N": "\u2c9a\ua4e0\U00010513",
    "O": (
        "\u0555\u0b20\u12d0\u2c9e\u2d54\u3007\ua4f3\U00010292\U000102ab\U00010404"
        "\U000104c2\U00010516\U000118b5"
    ),
    "P": "\u13e2\u146d\u2ca2\u2cce\ua4d1\U00010295",
    "Q": "\u2d55",
    "R": "\u01a6\u13a1\u13d2\u1587\ua4e3\U000104b4\U00016f35\U0001d216",
    "S": "\u054f\u13d5\u13da\ua4e2\U00010296\U00010420\U00016f3a",
    "T": (
        "\u13a2\u22a4\u27d9\u2ca6\ua4d4\U00010297\U000102b1\U00010315\U000118bc\U00016f0a\U0001f768"
    ),
    "U": "\u054d\u1200\u144c\u222a\u22c3\ua4f4\U000104ce\U000118b8\U00016f42",
    "V": "\u0474\u13d9\u142f\u2d38\ua4e6\ua6df\U0001051d\U000118a0\U00016f08\U0001d20d",
    "W": "\u051c\u13b3\u13d4\ua4ea\U000118ef",
    "X": (
        "\u166d\u16b7\u2573\u2cac\u2d5d\ua4eb\ua7b3\U00010290\U000102b4\U00010317"
        "\U00010322\U00010527\U000118ec"
    ),
    "Y": "\u04ae\u13a9\u13bd\u2ca8\ua4ec\U000102b2\U000118a4\U00016f43",
    "Z": "\u13c3\ua4dc\U000102f5\U000118a9",
    "a": "\u237a\uab7a",
    "b": "\u0184\u042c\u13cf\u13fc\u1472\u15af\u2c83",
    "c": (
        "\u025b\u03f2\u0454\u0511\u1004\u105a\u22f4\u2c89\u2ca5\uab9b\uabaf\U00010429"
        "\U0001043d\U000118ce"
    ),
    "d": "\u13e7\u146f\ua4d2\uab70\uabb7",
    "e": "\u04bd\u212e\uab32\uab7c",
    "f": "\u0584\u1e9d\uab35",
    "g": "\u018d\u050d\u0581\u13fb\uab90",
    "h": "\u0570\u13c2\u2c8f\uab8b\uab92",
    "i": "\u0269\u0582\u13a5\u2373\u2c93\ua647\uab75\U000118c3",
    "j": "\u03f3\uab7b",
    "l": (
        "\u01c0\u04c0\u05c0\u05d5\u05df\u0627\u07ca\u2223\u23fd\u2cd1\u2d4f\uabae\uffe8"
        "\U0001028a\U00010320\U00010443\U00016f28\U0001e8c7"
    ),
    "n": "\u0578\u057c\u2c9b",
    "o": (
        "\u03c3\u03ed\u0585\u05e1\u0647\u06be\u06c1\u06d5\u0c02\u0c82\u0d02\u0d20\u0d82"
        "\u101d\u10ff\u1d11\u2c9f\uab3d\U0001042c\U000104ea\U000118c8\U000118d7"
    ),
    "p": "\u00fe\u01bf\u03f8\u1d29\u2374\u2ca3\u2ccf\uabb2",
    "q": "\u0563\u0566\u1d90",
    "r": "\u0433\u1d26\u2c85\uab47\uab48\uab71\uab81\uaba2",
    "s": "\u01bd\u0d1f\uaba5\uabaa\U00010448\U000118c1",
    "t": "\u13bf\u2ca7\uab72\uab8f",
    "u": "\u057d\ua79f\U000104f6\U000118d8",
    "v": "\u0475\u05d8\u2228\u22c1\uaba9\U00011706\U000118c0",
    "w": (
        "\u026f\u0448\u0461\u0561\u2375\u2cb1\u2cbd\ua64d\ua7b7\uab83\uaba4\U0001170a"
        "\U0001170e\U0001170f"
    ),
    "x": "\u00d7\u1541\u157d\u166e\u292b\u292c\u2a2f\u2cad\uab53\uab55",
    "y": "\u0263\u04af\u10e7\u2ca9\uab79\uab8d\U000118dc",
    "z": "\u2c8d\uab93\U000118c4",
}
