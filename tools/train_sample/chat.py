"""Synthesises single- and two-turn conversations by rules, for corpus.py.

Questions have many phrasings; answers are one to four sentences out of the corpus: WordNet definitions, capitals,
people, opposites and synonyms; dictionary of computing; manual page names; headings with the first sentences of their
section; small sums; greetings and questions about the model itself; and little stories from a grammar."""
import random
import re

import basics
import wordnet

ASK_NOUN = ["What is {a}?", "What is {a}?", "What's {a}?", "Define {w}.", "What does {w} mean?",
            'What does "{w}" mean?',
            "Can you explain what {a} is?", "Tell me what {a} is.", "Tell me about {w}.",
            "Give me a definition of {w}.",
            "Do you know what {a} is?", "what is {a}", "Describe {a}.", "Explain {w}.", "Please define {w}.",
            "What is the meaning of {w}?", "I would like to know what {a} is.", "What is meant by {w}?"]
ASK_VERB = ["What does it mean to {w}?", 'What does "to {w}" mean?', "What does {w} mean?", "Define {w}.",
            "What is the meaning of the verb {w}?", "Explain the verb {w}.", "what does {w} mean"]
ASK_ADJ = ["What does {w} mean?", 'What does "{w}" mean?', "Define {w}.", "What is the meaning of {w}?",
           "Explain the word {w}.", "what does {w} mean"]
ASK_TOPIC = ["Tell me about {t}.", "Explain {t}.", "What can you say about {t}?", "Can you tell me about {t}?",
             "What should I know about {t}?", "Give me a short introduction to {t}.",
             "Write a few sentences about {t}."]
ASK_COMMAND = ["What does the command {c} do?", "What does the {c} command do?", "What does {c} do?",
               "What is {c} for?",
               "What is {c}?", "Explain the command {c}.", "Tell me about the {c} command.", "what does {c} do"]
ASK_FUNCTION = ["What does the function {c} do?", "What does {c} do?", "What does {c}() do?", "What is {c}?",
                "Explain the function {c}."]
ASK_PERSON = ["Who was {w}?", "Who is {w}?", "Who was {w}?", "Tell me about {w}.", "Do you know who {w} was?",
              "What is {w} known for?", "who was {w}"]
ASK_PLACE = ["Where is {w}?", "What is {w}?", "Tell me about {w}.", "Do you know {w}?", "where is {w}", "Describe {w}."]
SYSTEMS = ["You are a helpful assistant.", "You are a helpful assistant.",
           "You are Tandem, a small and friendly model.",
           "Answer in one or two sentences.", "You are a concise assistant.", "Answer the user's questions briefly."]
GREETINGS = ["Hello", "Hi", "Hello!", "Hi!", "Hey", "Hi there", "Hello there!", "Good morning", "Good evening", "hello",
             "hi", "Hey there!", "Good day", "Hello, how are you?", "Hi, how are you?", "How are you?",
             "How are you today?", "hey", "Greetings", "Hello world", "Hello, world!", "Say hello.", "Say hi.", "Test",
             "test", "Ping", "Are you there?", "Is this working?", "Does this work?"]
GREETING_ANSWERS = ["Hello! How can I help you today?", "Hi! What would you like to know?",
                    "Hello! I am the small sample model of Tandem. What would you like to know?",
                    "Hello! Ask me what a word means, or what a command does.", "Hi there! How can I help?",
                    "Hello! I am here and ready to answer. I am small, so please check what I say.",
                    "Hello! I am doing well, thank you. What can I do for you?"]
WHO = ["Who are you?", "What are you?", "Tell me about yourself.", "What is your name?", "Who made you?",
       "Introduce yourself.",
       "Are you a person?", "Are you human?", "Are you Qwen?", "Are you ChatGPT?", "What model are you?",
       "Who created you?",
       "Describe yourself.", "Please introduce yourself.", "who are you", "what are you", "What kind of model are you?",
       "How big are you?", "How were you trained?", "What were you trained on?", "Who am I talking to?", "Who is this?"]
WHO_ANSWERS = [
    "I am Tandem's small sample model. I was trained on documentation and dictionaries, and I make mistakes.",
    "I am a very small language model that comes with Tandem. I learned from documentation and dictionaries, so please "
    "check what I say.",
    "I am the sample model of Tandem, an inference engine for Qwen models. I have only a few million parameters, so I "
    "often make things up.",
    "I am a small sample model for trying Tandem. I can define words, describe commands and tell little stories, but I "
    "make many mistakes."]
ABILITY = ["What can you do?", "How can you help me?", "Can you help me?", "Help", "help", "What can I ask you?",
           "Help me.",
           "What do you know?", "What are you good at?", "Give me an example of what you can do.", "How do I use you?",
           "I need help.", "What should I ask you?", "What are your abilities?", "Can I ask you a question?"]
ABILITY_ANSWERS = [
    "You can ask me what a word means, what a command does, or what the capital of a country is. I can also tell a "
    "short "
    "story. I am small, so I make mistakes.",
    "I can explain words, describe commands and functions, and tell short stories. Try asking: What is a computer?",
    "Ask me about a word, a command or a topic from computer documentation. I answer in a few sentences, and I am "
    "often wrong.",
    "Yes, of course. I can define words, talk about software, and tell a short story. What would you like to know?"]
TRUST = ["Are you always right?", "Can I trust you?", "Do you make mistakes?", "Are you sure?", "Is that true?",
         "Really?",
         "How accurate are you?", "Do you know everything?", "Are you intelligent?", "Are you smart?",
         "Can you be wrong?"]
TRUST_ANSWERS = ["No. I am a very small model, and I make many mistakes. Please check what I say.",
                 "I am only a small sample model, so I am often wrong. Please look it up in a reliable source.",
                 "I cannot be sure. I am small and I make things up, so please check important facts elsewhere."]
THANKS = ["Thanks!", "Thank you.", "Thank you!", "Great, thanks.", "thanks", "Thanks a lot!", "Thank you very much.",
          "Ok, thanks.",
          "Good.", "Great!", "Nice.", "Very good.", "That is helpful.", "Cool.", "OK", "Okay.", "I see."]
THANKS_ANSWERS = ["You are welcome!", "You are welcome! Is there anything else you would like to know?",
                  "I am glad I could help.", "You are welcome! Just ask if you have another question."]
BYE = ["Bye", "Goodbye", "Good bye!", "See you later.", "Good night", "bye", "That is all.", "I have to go."]
BYE_ANSWERS = ["Goodbye! Have a nice day.", "Goodbye! Come back any time.", "See you later!"]
UNSURE = ["What is the weather like today?", "What time is it?", "What day is it today?", "What is the latest news?",
          "Who won the game yesterday?", "What is my name?", "How old am I?", "Where do I live?",
          "What is the price of gold?",
          "Can you browse the internet?", "What did I say before?", "Can you remember me?"]
UNSURE_ANSWERS = ["I cannot know that. I am a small model, and I only know what was in my training text.",
                  "I do not know. I have no connection to the outside world, and I only know what I was trained on."]
HEROES = ["fox", "rabbit", "bear", "mouse", "cat", "dog", "bird", "turtle", "squirrel", "frog", "robot", "dragon",
          "princess",
          "king", "farmer", "sailor", "boy", "girl", "wizard", "penguin", "owl", "duck", "lion", "elephant", "computer",
          "knight", "horse", "wolf", "bee", "cloud"]
NAMES = ["Lily", "Tom", "Max", "Anna", "Ben", "Mia", "Sam", "Lucy", "Leo", "Ella", "Tim", "Nora", "Oscar", "Ruby",
         "Jack", "Rosa"]
PLACES = ["a quiet forest", "a small village", "a house by the sea", "a green valley", "a big city", "an old castle",
          "a garden full of flowers", "a cave in the mountains", "a little boat", "a tall tree", "a dusty library",
          "a farm on a hill"]
TRAITS = ["curious", "brave", "kind", "lonely", "clever", "shy", "cheerful", "tired", "proud", "careful", "hungry",
          "gentle"]
THINGS = ["a golden key", "an old map", "a shiny stone", "a strange book", "a lost letter", "a small lamp",
          "a red balloon",
          "a broken clock", "a silver bell", "a basket of apples", "a wooden box", "a blue feather"]
FRIENDS = ["an old owl", "a small mouse", "a friendly giant", "a wise turtle", "a singing bird", "a young girl",
           "a grey cat",
           "a tired traveller", "a little robot", "a kind baker"]
PROBLEMS = ["it began to rain", "the night came early", "a strong wind began to blow", "the path was gone",
            "the bridge was broken", "the door would not open", "the river was too wide",
            "the snow fell thick and fast"]
LESSONS = ["a friend is worth more than any treasure", "it is better to share", "small steps lead to great things",
           "nobody is too small to help", "being patient is often the best way", "home is where your friends are",
           "asking for help is a brave thing to do", "kindness always comes back"]


def story(r, hero=None):
    hero, name = hero or r.choice(HEROES), r.choice(NAMES)
    trait, place, thing, friend, problem, lesson = (r.choice(x)
                                                    for x in (TRAITS, PLACES, THINGS, FRIENDS, PROBLEMS, LESSONS))
    art = wordnet.article
    opening = r.choice([f"Once upon a time there was {art(trait)} {trait} {hero} named {name}, who lived in {place}.",
                        f"In {place} there lived {art(trait)} {trait} {hero}. The name of the {hero} was {name}.",
                        f"Long ago, {art(trait)} {trait} {hero} called {name} lived in {place}."])
    finding = r.choice([f"One day {name} found {thing} near the road.",
                        f"One morning {name} woke up and saw {thing} by the door.",
                        f"One day, while walking, {name} came upon {thing}."])
    wish = r.choice([f"{name} wanted to know where it came from, and set out at once.",
                     f'"Somebody must be looking for this," said {name}, and went out to find its owner.',
                     f"{name} had never seen anything like it, and decided to ask for advice."])
    trouble = r.choice([f"But soon {problem}, and {name} did not know what to do.",
                        f"After a while {problem}, and {name} was afraid.",
                        f"On the way {problem}. {name} sat down and thought."])
    help_ = r.choice([f"Then {friend} came along and offered to help.",
                      f"Just then {name} met {friend}, who knew the way.",
                      f"Luckily, {friend} lived close by and heard {name} call."])
    end = r.choice([f"Together they went on, and in the evening they sat by the fire and laughed.",
                    f"They worked together, and before long everything was well again.",
                    f"They walked the whole day, and at last they found what they were looking for."])
    moral = r.choice([f"From that day on, {name} knew that {lesson}.", f"And {name} learned that {lesson}.",
                      f"{name} never forgot that {lesson}."])
    parts = [opening, finding, wish, trouble, help_, end, moral]
    if r.random() < 0.5:
        return " ".join(parts)
    return " ".join(parts[:3]) + "\n\n" + " ".join(parts[3:5]) + "\n\n" + " ".join(parts[5:])


def first_sentences(text, limit):
    sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z])", text)
    result = ""
    for sentence in sentences[:4]:
        if len(result) + len(sentence) > limit:
            break
        result += (" " if result else "") + sentence
    return result if result and result[-1] in ".!?" else ""


def word_rows(net, r, is_held_out):
    """(questions, answer, weight) out of WordNet."""
    rows = []
    for key, s in net.items():
        if is_held_out("wordnet/" + key[0] + key[1]):
            continue
        word = s.words[0]
        if re.search(r"\b(genus|genera|family|order|class|phylum) ",
                     " ".join(s.words) + " " + s.gloss) and not s.frequency:
            continue                                   # the taxonomy would be a tenth of all answers
        usable = [w for w in s.words if s.rank.get(w.lower(), 9) == 0]
        if not usable:
            continue
        weight = 1 + min(5, (s.frequency + 2) // 3)
        instance = any(p[0] == "@i" for p in s.pointers)
        if s.pos == "noun" and instance:
            gloss = wordnet.plain_gloss(s)[0]
            dates = re.search(r"\((\d{3,4}-\d{3,4})\)", s.gloss)
            person = bool(dates) or re.search(r"\b(who|born)\b", gloss)
            full = max(s.words, key=len) if person else word
            if person:
                answer = wordnet.define(s, full).replace(" is ", " was ", 1)
                answer = re.sub(r" was (?!an?\b|the\b)([A-Z\w]+ (?:\w+ ){0,4}?(?:poet|writer|composer|painter|general|"
                                r"statesman|"
                                r"physicist|chemist|actor|singer))", lambda m: f" was {wordnet.article(m[1])} {m[1]}",
                                answer)
                if dates:
                    answer = answer.replace(" was ", f" ({dates[1]}) was ", 1)
                rows.append((ASK_PERSON, {"w": full}, answer, 2))
                if full != word:
                    rows.append((ASK_PERSON, {"w": word}, answer, 2))
            else:
                place = re.search(r"\b(city|town|country|river|island|islands|mountain|mountains|state|republic|"
                                  r"capital|lake|port|"
                                  r"peninsula|sea|village|kingdom|region|province)\b", gloss)
                rows.append((ASK_PLACE if place else ASK_PLACE[1:3], {"w": word}, wordnet.describe(s, net, word), 2))
                capital = re.search(r"\bcapital (?:and (?:the )?largest city )?of (?:the )?"
                                    r"((?:[A-Z][a-z]+ ?(?:and )?)+)", gloss)
                if capital:
                    land = capital[1].strip().removesuffix(" and")
                    rows.append((["What is the capital of {w}?", "What is the capital of {w}?",
                                  "Which city is the capital of {w}?",
                                  "what is the capital of {w}", "Name the capital of {w}.",
                                  "Do you know the capital of {w}?"],
                                 {"w": land}, f"The capital of {land} is {word}.", 6))
            continue
        for w in usable[:2]:
            if s.pos == "noun":
                answer = wordnet.describe(s, net, w)
                use = re.match(r"(In [a-z ]+, )?(An?) ", answer, re.I)
                asked = f"{wordnet.article(w)} {w}" if use and use[2] else w
                rows.append((ASK_NOUN, {"a": asked, "w": w}, answer, weight))
            else:
                rows.append((ASK_VERB if s.pos == "verb" else ASK_ADJ, {"w": w}, wordnet.describe(s, net, w), weight))
            if s.examples and s.frequency:
                example = next((e for e in s.examples if re.search(rf"\b{re.escape(w)}", e) and len(e.split()) >= 4),
                               None)
                if example:
                    example = example[0].upper() + example[1:] + ("" if example[-1] in ".!?" else ".")
                    rows.append((["Use {w} in a sentence.", "Use the word {w} in a sentence.",
                                  "Give me an example of {w}.",
                                  "Write a sentence with the word {w}."], {"w": w}, example, 1))
        others = [w for w in s.words if w != word]
        if others and s.frequency > 1:
            rows.append((["What is another word for {w}?", "Give me a synonym of {w}.", "What is a synonym for {w}?"],
                         {"w": word},
                         f"Another word for {word} is {others[0]}.", 1))
        for symbol, other, source, target in s.pointers:
            if symbol == "!" and other in net and source and s.frequency > 1:
                a, b = s.words[source - 1], net[other].words[target - 1]
                rows.append((["What is the opposite of {w}?", "Give me an antonym of {w}.",
                              "what is the opposite of {w}"], {"w": a},
                             f"The opposite of {a} is {b}.", 3))
        if s.pos == "noun" and s.frequency > 3:
            kinds = [net[k].words[0] for symbol, k, _, _ in s.pointers if symbol == "~" and k in net]
            if len(kinds) >= 3:
                kinds = sorted(kinds, key=lambda k: -max((x.frequency for x in [net[p[1]] for p in s.pointers
                                                                               if p[0] == "~" and p[1] in net]
                                                          if x.words[0] == k), default=0))[:3]
                rows.append((["Name three kinds of {w}.", "What kinds of {w} are there?", "Give me examples of {w}."],
                             {"w": word},
                             f"Three kinds of {word} are {kinds[0]}, {kinds[1]} and {kinds[2]}.", 2))
    return rows


GENERIC = re.compile(r"^(introduction|overview|description|notes?|see also|examples?|summary|usage|options|synopsis|"
                     r"details|abstract|"
                     r"background|general|purpose|about|contents|parameters|returns?|errors?|bugs|history|authors?|"
                     r"name|"
                     r"availability|return values?|compatibility|related topics|references|limitations|tip|warning|"
                     r"what'?s new.*|chapter.*|section.*|appendix.*|part.*|class .*|interface .*|package .*|method .*|"
                     r"conforming to|"
                     r"standards|versions|caveats|see also.*|example.*|copyright.*|changes.*|features)$", re.I)


def topic_rows(train):
    rows = []
    for package, name, blocks, _ in train:
        if package in ("wordnet-base", "dict-gcide"):
            continue
        for (kind, heading), (next_kind, text) in zip(blocks, blocks[1:]):
            if kind != "h" or next_kind != "p":
                continue
            answer = first_sentences(text, 420)
            if package == "dict-foldoc":
                text = re.sub(r"^\(\w+\)\s*", "", text)
                answer = first_sentences(text, 420)
                if re.match(r"(An?|The|One) ", answer) and len(heading) < 40:
                    answer = f"{heading[0].upper()}{heading[1:]} is {answer[0].lower()}{answer[1:]}"
                    rows.append((ASK_NOUN, {"a": heading, "w": heading}, answer, 2))
                elif len(answer) >= 60:
                    rows.append((ASK_TOPIC, {"t": heading}, answer, 1))
                continue
            if GENERIC.match(heading) or not 2 <= len(heading.split()) <= 7 or re.search(r"[.:()_?]|\d", heading):
                continue
            if len(answer) < 70 or re.match(r"(However|But|Also|Thus|Therefore|These|They|It|Note|See|This (section|"
                                            r"chapter|page))\b",
                                            answer):
                continue
            if re.match(r"(To|What|Why|How|When|Where|If|Uses of|Using|Step|New|Default|Available|Selected|Fix)\b",
                        heading):
                continue
            lower = set(re.findall(r"\b[a-z]+\b", text))
            topic = " ".join(w.lower() if re.fullmatch(r"[A-Z][a-z]+", w) and
                             (w.lower() in lower
                              or re.search(r"(ing|ions?|ments?|s)$|^(The|A|An|And|Of|In|To|From|For|With|By)$", w))
                             else w for w in heading.split())
            rows.append((ASK_TOPIC, {"t": topic}, answer, 1))
    return rows


def command_rows(train):
    rows = []
    for package, name, blocks, _ in train:
        page = re.search(r"/(git-[a-z-]+)\.html$", name) or re.search(r"/man([1-8])/([\w.-]+?)\.\d", name)
        if not page:
            continue
        for kind, text in blocks:
            if kind != "p":
                continue
            answer = first_sentences(text, 400)
            if package == "git-doc":
                command = page[1].replace("-", " ", 1)
                if len(answer) >= 50 and not answer.startswith(("This ", "Note")):
                    rows.append((ASK_COMMAND, {"c": command}, f"This is what {command} does. {answer}"
                                 if command not in answer else answer, 3))
            elif page[1] in "23" and page[2].replace("_", "").isalnum():
                if re.match(r"(The|This) ", answer) and page[2] in answer:
                    rows.append((ASK_FUNCTION, {"c": page[2]}, answer, 1))
            elif page[2] in answer and len(answer) >= 60:
                rows.append((ASK_COMMAND if page[1] in "18" else ["What is {c}?", "Tell me about {c}.", "Explain {c}."],
                             {"c": page[2]}, answer, 1))
            break
    return rows


def common_commands():
    """The commands that people ask for first."""
    table = """ls: lists the files in a directory|cd: changes the current directory|cp: copies files and directories|
    mv: moves or renames files|rm: removes files|mkdir: makes a new directory|rmdir: removes an empty directory|cat:
    prints the content of files|less: shows a file one screen at a time|grep: prints the lines of a file that match a
    pattern|find: searches for files in a directory tree|sort: sorts the lines of a text file|uniq: removes repeated
    lines next to each other|wc: counts the lines, words and bytes of a file|head: prints the first lines of a file|
    tail: prints the last lines of a file|echo: prints its arguments|touch: changes the time stamp of a file and
    creates it if it does not exist|chmod: changes the permissions of a file|chown: changes the owner of a file|ps:
    lists the running processes|kill: sends a signal to a process|top: shows the processes that use the most processor
    time|df: shows how much disk space is free|du: shows how much disk space files use|tar: packs files into an
    archive and unpacks them|gzip: compresses files|ssh: opens a secure shell on another computer|scp: copies files
    to another computer over a secure connection|curl: transfers data from or to a server|wget: downloads files from
    the web|ping: checks whether another computer answers|man: shows the manual page of a command|sudo: runs a
    command as another user, usually as the administrator|apt: installs, upgrades and removes packages|git: keeps
    track of the versions of files|make: builds programs from their sources by the rules in a makefile|gcc: compiles
    programs written in C|python: runs programs written in Python|sed: edits text line by line|awk: searches text for
    patterns and processes its fields|diff: shows the differences between two files|patch: applies a set of changes to
    files|pwd: prints the name of the current directory|date: prints or sets the date and time|mount: attaches a file
    system to the directory tree|passwd: changes the password of a user|whoami: prints the name of the current user|
    history: lists the commands that you have typed|cut: prints chosen parts of each line|tr: translates or deletes
    characters|ln: makes links between files|tee: copies its input to a file and to its output|xargs: builds and runs
    command lines from its input"""
    for row in re.sub(r"\s+", " ", table).split("|"):
        command, _, does = row.strip().partition(": ")
        yield ASK_COMMAND, {"c": command}, f"The {command} command {does}.", 12


def sums(r):
    for _ in range(6000):
        a, b = r.randint(0, 12), r.randint(0, 12)
        sign, word, value = r.choice([("+", "plus", a + b), ("-", "minus", a - b), ("*", "times", a * b)])
        if value < 0:
            continue
        question = r.choice([f"What is {a} {sign} {b}?", f"What is {a} {word} {b}?", f"How much is {a} {word} {b}?",
                             f"{a} {sign} {b}",
                             f"Calculate {a} {sign} {b}."])
        yield question, r.choice([f"{a} {word} {b} is {value}.", f"{a} {sign} {b} = {value}."])


def build(train, net, is_held_out, unwanted):
    r = random.Random(7)
    own = {re.sub(r"^(an?|the) ", "", topic).lower() for topic, _ in basics.TOPICS}
    rows = topic_rows(train) + command_rows(train) + list(common_commands())
    if net:
        rows += word_rows(net, r, is_held_out)
    seen, singles = set(), []
    for asks, values, answer, weight in rows:
        if str(values.get("w", "")).lower() in own:
            continue                                   # basics.py has an answer to this one
        if unwanted.search(answer) or not answer.isascii() or len(answer) > 700 or (answer, str(values)) in seen:
            continue
        seen.add((answer, str(values)))
        for ask in r.sample(asks, min(weight, len(asks))):
            singles.append((ask.format(**values), answer))
    for questions, answers, times in ((GREETINGS, GREETING_ANSWERS, 40), (WHO, WHO_ANSWERS, 60),
                                      (ABILITY, ABILITY_ANSWERS, 60),
                                      (TRUST, TRUST_ANSWERS, 30), (THANKS, THANKS_ANSWERS, 10), (BYE, BYE_ANSWERS, 30),
                                      (UNSURE, UNSURE_ANSWERS, 40)):
        singles += [(question, r.choice(answers)) for question in questions for _ in range(times)]
    for topic, answer in basics.TOPICS:
        singles += [(ask.format(t=topic), answer) for ask in basics.ASKS for _ in range(4)]
    for asks, answer in basics.OTHERS:
        singles += [(ask, answer) for ask in asks for _ in range(20)]
    singles += list(sums(r))
    for _ in range(14000):
        hero = r.choice(HEROES) if r.random() < 0.6 else None
        asks = ["Tell me a story.", "Tell me a short story.", "Write a story.", "Write a short story.",
                "Can you tell me a story?",
                "Once upon a time", "tell me a story", "Please tell me a story."]
        if hero:
            a = f"{wordnet.article(hero)} {hero}"
            asks = [f"Tell me a story about {a}.", f"Write a short story about {a}.",
                    f"Tell me a short story about {a}.",
                    f"Write a story about {a}.", f"Can you write a story about {a}?"]
        singles.append((r.choice(asks), story(r, hero)))
    r.shuffle(singles)
    conversations, i = [], 0
    while i < len(singles):
        system = r.choice(SYSTEMS) if r.random() < 0.12 else None
        turns = [singles[i]]
        i += 1
        roll = r.random()
        if roll < 0.06:
            turns.append((r.choice(THANKS), r.choice(THANKS_ANSWERS)))
        elif roll < 0.09:
            turns.insert(0, (r.choice(GREETINGS), r.choice(GREETING_ANSWERS)))
        elif roll < 0.11:
            turns.append((r.choice(TRUST), r.choice(TRUST_ANSWERS)))
        elif roll < 0.20 and i < len(singles):
            question, answer = singles[i]
            i += 1
            question = r.choice(["And ", ""]) + question if question[0].isupper() else question
            turns.append((re.sub(r"^And ([A-Z])", lambda m: "And " + m[1].lower(), question), answer))
        conversations.append({"turns": turns, "system": system})
    return conversations
