"""Questions about a short passage: by people, from dialogue, and from a grammar."""

import collections
import json
import re

from fables import NAMES, PLACES, THINGS
from stories import UNFIT

ASKED = [
    "{p}\n\n{q}", "{p}\n\nQuestion: {q}", "Read this:\n\n{p}\n\n{q}", "Here is a passage.\n\n{p}\n\n{q}",
    "Read the passage and answer the question.\n\n{p}\n\n{q}", "{q}\n\n{p}", "Passage: {p}\n\nQuestion: {q}",
    "Answer from the text.\n\n{p}\n\n{q}",
]
ASKED_HELD_OUT = [
    "Please read this short passage and then answer.\n\n{p}\n\n{q}",
    "Look at this text.\n\n{p}\n\nMy question: {q}",
    "{p}\n\nAnswer this: {q}",
]
SAID = re.compile(
    r'"([A-Z][^"]{12,120})[,!?]" (?:said|cried|asked|replied|answered|exclaimed|called|shouted|whispered) '
    r"((?:the |a |old |little |big |poor )*(?:(?:Mr|Mrs|Dr)\. )?(?:[A-Z][a-z]+ ?){1,3}|(?:the |old |little |big )+[a-z]+)(?=[,.;])"
)
COLOURS = "red blue green yellow white black brown purple pink gray golden silver".split()
FOODS = "bread cheese apples honey soup nuts berries cake porridge carrots cookies pears".split()
SPOTS = ["under the table", "behind the door", "in the barn", "on the roof", "beside the well", "in the garden",
         "under the bed", "on the old bridge", "in the kitchen", "by the gate", "near the river", "in the attic"]
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


def answer_sentence(answer):
    answer = answer.strip().rstrip(".")
    return answer[0].upper() + answer[1:] + "."


def human(path, held_out):
    """FairytaleQA: short explicit answers on one section.  Yields (story is held out, passage, question, answer)."""
    sections, rows = {}, []
    for row in map(json.loads, open(path, encoding="utf-8")):
        if row["type"] == "section":
            sections[row["story"], row["section"]] = row["text"]
        elif row["explicit"] and len(row["sections"]) == 1:
            rows.append(row)
    for row in rows:
        passage = sections.get((row["story"], row["sections"][0]))
        answer, question = row["answer"].strip(), row["question"].strip()
        if not passage or len(passage.split()) > 190 or len(answer.split()) > 8 or not question.endswith("?"):
            continue
        if not all(w in passage.lower() for w in re.findall(r"[a-z]+", answer.lower())):
            continue
        yield held_out(row["story"]), passage, question[0].upper() + question[1:], answer


def fairytale_documents(path):
    """The sections of each FairytaleQA story joined to one document."""
    stories = collections.defaultdict(list)
    for row in map(json.loads, open(path, encoding="utf-8")):
        if row["type"] == "section":
            stories[row["story"]].append((row["section"], row["text"].strip()))
    return [(name, [text for _, text in sorted(parts)]) for name, parts in sorted(stories.items())]


def dialogue(rng, paragraphs):
    """Who said it?  From a few paragraphs of a book, with at least two speakers in them."""
    start = 0
    while start < len(paragraphs):
        window, words = [], 0
        while start < len(paragraphs) and words < 90:
            window.append(paragraphs[start])
            words += len(paragraphs[start].split())
            start += 1
        text = "\n".join(window)
        found = [m for m in SAID.finditer(text) if len(text[: m.start()].split()) > 0]
        speakers = {m.group(2).strip() for m in found}
        if len(speakers) < 2 or words > 190 or UNFIT.search(text):
            continue
        match = rng.choice(found)
        quote = " ".join(match.group(1).split()[:10])
        yield text, f'Who said, "{quote}"?', match.group(2).strip()


def grammar(rng, held_out=False):
    """A few made-up facts, and a question about one of them."""
    boy, girl = rng.sample(NAMES["he"], 1)[0], rng.sample(NAMES["she"], 1)[0]
    people = [boy, girl]
    rng.shuffle(people)
    first, second = people
    thing_a, thing_b = rng.sample(THINGS, 2)
    colour_a, colour_b = rng.sample(COLOURS, 2)
    food_a, food_b = rng.sample(FOODS, 2)
    spot_a, spot_b = rng.sample(SPOTS, 2)
    place_a, place_b = rng.sample(list(PLACES), 2)
    day_a, day_b = rng.sample(DAYS, 2)
    facts = [
        (f"{first} had a {colour_a} {thing_a}, and {second} had a {colour_b} {thing_b}.", [
            (f"What color was the {thing_a}?", colour_a), (f"What color was the {thing_b}?", colour_b),
            (f"What was the color of the {thing_b}?", colour_b), (f"Which color did the {thing_a} have?", colour_a),
            (f"Who had the {thing_b}?", second), (f"Who had the {thing_a}?", first), (f"Who had a {colour_b} {thing_b}?", second),
            (f"Which of the two had the {thing_a}?", first), (f"To whom did the {thing_b} belong?", second),
            (f"What did {first} have?", f"a {colour_a} {thing_a}"), (f"What belonged to {second}?", f"a {colour_b} {thing_b}"),
        ], [(f"Tell me the color of the {thing_b}.", colour_b), (f"Who was the owner of the {thing_a}?", first)]),
        (f"{first} hid the {thing_a} {spot_a}. {second} put the {thing_b} {spot_b}.", [
            (f"Where did {first} hide the {thing_a}?", spot_a), (f"Where was the {thing_b}?", spot_b), (f"Where was the {thing_a}?", spot_a),
            (f"Where is the {thing_a}?", spot_a), (f"Where did {second} put the {thing_b}?", spot_b), (f"In what place was the {thing_b}?", spot_b),
            (f"Who hid the {thing_a}?", first), (f"Who put the {thing_b} {spot_b}?", second), (f"What did {first} hide?", f"the {thing_a}"),
            (f"What was {spot_b}?", f"the {thing_b}"),
        ], [(f"In which place could you find the {thing_a}?", spot_a), (f"Where would you look for the {thing_b}?", spot_b)]),
        (f"For breakfast {first} ate {food_a}, but {second} ate {food_b}.", [
            (f"What did {first} eat?", food_a), (f"Who ate {food_b}?", second), (f"What did {second} have for breakfast?", food_b),
            (f"What did {second} eat for breakfast?", food_b), (f"Who had {food_a} for breakfast?", first), (f"Which food did {first} eat?", food_a),
            (f"Who ate the {food_a}?", first), (f"What was the breakfast of {first}?", food_a),
        ], [(f"What was it that {second} ate?", food_b), (f"Which of the two ate {food_a}?", first)]),
        (f"On {day_a} {first} walked to the {place_a}. On {day_b} {second} walked to the {place_b}.", [
            (f"When did {first} walk to the {place_a}?", f"on {day_a}"), (f"Where did {second} go?", f"to the {place_b}"),
            (f"Who went to the {place_a}?", first), (f"Who walked to the {place_b}?", second), (f"Where did {first} walk?", f"to the {place_a}"),
            (f"Where did {second} walk on {day_b}?", f"to the {place_b}"), (f"On what day did {second} walk to the {place_b}?", f"on {day_b}"),
            (f"When did {second} go to the {place_b}?", f"on {day_b}"), (f"Who walked on {day_a}?", first),
        ], [(f"On which day did {first} walk to the {place_a}?", f"on {day_a}"), (f"To which place did {second} walk?", f"to the {place_b}")]),
    ]
    chosen = rng.sample(facts, rng.choice([2, 3, 3, 4]))
    rng.shuffle(chosen)
    _, asked, kept_back = rng.choice(chosen)
    question, answer = rng.choice(kept_back if held_out else asked)
    opening = rng.choice(["", "", f"{first} and {second} were friends. ", "It was a fine day. "])
    return opening + " ".join(text for text, _, _ in chosen), question, answer


def chat(rng, passage, question, answer, asked=ASKED):
    return rng.choice(asked).format(p=passage, q=question), answer_sentence(answer)
