"""The words in which questions are asked: names of attributes' values, and of yes and no."""

VARIANTS = 5
"""Number of wordings of each attribute; those with fewer repeat them."""

NAMES: dict[str, tuple[tuple[str, ...], ...]] = {
    "tone": (
        ("negative", "neutral", "positive"),
        ("bad", "plain", "good"),
        ("unhappy", "calm", "happy"),
        ("complaint", "report", "praise"),
        ("awful", "ordinary", "great"),
    ),
    "verdict": (("negative", "positive"), ("bad", "good"), ("terrible", "great")),
    "seriousness": (("not sarcastic", "sarcastic"), ("serious", "joke"), ("real", "satire")),
    "question": (("statement", "question"), ("says", "asks")),
    "digits": (("no number", "number"), ("words", "figures")),
    "length": (("short", "medium", "long"), ("brief", "middle", "lengthy")),
    "person": (("first person", "second person", "third person"), ("me", "you", "them")),
    "strength": (("mild", "strong"), ("weak", "intense")),
    "asks for": (
        ("abbreviation", "description", "entity", "human", "location", "number"),
        ("letters", "explanation", "thing", "person", "place", "amount"),
    ),
}
"""Names of an attribute's values; the first wording is that of `values.json`."""

WEIGHTS = {
    "tone": 6.0, "kind": 3.0, "verdict": 2.0, "seriousness": 2.0, "asks for": 2.0,
    "asks exactly for": 2.0, "tool": 2.0, "newsgroup": 2.0, "answers topic": 2.0, "genus": 4.0,
    "domain": 2.0, "field": 1.0, "newsgroup family": 1.0, "person": 1.5, "question word": 0.7,
    "question": 1.0, "digits": 1.0, "length": 1.0, "strength": 1.5, "part of speech": 1.0,
}  # fmt: skip
"""How often an attribute is asked, beside others; 1 for one that is not named here."""

# What is asked of two texts, no first and yes second, in the words of its own question.
PAIRS = (
    (("different", "same"), ("other words", "copy"), ("another text", "same text")),
    (("unrelated", "next"), ("elsewhere", "continued"), ("break", "follows")),
    (("not about", "about"), ("off topic", "on topic"), ("irrelevant", "relevant")),
    (("absent", "contains"), ("missing", "present"), ("without", "with")),
    (("not a kind", "a kind of"), ("something else", "example of"), ("no member", "member")),
)
ANSWERS = (("no", "yes"), ("false", "true"), ("wrong", "right"), ("not", "is"))
"""No and yes for any question about two texts."""


def name(attribute: str, variant: int, value: str) -> str:
    """Return the name of a value in one of the attribute's `VARIANTS` wordings."""
    if attribute not in NAMES:
        return value
    wordings = NAMES[attribute]
    return wordings[variant % len(wordings)][wordings[0].index(value)]
