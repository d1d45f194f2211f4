"""Invented encyclopaedia articles with questions, for sources.py: whoever answers must read, since nobody can know.

An article has a subject with an invented name and a few facts about it. A fact is one sentence, worded in one of
several ways, and questions that are worded apart from it, so that a question and its sentence often share the subject
and little else. Values (names, dates, numbers, things) are drawn anew for every article."""
import random
import re

MONTHS = "January February March April May June July August September October November December".split()
DIRECTIONS = ["north", "south", "east", "west", "north-east", "north-west", "south-east", "south-west"]
SMALL = "two three four five six seven eight nine ten eleven twelve".split()
ONSET = ("b b br c ch d d dr f fl g gl gr h h j k kr l l l m m m n n n p pr r r r s s sh sk sl st t t th tr v v w z "
         "qu cl bl").split()
VOWEL = "a a a a e e e e i i i o o o u u ai ea ee ia io ou y".split()
CODA = [""] * 14 + "n n n r r l l s s m nd rt th ck st x ng rn t d sh".split()
TOWN_END = "ton ville burg ford ham stad wick mouth field by dorf polis port heim grad vik sund holm minster".split()
FIRST = """Alice Arthur Beatrice Carl Clara Daniel David Edith Edward Elena Emil Emma Felix Francis George Grace Hannah
Harold Helen Henry Hugo Ida Irene Isaac Jacob James Jane Johan John Julia Karl Laura Leon Louis Lucia Margaret Maria
Martin Mary Matilda Michael Nina Olga Oscar Otto Paul Peter Philip Rachel Robert Rosa Ruth Samuel Sara Simon Sophia
Stefan Susan Theodor Thomas Victor Viola Walter William Ahmed Aisha Chen Deepa Farid Hiro Ines Jorge Kenji Lakshmi Mei
Nadia Omar Pablo Priya Ravi Sanjay Tomas Yuki Zainab""".split()
FEMALE = set("""Alice Beatrice Clara Edith Elena Emma Grace Hannah Helen Ida Irene Jane Julia Laura Lucia Margaret Maria
Mary Matilda Nina Olga Rachel Rosa Ruth Sara Sophia Susan Viola Aisha Deepa Ines Lakshmi Mei Nadia Priya Yuki
Zainab""".split())
LISTS = {
    "color": "red blue green yellow white black grey brown purple orange golden silver pink dark pale".split(),
    "material": "wood stone brick iron steel copper glass marble clay bronze granite leather paper wool concrete "
                "sandstone bamboo tin lead silver".split(),
    "goods": "wool salt silk tea coffee timber cotton iron sugar glass wine cheese grain coal paper leather spices "
             "furs copper soap rope honey pottery fish butter cloth tobacco rubber oil ships bicycles clocks shoes "
             "carpets engines".split(),
    "food": "fish insects seeds grass leaves fruit roots worms berries nuts snails algae plankton mice eggs bark "
            "nectar moss frogs shellfish".split(),
    "field": "mathematics physics chemistry botany medicine law history astronomy music philosophy geology economics "
             "biology engineering architecture theology linguistics geography painting logic anatomy".split(),
    "prof": "painter|physicist|engineer|poet|farmer|lawyer|teacher|sailor|doctor|composer|merchant|architect|botanist|"
            "printer|carpenter|judge|journalist|baker|singer|soldier|astronomer|chemist|sculptor|priest|banker|nurse|"
            "miner|tailor|blacksmith|explorer|actor|novelist|photographer|clockmaker|historian".split("|"),
    "disease": "fever|cholera|plague|influenza|tuberculosis|malaria|pneumonia|a stroke|smallpox|a heart attack|"
               "typhus|measles".split("|"),
    "building": "castle library church theatre bridge museum tower palace temple school hospital station market "
                "lighthouse monastery mill prison factory".split(),
    "terrain": "desert forest valley coast plateau island marsh mountain plain steppe hill lake".split(),
    "sport": "football rowing cycling tennis chess swimming cricket wrestling fencing hockey rugby archery "
             "sailing".split(),
    "instrument": "piano violin flute cello trumpet organ guitar harp drums clarinet oboe".split(),
    "language": "Latin French German Arabic Greek Spanish Persian Russian Italian Dutch Hindi Turkish Welsh Polish "
                "Swedish Portuguese Chinese Hebrew".split(),
    "land": "France Germany Spain Italy Poland Russia China India Japan Egypt Turkey Greece Sweden Norway Portugal "
            "Hungary Austria Brazil Mexico Canada Peru Chile Kenya Morocco Persia Scotland Ireland Denmark Finland "
            "Australia Switzerland Belgium Ethiopia Vietnam Thailand Iceland".split(),
    "fuel": "coal|oil|natural gas|wood|steam|diesel|electricity|solar power|wind|hydrogen|wood gas|peat".split("|"),
    "animal": "fox|wolf|owl|horse|bee|salmon|eagle|bear|deer|otter|lizard|beetle|spider|crow|whale|goat|snake|frog|"
              "mouse|swan|rabbit|bat|turtle|sheep".split("|"),
    "festival": "lantern festival|flower show|book fair|boat race|film festival|horse fair|music festival|"
                "cheese market|kite festival|winter carnival|harvest feast|cooking contest".split("|"),
    "purpose": "measure the height of waves|store grain|print books|cut stone|pump water|grind flour|carry passengers|"
               "weave cloth|record sound|detect gas leaks|sort letters|lift heavy loads|predict storms|purify water|"
               "map the sea floor|draw maps|repair ships|test engines|train pilots|treat burns|teach music|"
               "house refugees|count visitors|melt metal".split("|"),
    "reason": "the old one had burned down|the river had changed its course|the money had run out|the king had died|"
              "the winter was unusually cold|the roof had collapsed|too few people came|the harvest had failed|"
              "a war had broken out|the law was changed|the owners could not agree|the ground was too soft|"
              "the workers went on strike|an earthquake had damaged it|the price of steel had doubled".split("|"),
    "topic": "the life of a fisherman|a journey across the desert|the end of a war|the history of glass|"
             "the movement of the planets|a family of bakers|the building of a railway|two brothers who become "
             "enemies|the causes of poverty|the songs of birds|a girl who cannot sleep|the art of navigation|"
             "the rise of the merchants|a winter in the mountains|the rights of workers|an old lighthouse "
             "keeper".split("|"),
    "quality": "hardness|low price|bright colour|sweet smell|resistance to heat|light weight|low melting point|"
               "strength|smooth surface|bitter taste|elasticity|high density".split("|"),
    "thing": "a golden cup|a stone lion|an iron gate|a map of the city|a glass roof|a wooden statue|a large clock|"
             "a painting of the harbour|a silver bell|a collection of coins|a rose garden|a bronze door|"
             "a famous organ|an old printing press|a painted ceiling|a botanical garden".split("|"),
}
TITLE = ["The {adj} {noun}", "{noun} of {place}", "A {noun} for {first}", "The {noun} and the {noun2}", "{adj} {noun}",
         "The Last {noun}", "Songs of the {noun}", "Beyond the {noun}"]
TITLE_ADJ = "Silent Broken Hidden Golden Endless Burning Frozen Distant Paper Hollow Crimson Quiet Second Salt".split()
TITLE_NOUN = ("River Garden Tower Mirror Harbour Winter Orchard Lantern Stranger Bridge Island Voyage Letter Crown "
              "Shadow Clock Forest Window Road Fire Stone").split()

# kind: (short name for later mentions, pronoun, opening sentences, facts). In an opening or fact: sentences ||
# questions, each separated by |. {S} is the subject in a sentence, {N} in a question.
KINDS = {}


def kind(name, short, pronoun, openings, facts):
    def rows(text):
        for block in text.strip().split("\n\n"):
            sentences, _, questions = re.sub(r"\s+", " ", block).partition("||")
            yield [[part.strip() for part in side.split("|") if part.strip()] for side in (sentences, questions)]
    KINDS[name] = (short, pronoun, list(rows(openings)), list(rows(facts)))


kind("town", ["the town", "the city"], "it", """
{S} is a town in the {dir} of {land}, on the {river} River. | {S} is a {color}-roofed old town in {land} that lies on
the banks of the {river} River. || In which country is {N}? | Where is {N}? | What river flows through {N}? | On which
river does {N} lie? | What country is {N} located in?

{S} is a port in {land} with a population of {big}. | {S}, a port in {land}, has about {big} inhabitants. || How many
people live in {N}? | What is the population of {N}? | How many inhabitants does {N} have? | How large is the
population of {N}?

{S} is the largest town of the district of {place}. || What district does {N} belong to? | Of which district is {N}
the largest town?
""", """
{S} was founded in {year} by {person}. | In {year}, {person} founded {S}. | {person} established {S} in the year
{year}. || Who founded {N}? | When was {N} founded? | In what year was {N} established? | Who was the founder of {N}?
| How old is {N}? | What year did {person} found {N}?

{S} grew rich through the trade in {goods} and {goods2}. | The trade in {goods} and {goods2} made {S} rich. || What
made {N} rich? | How did {N} become wealthy? | What goods were traded in {N}? | Which trade brought {N} its wealth?

In {year2} a great fire destroyed {n} houses in {S}. | A fire in {year2} burned down {n} houses. || How many houses
were destroyed by the fire? | When did the great fire happen in {N}? | What happened to {N} in {year2}? | What
destroyed houses in {N}? | How many houses burned down in {year2}?

The mayor of {S} is {person2}, who took office in {year3}. | {person2} has been the mayor since {year3}. || Who is the
mayor of {N}? | Since when has {person2} been mayor? | Who leads the government of {N}? | When did {person2} become
mayor?

Every {month} {S} holds a {festival} that draws about {big2} visitors. | A {festival} takes place in {S} each {month},
with some {big2} visitors. || What event takes place in {N} in {month}? | When is the {festival} held? | How many
visitors come to the {festival}? | In which month does the {festival} take place? | How many people attend the
{festival}?

The best known sight is the {building}, which was built of {material} in {year4}. | Visitors come to see the
{building}, a work in {material} from {year4}. || What is the best known sight of {N}? | What is the {building} of {N}
made of? | When was the {building} built? | What material was used for the {building} in {N}?

A railway has connected {S} with {place2} since {year5}. | Since {year5} trains run from {S} to {place2}. || When did
the railway reach {N}? | Which town is connected to {N} by rail? | Where do the trains from {N} go? | Since when has
{N} had a railway?

The local people speak {language} and a dialect called {word}. | Besides {language}, a dialect named {word} is spoken
here. || What languages are spoken in {N}? | What is the dialect of {N} called? | Which language do the people of {N}
speak? | What is the name of the local dialect?

The climate is mild, with an average temperature of {small} degrees in {month2}. | In {month2} the average temperature
is {small} degrees. || How warm is it in {N} in {month2}? | What is the average temperature in {month2}? | What is the
climate of {N} like?

The university of {S}, opened in {year6}, is known for its school of {field}. | {S} has had a university since
{year6}; its school of {field} is famous. || What is the university of {N} known for? | When was the university of {N}
opened? | Which school of the university is famous? | What subject is the university known for?

About {pct} percent of the workers are employed in {goods3} factories. | The {goods3} industry employs {pct} percent
of all workers. || What percentage of workers are employed in the {goods3} industry? | Which industry employs most
people in {N}? | What share of the workers work in factories? | Where do most people in {N} work?
""")

kind("person", ["the {prof}"], "he", """
{S} ({year}-{year2}) was a {prof} from {land}. | {S} was a {prof} who was born in {land} in {year} and died in
{year2}. || Who was {N}? | What was the profession of {N}? | Where was {N} from? | When did {N} die? | What did {N} do
for a living? | When was {N} born?

Born in {place} on {date}, {S} became a {prof}. | {S}, a {prof}, was born on {date} in {place}. || When was {N} born?
| Where was {N} born? | What is the birthplace of {N}? | On what date was {N} born? | What was {N}'s occupation?
""", """
{S} studied {field} at the University of {place2} under {person}. | At the University of {place2}, {S} was a student
of {person} and learned {field}. || Where did {N} study? | What did {N} study? | Who was {N}'s teacher? | Which
university did {N} attend? | Under whom did {N} study? | What subject did {N} learn at university?

In {year3} {S} married {person2}, and they had {small} children. | {S} and {person2} were married in {year3} and had
{small} children. || Who did {N} marry? | How many children did {N} have? | When did {N} marry? | Who was the spouse
of {N}? | In what year did {N} marry {person2}?

{S} is best known for {title}, published in {year4}. | The work {title} of {year4} made {S} famous. || What is {N}
best known for? | When was {title} published? | What work made {N} famous? | Which book did {N} publish in {year4}? |
Who wrote {title}?

{S} died of {disease} in {place3} at the age of {age}. | At the age of {age}, {S} died of {disease} in {place3}. ||
How did {N} die? | Where did {N} die? | How old was {N} at death? | What was the cause of {N}'s death? | At what age
did {N} die?

As a child, {S} learned to play the {instrument} from an aunt. | An aunt taught the young {S} to play the
{instrument}. || What instrument did {N} play? | Who taught {N} to play the {instrument}? | What did {N} learn as a
child? | From whom did {N} learn music?

{S} travelled to {land2} in {year5} to look for {goods}. | In {year5} a journey in search of {goods} took {S} to
{land2}. || Where did {N} travel in {year5}? | Why did {N} travel to {land2}? | When did {N} go to {land2}? | What was
{N} looking for in {land2}? | Which country did {N} visit?

The government of {land3} awarded {S} the {word} Medal in {year6}. | In {year6} {S} received the {word} Medal from
{land3}. || What award did {N} receive? | When did {N} receive the {word} Medal? | Who gave {N} the medal? | Which
prize was given to {N} in {year6}? | What did {N} win in {year6}?

{S} spoke {language}, {language2} and a little {language3}. || Which languages did {N} speak? | How many languages did
{N} speak? | What languages did {N} know?

The father, {person3}, was a {prof2} who earned {money} a year. | {person3}, the father, worked as a {prof2} for
{money} a year. || Who was {N}'s father? | What did {N}'s father do? | How much did {N}'s father earn? | What was the
job of the father of {N}?

{S} left the city in {year7} because {reason}. | Because {reason}, {S} moved away in {year7}. || Why did {N} leave the
city? | When did {N} move away? | What was the reason for {N} leaving? | What made {N} move in {year7}?

Today a {building} in {place4} is named after {S}. | {place4} has a {building} that bears the name of {S}. || What is
named after {N}? | Where is there a {building} named after {N}? | Which building bears {N}'s name?

{S} owned {n} paintings and gave them to the museum of {place5}. | The museum of {place5} received {n} paintings from
{S}. || How many paintings did {N} own? | Who received the paintings of {N}? | What did {N} give to the museum? |
Where are {N}'s paintings now?
""")

kind("species", ["the {animal}", "the species"], "it", """
The {S} is a species of {animal} that lives in the {terrain}s of {land}. | The {S}, a {color} {animal}, is found in
{land}, mostly in {terrain}s. || Where does the {N} live? | What kind of animal is the {N}? | In which country is the
{N} found? | What is the habitat of the {N}? | What is a {N}?
""", """
Adults weigh up to {n} kilograms and reach a length of {small} feet. | A grown {S} has a weight of {n} kilograms and
is {small} feet long. || How much does the {N} weigh? | How long is the {N}? | How heavy does the {N} get? | What is
the weight of an adult {N}? | What size does the {N} reach?

It feeds on {food} and {food2}. | Its diet consists of {food} and {food2}. | The {S} eats mainly {food} and {food2}.
|| What does the {N} eat? | What is the diet of the {N}? | What does the {N} feed on? | Which food does the {N}
prefer?

{person} first described the {S} in {year}. | The first description of the {S} was given by {person} in {year}. || Who
first described the {N}? | When was the {N} first described? | Who discovered the {N}? | In what year was the species
described?

The female lays {n2} eggs in {month} and guards them for {small2} weeks. | In {month}, {n2} eggs are laid, which the
female guards for {small2} weeks. || How many eggs does the {N} lay? | When does the {N} lay its eggs? | How long are
the eggs guarded? | Who guards the eggs? | In which month does the {N} breed?

Its main enemy is the {animal2}. | The {animal2} is the only animal that hunts it. || What are the enemies of the {N}?
| Which animal hunts the {N}? | What is the main predator of the {N}? | Who preys on the {N}?

Only about {big} of these animals are left, because {threat} are destroyed. | As {threat} are destroyed, only about
{big} animals remain. || How many {N}s are left? | Why is the {N} threatened? | What is the current population of the
{N}? | Why are there so few {N}s left?

In the wild it lives for about {n3} years. | The life span in the wild is about {n3} years. || How long does the {N}
live? | What is the life span of the {N}? | How old can the {N} get?

The {S} is active at night and sleeps in {shelter} during the day. | During the day it hides in {shelter}, and at
night it hunts. || When is the {N} active? | Where does the {N} sleep? | Where does the {N} hide during the day? |
What does the {N} do during the day?

Its {color2} skin protects it from the sun. | From the sun it is protected by its {color2} skin. || What colour is the
skin of the {N}? | What protects the {N} from the sun? | What is the purpose of the {color2} skin?

The call of the {S} can be heard over {small3} kilometres. | Over a distance of {small3} kilometres its call can be
heard. || How far can the call of the {N} be heard? | What can be heard over a distance of {small3} kilometres?
""")

kind("company", ["the company", "the firm"], "it", """
{S} is a company that makes {goods}, with its head office in {place}. | {S}, based in {place}, is a maker of {goods}.
|| What does {N} make? | Where is the head office of {N}? | What does the company {N} produce? | Where is {N} based? |
Which products does {N} sell?
""", """
{S} was founded by {person} and {person2} in {year}. | {person} and {person2} started {S} in {year}. || Who founded
{N}? | When was {N} founded? | In what year was {N} started? | Who were the founders of {N}? | Who set up {N}?

In {year2} {S} had sales of {money} and {big} employees. | With {big} employees, {S} reached sales of {money} in
{year2}. || How many people does {N} employ? | What were the sales of {N} in {year2}? | How many employees did {N}
have? | How much did {N} sell in {year2}? | What was the revenue of {N}?

{S} bought its rival {org} for {money2} in {year3}. | For {money2}, {org} was taken over by {S} in {year3}. || Which
company did {N} buy? | How much did {N} pay for {org}? | When did {N} buy {org}? | Who took over {org}? | What was the
price of {org}?

The first factory was built in {place2}, where {fuel} was cheap. | Because {fuel} was cheap in {place2}, the first
factory was built there. || Where was the first factory of {N}? | Why was the first factory built in {place2}? | What
was cheap in {place2}? | Where did {N} build its first factory?

In {year4} the company closed {n} shops because {reason}. | Because {reason}, {n} shops were closed in {year4}. || How
many shops did {N} close? | Why did {N} close shops? | When did {N} close its shops? | What happened in {year4}?

{person3} has led {S} since {year5}. | Since {year5} the head of {S} has been {person3}. || Who leads {N}? | Since
when has {person3} led {N}? | Who is the head of {N}? | Who runs {N}? | When did {person3} take over the leadership?

{pct} percent of the shares belong to the {surname} family. | The {surname} family owns {pct} percent of the shares.
|| Who owns {N}? | What share of {N} does the {surname} family hold? | How many percent of the shares belong to the
family? | Which family owns shares of {N}?

Its logo shows a {color} {animal}. | A {color} {animal} is the logo. || What does the logo of {N} show? | What animal
is on the logo of {N}? | What colour is the {animal} in the logo?

{S} sells its products in {n2} countries, most of them in {land}. || In how many countries does {N} sell its products?
| Where does {N} sell most? | What is the largest market of {N}?

The workers of {S} went on strike for {small} weeks in {year6} and won higher wages. | A strike of {small} weeks in
{year6} brought the workers higher wages. || How long did the strike last? | When did the workers of {N} go on strike?
| What did the workers win? | What was the result of the strike at {N}?
""")

kind("battle", ["the battle", "the fighting"], "it", """
The Battle of {S} was fought on {date} between {land} and {land2}. | On {date}, the armies of {land} and {land2} met
in the Battle of {S}. || When was the Battle of {N} fought? | Who fought in the Battle of {N}? | Which countries took
part in the Battle of {N}? | When did the Battle of {N} take place? | On what date was the Battle of {N}?
""", """
The army of {land} was led by General {surname}. | General {surname} commanded the troops of {land}. || Who led the
army of {land}? | Who was the commander of {land}? | Which general commanded the troops from {land}? | What army did
{surname} command?

About {big} soldiers were killed, and {big2} were taken prisoner. | {big2} soldiers were captured and about {big} lost
their lives. || How many soldiers died in the Battle of {N}? | How many prisoners were taken? | How many soldiers were
captured? | What were the losses at {N}? | How many people were killed at {N}?

The attack began at {small} in the morning, when fog lay over the {river} River. | At {small} in the morning, in thick
fog over the {river} River, the attack started. || When did the attack begin? | What was the weather like when the
attack began? | At what time did the attack start? | What covered the river?

{land2} lost because {reason}. | The reason for the defeat of {land2} was that {reason}. || Why did {land2} lose the
battle? | What was the cause of the defeat of {land2}? | Why was {land2} defeated?

The peace of {place} ended the war in {year}. | In {year} the war ended with the peace of {place}. || When did the war
end? | What ended the war? | What was the name of the peace treaty? | Where was peace made?

The winner received the province of {place2} and {money} in gold. | The province of {place2} and {money} in gold went
to the winner. || What did the winner receive? | Which province changed hands? | How much gold was paid? | What was
the result of the battle of {N}?

A monument of {material} has stood on the field since {year2}. | Since {year2} there has been a {material} monument on
the field. || What stands on the field today? | When was the monument put up? | What is the monument made of? | What
reminds visitors of the battle?

The cavalry, {n} horses in all, crossed the bridge at {place3}. | At {place3} the cavalry crossed the bridge with {n}
horses. || Where did the cavalry cross the river? | How many horses did the cavalry have? | What crossed the bridge at
{place3}?
""")

kind("building", ["the building"], "it", """
The {S} {building} is a {building} of {material} in {place}, {land}. | In {place}, {land}, stands the {S} {building},
built of {material}. || Where is the {N} {building}? | What is the {N} {building} made of? | In which town does the
{N} {building} stand? | What material was the {N} {building} built of?
""", """
It was designed by the architect {person} and finished in {year}. | {person} designed it, and work was completed in
{year}. || Who designed the {N} {building}? | When was the {N} {building} finished? | Who was the architect of the {N}
{building}? | When was it completed? | In what year was the {N} {building} completed?

Building it took {small} years and cost {money}. | The work lasted {small} years, at a cost of {money}. || How long
did it take to build the {N} {building}? | How much did the {N} {building} cost? | What did the {building} cost to
build? | What was the price of the {building}?

The tower is {n} metres high and has {n2} steps. | With its {n2} steps, the tower rises to {n} metres. || How high is
the tower? | How many steps does the tower have? | What is the height of the tower of the {N} {building}? | How tall
is the {N} {building}?

In {year2} it was closed because {reason}. | Because {reason}, it had to close in {year2}. || Why was the {N}
{building} closed? | When was the {N} {building} closed? | What led to the closing of the {building}? | What happened
to the {building} in {year2}?

Inside, visitors can see {thing} and {thing2}. | The inside has {thing} and {thing2}. || What can visitors see in the
{N} {building}? | What is inside the {N} {building}? | What does the {building} contain?

During the war it was used to {purpose}. | In the war people used it to {purpose}. || What was the {N} {building} used
for during the war? | How was the {building} used in the war? | What purpose did the {building} serve during the war?

About {big} people visit it every year, and a ticket costs {money2}. | Each year it has some {big} visitors, who pay
{money2} for a ticket. || How many people visit the {N} {building} every year? | How much is a ticket? | What is the
price of a ticket to the {N} {building}? | How many visitors does the {building} have?

It belonged to the {surname} family until {year3}. | Until {year3} its owners were the {surname} family. || Who owned
the {N} {building}? | Until when did the {surname} family own it? | To whom did the {N} {building} belong? | Which
family owned the {building}?

Its roof was replaced in {year4} by one of {material2}. | Since {year4} the roof has been of {material2}. || When was
the roof replaced? | What is the roof made of? | What part of the {building} was replaced in {year4}?

It stands on a {terrain}, {small2} kilometres {dir} of the station. | The place is a {terrain}, {small2} kilometres to
the {dir} of the station. || How far is the {N} {building} from the station? | Where exactly does the {N} {building}
stand? | In which direction from the station is the {building}?
""")

kind("work", ["the book", "the novel"], "it", """
{S} is a novel by {person} about {topic}. | {person} is the author of {S}, a novel about {topic}. || Who wrote {N}? |
What is {N} about? | Who is the author of {N}? | What is the subject of {N}? | What kind of work is {N}?

{S} is a film of {year} that was directed by {person}. | {person} directed the film {S}, which came out in {year}. ||
Who directed {N}? | When did {N} come out? | In what year was {N} released? | Who was the director of {N}?
""", """
It was translated into {language} by {person2} in {year2}. | In {year2}, {person2} translated it into {language}. ||
Who translated {N} into {language}? | When was {N} translated? | Into which language was {N} translated? | Which
translation did {person2} make?

The story takes place in {place} during the winter of {year3}. | {place}, in the winter of {year3}, is where the story
is set. || Where does the story of {N} take place? | When is {N} set? | What is the setting of {N}? | In which year
does the story take place?

The hero is a {prof} called {person3}. | {person3}, a {prof}, is the main character. || Who is the main character of
{N}? | What is the profession of the hero of {N}? | What does {person3} do in {N}? | Who is the hero?

It sold {big} copies in the first {small} months. | In the first {small} months, {big} copies were sold. || How many
copies of {N} were sold? | How well did {N} sell? | How many copies did it sell in the first months? | How long did it
take to sell {big} copies?

Critics praised its {quality2} but disliked the ending. | The ending was disliked by critics, who praised its
{quality2}. || What did critics say about {N}? | What did critics praise? | What part of {N} did critics dislike? |
How was {N} received?

It was forbidden in {land} until {year4}. | Until {year4} the law of {land} did not allow it. || Where was {N}
forbidden? | Until when was {N} banned? | In which country was {N} banned? | What happened to {N} in {land}?

It won the {word} Prize in {year5}. | In {year5} the {word} Prize was given to it. || Which prize did {N} win? | When
did {N} win the {word} Prize? | What award was given to {N}? | In what year did it win a prize?

The first edition had {n} pages and cost {money}. | With {n} pages, the first edition was sold for {money}. || How
many pages did the first edition of {N} have? | How much did the first edition of {N} cost? | How long was the first
edition?

The music is by {person4}, who plays the {instrument}. | {person4}, a player of the {instrument}, wrote the music. ||
Who wrote the music for {N}? | Which instrument does {person4} play? | Who is the composer of the music?
""")

kind("machine", ["the machine", "the device"], "it", """
The {S} is a machine that is used to {purpose}. | To {purpose}, people use a machine called the {S}. || What is the
{N} used for? | What does the {N} do? | What is the purpose of the {N}? | What is the {N}? | Which machine is used to
{purpose}?
""", """
It was invented by {person} of {land} in {year}. | {person}, an inventor from {land}, built the first one in {year}.
|| Who invented the {N}? | When was the {N} invented? | Where does the inventor of the {N} come from? | In what year
was the {N} invented? | Who built the first {N}?

It runs on {fuel} and needs {n} litres of water an hour. | Its source of power is {fuel}, and it takes {n} litres of
water an hour. || What does the {N} run on? | How much water does the {N} need? | What is the source of power of the
{N}? | What fuel does the {N} use?

The {S} weighs {n2} tons and consists of {big} parts. | It has {big} parts and a weight of {n2} tons. || How much does
the {N} weigh? | How many parts does the {N} have? | What is the weight of the {N}? | Of how many parts does the {N}
consist?

An early model failed because {reason2}. | Because {reason2}, an early model did not work. || Why did the early model
of the {N} fail? | What was the problem with the early model? | Why did an early {N} not work?

The main part, the {word}, is made of {material}. | Its main part is called the {word} and consists of {material}. ||
What is the main part of the {N} called? | What is the {word} made of? | Which material is the main part of the {N}
made of?

A patent was granted in {year2} and expired {n3} years later. | Its patent dates from {year2} and lasted for {n3}
years. || When was the patent granted? | How long did the patent last? | When was the {N} patented? | For how many
years was the patent valid?

Today {S} machines are used in {n4} countries, above all in {land2}. | {land2} has the most of them today, but {n4}
countries use them. || In how many countries is the {N} used? | Which country has the most {N} machines? | Where is
the {N} used most? | Who uses the {N} today?

The price of one fell from {money} to {money2} within {small} years. | Within {small} years its price dropped to
{money2} from {money}. || How much does the {N} cost? | How did the price of the {N} change? | How far did the price
of the {N} fall? | What was the original price of the {N}?

It can work for {small2} hours without a break, {small3} times as long as a {animal}. | Without a break it works
{small2} hours, {small3} times longer than a {animal}. || How long can the {N} work without a break? | How does the
{N} compare with a {animal}? | How many hours can the {N} run?
""")

kind("substance", ["the substance", "the mineral"], "it", """
{S} is a {color} mineral that is found in {land}. | The {color} mineral {S} comes from {land}. || What is {N}? | Where
is {N} found? | What colour is {N}? | In which country is {N} found?
""", """
It was discovered in {year} by {person}, a {prof}. | The {prof} {person} discovered it in {year}. || Who discovered
{N}? | When was {N} discovered? | What was the profession of the discoverer of {N}? | In what year was {N} discovered?
| By whom was {N} first found?

It melts at {n} degrees and boils at {big} degrees. | Its melting point is {n} degrees, and its boiling point {big}
degrees. || At what temperature does {N} melt? | What is the boiling point of {N}? | What is the melting point of {N}?
| When does {N} boil? | How hot must {N} be to melt?

Because of its {quality}, it is used to {purpose}. | It is used to {purpose}, thanks to its {quality}. || What is {N}
used for? | Why is {N} used to {purpose}? | What property makes {N} useful? | What are the uses of {N}?

Its name comes from the {language} word for {animal}. | The {language} word for {animal} gave it its name. || Where
does the name of {N} come from? | What does the name {N} mean? | From which language does the name {N} come? | What is
the origin of the name?

One ton of it costs {money}. | The price of a ton is {money}. || How much does {N} cost? | What is the price of a ton
of {N}? | How expensive is {N}?

The largest mine, near {place}, produces {n2} tons a year. | Near {place} is the largest mine, with {n2} tons a year.
|| Where is the largest mine? | How much {N} does the largest mine produce? | What is produced near {place}? | How
many tons a year come from the mine near {place}?

In water it turns {color2} and gives off {gas}. | It gives off {gas} in water and turns {color2}. || What happens to
{N} in water? | Which gas does {N} give off? | What colour does {N} become in water? | How does {N} react with water?

It is harmful to {animal2}s, but not to people. | People are not harmed by it, but {animal2}s are. || Is {N} harmful
to people? | To whom is {N} harmful? | Which animals are harmed by {N}?

It makes up {small} percent of the crust of the earth. | {small} percent of the crust of the earth consist of it. ||
How much of the crust of the earth is {N}? | How common is {N}? | What percentage of the crust of the earth is {N}?
""")

kind("club", ["the club", "the team"], "it", """
{S} is a {sport} club in {place}, founded in {year}. | Founded in {year}, {S} is a {sport} club from {place}. || What
sport does {N} play? | When was {N} founded? | Where is {N} from? | In what city is {N} based? | How long has {N}
existed?
""", """
It won the {land} Cup {small} times, the last time in {year2}. | The {land} Cup was won {small} times, most recently
in {year2}. || How many times did {N} win the cup? | When did {N} last win the {land} Cup? | Which cup did {N} win? |
How often has the club won the {land} Cup?

Its home is the {word} Ground, which has {big} seats. | Home games are played at the {word} Ground, where {big} people
can sit. || Where does {N} play? | How many seats does the {word} Ground have? | What is the name of the ground of
{N}? | What is the capacity of the {word} Ground? | Where are the home games of {N} played?

The players wear {color} shirts with a {animal} on them. | {color} shirts with a {animal} are worn by the players. ||
What colour are the shirts of {N}? | What is on the shirts of {N}? | What do the players of {N} wear? | Which animal
is on the shirts?

{person} has been the coach since {year3}, after {person2} had resigned. | After the resignation of {person2},
{person} became the coach in {year3}. || Who is the coach of {N}? | Who was the coach before {person}? | When did
{person} become the coach? | Why did {person} become coach?

In the final of {year4} it beat {org} by {small2} to one. | It defeated {org} by {small2} to one in the final of
{year4}. || Who lost the final of {year4}? | Which team did {N} beat in the final? | What was the score of the final?
| Who did {N} defeat in {year4}? | By what score did {N} win the final?

{person3} holds the record, with {n} points in one season. | With {n} points in one season, {person3} is the record
holder. || Who holds the record of {N}? | How many points did {person3} score? | What is the record for one season? |
Who scored the most points for {N}?

The club has {big2} members, each paying {money} a year. | Each of its {big2} members pays {money} a year. || How many
members does {N} have? | How much do the members of {N} pay? | What is the yearly fee of {N}?

{person4} bought the club for {money2} in {year5}. | In {year5} the club was sold to {person4} for {money2}. || Who
bought {N}? | How much was paid for {N}? | When was {N} sold? | Who is the owner of {N}? | What did {person4} buy in
{year5}?
""")

kind("law", ["the law", "the act"], "it", """
The {S} Act is a law of {land} that was passed in {year}. | In {year}, {land} passed a law known as the {S} Act. ||
When was the {N} Act passed? | Which country passed the {N} Act? | What is the {N} Act? | In what year did the {N} Act
become law?
""", """
It forbids the sale of {goods} on Sundays. | On Sundays, the sale of {goods} is not allowed under it. || What does the
{N} Act forbid? | What may not be sold on Sundays? | When is the sale of {goods} forbidden? | What is not allowed
under the {N} Act?

The act was proposed by {person}, a former {prof}. | {person}, who had been a {prof}, proposed it. || Who proposed the
{N} Act? | What was {person} before? | Whose idea was the {N} Act? | What was the former job of {person}?

Of the members of parliament, {n} voted for it and {n2} against. | It was accepted with {n} votes for and {n2}
against. || How many members voted for the {N} Act? | How many votes were there against the {N} Act? | What was the
result of the vote?

Whoever breaks it must pay {money} or go to prison for {small} months. | The punishment is {money} or {small} months
in prison. || What is the punishment under the {N} Act? | How long is the prison term? | How high is the fine? | What
happens to those who break the {N} Act?

The court in {place} declared it invalid in {year2} because {reason}. | Because {reason}, it was declared invalid by
the court in {place} in {year2}. || Who declared the {N} Act invalid? | Why was the {N} Act declared invalid? | When
did the court decide about the {N} Act? | Which court declared the {N} Act invalid?

Its aim was to protect {prof2}s from unfair prices. | It was meant to protect {prof2}s against unfair prices. || What
was the aim of the {N} Act? | Whom did the {N} Act protect? | Why was the {N} Act made? | Who benefits from the {N}
Act?

It has been changed {small2} times, the last time by the {surname} government. | The {surname} government was the last
to change it, after {small2} changes. || How many times has the {N} Act been changed? | Which government last changed
the {N} Act? | Who changed the {N} Act last?

Under the act, a {prof3} needs a licence, which costs {money2}. | A {prof3} must have a licence, for which {money2} is
charged. || Who needs a licence? | How much does a licence cost? | What does a {prof3} need under the {N} Act? | What
is the price of the licence?
""")

kind("river", ["the river"], "it", """
The {S} is a river in {land} that rises near {place} and flows into Lake {word}. | The river {S} begins near {place}
in {land} and ends in Lake {word}. || Where does the {N} rise? | Into what does the {N} flow? | Where is the source of
the {N}? | In which country is the {N}? | Which lake does the river {N} flow into?
""", """
It is {big} kilometres long and up to {n} metres deep. | Its length is {big} kilometres, its greatest depth {n}
metres. || How long is the {N}? | How deep is the {N}? | What is the length of the {N}? | What is the greatest depth
of the river?

In {year} a flood killed {n2} people in {place2}. | A flood in {place2} cost {n2} lives in {year}. || How many people
died in the flood? | When was the flood? | Where did the flood kill people? | What happened in {place2} in {year}?

A dam built in {year2} supplies {big2} homes with electricity. | Since {year2} a dam has produced electricity for
{big2} homes. || When was the dam built? | How many homes get electricity from the dam? | What does the dam supply? |
What was built on the {N} in {year2}?

Ships carry {goods} and {goods2} down the river to {place3}. | {goods} and {goods2} are carried by ship to {place3}.
|| What do ships carry on the {N}? | Where do the ships on the {N} go? | Which goods are transported on the river?

{small} bridges cross it, the oldest one in {place4}. | The oldest of its {small} bridges is in {place4}. || How many
bridges cross the {N}? | Where is the oldest bridge over the {N}? | In which town is the oldest bridge?

From {month} to {month2} it is covered with ice. | Ice covers it from {month} to {month2}. || When is the {N} frozen?
| What covers the {N} in {month2}? | During which months is the river covered with ice?

Its water is {color} because of the {material} in its bed. | The {material} in its bed makes the water {color}. || Why
is the water of the {N} {color}? | What colour is the water of the {N}? | What gives the water its colour?

It forms the border with {land2} for {n3} kilometres. | For {n3} kilometres, the border with {land2} runs along it. ||
Which country does the {N} border? | For how many kilometres is the {N} a border? | With which country does it form a
border?

Along its banks live {animal}s and {animal2}s. | {animal}s and {animal2}s live along its banks. || Which animals live
along the {N}? | What lives on the banks of the {N}? | Where do {animal}s live?
""")

EXTRA = {
    "threat": ["the forests", "the rivers", "their nests", "the marshes", "the reefs", "the meadows"],
    "shelter": ["hollow trees", "caves", "holes in the ground", "thick bushes", "old walls", "piles of leaves"],
    "reason2": ["it became too hot", "the belt kept breaking", "it was too slow", "water got into it",
                "it shook too much", "the springs were too weak", "nobody could repair it", "it was too heavy"],
    "quality2": ["humour", "clear language", "rich detail", "honesty", "slow rhythm", "strange pictures", "courage"],
    "gas": ["oxygen", "hydrogen", "a bitter smell", "nitrogen", "steam", "a blue vapour"],
}
FILLER = ["Not much else is known about {s}.", "Many visitors find {s} worth a journey.", "Opinions about {s} differ.",
          "There are several old stories about {s}.", "Experts still argue about the details.",
          "This has changed little since then.", "Newspapers wrote about it at the time.",
          "Some of the old records were lost.", "The exact numbers are not certain.",
          "Several books deal with {s}.", "A longer account can be found in the archive."]
LOWER = set("It He She The In Its A An Since Every About At For With Because On Over During As Until From Within Today "
            "Only To".split())


def invent(r, syllables):
    return "".join(r.choice(ONSET) + r.choice(VOWEL) + r.choice(CODA) for _ in range(syllables)).capitalize()


class Values:
    """One article's values: asking twice for {person} gives the same one, {person2} is another."""

    def __init__(self, r, surnames, places):
        self.r, self.surnames, self.places, self.known = r, surnames, places, {}

    def __getitem__(self, key):
        if key not in self.known:
            for _ in range(20):
                value = self.draw(key.rstrip("0123456789"))
                if key.startswith("year") and "year" in self.known:         # what comes later happens later
                    value = str(min(2024, int(self.known["year"]) + self.r.randint(18, 95)))
                if value not in self.known.values():
                    break
            self.known[key] = value
        return self.known[key]

    def surname(self):
        return self.r.choice(self.surnames) if self.surnames and self.r.random() < 0.4 else \
            invent(self.r, self.r.choice([1, 2, 2, 3]))

    def draw(self, what):
        r = self.r
        if what in LISTS:
            return r.choice(LISTS[what])
        if what in EXTRA:
            return r.choice(EXTRA[what])
        if what == "year":
            return str(r.randint(1750, 2020) if r.random() < 0.7 else r.randint(900, 1750))
        if what == "date":
            day, month, year = r.randint(1, 28), r.choice(MONTHS), r.randint(1200, 2020)
            return f"{day} {month} {year}" if r.random() < 0.5 else f"{month} {day}, {year}"
        if what == "month":
            return r.choice(MONTHS)
        if what == "n":
            return str(r.randint(13, 990))
        if what == "age":
            return str(r.randint(25, 99))
        if what == "small":
            return r.choice(SMALL) if r.random() < 0.7 else str(r.randint(2, 40))
        if what == "pct":
            return str(r.randint(3, 95)) if r.random() < 0.7 else f"{r.randint(1, 60)}.{r.randint(1, 9)}"
        if what == "big":
            return f"{r.randint(1, 999)},{r.randint(0, 999):03}" if r.random() < 0.75 else \
                f"{r.randint(1, 90)}.{r.randint(1, 9)} million"
        if what == "money":
            number = r.choice([f"{r.randint(2, 99)} million", f"{r.randint(2, 900)},000", str(r.randint(2, 99))])
            return r.choice([f"${number}", f"{number} dollars", f"{number} pounds", f"{number} marks",
                             f"{number} crowns"])
        if what == "first":
            return r.choice(FIRST)
        if what == "person":
            return f"{r.choice(FIRST)} {self.surname()}" if r.random() < 0.85 else \
                f"{r.choice(FIRST)} {chr(r.randint(65, 87))}. {self.surname()}"
        if what == "surname":
            return self.surname()
        if what == "place":
            if self.places and r.random() < 0.35:
                return r.choice(self.places)
            return invent(r, r.choice([1, 1, 2])) + r.choice(TOWN_END) if r.random() < 0.6 else \
                r.choice(["", "", "New ", "Old ", "Upper ", "Port ", "Saint "]) + invent(r, r.choice([2, 2, 3]))
        if what in ("river", "word"):
            return invent(r, r.choice([1, 2, 2, 3]))
        if what == "org":
            return r.choice(["{} United", "{} & Sons", "{} Brothers", "{} Group", "{} Rovers", "{} and {}", "{}"]
                            ).format(self.surname(), self.surname())
        if what == "dir":
            return r.choice(DIRECTIONS)
        if what == "title":
            return r.choice(TITLE).format(adj=r.choice(TITLE_ADJ), noun=r.choice(TITLE_NOUN),
                                          noun2=r.choice(TITLE_NOUN), place=invent(r, 2), first=r.choice(FIRST))
        raise KeyError(what)


def fill(template, values, subject, r=None):
    text = re.sub(r"\{(\w+)\}", lambda m: subject if m[1] in "SN" else values[m[1]], template)
    text = re.sub(r"\b([Aa]) (?=[aeio])", r"\1n ", text).replace("The the ", "The ").replace("the the ", "the ")
    return text[0].upper() + text[1:]


def article(r, surnames=(), places=(), kinds=None):
    """(kind, subject, [(sentence, questions)], missing): a sentence may have no questions; missing are questions that
    the article does not answer."""
    which = r.choice(kinds or list(KINDS))
    short, pronoun, openings, facts = KINDS[which]
    values = Values(r, surnames, places)
    subject = {"person": lambda: values["person9"], "work": lambda: values["title"], "company": lambda: values["org9"],
               "town": lambda: values["place9"], "battle": lambda: values["place9"], "club": lambda: values["org9"],
               "building": lambda: values["surname9"], "law": lambda: values["surname9"]
               }.get(which, lambda: invent(r, r.choice([2, 2, 3])))()
    if which in ("machine", "species", "substance", "river"):
        subject = subject if which != "species" or r.random() < 0.4 else r.choice(
            LISTS["color"]) + " " + subject.lower()
    if which == "person" and subject.split()[0] in FEMALE:
        pronoun = "she"
    later = [fill(name, values, subject) for name in short]
    later = [name[0].lower() + name[1:] for name in later] + [pronoun]
    if which == "person":
        later += [subject.split()[-1]] * 3
    opening = r.choice(openings)
    chosen = r.sample(facts, min(len(facts), r.choice([2, 3, 4, 5, 6, 6, 7, 7, 8, 9])))
    rows = []
    for i, (sentences, questions) in enumerate([opening] + chosen):
        template = r.choice(sentences)
        mention = subject if i == 0 or r.random() < 0.35 else r.choice(later)
        if mention[0].islower() and mention != subject:
            template = re.sub(r"\b[Tt]he (\{S\})(?! (Act|machines))", r"\1", template)
            template = template.replace("the young {S}", "{S}")
            if re.search(r"\{S\} (Act|machines|\{building\})|of \{S\} and|[a-z,] \{S\}", template) \
                    and mention in ("it", "he", "she"):
                mention = later[0]
            if re.search(r"\{S\} (Act|machines)|[Tt]he \{S\}|grown \{S\}", template):
                mention = subject
        rows.append((fill(template, values, mention), [fill(q, values, subject) for q in questions]))
        if r.random() < 0.12:
            rows.append((fill(r.choice(FILLER).replace("{s}", later[0]), values, subject), []))
    for _ in range(r.choice([0, 0, 1, 1, 2])):                  # two facts in one sentence
        if len(rows) < 3:
            break
        at = r.randrange(1, len(rows) - 1)
        a, b = rows[at], rows[at + 1]
        if a[1] and b[1] and len(a[0]) + len(b[0]) < 240:
            tail = b[0]
            if tail.split()[0] in LOWER and not tail.startswith(subject):
                tail = tail[0].lower() + tail[1:]
            rows[at:at + 2] = [(f"{a[0][:-1]}{r.choice([', and ', '; ', ', while ', ', and '])}{tail}", a[1] + b[1])]
    missing = [fill(q, values, subject) for fact in facts if fact not in chosen for q in fact[1] if "{N}" in q]
    return which, subject, rows, missing


if __name__ == "__main__":
    r = random.Random(3)
    for _ in range(8):
        which, name, rows, missing = article(r)
        print(f"--- {which}: {name}")
        for sentence, questions in rows:
            print(f"  {sentence}   <- {r.choice(questions) if questions else ''}")
