"""WordNet's synsets as English sentences: "A dwarf is a plant or animal that is atypically small. It is a kind of
organism."

Used by corpus.py (documents) and chat.py (questions and answers). The format is described in wndb(5WN).
"""
import collections
import re
from dataclasses import dataclass, field

POS_NAMES = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}
# See UNWANTED in corpus.py: a synset that matches is left out.
BAD = re.compile(r"\b(n[i]gg\w*|f[u]ck\w*|sh[i]t\w*|c[u]nt\w*|k[i]kes?|wh[o]re\w*|sl[u]t\w*|r[a]p(e[ds]?|ing|ists?)|"
                 r"inc[e]st\w*|"
                 r"p[o]rn\w*|sex|sexual\w*|offensive|derogatory|disparag\w*|slurs?|obscene|vulgar|genital\w*|penis\w*|"
                 r"vagina\w*|"
                 r"vulva\w*|prostitut\w*|suicid\w*|coition|copulat\w*|masturbat\w*|darkie\w*|negro\w*|jew\w*|squaw|"
                 r"savages?|"
                 r"homosexual\w*|lesbian\w*|breasts?|erotic\w*|orgasm\w*|nazi\w*|terroris\w*|hitler|anus|anal|fecal|"
                 r"feces)\b",
                 re.I)


countable = set()        # nouns that often follow "a" in the glosses; filled by load()


MASS = """water love music money life death bread gold silver iron information time happiness food air fire earth
light sleep sand snow rain ice oil milk wine beer meat rice sugar salt coffee tea paper wood glass cloth wool cotton
work fun luck art truth freedom peace war nature science history knowledge data software hardware memory speech
language philosophy fear anger hope faith power energy heat weather health trade progress evidence advice news
furniture luggage grass hair blood justice beauty youth""".split()


@dataclass
class Synset:
    key: tuple                       # (offset, part of speech letter)
    pos: str                         # noun, verb, adj, adv
    words: list
    gloss: str
    examples: list
    pointers: list                   # (symbol, key, source word number, target word number)
    rank: dict = field(default_factory=dict)       # word -> sense number in the index, 0 is the most frequent
    frequency: int = 0               # tagged occurrences of its most frequent word


def load(folder):
    """All clean synsets by key."""
    net = {}
    for pos, letter in (("noun", "n"), ("verb", "v"), ("adj", "a"), ("adv", "r")):
        for line in open(folder / f"data.{pos}", encoding="latin-1"):
            if line.startswith(" "):
                continue
            data, _, gloss = line.partition("|")
            part = data.split()
            n_words = int(part[3], 16)
            words = [re.sub(r"\(\w+\)$", "", part[4 + 2 * i]).replace("_", " ") for i in range(n_words)]
            at = 4 + 2 * n_words
            pointers = []
            for i in range(int(part[at])):
                symbol, offset, target, numbers = part[at + 1 + 4 * i:at + 5 + 4 * i]
                pointers.append((symbol, (offset, target), int(numbers[:2], 16), int(numbers[2:], 16)))
            gloss = gloss.strip()
            examples = [e.strip() for e in re.findall(r'"([^"]{12,140})"', gloss)]
            gloss = re.split(r'[;:]?\s*"', gloss)[0].strip(" ;:,")
            if BAD.search(gloss + " " + " ".join(words + examples)) or len(gloss) < 8 or not gloss.isascii():
                continue
            key = (part[0], letter)
            net[key] = Synset(key, pos, words, gloss, [e for e in examples if e.isascii()], pointers)
    for pos, letter in (("noun", "n"), ("verb", "v"), ("adj", "a"), ("adv", "r")):
        for line in open(folder / f"index.{pos}", encoding="latin-1"):
            if line.startswith(" "):
                continue
            part = line.split()
            n_senses = int(part[2])
            for rank, offset in enumerate(part[-n_senses:]):
                synset = net.get((offset, letter))
                if synset:
                    synset.rank[part[0].replace("_", " ")] = rank
    numbers = {"1": "n", "2": "v", "3": "a", "4": "r", "5": "a"}
    counts = {}
    for line in open(folder / "cntlist.rev", encoding="latin-1"):
        sense, number, count = line.split()
        lemma, _, tail = sense.partition("%")
        counts[lemma.replace("_", " "), numbers[tail[0]], int(number) - 1] = int(count)
    for synset in net.values():
        for word, rank in synset.rank.items():
            synset.frequency = max(synset.frequency, counts.get((word, synset.key[1], rank), 0))
    countable.clear()
    counts = collections.Counter()
    for synset in net.values():
        counts.update(found[2] for found in re.finditer(r"(?=\b(an?|one) (?:[a-z-]+ )?([a-z]+)\b)", synset.gloss))
        counts.update(word[:-1] for word in re.findall(r"\b[a-z]{3,}s\b", synset.gloss) for _ in range(3))
        for example in synset.examples:
            counts.update(found[2] for found in re.finditer(r"(?=\b(an?|one) (?:[a-z-]+ )?([a-z]+)\b)", example))
    for word in MASS:
        counts[word] = 0
    countable.update(word for word, count in counts.items() if count >= 3 and len(word) > 2)
    return net


def article(word):
    return "an" if re.match(r"[aeiou](?!ni[^n]|se|uro)", word, re.I) else "a"


def plain_gloss(synset):
    """The gloss without its remarks in brackets, and its domain ("botany") if it names one."""
    domain = re.match(r"\(([a-z ]{3,30})\)\s*", synset.gloss)
    gloss = synset.gloss[domain.end():] if domain else synset.gloss
    return re.sub(r"\s*\([^)]*\)", "", gloss).strip(" ;"), domain[1] if domain and "of " not in domain[1] else None


def with_article(gloss):
    """ "small family comprising ..." -> "a small family comprising ...", if its head is known to be countable."""
    if re.match(r"(an?|the|one|any|some|each|two|three|all|no|this|these|those|his|her|its|many|most|several|someone|"
                r"something|"
                r"anything|that|what|whatever|to|of|in|by|being|having|informal for|common|either|every|not)\b", gloss,
                re.I):
        return gloss
    phrase = re.split(r"[,;:]| (?:of|that|who|whose|which|with|in|on|for|from|to|by|at|as|near|and|or|used|having|"
                      r"where|when|between|"
                      r"native|made|\w+ing|\w+ed)\b", gloss)[0].split()
    head = phrase[-1].lower() if phrase else ""
    if len(phrase) > 6 or head not in countable or re.search(r"(?<![su])s$|ing$|ed$", head):
        return gloss
    return f"{article(gloss)} {gloss}"


def define(synset, word=None):
    """One sentence that defines the synset's word."""
    word = word or synset.words[0]
    gloss, domain = plain_gloss(synset)
    prefix = f"In {domain}, " if domain else ""
    if synset.pos == "noun":
        proper = word[0].isupper() or re.match(r"(genus|family|order|class|phylum) ", word)
        gloss = with_article(gloss)
        if any(p[0] == "@i" for p in synset.pointers):
            return f"{word} is {gloss}."
        last = word.split()[-1]
        mass = last not in countable if synset.frequency else re.search(r"(ness|ity|ism|logy|cy|ing|ment|tude|ics|"
                                                                        r"ship)$", last)
        if proper or mass or not re.match(r"(an?|one|any|someone|the|something|anything)\b", gloss):
            subject = word
        elif re.match(r"the (act|process|state|quality|condition|property|science|study|trait|branch|practice|ability)",
                      gloss):
            subject = word
        else:
            subject = f"{article(word)} {word}"
        sentence = f"{prefix}{subject} is {gloss}."
    elif synset.pos == "verb":
        sentence = f"{prefix}to {word} means to {gloss}."
    else:
        sentence = f'{prefix}"{word}" means {gloss}.'
    return sentence[0].upper() + sentence[1:]


def hypernym(synset, net):
    for symbol, key, _, _ in synset.pointers:
        if symbol in ("@", "@i") and key in net:
            return net[key].words[0]
    return None


def describe(synset, net, word=None):
    """Definition, kind, and other names: two or three sentences as they stand in the training text."""
    word = word or synset.words[0]
    text = define(synset, word)
    kind = hypernym(synset, net)
    if synset.pos == "noun" and kind and kind not in synset.gloss and not kind[0].isupper() and " " not in kind[:1]:
        text += f" It is a kind of {kind}."
    others = [w for w in synset.words if w.lower() != word.lower()][:2]
    if others:
        text += f" It is also called {' or '.join(others)}." if synset.pos == "noun" else \
            f" Another word for it is {others[0]}."
    return text


def documents(net, is_held_out):
    """Neighbouring synsets, twelve at a time; the held-out ones in documents of their own."""
    groups = {False: [], True: []}
    for key in sorted(net, key=lambda k: (k[1], k[0])):
        synset = net[key]
        held = is_held_out("wordnet/" + key[0] + key[1])
        text = describe(synset, net)
        if synset.examples:
            text += " For example: " + "; ".join(synset.examples[:3]) + "."
        groups[held].append(("p", text[0].upper() + text[1:]))
        if len(groups[held]) == 12:
            yield ("heldout/" if held else "train/") + "/".join(key), groups[held]
            groups[held] = []
