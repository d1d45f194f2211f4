"""Questions by rule from one sentence, for sources.py: the sentence answers them.

A sentence is split into subject, finite verb and rest with a lexicon out of WordNet's index, tag counts and lists of
irregular forms. What is not understood yields no question of that rule; keyword questions need no parse.

    The server can send a notice by mail if the disk is full.
        What can the server send?  What can send a notice?  How can the server send a notice?  When can ...?
"""
import collections
import re

AUX = set("is are was were can could may might must should will would has have had does do did cannot".split())
BE = {"is", "are", "was", "were"}
MODAL = {"can", "could", "may", "might", "must", "should", "will", "would"}
DETERMINERS = set("the a an this that these those each every any some all both no its their his her our your my one "
                  "two three four five six several many most another such".split())
PRONOUNS = set("it they he she we this these that those there i you one who which what".split())
PREPOSITIONS = set("of in on at by for with from to into as about under over between through during after before "
                   "without within against among per via than like upon across until since near".split())
CLAUSE = set("which that who whose where when while because if unless although though so but and or however whereas "
             "then since until before after rather instead".split())
STOP = (DETERMINERS | PRONOUNS | PREPOSITIONS | CLAUSE | AUX | set(
    "be been being not only also just very more less other same own how why whom etc e.g i.e me him them us if else "
    "too even up out down off here again further once yes".split()))
NUMBERS = set("two three four five six seven eight nine ten eleven twelve fifteen twenty thirty forty fifty hundred "
              "thousand".split())
MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
PERSONS = re.compile(r"\b(he|she|who|author|user|users|man|woman|person|people|king|president|developer|developers|"
                     r"administrator|maintainer|maintainers|members?|writer|poet|painter|team)\b", re.I)
SWAP = {"you": "I", "your": "my", "yours": "mine", "yourself": "myself", "we": "they", "our": "their"}
VERB_NEXT = {"to", "not", "also", "you", "they", "we", "which", "that", "who", "i", "then", "does", "do", "did"}
KEYWORDS = ["{k}", "{k}?", "{k}", "what about {k}", "how about {k}?", "info on {k}", "{k} explained", "find {k}"]
ABOUT = ["What does it say about {n}?", "What is said about {n}?", "What about {n}?", "Tell me about {n}.",
         "What do the sources say about {n}?", "Is there anything about {n}?", "What do you know about {n}?",
         "Explain {n}.", "What should I know about {n}?", "Say something about {n}."]
BOTH = ["What is the relation between {a} and {b}?", "How are {a} and {b} related?",
        "What does {a} have to do with {b}?", "How does {a} affect {b}?", "What is the role of {a} in {b}?",
        "What connects {a} and {b}?"]
POINT = ["Which source mentions {n}?", "Where is {n} mentioned?", "Give me the sentence about {n}.",
         "Quote the sentence that mentions {n}.", "Find the sentence with {n}."]


def content(text):
    """The words of a text that carry meaning, lower case, stemmed a little."""
    return [stem(word) for word in re.findall(r"[a-z0-9]+(?:[-'.][a-z0-9]+)*", text.lower())
            if word not in STOP and word not in ASKING]


ASKING = set("what when where why how who which is are does did do much many long often happens called used tell me "
             "say said source sources sentence mentions mentioned explain know".split())


def stem(word):
    for ending in ("ies", "sses", "ing", "ed", "es", "ly", "s", "'s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word[:-len(ending)] + {"ies": "y", "sses": "ss"}.get(ending, "")
            break
    return word[:-1] if word.endswith("e") and len(word) > 3 else word


class Lexicon:
    """Part-of-speech counts and verb forms out of WordNet's files."""

    def __init__(self, folder):
        self.counts = collections.defaultdict(collections.Counter)
        for pos, letter in (("noun", "n"), ("verb", "v"), ("adj", "a"), ("adv", "r")):
            for line in open(folder / f"index.{pos}", encoding="latin-1"):
                if not line.startswith(" "):
                    self.counts[line.split(" ", 1)[0].replace("_", " ")][letter] += 0.5
        for line in open(folder / "cntlist.rev", encoding="latin-1"):
            sense, _, count = line.split()
            lemma, _, tail = sense.partition("%")
            self.counts[lemma.replace("_", " ")][{"1": "n", "2": "v"}.get(tail[0], "a" if tail[0] in "35" else "r")
                                                 ] += int(count)
        self.forms = {}                                # form: (base, "s" | "ed" | "ing")
        irregular = set()
        for line in open(folder / "verb.exc", encoding="latin-1"):
            form, base = line.split()[:2]
            if "_" not in form and "-" not in form:
                self.forms[form] = (base, "ing" if form.endswith("ing") else "ed")
                irregular.add(base)
        for lemma, counts in list(self.counts.items()):
            if counts["v"] and lemma.isalpha():
                s = lemma[:-1] + "ies" if re.search(r"[^aeiou]y$", lemma) else \
                    lemma + ("es" if re.search(r"(s|x|z|ch|sh|o)$", lemma) else "s")
                self.forms.setdefault(s, (lemma, "s"))
                root = lemma[:-1] if lemma.endswith("e") else lemma
                ed = lemma[:-1] + "ied" if re.search(r"[^aeiou]y$", lemma) else root + "ed"
                self.forms.setdefault(ed, (lemma, "ed"))
                self.forms.setdefault(root + "ing", (lemma, "ing"))
                if re.search(r"[^aeiou][aeiou][bdgklmnprt]$", lemma):
                    self.forms.setdefault(lemma + lemma[-1] + "ed", (lemma, "ed"))
                    self.forms.setdefault(lemma + lemma[-1] + "ing", (lemma, "ing"))

    def count(self, word, pos):
        word = word.lower()
        best = self.counts[word][pos] if word in self.counts else 0
        if pos == "n" and word.endswith("s"):
            for single in (word[:-1], word[:-2], word[:-3] + "y"):
                if single in self.counts:
                    best = max(best, self.counts[single]["n"])
        return best

    def nouny(self, word):
        word = word.strip("\"'()`")
        if not word or word.lower() in STOP:
            return False
        if word[0].isupper() or not word.isalpha() or word.lower() not in self.counts:
            return self.count(word, "n") > 0 or word.lower() not in self.forms
        return self.count(word, "n") >= max(0.5, 0.3 * self.count(word, "a"), 0.1 * self.count(word, "r"))

    def verb(self, word):
        """(base, kind) of a word that can be a finite verb: kind is "s" or "ed"; else None."""
        found = self.forms.get(word.lower())
        if not found or found[1] == "ing" or word.lower() in STOP:
            return None
        return found if self.counts[found[0]]["v"] >= 0.3 * self.count(word, "n") else None

    def is_base(self, word):
        return word.isalpha() and word.islower() and self.counts.get(word, {}).get("v", 0) >= 1


def core(token):
    return token.strip(".,;:()\"'`")


def clip(tokens, limit=12):
    """The first clause of the tokens, without its final punctuation."""
    out = []
    for i, token in enumerate(tokens[:limit]):
        if i and (core(token).lower() in CLAUSE - {"and", "or", "that", "then"} or token.startswith("(")):
            break
        out.append(token)
        if token[-1] in ",;:.)!?" and not re.match(r"(e\.g|i\.e|etc)\.", token):
            break
    else:
        if len(tokens) > limit:                        # cut before the last preposition rather than anywhere
            for at in range(len(out) - 1, 2, -1):
                if out[at].lower() in PREPOSITIONS:
                    out = out[:at]
                    break
    while len(out) > 1 and core(out[-1]).lower() in STOP:
        out.pop()
    return " ".join(out).rstrip(".,;:!?") if out else ""


def noun_phrase(tokens, lexicon, limit=7):
    """How many of the first tokens make up one noun phrase: determiner, adjectives, nouns."""
    n = last = 0
    for token in tokens[:limit]:
        word = core(token).lower()
        if n == 0 and word in DETERMINERS:
            pass
        elif word in STOP or token.startswith("("):
            break
        elif word in ("called", "known", "named", "example"):
            break
        elif lexicon.nouny(core(token)):
            last = n + 1
        elif lexicon.count(word, "a") or lexicon.forms.get(word, ("", ""))[1] in ("ed", "ing"):
            pass
        else:
            break
        n += 1
        if token[-1] in ".,;:)":
            break
    return last


def lower_first(tokens, lexicon):
    """The tokens as they stand inside a sentence: "The" becomes "the", a name stays."""
    first = tokens[0]
    if core(first).lower() in STOP or (first[1:].islower() and (
            not tokens[1][0].isupper() if len(tokens) > 1 else lexicon.count(first, "n") > 1)):
        first = first[0].lower() + first[1:]
    return [first] + list(tokens[1:])


def swap_person(text):
    return " ".join(SWAP.get(word.lower(), word) for word in text.split(" "))


def split(tokens, lexicon):
    """(subject, verb index), or None. The subject is one noun phrase with its of- and in-phrases."""
    candidate = None
    for i, token in enumerate(tokens[:11]):
        word = core(token).lower()
        if i == 0:
            if word in CLAUSE | PREPOSITIONS or (word in AUX):
                return None
            continue
        if word in AUX:
            if candidate is None or candidate[1] == "ed":
                return i if core(tokens[i - 1]).lower() not in PREPOSITIONS | DETERMINERS - {"this", "that"} else None
            return candidate[0]
        if word in CLAUSE - {"and", "or", "since", "before", "after"} or token.startswith("("):
            return candidate[0] if candidate else None
        found = lexicon.verb(token)
        if found and candidate is None and core(tokens[i - 1]).lower() not in PREPOSITIONS | DETERMINERS - {
                "this", "that"} and (lexicon.nouny(core(tokens[i - 1])) or core(tokens[i - 1]).lower() in PRONOUNS):
            following = core(tokens[i + 1]).lower() if i + 1 < len(tokens) else ""
            if found[1] == "s" and (following in DETERMINERS | PREPOSITIONS | {"that", "whether", "how"} or
                                    lexicon.nouny(following) or lexicon.count(following, "a")):
                candidate = (i, "s")
            elif found[1] == "ed" and following in DETERMINERS:
                candidate = (i, "ed")
        if token[-1] in ",;:":
            return candidate[0] if candidate else None
    return candidate[0] if candidate else None


def parsed(tokens, lexicon):
    """Questions that need subject, verb and rest."""
    at = split(tokens, lexicon)
    if not at or at + 1 >= len(tokens):
        return
    verb, rest = core(tokens[at]).lower(), tokens[at + 1:]
    subject_tokens = lower_first(tokens[:at], lexicon)
    subject = swap_person(" ".join(subject_tokens))
    you = tokens[0].lower() in ("you", "we")
    alone = tokens[0].lower() in PRONOUNS or subject_tokens[0].lower() in ("following", "such")
    if at > 1 and tokens[0].lower() in ("this", "these", "that", "those"):
        alone = False
    if verb == "cannot":
        return
    negative = rest[0].lower() == "not"
    if negative:
        rest = rest[1:]
        if not rest:
            return
    first = rest[0].lower()
    who = "Who" if PERSONS.search(subject) else "What"
    inverted = verb if verb in AUX else None
    base = None
    if verb not in AUX:
        base, form = lexicon.verb(tokens[at])
        inverted = "did" if form == "ed" else "does"
    tail = clip(rest)
    body = f"{subject} {base} {tail}" if base else f"{subject} {'not ' if negative else ''}{tail}"
    if not alone and not negative:
        if len(tail.split()) >= 2 and not you:
            yield f"{who} {core(tokens[at])} {swap_person(tail)}?"
            if len(tail.split()) >= 4 and who == "What" and verb not in BE:
                yield f"Which {subject_tokens[-1].rstrip('s,')} {core(tokens[at])} {swap_person(tail)}?" \
                    if at <= 3 and subject_tokens[-1].islower() and subject_tokens[0] in ("a", "an", "the") else \
                    f"What is it that {core(tokens[at])} {swap_person(tail)}?"
        if verb in ("is", "are", "was", "were"):
            if first in ("a", "an", "the", "one") or (verb == "are" and lexicon.nouny(rest[0])):
                if not you:
                    yield f"{'Who' if who == 'Who' and first in ('a', 'an') else 'What'} {verb} {subject}?"
                    yield f"{'Who' if who == 'Who' and first in ('a', 'an') else 'What'} {verb} {subject}?"
                    yield f"Define {re.sub('^(the|an?) ', '', subject)}."
                    yield f"Can you tell me what {subject} {verb}?"
                    if first in ("a", "an"):
                        yield f"What do you call {tail}?"
                        yield f"What kind of thing {verb} {subject}?"
            found = lexicon.forms.get(first)
            if found and found[1] == "ed" and len(rest) > 1:
                after = core(rest[1]).lower()
                to_do = after == "to" and len(rest) > 2 and lexicon.is_base(core(rest[2]))
                if to_do or (after == "for" and first == "used"):
                    yield f"What {verb} {subject} {first} for?" if first == "used" else \
                        f"What {verb} {subject} {first} to do?"
                elif after == "by":
                    yield f"{'Who' if rest[2:3] and rest[2][0].isupper() else 'What'} {verb} {subject} {first} by?"
                    yield f"How {verb} {subject} {first}?"
                    agent = clip(rest[2:])
                    if agent and inverted in ("is", "was"):
                        yield f"What {verb} {first} by {agent}?"
                elif after in ("in", "at", "on", "under", "from"):
                    yield f"Where {verb} {subject} {first}?"
                    yield f"{after.capitalize()} what {verb} {subject} {first}?" if after != "under" else \
                        f"Where can I find {subject}?"
                elif after in ("when", "if", "before", "after", "during", "until", "only"):
                    yield f"When {verb} {subject} {first}?"
                elif after in ("as", "with", "into", "of", "through", "using"):
                    yield f"How {verb} {subject} {first}?"
                    yield f"What {verb} {subject} {first} {after}?" if after != "using" else \
                        f"How {verb} {subject} {first}?"
            elif lexicon.count(first, "a") > lexicon.count(first, "n"):
                yield f"Why {verb} {subject} {core(rest[0])}?"
                yield f"What {verb} {core(rest[0])} about {subject}?"
                yield f"How {verb} {subject}?" if len(rest) < 4 else f"What can be said about {subject}?"
    if alone and not you and tokens[0].lower() != "there":
        return
    if tokens[0].lower() == "there":
        if verb in BE and first in NUMBERS or first.isdigit() or first in ("several", "many"):
            yield f"How many {clip(rest[1:])} {verb} there?"
            yield f"How many {clip(rest[1:])} do you know of?"
        elif verb in BE:
            yield f"{'Is' if verb == 'is' else verb.capitalize()} there {swap_person(tail)}?"
        return
    # the object as the thing asked for
    action = base
    objects = rest
    if verb in MODAL and lexicon.is_base(first) and len(rest) > 1:
        action, objects = first, rest[1:]
    if action and action != "be" and not negative:
        n = noun_phrase(objects, lexicon)
        if n:
            head, more = core(objects[n - 1]), clip(objects[n:], 8) if objects[n - 1][-1] not in ",;:." else ""
            if more and more.split()[0].lower() in CLAUSE:
                more = ""
            more = (" " + swap_person(more)) if more else ""
            yield f"What {inverted} {subject} {action}{more}?"
            if head.islower() and head.isalpha():
                yield f"What {head} {inverted} {subject} {action}{more}?"
                yield f"Which {head} {inverted} {subject} {action}{more}?"
                if not head.endswith("s"):
                    yield f"What kind of {head} {inverted} {subject} {action}?"
        if not you:
            yield f"What {inverted} {subject} do?"
            yield f"What happens when {subject} {core(tokens[at]) if base else 'can ' + action} {swap_person(tail)}?" \
                if base and inverted == "does" else f"What {inverted} {subject} do?"
    # why, when, where, how: the rest names a reason, a time, a place, a means
    sentence = " ".join(tokens)
    rest_text = " ".join(rest)
    asks = []
    if re.search(r"\bbecause\b|\bsince the\b|\bso that\b|\bin order to\b|, as (the|it|this)\b", sentence):
        asks += ["Why", "For what reason", "Why"]
    elif re.search(r" to \w+ ", rest_text) and lexicon.is_base(re.search(r" to (\w+) ", rest_text)[1]):
        asks += ["Why", "For what purpose"]
    if re.search(rf"\b(in|since|until|on|from) (the )?(\d{{4}}|{MONTHS})\b|\b(when|before|after|until|during|whenever|"
                 r"as soon as)\b", rest_text):
        asks += ["When", "When"]
        if re.search(r"\bin (1\d\d\d|20\d\d)\b", rest_text):
            asks += ["In what year", "In which year"]
    if re.search(r"\b(by|with|using|through|via)\b (\w+ing|the|an?)\b", rest_text):
        asks += ["How", "How"]
    if re.search(r"\b(in|at|on|under|inside|near) (the|an?|your) \w+", rest_text):
        asks += ["Where"]
    if asks and len(tail.split()) <= 12:
        for ask in asks:
            cut = body[len(subject):].strip()
            if ask.startswith(("When", "In wh")):
                cut = re.split(rf" (?:in|since|until|on|from) (?:the )?(?:\d{{4}}|(?:{MONTHS}))\b| (?:when|before|"
                               r"after|until|during|whenever|as soon as)\b", " " + cut)[0].strip()
            elif ask == "How":
                cut = re.split(r" (?:by|with|using|through|via) ", " " + cut)[0].strip()
            elif ask == "Where":
                cut = re.split(r" (?:in|at|on|under|inside|near) ", " " + cut)[0].strip()
            elif re.search(r" to \w+ ", cut):
                cut = cut[:cut.index(" to ")]
            cut = swap_person(cut)
            if cut and len(cut.split()) >= 1:
                yield f"{ask} {inverted} {subject} {cut}?"
    # can, may: yes or no; you: how to
    if verb in MODAL and not negative:
        yield f"{verb.capitalize()} {subject} {swap_person(tail)}?"
        if you and lexicon.is_base(first):
            yield f"How {verb if verb in ('can', 'should', 'could') else 'do'} I {swap_person(tail)}?"
            yield f"How do I {swap_person(tail)}?"
            yield f"how to {swap_person(tail)}"
            yield f"Is it possible to {swap_person(tail)}?"
            yield f"What should I do to {swap_person(tail)}?"
    elif verb in BE:
        yield f"{verb.capitalize()} {subject} {'not ' if negative else ''}{swap_person(tail)}?"
    elif base and inverted == "does" and not you:
        yield f"Does {subject} {base} {swap_person(tail)}?"


def patterned(sentence, tokens, lexicon):
    """Questions that one pattern yields."""
    found = re.match(r"(If|When|Whenever|Once|Unless) ([^,]{8,90}), (.+)", sentence)
    if found:
        condition = swap_person(found[2])
        yield f"What happens {'if' if found[1] == 'If' else found[1].lower()} {condition}?"
        yield f"What {'if' if found[1] in ('If', 'Unless') else 'happens when'} {condition}?"
        if re.match(r"(you|use|the user|it is|try|set|run|do)\b", found[3]):
            yield f"What should I do {found[1].lower()} {condition}?"
            yield f"What can be done {found[1].lower()} {condition}?"
        rest = found[3].split()
        yield from (q for q in parsed(rest, lexicon) if q.startswith(("When", "What")))
    found = re.search(r"^(.{12,100}?),? (if|when|unless|whenever) (.{8,100}?)[.,;]", sentence)
    if found and not found[1].startswith(("If", "When")):
        yield f"What happens {found[2]} {swap_person(clip(found[3].split()))}?"
    found = re.match(r"(?:In order to|To) (\w+) ([^,]{4,80}), (.+)", sentence)
    if found and lexicon.is_base(found[1].lower()):
        what = swap_person(f"{found[1]} {found[2]}")
        yield from (f"How do I {what}?", f"How can I {what}?", f"how to {what}", f"How is it possible to {what}?",
                    f"What do I need to {what}?", f"What is the way to {what}?", f"I want to {what}.")
    found = re.search(r"\b(?:used|allows? you|lets you|possible|enables? you|how|need|want|try|helps?) (?:to )?(\w+) "
                      r"([^.;:(]{6,80})", sentence)
    if found and lexicon.is_base(found[1]):
        what = swap_person(clip(f"{found[1]} {found[2]}".split()))
        yield from (f"How can I {what}?", f"How do I {what}?", f"how to {what}", f"What is used to {what}?",
                    f"What lets me {what}?")
    if lexicon.is_base(tokens[0].lower()) and tokens[0][0].isupper() and len(tokens) > 3 and \
            (tokens[1].lower() in DETERMINERS or lexicon.nouny(tokens[1])) and \
            lexicon.count(tokens[0], "v") > lexicon.count(tokens[0], "n"):
        what = swap_person(clip([tokens[0].lower()] + tokens[1:]))
        yield from (f"How do I {what}?", f"Why should I {what}?", f"When should I {what}?", f"Should I {what}?")
    found = re.search(r"\b(\d[\d,.]*|%s) ((?:[a-z]+ ){0,2}[a-z]+s)\b" % "|".join(NUMBERS), sentence)
    if found:
        things = found[2].split()
        n = noun_phrase(things, lexicon)
        if n:
            things = " ".join(things[:n])
            before = " ".join(tokens[:6])
            yield f"How many {things} are mentioned?"
            yield f"How many {things} are there?"
            if re.match(r"(The|An?) ", before):
                m = noun_phrase(tokens, lexicon)
                if m and m < 6:
                    subject = " ".join(lower_first(tokens[:m], lexicon))
                    yield f"How many {things} does {subject} have?"
                    yield f"How many {things} does {subject} need?"
                    yield f"What is the number of {things} of {subject}?"
    found = re.search(r"\bdefault (?:value )?(?:for|of)?\s?([\w ]{0,40}?)\s?(?:is|are) ", sentence)
    if found:
        thing = found[1].strip() or "it"
        yield f"What is the default {thing}?" if thing != "it" else "What is the default?"
    found = re.search(r"(\b(?:the|an?) [\w -]{3,40}?),? (?:is|are|also)? ?(?:called|named|known as) ", sentence, re.I)
    if found:
        yield f"What is {found[1][0].lower() + found[1][1:]} called?"
        yield f"What is the name of {found[1][0].lower() + found[1][1:]}?"
    found = re.search(rf"\b(?:in|on|since) ((?:\d+ )?(?:{MONTHS})?,? ?(?:1[5-9]|20)\d\d)\b", sentence)
    if found:
        yield f"What happened in {found[1].strip()}?"
        year = re.search(r"\d{4}", found[1])[0]
        yield f"What happened in {year}?"
    found = re.search(r"\b((?:[A-Z][a-z]+ ){1,2}[A-Z][a-z]+)\b", sentence[1:])
    if found and not found[1].startswith(("The ", "This ", "If ")):
        name = found[1]
        yield from (f"What did {name} do?", f"Who or what is {name}?", f"What is known about {name}?")


def entry(sentence):
    """Dictionary text: "to dwarf means to ..." and "Alepole: A pole set up as ..." """
    found = re.match(r'(?:In [a-z ]+, )?(?:"([\w -]+)"|[Tt]o ([\w -]+?)) means (?:to )?([^.;]{8,200})', sentence)
    if found:
        word, short = found[1] or found[2], clip(found[3].split())
        yield from (f"What does {word} mean?", f"What does {word} mean?", f'What does "{word}" mean?',
                    f"Define {word}.", f"What is the meaning of {word}?", f"Which word means {short}?",
                    f"What is another way to say {short}?")
    found = re.match(r"(?!For example)([A-Z][\w' -]{1,30}): (An? |The |One |To )?([^.;]{12,200})", sentence)
    if found:
        word, gloss = found[1], (found[2] or "") + found[3]
        lower = word[0].lower() + word[1:]
        a = "an" if re.match(r"[aeiou]", lower) else "a"
        yield from (f"What is {a} {lower}?", f"What does {lower} mean?", f"Define {lower}.", f"{lower}",
                    f"What is the meaning of {lower}?", f"What is {lower}?")
        words = gloss.split()
        if len(words) >= 4:
            short = clip(words)
            short = short[0].lower() + short[1:]
            yield from (f"What is the word for {short}?", f"What do you call {short}?")


def noun_phrases(tokens, lexicon):
    """(start, end) of the noun phrases, without determiners."""
    i = 0
    while i < len(tokens):
        before, word = core(tokens[i - 1]).lower() if i else "", core(tokens[i])
        if before in MODAL | VERB_NEXT and lexicon.is_base(word) or (
                i == 0 and lexicon.forms.get(word.lower(), ("", ""))[1] == "s" and lexicon.verb(word)):
            i += 1
            continue
        n = noun_phrase(tokens[i:], lexicon)
        if n:
            start = i + (core(tokens[i]).lower() in DETERMINERS)
            if start < i + n:
                yield start, i + n
            i += n
        else:
            i += 1


def ask(sentence, lexicon, rarity, r):
    """Two lists of questions that the sentence answers: about what it says, and by its words only; a question can stand
    there twice. rarity(stem) grows for rarer words."""
    tokens = sentence.split()
    told = list(entry(sentence)) + list(patterned(sentence, tokens, lexicon)) + list(parsed(tokens, lexicon))
    phrases = []
    imperative = lexicon.is_base(tokens[0].lower()) and tokens[0].isalpha() and \
        lexicon.count(tokens[0], "v") > lexicon.count(tokens[0], "n")
    means = " means " in sentence[:40]
    for start, end in noun_phrases(tokens, lexicon):
        if start == 0 and (imperative or means):
            continue
        words = [core(token) for token in tokens[start:end]]
        if words and all(words):
            if start == 0:
                words = lower_first(words, lexicon)
            phrases.append((max(rarity(stem(word.lower())) for word in words), " ".join(words), start))
    phrases.sort(reverse=True)
    phrases = [(rank, text, start) for rank, text, start in phrases if len(text) > 2 and not text.isdigit()]
    general = []
    if phrases:
        general.append(r.choice(ABOUT).format(n=phrases[0][1]))
        general.append(r.choice(POINT).format(n=phrases[0][1]))
        if len(phrases) > 1:
            a, b = sorted(phrases[:2], key=lambda p: p[2])
            if a[1].lower() != b[1].lower():
                general.append(r.choice(BOTH).format(a=a[1], b=b[1]))
                general.append(r.choice(ABOUT).format(n=f"{a[1]} and {b[1]}"))
    words = [(rarity(stem(core(token).lower())), i) for i, token in enumerate(tokens)
             if core(token) and core(token).lower() not in STOP]
    chosen = sorted(words, reverse=True)[:r.randint(2, 5)]
    if len(chosen) >= 2:
        key = " ".join(core(tokens[i]) for _, i in sorted(chosen, key=lambda pair: pair[1]))
        general.append(r.choice(KEYWORDS).format(k=key.lower() if r.random() < 0.7 else key))

    def clean(questions):
        questions = [re.sub(r"\s+", " ", question) for question in questions]
        return [q for q in questions if 6 <= len(q) <= 150 and not re.search(r'[<>{}\[\]|]|\([^)]*$|^[^(]*\)|""', q)]
    return clean(told), clean(general)
