"""Capitals and word meanings as short chats, with phrasings kept back for the test."""

import collections
import json
import re

CAPITAL_ASKED = [
    "What is the capital of {x}?", "What is the capital of {x}?", "What's the capital of {x}?",
    "Name the capital of {x}.", "Which city is the capital of {x}?", "Tell me the capital of {x}.",
    "Do you know the capital of {x}?", "What is the capital city of {x}?", "Capital of {x}?",
    "Can you tell me the capital of {x}?", "What city is the capital of {x}?", "{x}: what is the capital?",
    "I am going to {x}. What is the capital?", "In {x}, which city is the capital?",
]
CAPITAL_HELD_OUT = [
    "Please name the capital city of {x}.",
    "I would like to know what the capital of {x} is.",
    "Which city do they call the capital of {x}?",
    "What is the name of the capital of {x}?",
]
CAPITAL_ANSWERS = ["The capital of {x} is {y}."]

MEANING_ASKED = [
    'What does the word "{x}" mean?', 'What does "{x}" mean?', "What does {x} mean?", 'Define "{x}".', "Define {x}.",
    'Explain the word "{x}".', 'Tell me what "{x}" means.', 'What is the meaning of "{x}"?', "What is the meaning of {x}?",
    'Do you know what "{x}" means?', 'Please explain what "{x}" means.', "What does the word {x} mean?",
    'Can you explain the word "{x}"?', "The word {x}: what does it mean?",
]
MEANING_HELD_OUT = [
    'Can you give me a definition of "{x}"?',
    'I do not know the word "{x}". What does it mean?',
    'How would you explain the word "{x}"?',
    'What is meant by "{x}"?',
]
MEANING_ANSWERS = ['The word "{x}" means: {y}.']

# Words whose WordNet senses say nothing to a child who asks for them.
SKIP = set(
    "he she it we us an as at be am are was were who will can may might must shall have has had do does did no yes so "
    "or in on by to of off out up over under and the a i me my then there here hen ell eat es ex re ad ray well "
    "have been going being getting making looking one two three six ten".split()
)


def countries(path):
    """(country, capital, location) in plain words; territories with odd entries left out."""
    rows = []
    for row in map(json.loads, open(path, encoding="utf-8")):
        country, capital = row["country"], row["capital"].split(":")[0].strip()
        country = {"DRC": "the Democratic Republic of the Congo", "The Dominican": "the Dominican Republic",
                   "Congo (Brazzaville)": "the Republic of the Congo", "Holy See (Vatican City)": "Vatican City",
                   "Falkland Islands (Islas Malvinas)": "the Falkland Islands", "The Gambia": "the Gambia",
                   "The Bahamas": "the Bahamas", "Cocos (Keeling) Islands": "the Cocos Islands"}.get(country, country)
        if country.split()[-1] == "Islands" and not country.startswith("the "):
            country = "the " + country
        if country in ("United States", "United Kingdom", "Netherlands", "Philippines", "Maldives", "Czech Republic", "Seychelles", "Comoros"):
            country = "the " + country
        if "(" in country or country in ("Akrotiri", "Dhekelia"):
            continue
        capital = {"Chisinau in Romanian": "Chisinau"}.get(capital, capital)
        rows.append((country, capital, row["location"].strip()))
    return rows


def meanings(path, limit):
    """The most frequent words with a short plain gloss: (word, gloss)."""
    senses = collections.defaultdict(list)
    counts = {}
    for row in map(json.loads, open(path, encoding="utf-8")):
        word = row["word"]
        counts[word] = row["count"]
        gloss = re.sub(r"\([^)]*\)", "", row["definition"]).split(";")[0]
        gloss = re.sub(r"\s+", " ", gloss.replace("`", '"').replace("'", "'")).strip(" ,.:")
        fits = re.fullmatch(r"[a-z]{3,}", word) and word not in SKIP and 3 <= len(gloss.split()) <= 14
        if fits and row["sense"] == 1 and gloss.isascii() and '"' not in gloss and not re.search(rf"\b{word}\b", gloss):
            senses[word].append((row["pos"], gloss))
    rows = []
    for word in sorted(senses, key=lambda w: (-counts[w], w)):
        if re.search(r"(ing|ed|ly|est)$", word):
            continue
        order = {"noun": 0, "verb": 1, "adj": 2, "adv": 3}
        pos, gloss = min(senses[word], key=lambda s: order.get(s[0], 4))
        rows.append((word, gloss))
    usable = [(w, g) for w, g in rows if counts[w] <= 4000 and not re.search(r"\b(sexual|genus|drug|penis|vagina|buttocks|copulat\w*|prostitut\w*|slang|chemical|isotope)\b", g)]
    return usable[:limit]


def capital_chat(rng, row, asked=CAPITAL_ASKED):
    country, capital, _ = row
    return rng.choice(asked).format(x=country), rng.choice(CAPITAL_ANSWERS).format(x=country, y=capital)


def meaning_chat(rng, row, asked=MEANING_ASKED):
    word, gloss = row
    return rng.choice(asked).format(x=word), rng.choice(MEANING_ANSWERS).format(x=word, y=gloss)


def plain(country_rows, meaning_rows):
    """The same facts as plain sentences."""
    for country, capital, location in country_rows:
        yield f"{capital} is the capital of {country}. Location: {location}."
    for word, gloss in meaning_rows:
        yield f"{word}: {gloss}."
