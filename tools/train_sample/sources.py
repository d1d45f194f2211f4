#!/usr/bin/env python3
"""Conversations that answer from numbered sources, for the sample models: the scaffold, the questions, the mixing.

    documents.jsonl --build--> pool: paragraphs, their sentences, questions that a sentence answers
    pool + invented articles + records --Maker--> conversations: passages [1]..[n], a question, a sentence and its [k]

A passage is made of consecutive paragraphs of one document; the others are of the same document or of any other. The
answer is a sentence, letter by letter, and the number of its passage; where no passage has it, it is NOT_FOUND. A
question on documents is only asked if its sentence is, of all sentences shown, clearly the best match of its words; one
without an answer only if no sentence matches well. About invented articles (articles.py) questions may share no word
with the answer but the subject's name.

The pool is small; conversations are made while training runs, so that none comes twice.

Example:
    tools/train_sample/sources.py --data .train --wordnet .cache/train_sample/root_wordnet-base/usr/share/wordnet
    tools/train_sample/sources.py --data .train --show 5
"""
import argparse
import collections
import json
import lzma
import math
import random
import re
import sys
from pathlib import Path

import articles
import questions

# The scaffold. Whoever asks these models (evaluate.py, a retrieval front end) uses exactly this.
SYSTEM = ("Answer from the numbered sources alone, in one or two sentences, and end with the number of the source, "
          "such as [1]. If the sources do not have the answer, say: Not in the documents.")
NOT_FOUND = "Not in the documents."


def ask(passages, question):
    """The user's message."""
    return "".join(f"[{i}] {text}\n\n" for i, text in enumerate(passages, 1)) + "Question: " + question


def answer(sentence, number):
    return f"{sentence} [{number}]"


def chatml(system, turns):
    """As the chat template renders it."""
    return f"<|im_start|>system\n{system}<|im_end|>\n" + "".join(
        f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{reply}<|im_end|>\n"
        for question, reply in turns)


# -------------------------------------------------------------------------------------------------------- pool

PER_SENTENCE = 3                                       # questions kept
NOT_ALONE = re.compile(r"(It is (also called|a kind of)|Another word for|For example|See )")


def sentences_of(paragraph):
    return re.split(r"(?<=[.!?])\s+(?=[A-Z\"'])(?<!e\.g\. )(?<!i\.e\. )(?<!etc\. )(?<!vs\. )(?<!Dr\. )(?<!Mr\. )",
                    paragraph)


def answerable(sentence):
    return (30 <= len(sentence) <= 330 and re.match(r"[A-Z\"]", sentence) and sentence[-1] in ".!" and
            not NOT_ALONE.match(sentence) and not re.search(r"[<>{}|\[\]]|\(?see (also|the|section)", sentence) and
            sentence.count('"') % 2 == 0 and sentence.count("(") == sentence.count(")") and
            len(questions.content(sentence)) >= 4)


def build(data, folder, limit_mb):
    """Writes the pool: one JSON object per document and line, the last line has frequencies and word lists."""
    import wordnet
    r = random.Random(11)
    lexicon = questions.Lexicon(folder)
    documents = [json.loads(line) for line in open(data / "documents.jsonl")]
    frequency = collections.Counter()
    for document in documents[::3]:
        for kind, text in document["blocks"]:
            frequency.update(set(questions.content(text)))

    def rarity(word):
        return -frequency[word]

    share = {"wordnet-base": 0.3, "dict-gcide": 0.15}
    r.shuffle(documents)
    n_documents = n_sentences = n_questions = n_bytes = 0
    kinds = collections.Counter()
    with lzma.open(data / "sources.jsonl.xz", "wt", preset=6, encoding="utf-8") as file:
        for document in documents:
            held = document["held_out"]
            if not held and (n_bytes > limit_mb * 1e6 or r.random() > share.get(document["package"], 1)):
                continue
            paragraphs, heading = [], ""
            for kind, text in document["blocks"]:
                if kind == "h":
                    heading = text
                    continue
                rows = []
                for sentence in sentences_of(text):
                    asked = []
                    if answerable(sentence):
                        told, general = questions.ask(sentence, lexicon, rarity, r)
                        told, general = sorted(set(told)), sorted(set(general))
                        n_told = min(len(told), PER_SENTENCE if r.random() < 0.6 else PER_SENTENCE - 1)
                        asked = r.sample(told, n_told) + r.sample(general, min(len(general), PER_SENTENCE - n_told))
                        if not told and r.random() < 0.5:
                            asked = asked[:1]
                    rows.append([sentence] + asked)
                    n_sentences += 1
                    n_questions += len(asked)
                    kinds.update(question.split()[0] for question in asked)
                paragraphs.append([heading, rows])
                heading = ""
            line = json.dumps({"held": held, "paragraphs": paragraphs}, ensure_ascii=False) + "\n"
            n_bytes += len(line)
            n_documents += 1
            file.write(line)
        net = wordnet.load(folder)
        words = {"frequency": dict(frequency.most_common(6000)), "synonyms": synonyms(net, lexicon),
                 "surnames": names(net, True), "places": names(net, False)}
        file.write(json.dumps(words, ensure_ascii=False) + "\n")
    print(f"sources.jsonl.xz: {n_documents} documents, {n_sentences} sentences, {n_questions} questions, "
          f"{(data / 'sources.jsonl.xz').stat().st_size / 1e6:.1f} MB; first words {kinds.most_common(24)}")


def synonyms(net, lexicon):
    """word: other words of its first and most frequent sense."""
    table = {}
    for synset in net.values():
        if synset.frequency < 3:
            continue
        letter = synset.key[1]
        for word in synset.words:
            others = [w for w in synset.words if w != word and w.isalpha() and w.islower() and len(w) > 3 and
                      lexicon.count(w, letter) >= 2]
            if word.isalpha() and word.islower() and len(word) > 3 and synset.rank.get(word, 9) == 0 and others and \
                    lexicon.count(word, letter) >= 0.8 * sum(lexicon.counts[word].values()):
                table[word] = others[:3]
    return table


def names(net, persons):
    found = set()
    for synset in net.values():
        if synset.pos == "noun" and any(p[0] == "@i" for p in synset.pointers):
            person = bool(re.search(r"\(\d{4}-\d{4}\)|\bborn\b", synset.gloss))
            word = synset.words[0]
            if person == persons and re.fullmatch(r"[A-Z][a-z]{3,10}", word) and (
                    person or re.search(r"\b(city|town|port|village|capital)\b", synset.gloss)):
                found.add(word)
    return sorted(found)


# ------------------------------------------------------------------------------------------------------- maker

class Passage:
    """Text and its sentences: (sentence, questions, stems). The stems are those of questions.content()."""

    def __init__(self, text, rows, subject=None, kind=None, missing=()):
        self.text, self.subject, self.kind, self.missing = text, subject, kind, missing
        self.rows = [(row[0], row[1:]) for row in rows]

    def matches(self, stems, weight):
        """Of every sentence, the summed weight of the question's stems."""
        return [sum(weight(stem) for stem in stems & set(questions.content(sentence))) for sentence, _ in self.rows]


class Maker:
    """Makes conversations: {"system", "turns"}. progress in 0..1 moves from short and plain tasks to the real one."""

    def __init__(self, path, seed, held=False):
        self.r = random.Random(seed)
        self.documents, words = [], None
        with lzma.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                if "paragraphs" not in row:
                    words = row
                elif row["held"] == held and row["paragraphs"]:
                    self.documents.append(row["paragraphs"])
        self.frequency, self.synonyms = words["frequency"], words["synonyms"]
        # an odd name is held out, an even one is trained on
        self.surnames = words["surnames"][1 if held else 0::2]
        self.places = words["places"][1 if held else 0::2]
        # long documents are drawn more often
        self.sizes = [min(40, len(paragraphs)) for paragraphs in self.documents]
        self.total = self.sum_sizes()

    def sum_sizes(self):
        total, sums = 0, []
        for size in self.sizes:
            total += size
            sums.append(total)
        return sums

    def weight(self, stem):
        return math.log(60000 / (1 + self.frequency.get(stem, 3)))

    # passages

    def document(self):
        return self.r.choices(self.documents, cum_weights=self.total)[0]

    def passage_of(self, paragraphs):
        """Consecutive paragraphs, cut at a sentence, of 100 to 1,300 characters."""
        r = self.r
        length = int(min(1800, max(100, r.lognormvariate(6.2, 0.6))))
        at = r.randrange(len(paragraphs))
        heading, rows = paragraphs[at][0], []
        glue, text = r.choice([" ", " ", " ", "\n"]), ""
        first = 0
        if len(paragraphs[at][1]) > 4 and r.random() < 0.3:
            first = r.randrange(len(paragraphs[at][1]) - 2)
        while at < len(paragraphs) and len(text) < length:
            for i, row in enumerate(paragraphs[at][1][first:]):
                if len(text) + len(row[0]) > length + 150 and text:
                    return self.finish(heading, text, rows)
                text += (glue if i == 0 else " ") * bool(text) + row[0]
                rows.append(row)
            at, first = at + 1, 0
        return self.finish(heading, text, rows)

    def finish(self, heading, text, rows):
        if heading and self.r.random() < 0.12:
            text = heading + "\n" + text
        return Passage(text, rows)

    def article(self, kinds=None):
        kind, subject, rows, missing = articles.article(self.r, self.surnames, self.places, kinds)
        if self.r.random() < 0.2:                          # longer, by sentences that have nothing to do with it
            other = [row for row in self.passage_of(self.document()).rows if len(row[0]) < 200]
            for row in other[:self.r.randint(1, 4)]:
                rows.insert(self.r.randint(1, len(rows)), (row[0], []))
        return Passage(" ".join(sentence for sentence, _ in rows), [[s] + list(q) for s, q in rows], subject, kind,
                       missing)

    def record(self):
        """Sentences of one form, about different names: pure look-up."""
        r = self.r
        form, ask = r.choice(RECORDS)
        keys = [articles.invent(r, r.choice([2, 2, 3])) for _ in range(r.randint(2, 6))]
        rows = []
        for key in dict.fromkeys(keys):
            values = articles.Values(r, self.surnames, self.places)
            rows.append([articles.fill(form, values, key)] + [articles.fill(q, values, key) for q in ask])
        return Passage(" ".join(row[0] for row in rows), rows, kind="record")

    # questions

    def rephrase(self, question):
        """As people type: synonyms, lower case, no question mark."""
        r = self.r
        if r.random() < 0.3:
            words = question.split(" ")
            for i in r.sample(range(len(words)), len(words)):
                word = words[i].rstrip("?.,")
                if word.lower() in questions.STOP | questions.ASKING:
                    continue
                for ending in ("", "s"):
                    base = word[:-1] if ending else word
                    if word.endswith(ending) and base in self.synonyms:
                        other = r.choice(self.synonyms[base])
                        if ending and re.search(r"(s|x|z|ch|sh|y)$", other):
                            continue
                        words[i] = other + ending + words[i][len(word):]
                        break
                else:
                    continue
                if r.random() < 0.6:
                    break
            question = " ".join(words)
        if r.random() < 0.08:
            question = question[0].lower() + question[1:]
        if r.random() < 0.08:
            question = question.rstrip("?.")
        if r.random() < 0.04:
            question = question.lower()
        return question

    def answered(self, passages):
        """(question, answer) whose sentence is in the passages, or None."""
        r = self.r
        for _ in range(6):
            number = r.randrange(len(passages))
            passage = passages[number]
            row_id = r.randrange(len(passage.rows))
            sentence, asked = passage.rows[row_id]
            if not asked:
                continue
            question = r.choice(asked)
            if passage.kind is None:
                stems = set(questions.content(question))
                if not stems:
                    continue
                scores = [(score, n, i) for n, other in enumerate(passages)
                          for i, score in enumerate(other.matches(stems, self.weight))]
                own = next(score for score, n, i in scores if (n, i) == (number, row_id))
                best = max((score for score, n, i in scores if (n, i) != (number, row_id)), default=0)
                if own < 1.2 * best or own < 0.5 * sum(map(self.weight, stems)):
                    continue
            elif passage.subject and passage.subject not in question and any(
                    other.kind == passage.kind for other in passages if other is not passage):
                continue
            elif passage.subject and any(question in q for i, (_, q) in enumerate(passage.rows) if i != row_id):
                continue
            return self.rephrase(question), answer(sentence, number + 1)
        return None

    def unanswered(self, passages, near):
        """A question that no passage answers; near: a passage close to one that is shown."""
        r = self.r
        for _ in range(6):
            shown = r.choice(passages)
            if shown.missing and r.random() < 0.5:
                question = r.choice(shown.missing)
                if shown.subject not in question:
                    continue
                return self.rephrase(question), NOT_FOUND
            other = near() if r.random() < 0.5 else self.article() if r.random() < 0.3 else \
                self.passage_of(self.document())
            rows = [row for row in other.rows if row[1]]
            if not rows or (other.subject and any(p.subject == other.subject for p in passages)):
                continue
            question = r.choice(r.choice(rows)[1])
            if other.subject and other.subject not in question:
                continue
            stems = set(questions.content(question))
            total = sum(map(self.weight, stems))
            if not stems or any(score > 0.55 * total for p in passages for score in p.matches(stems, self.weight)):
                continue
            return self.rephrase(question), NOT_FOUND
        return None

    def conversation(self, progress=1.0, n=None, n_questions=None, missing=0.2):
        r = self.r
        simple = 0.5 * max(0.0, 1 - progress / 0.25)
        if n is None and r.random() < simple + 0.05:
            passages = [self.record() if r.random() < 0.6 else self.article() for _ in range(r.choice([1, 1, 2, 3]))]
            near = self.article
            if sum(len(p.text) for p in passages) > 2600:
                passages = passages[:2]
        elif r.random() < 0.42:
            n = n or r.choices([1, 2, 3, 4, 5, 6], [1, 2, 8, 3, 2, 1])[0]
            kind = r.choice(list(articles.KINDS)) if r.random() < 0.4 else None
            passages = [self.article([kind] if kind else None) for _ in range(n)]
            if n > 1 and r.random() < 0.3:
                passages[r.randrange(n)] = self.passage_of(self.document())
            near = self.article
        else:
            n = n or r.choices([1, 2, 3, 4, 5, 6], [1, 2, 8, 3, 2, 1])[0]
            home = self.document()
            passages = []
            for i in range(n):
                for _ in range(4):
                    passage = self.passage_of(home if i == 0 or r.random() < 0.3 else self.document())
                    if all(passage.rows[0][0] not in other.text and other.rows[0][0] not in passage.text
                           for other in passages):
                        passages.append(passage)
                        break

            def near():
                for _ in range(4):
                    passage = self.passage_of(home)
                    if all(row[0] not in other.text for row in passage.rows for other in passages):
                        return passage
                return self.passage_of(self.document())
        r.shuffle(passages)
        size = 0
        for i, passage in enumerate(passages):             # what a window of 1,536 tokens holds, with room to answer
            size += len(passage.text)
            if size > 4000 and i:
                passages = passages[:i]
                break
        turns = []
        for _ in range(n_questions or r.choice([1, 1, 2, 3, 4, 5])):
            turn = self.unanswered(passages, near) if r.random() < missing else self.answered(passages)
            if turn and turn[0] not in (question for question, _ in turns):
                turns.append(turn)
        if not turns:
            return None
        if n_questions is None and r.random() < 0.04:      # a source as such
            number = r.randrange(len(passages))
            ordinal, at = r.choice([("first", 0), ("first", 0), ("last", -1)])
            turns.append((r.choice(["What is the {o} sentence of source [{n}]?", "Quote the {o} sentence of [{n}].",
                                    "Repeat the {o} sentence of source {n}."]).format(o=ordinal, n=number + 1),
                          answer(passages[number].rows[at][0], number + 1)))
        return self.worded([p.text for p in passages], turns, n_questions is not None)

    def worded(self, texts, turns, canonical):
        """Mostly the scaffold; now and then what somebody else might send."""
        r = self.r
        first = ask(texts, turns[0][0])
        system = SYSTEM
        if not canonical and r.random() < 0.12:
            roll = r.random()
            if roll < 0.4:
                system, first = "You are a helpful assistant.", SYSTEM + "\n\n" + first
            elif roll < 0.7:
                first = "Sources:\n\n" + first
            else:
                first = first.replace("Question: ", "", 1) if "Question: " not in texts[0] else first
        rest = [("Question: " + question, reply) for question, reply in turns[1:]]
        return {"system": system, "turns": [(first, turns[0][1])] + rest}


RECORDS = [
    ("The code of {S} is {n}.", ["What is the code of {N}?", "Which code does {N} have?"]),
    ("{S} was born on {date}.", ["When was {N} born?", "What is the birthday of {N}?"]),
    ("{S} lives in {place}.", ["Where does {N} live?", "In which town does {N} live?"]),
    ("The price of {S} is {money}.", ["How much does {N} cost?", "What is the price of {N}?"]),
    ("{S} works as a {prof} in {place}.", ["What does {N} do?", "Where does {N} work?", "What is the job of {N}?"]),
    ("{S} likes {food} and hates {food2}.", ["What does {N} like?", "What does {N} hate?"]),
    ("In {year}, {S} moved to {land}.", ["When did {N} move?", "Where did {N} move in {year}?"]),
    ("The colour of {S} is {color}.", ["What colour is {N}?", "Which colour does {N} have?"]),
    ("The head of {S} is {person}.", ["Who is the head of {N}?", "Who leads {N}?"]),
    ("{S} produces {goods} for {land}.", ["What does {N} produce?", "For which country does {N} produce {goods}?"]),
    ("The {animal} called {S} sleeps in {shelter}.", ["Where does {N} sleep?", "What kind of animal is {N}?"]),
    ("{S} plays the {instrument} every {month}.", ["What does {N} play?", "When does {N} play?"]),
    ("{S} is {n} kilometres {dir} of {place}.", ["How far is {N} from {place}?", "Where is {N}?"]),
    ("Room {n} belongs to {S}, a {prof}.", ["Which room does {N} have?", "What is {N}?"]),
]


# --------------------------------------------------------------------------------------------------------- main

def held_out_set(path, n):
    """n canonical conversations of one question on three passages, out of held-out documents and names."""
    maker, rows = Maker(path, 5, held=True), []
    while len(rows) < n:
        conversation = maker.conversation(n=3, n_questions=1, missing=0.25)
        if conversation:
            rows.append(conversation)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True,
                        help="folder with documents.jsonl; the pool is written here")
    parser.add_argument("--wordnet", type=Path, help="WordNet's files (dict folder): build the pool")
    parser.add_argument("--limit-mb", type=float, default=60, help="largest pool, uncompressed (default %(default)s)")
    parser.add_argument("--held-out", type=int, default=512, help="conversations to hold out (default %(default)s)")
    parser.add_argument("--show", type=int, help="print so many conversations of an existing pool")
    parser.add_argument("--seed", type=int, default=1, help="of --show")
    arguments = parser.parse_args()
    if arguments.wordnet:
        build(arguments.data, arguments.wordnet, arguments.limit_mb)
        with open(arguments.data / "sources-heldout.jsonl", "w", encoding="utf-8") as file:
            for row in held_out_set(arguments.data / "sources.jsonl.xz", arguments.held_out):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    if arguments.show:
        maker = Maker(arguments.data / "sources.jsonl.xz", arguments.seed)
        for _ in range(arguments.show):
            conversation = maker.conversation()
            if conversation:
                print(chatml(**conversation))


if __name__ == "__main__":
    sys.exit(main())
