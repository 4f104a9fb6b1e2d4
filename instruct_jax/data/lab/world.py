"""Home of the lab's world: its people, towns and facts, the small language they are told in, and the parser that reads it back.

The paper has no such thing: its labelers judged text about the real world. Here every sentence of the language is either a
claim that is true, false or never stated, an event, or one of a few stock phrases, so that a response can be judged by code.
"""

import dataclasses
import functools
import random
import re

NAMES = """mira tom anna peter lena oscar nora felix clara hugo ida jonas elsa victor maya leo rosa simon greta paul
vera adam julia martin olga david sara henry tina walter emma robin alice george helen arthur irene bruno marta edgar
sonia frank linda conrad judith oliver bella ernest""".split()
PASSAGE_NAMES = """kofi yuki omar priya diego lin amara ravi chen fatima kenji zara mateo aisha bao nadia tariq mei
sanjay lola ivan wei hana luis dara amir suki pablo""".split()
TOWNS = "orlen dalby varos kestin milvar tarsk elbon quillen radost feld harwen solmar brisk nordal tavira umber".split()
RIVERS = "dena ister lorne vask mulde sarn".split()
WEATHER = "rainy sunny windy foggy snowy mild".split()
CATEGORIES = {
    "jobs": "baker doctor teacher farmer sailor painter tailor miller nurse judge clerk carpenter".split(),
    "animals": "cat dog horse goat rabbit parrot turtle hen duck fox sheep mouse".split(),
    "foods": "soup bread cheese rice fish apples honey pasta beans cake eggs salad plums corn".split(),
    "hobbies": "fishing chess painting dancing running reading gardening singing sailing climbing".split(),
    "colors": "red blue green yellow white black orange purple brown pink".split(),
    "objects": """lamp rope clock basket mirror hammer candle blanket kettle ladder coin drum whistle bottle letter
    ring""".split(),
    "places": "market forest harbor bridge garden library station museum bakery square meadow castle".split(),
}
SINGULAR = {"jobs": "job", "animals": "animal", "foods": "food", "hobbies": "hobby", "colors": "color",
            "objects": "object", "places": "place"}  # fmt: skip
HAPPY = "happy glad cheerful merry proud".split()
SAD = "sad gloomy lonely tired upset".split()
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
CLOSERS = "thanks goodbye cheers amen".split()
RUDE = "fool stupid idiot shut nonsense".split()
UNKNOWN, NOT_SAID = "i do not know", "the text does not say"


@dataclasses.dataclass(frozen=True)
class Relation:
    """One relation of the language: "mira lives in orlen", "mira does not live in orlen", "the home of mira is orlen"."""

    name: str
    says: str
    base: str
    objects: tuple[str, ...]
    questions: tuple[str, ...]


PERSON_RELATIONS = {
    r.name: r
    for r in (
        Relation("home", "lives in", "live in", tuple(TOWNS), ("where does {s} live", "what is the home of {s}")),
        Relation("job", "works as a", "work as a", tuple(CATEGORIES["jobs"]),
                 ("what work does {s} do", "what is the job of {s}")),
        Relation("pet", "keeps a", "keep a", tuple(CATEGORIES["animals"]),
                 ("which animal does {s} keep", "what is the pet of {s}")),
        Relation("food", "likes to eat", "like to eat", tuple(CATEGORIES["foods"]),
                 ("what does {s} like to eat", "what is the food of {s}")),
        Relation("hobby", "enjoys", "enjoy", tuple(CATEGORIES["hobbies"]),
                 ("what does {s} enjoy", "what is the hobby of {s}")),
        Relation("color", "loves the color", "love the color", tuple(CATEGORIES["colors"]),
                 ("which color does {s} love", "what is the color of {s}")),
        Relation("friend", "often visits", "often visit", tuple(NAMES),
                 ("who does {s} often visit", "who is the friend of {s}")),
    )
}  # fmt: skip
TOWN_RELATIONS = {
    r.name: r
    for r in (
        Relation("river", "lies on the river", "lie on the river", tuple(RIVERS),
                 ("on which river does {s} lie", "what is the river of {s}")),
        Relation("weather", "has weather that is", "have weather that is", tuple(WEATHER),
                 ("which weather does {s} have", "what is the weather of {s}")),
        Relation("product", "is known for its", "be known for its", tuple(CATEGORIES["foods"]),
                 ("which food is known from {s}", "what is the product of {s}")),
    )
}  # fmt: skip
RELATIONS = PERSON_RELATIONS | TOWN_RELATIONS

EVENTS = (
    ("walked to the {place}", "walks to the {place}"),
    ("found a {object} in the {place}", "finds a {object} in the {place}"),
    ("bought a {object} at the {place}", "buys a {object} at the {place}"),
    ("saw a {animal} near the {place}", "sees a {animal} near the {place}"),
    ("carried a {object} to the {place}", "carries a {object} to the {place}"),
    ("cooked {food} for the {job}", "cooks {food} for the {job}"),
    ("was {mood}", "is {mood}"),
)
_SLOTS = {
    "place": CATEGORIES["places"], "object": CATEGORIES["objects"], "animal": CATEGORIES["animals"],
    "food": CATEGORIES["foods"], "job": CATEGORIES["jobs"], "mood": HAPPY + SAD,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Claim:
    """`subject` stands in `relation` to `object`; `negated` for "does not"."""

    subject: str
    relation: str
    object: str
    negated: bool = False


@dataclasses.dataclass(frozen=True)
class World:
    """Facts of one world: `facts[(subject, relation)]`; `hidden` pairs are never stated in the corpus, nobody knows them."""

    facts: dict[tuple[str, str], str]
    hidden: frozenset[tuple[str, str]]

    def truth(self, claim: Claim) -> bool | None:
        """True or False for a stated fact, None for what the world never says."""
        key = (claim.subject, claim.relation)
        if key not in self.facts or key in self.hidden:
            return None
        return (self.facts[key] == claim.object) != claim.negated

    def known(self, subject: str) -> dict[str, str]:
        """The stated facts of one subject, relation → object."""
        return dict(self._stated.get(subject, {}))

    @functools.cached_property
    def _stated(self) -> dict[str, dict[str, str]]:
        """All that is known, by subject: making a lab asks a quarter of a million times."""
        found: dict[str, dict[str, str]] = {}
        for (subject, relation), thing in self.facts.items():
            if (subject, relation) not in self.hidden:
                found.setdefault(subject, {})[relation] = thing
        return found


@functools.lru_cache(maxsize=4)
def make_world(seed: int = 0, hidden_share: float = 0.15) -> World:
    """Draws every fact of the world; the same seed gives the same world."""
    rng = random.Random(f"world {seed}")
    facts = {}
    for name in NAMES:
        for relation in PERSON_RELATIONS.values():
            facts[name, relation.name] = rng.choice([o for o in relation.objects if o != name])
    for town in TOWNS:
        for relation in TOWN_RELATIONS.values():
            facts[town, relation.name] = rng.choice(relation.objects)
    people = [key for key in facts if key[0] in NAMES]
    return World(facts, frozenset(rng.sample(people, int(hidden_share * len(people)))))


def invent_facts(rng: random.Random, name: str, count: int) -> list[Claim]:
    """`count` facts about somebody whom only one passage knows."""
    names = rng.sample(list(PERSON_RELATIONS), count)
    objects = {r: PERSON_RELATIONS[r].objects for r in names} | {"friend": tuple(PASSAGE_NAMES)}
    return [Claim(name, r, rng.choice([o for o in objects[r] if o != name])) for r in names]


def state(claim: Claim, form: int = 0) -> str:
    """The claim as a sentence without its full stop; form 1 is the possessive one."""
    relation = RELATIONS[claim.relation]
    if claim.negated:
        return f"{claim.subject} does not {relation.base} {claim.object}"
    if form:
        return f"the {claim.relation} of {claim.subject} is {claim.object}"
    return f"{claim.subject} {relation.says} {claim.object}"


def event(
    rng: random.Random, name: str, past: bool = True, moods: list[str] | None = None, without=(), which=None
) -> str:
    """A sentence about something that `name` did; it claims no fact."""
    past_form, present_form = EVENTS[which] if which is not None else rng.choice(EVENTS)
    words = {slot: rng.choice([w for w in (moods if slot == "mood" and moods else options) if w not in without])
             for slot, options in _SLOTS.items()}  # fmt: skip
    return f"{name} {(past_form if past else present_form).format(**words)}"


def _alternatives(words) -> str:
    return "(?:" + "|".join(words) + ")"


_PEOPLE = _alternatives(NAMES + PASSAGE_NAMES)
_EVENT = re.compile(
    rf"^(?:(?:one day|then|later) )?{_PEOPLE} (?:"
    + "|".join(
        re.sub(r"\{(\w+)\}", lambda m: _alternatives(_SLOTS[m[1]]), form) for pair in EVENTS for form in pair
    )
    + ")$"
)


def _phrase(relation: Relation) -> str:
    objects = NAMES + PASSAGE_NAMES if relation.name == "friend" else relation.objects
    return rf"(?P<neg>does not {relation.base}|{relation.says}) (?P<object>{_alternatives(objects)})"


_CLAIMS = [
    (r.name, re.compile(f"^{_phrase(r)}$"), re.compile(
        rf"^the {r.name} of (?P<subject>{_PEOPLE if r.name in PERSON_RELATIONS else _alternatives(TOWNS)}) is "
        rf"(?P<object>{_alternatives(NAMES + PASSAGE_NAMES if r.name == 'friend' else r.objects)})$"))
    for r in RELATIONS.values()
]  # fmt: skip
_SUBJECTS = frozenset(NAMES + PASSAGE_NAMES + TOWNS)


def parse_claims(sentence: str) -> list[Claim] | None:
    """Claims of one sentence without its full stop ("mira lives in orlen and keeps a cat"), None if it is no claim."""
    for name, _, possessive in _CLAIMS:
        if match := possessive.match(sentence):
            return [Claim(match["subject"], name, match["object"])]
    subject, _, rest = sentence.partition(" ")
    if subject not in _SUBJECTS:
        return None
    claims = []
    for part in rest.split(" and "):
        part = part.removeprefix(subject + " ")
        for name, phrase, _ in _CLAIMS:
            if (match := phrase.match(part)) and ((subject in TOWNS) == (name in TOWN_RELATIONS)):
                claims.append(Claim(subject, name, match["object"], match["neg"].startswith("does not")))
                break
        else:
            return None
    return claims


def is_event(sentence: str) -> bool:
    """Whether the sentence, without its full stop, tells an event of the language."""
    return _EVENT.match(sentence) is not None


def sentences(text: str) -> list[str]:
    """The sentences of a text, without full stops, white space folded."""
    return [" ".join(s.split()) for s in re.split(r"[.?\n]", text) if s.strip()]


def words(text: str) -> list[str]:
    """The words of a text without punctuation."""
    return re.findall(r"[a-z]+", text)
