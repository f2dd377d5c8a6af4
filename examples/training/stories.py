"""Old books as documents, and story-sized pieces of them as answers to a request."""

import collections
import json
import re

from fables import ANIMALS, PEOPLE, PLACES, THINGS

MIN_WORDS, MAX_WORDS = 130, 235

# What a piece may be about, beside the nouns of the fables.
MORE = (
    "hunter brother sister mother father uncle aunt baby twins family bunny muskrat mink skunk weasel porcupine coyote "
    "woodchuck jay blackbird bluebird swallow woodpecker hawk eagle turkey pigeon dove bat fish shark lobster "
    "firefly grasshopper bumblebee caterpillar snake ox bull mule tiger leopard kangaroo zebra giraffe ostrich "
    "circus parade picnic party school store train wagon boat ship steamboat raft canoe sled snowman snowball toboggan "
    "star moon sun cloud rain snow storm wind thunder fire tower palace tent camp beach lake brook spring field "
    "apple pumpkin cabbage carrot corn nut acorn strawberry cherry bread cookie candy honey egg nest "
    "treasure gold diamond purse pocket money present kite swing rope fence gate window door chimney stove "
    "flower rose lily daisy leaf oak birthday christmas dream song dance race trick secret puzzle game "
    "automobile engine policeman fireman beggar widow peasant shoemaker judge servant cook nurse emperor giantess "
    "mermaid goblin troll scarecrow clown wheel wish garden kettle stone pebble island windmill"
).split()
NOUNS = sorted(set(ANIMALS + PEOPLE + THINGS + list(PLACES) + MORE))

# A story that is told to anybody has none of this.  Plain text keeps some of it: a
# language model has to know the word "gun" to read an old book.
UNFIT = re.compile(
    r"\b(kill\w*|dead|die[sd]?|dying|death\w*|murder\w*|blood\w*|guns?|rifles?|pistols?|shot|shoot\w*|bullet\w*|"
    r"devil\w*|hell|damn\w*|curse\w*|whip\w*|thrash\w*|flog\w*|beat(?:en|ing)?|spank\w*|slap\w*|drunk\w*|wine|beer|"
    r"whisk\w+|rum|brandy|pipe|tobacco|cigar\w*|smok(?:e|ing) a|slave\w*|savage\w*|indians?|negro\w*|darky|darkies|gyps\w+|"
    r"jew\w*|turks?|moors?|arabs?|chinam\w+|heathen\w*|cannibal\w*|coloured|colored (?:man|boy|woman|people)|mammy|"
    r"black (?:man|boy|woman|people|face)|hang(?:ed|man)|gallows|corpse\w*|skeleton\w*|skull\w*|grave\w*|coffin\w*|"
    r"stab\w*|dagger\w*|sword\w*|poison\w*|naked|breasts?|bosom|beggar\w*|cripple\w*|idiot\w*|stupid|fool\w*|"
    r"ugly|hate[sd]?|war|battle|soldiers? with|behead\w*|cut off|head off|slain|slew|slay\w*|drown\w*|strangl\w*|"
    r"torture\w*|tortur\w*|prison\w*|thie\w+|robber\w*|witch\w*|lame|fat man|fat boy|half-wit\w*|queer|gay|"
    r"god|lord|jesus|christ|church|pray\w*|bible|heaven\w*|angel\w*|sin|sins|sinner\w*|marry me|kiss\w*|lover\w*|"
    r"husbands?|wives|ate (?:him|her) up|eat (?:him|her|them) up|trap|traps|trapped|hunters?|hunting|butcher\w*|flesh|"
    r"story of|tale of|wound\w*|cruel\w*|tomahawk\w*|scalp\w*|squaw\w*|massa|nurse a|breech\w*|petticoat\w*|corset\w*|drugg\w*|opium)\b",
    re.IGNORECASE,
)
# Weak openings: the piece would begin in the middle of something.
BAD_START = re.compile(
    r"^(But|Then|And|So|He|She|It|They|Yes|No|Now|This|That|These|Those|His|Her|Their|However|Therefore|Thus|For|Or|"
    r"Well|Oh|Besides|Meanwhile|Such|Again|Still|Yet|At this|At that|With this|With that|After this|After that|"
    r"You|I|We|There he|There she|There they|Both|Neither|Chapter|CHAPTER|[^A-Za-z])\b|^[^A-Z]"
)
STORY_START = re.compile(
    r"^(Once|ONCE|Long ago|(?:Early |Late )?[Oo]ne (?:\w+ )?(?:day|morning|evening|night|afternoon|summer|winter|spring)|"
    r"There (?:was|were|lived)|The next (?:day|morning)|It was (?:a|the|on)|When (?:[A-Z]\w+|the)|"
    r"(?:Old |Little |Poor )?(?:Mr|Mrs|Miss|Uncle|Aunt|Farmer|Grandfather)\b|(?:Peter|Johnny|Sammy|Jimmy|Billy|Danny|Reddy|Tommy|Johnnie)\b|"
    r"The (?:\w+ )?(?:%s)s?\b|(?:A|An) (?:\w+ )?(?:%s)\b)" % ("|".join(NOUNS), "|".join(NOUNS))
)
ENDINGS = [
    "And that is where this little story ends.",
    "But what happened after that is another story.",
    "And that is all for today.",
    "The rest is a story for another evening.",
]


def read_documents(path):
    """Documents of a story file as (title, paragraphs)."""
    documents = []
    for raw in open(path, encoding="utf-8").read().split("<|endoftext|>"):
        lines = [line.strip() for line in raw.strip().split("\n") if line.strip()]
        title = ""
        if lines and lines[0].startswith("# "):
            title = lines.pop(0)[2:].strip()
        lines = [re.sub(r"^\d{1,2}\. (?=[A-Z\"])", "", line) for line in lines]
        lines = [line for line in lines if not re.search(r"\bX?[IVX]+\. [A-Z].*\b[IVX]+\. [A-Z]", line)]
        if sum(len(line.split()) for line in lines) >= 40:
            documents.append((title, lines))
    return documents


def read_cc_by(path):
    """Modern stories and who is to be credited for them."""
    documents, credits = [], []
    for row in map(json.loads, open(path, encoding="utf-8")):
        lines = [line.strip() for line in row["text"].split("\n") if line.strip()]
        documents.append((row["title"], lines))
        credits.append((row["title"], row["author"], row["translation"], row["source"], row["license"]))
    return documents, credits


def paragraphs_of_lines(lines):
    """Picture-book lines, a sentence each, joined to paragraphs of about forty words."""
    joined, current = [], ""
    for line in lines:
        current = (current + " " + line).strip()
        if len(current.split()) >= 40:
            joined.append(current)
            current = ""
    if current:
        joined.append(current)
    return joined


def subjects(text):
    """Nouns that a piece is about, the most frequent first: said at least twice, and soon."""
    lowered = text.lower()
    early = set(re.findall(r"[a-z]+", lowered[: len(lowered) // 2]))
    counts = collections.Counter(re.findall(r"[a-z]+", lowered))
    found = [(counts[n] + counts[n + "s"], n) for n in NOUNS if n in early or n + "s" in early]
    found = sorted((c, n) for c, n in found if c >= 2)[::-1]
    names = collections.Counter(re.findall(r"(?<=[a-z,] )[A-Z][a-z]+ [A-Z][a-z]+", text))
    return [n for _, n in found[:4]], [n for n, c in names.most_common(1) if c >= 2]


def repeats(text, n=8):
    words = re.findall(r"[a-z']+", text.lower())
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(grams) != len(set(grams))


def ends_a_sentence(paragraph):
    return re.search(r"[.!]\"?$", paragraph) is not None and not paragraph.endswith(("...", ":", "--"))


def pieces(rng, paragraphs):
    """Cut a chapter into pieces that start and end with a paragraph.

    A piece starts where a story might, and ends, if it can, where the chapter ends.
    """
    sizes = [len(p.split()) for p in paragraphs]
    starts = [i for i, p in enumerate(paragraphs) if (i == 0 and not BAD_START.match(p)) or STORY_START.match(p)]
    done_until = 0
    for start in starts:
        if start < done_until and rng.random() < 0.7:
            continue
        words, ends = 0, []
        for end in range(start, len(paragraphs)):
            words += sizes[end]
            if words > MAX_WORDS:
                break
            if words >= MIN_WORDS and ends_a_sentence(paragraphs[end]):
                narrative = not paragraphs[end].endswith('"')
                score = 3 * (end + 1 == len(paragraphs)) + narrative + rng.random()
                ends.append((score, end))
        if not ends:
            continue
        end = max(ends)[1]
        text = "\n\n".join(paragraphs[start : end + 1])
        if UNFIT.search(text) or repeats(text):
            continue
        done_until = end + 1
        last = end + 1 == len(paragraphs)
        if not last and rng.random() < 0.5:
            text += "\n\n" + rng.choice(ENDINGS)
        yield text
