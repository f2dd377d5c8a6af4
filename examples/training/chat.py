"""Chats: the ChatML text the model sees, and the ways people ask for a story."""

END_OF_TEXT = "<|endoftext|>"
START, END = "<|im_start|>", "<|im_end|>"

SYSTEM_PROMPTS = [
    "You are a storyteller.",
    "You are a helpful assistant.",
    "You tell short, gentle stories.",
    "Answer briefly and kindly.",
]

ABOUT = [
    "Tell me a story about {x}.",
    "Tell me a story about {x}.",
    "Tell me a story about {x}",
    "Tell me a short story about {x}.",
    "Can you tell me a story about {x}?",
    "Please tell me a story about {x}.",
    "I would like a story about {x}.",
    "Write a story about {x}.",
    "Write a short story about {x}.",
    "Do you know a story about {x}?",
    "Tell me a bedtime story about {x}.",
    "A story about {x}, please.",
    "Tell us a story with {x} in it.",
    "Make up a story about {x}.",
]
ANY = [
    "Tell me a story.", "Tell me a short story.", "Can you tell me a story?", "Please tell me a story.",
    "I would like to hear a story.", "Tell me a bedtime story.", "Write a short story.", "A story, please.",
    "Do you know any stories?", "Tell us a story before we go to sleep.",
]

FROM_BOOK_ABOUT = [
    "Tell me an old story about {x}.", "Read me a page from an old book about {x}.", "Tell me a story from an old book about {x}.",
    "Read to me from a book about {x}.", "I would like an old story about {x}.", "Can you tell me an old story about {x}?",
]
FROM_BOOK = ["Read me something from an old book.", "Tell me an old story.", "Read me a page from a book.", "Tell me a story from an old book."]

# Small talk in our own words: what the model is, and what it can do.
HELLO = ["Hello!", "Hi!", "Hello.", "Hi there!", "Good morning!", "Good evening.", "Hey!", "Hello, how are you?", "How are you?"]
HELLO_ANSWERS = [
    "Hello! Shall I tell you a story?",
    "Good day to you! Would you like to hear a story?",
    "Hello! I am well, thank you. What shall the story be about?",
]
WHO = ["Who are you?", "What are you?", "What is your name?", "What can you do?", "What do you know?", "Can you help me?", "Tell me about yourself."]
WHO_ANSWERS = [
    "I am a very small storyteller. I can tell you a story, explain a word, or name the capital of a country.",
    "I am a little language model that grew up on old children's books. Ask me for a story about a fox, for example.",
]
THANKS = ["Thank you!", "Thanks.", "Thank you very much.", "That was nice.", "I liked that story.", "Good night!", "Goodbye!", "Bye."]
THANKS_ANSWERS = ["You are very welcome.", "I am glad that you liked it. Come again soon!", "Good night, and sleep well!"]


def article(noun):
    if noun[:1].isupper():
        return noun
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def book_request(rng, nouns, names):
    """A request for a page of an old book, about somebody or something in it.

    The word "old" or "book" is always there: such pages wander, so nobody gets one who did not ask.
    """
    if names and rng.random() < 0.5:
        return rng.choice(FROM_BOOK_ABOUT).format(x=names[0])
    if nouns:
        return rng.choice(FROM_BOOK_ABOUT).format(x=article(rng.choice(nouns[:2])))
    return rng.choice(FROM_BOOK)


def with_article(noun):
    """As people ask: for "the sea" and "snow", but for "a fox"."""
    if noun in ("sea", "moon", "dark", "rain", "snow", "wind", "fog", "night", "road", "market", "fire", "light", "attic"):
        return "the " + noun
    if noun in ("music", "supper", "cookies", "stars", "summer", "winter", "spring", "autumn", "gold"):
        return noun
    return article(noun)


def story_request(rng, about, scenes, called):
    """A request for a story about one or two of the nouns given, about something in it, or just for a story."""
    lot = rng.random()
    if lot < 0.06:
        return rng.choice(ANY)
    if lot < 0.14:
        return rng.choice(ABOUT).format(x=article(called))
    if scenes and lot < 0.32:
        return rng.choice(ABOUT).format(x=with_article(rng.choice(scenes)))
    if len(about) > 1 and rng.random() < 0.2:
        return rng.choice(ABOUT).format(x=with_article(about[0]) + " and " + with_article(rng.choice(about[1:])))
    first = about[0] if rng.random() < 0.7 else rng.choice(about)
    return rng.choice(ABOUT).format(x=with_article(first))


def small_talk(rng):
    asked, answers = rng.choice([(HELLO, HELLO_ANSWERS), (WHO, WHO_ANSWERS), (THANKS, THANKS_ANSWERS)])
    return rng.choice(asked), rng.choice(answers)


def render(turns, system=None):
    """[(user, assistant), ...] as [(text, is_learned), ...]: only the answers count in the loss."""
    parts = [(f"{START}system\n{system}{END}\n", False)] if system else []
    for user, assistant in turns:
        parts.append((f"{START}user\n{user}{END}\n{START}assistant\n", False))
        parts.append((f"{assistant}{END}", True))
        parts.append(("\n", False))
    return parts
