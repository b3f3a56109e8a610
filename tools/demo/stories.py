"""Synthetic instruction and story text for the demo model: deterministic for a seed, unlimited in length.

Every answer can be checked against its prompt (a name, a colour, a sum), so accuracy before and
after quantization can be measured, not only perplexity.
"""

import random

NAMES = "Lily Tom Mia Ben Sue Max Anna Sam Lucy Tim Rose Jack Ella Leo Amy Dan Zoe Finn Nora Hugo Ivy Oscar Ruby Theo Clara Felix Alice Peter Emma Noah Grace Adam Julia Paul Sara Eric Maya Luke Nina Carl".split()
ANIMALS = "cat dog rabbit fox bear mouse owl duck frog horse lion tiger turtle squirrel bird sheep goat panda monkey elephant penguin hedgehog deer wolf bee fish crab whale pig cow".split()
OBJECTS = "ball kite boat hat book drum lamp key ring cup bell box clock coin cake scarf spoon basket flute blanket wagon mirror pencil shell feather bottle button lantern map crown".split()
COLOURS = "red blue green yellow white black purple orange pink brown silver golden".split()
PLACES = "forest park garden river beach village farm castle school market mountain lake meadow library kitchen barn bridge cave island harbour".split()
ADJ = "small brave kind happy clever quiet gentle curious funny tired lonely shy proud young old strong careful cheerful hungry sleepy".split()
WEATHER = ["sunny", "rainy", "windy", "cold", "warm", "cloudy", "snowy", "bright"]
FOOD = "apples bread soup honey berries cookies carrots cheese rice nuts pears cakes".split()
FEEL = ["happy", "glad", "proud", "thankful", "warm inside", "very pleased"]
SAD = ["sad", "worried", "upset", "afraid", "lost", "unhappy"]
GAMES = ["hide and seek", "tag", "catch", "a guessing game", "chess", "a song game"]
NUM = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
FACTS = [
    (
        "Give me a short introduction to large language model.",
        "A large language model is a computer program that has read a lot of text. It learns which word is likely to come next, and it uses that skill to answer questions, tell stories and help people write. It does not know everything, so it is wise to check what it says.",
    ),
    (
        "What is a neural processing unit?",
        "A neural processing unit is a chip made for the mathematics of neural networks. It multiplies many small numbers at the same time and uses little power.",
    ),
    (
        "What does prefill mean?",
        "Prefill is the first step of an answer. The model reads the whole prompt at once and fills its memory with it before it writes the first word.",
    ),
    (
        "What does decode mean?",
        "Decode is the second step of an answer. The model writes one token at a time, and each new token looks back at all the tokens before it.",
    ),
    (
        "Why are models quantized?",
        "Models are quantized to make them smaller and faster. Small whole numbers take the place of long fractions, so the model needs less memory and moves fewer bytes.",
    ),
    (
        "Who are you?",
        "I am a very small language model. I like short stories and simple questions.",
    ),
    ("What is the capital of France?", "The capital of France is Paris."),
    ("How many days are in a week?", "There are seven days in a week."),
    ("What do bees make?", "Bees make honey."),
    ("Where do fish live?", "Fish live in water."),
]


def a(word):
    return ("an " if word[0] in "aeiou" else "a ") + word


class Writer:
    def __init__(self, seed):
        self.r = random.Random(seed)

    def one(self, *xs):
        return self.r.choice(xs)

    def story(self, name=None, animal=None, obj=None, colour=None, adj=None, place=None):
        r = self.r
        name = name or r.choice(NAMES)
        animal = animal or r.choice(ANIMALS)
        obj = obj or r.choice(OBJECTS)
        colour = colour or r.choice(COLOURS)
        adj = adj or r.choice(ADJ)
        place = place or r.choice(PLACES)
        friend = r.choice([n for n in NAMES if n != name])
        fan = r.choice([x for x in ANIMALS if x != animal])
        w, food, feel, sad, game = (
            r.choice(WEATHER),
            r.choice(FOOD),
            r.choice(FEEL),
            r.choice(SAD),
            r.choice(GAMES),
        )
        p2 = r.choice([p for p in PLACES if p != place])
        s = [
            self.one(
                f"Once upon a time, there was {a(adj)} {animal} named {name}.",
                f"There once was {a(adj)} {animal}. Its name was {name}.",
                f"In a {place} far away lived {a(adj)} {animal} called {name}.",
            ),
            self.one(
                f"{name} lived near the {place} and loved to eat {food}.",
                f"Every morning {name} went to the {place} to look for {food}.",
                f"{name} had a {colour} {obj} and took it everywhere.",
            ),
        ]
        kind = r.randrange(6)
        if kind == 0:
            s += [
                f"One {w} day, {name} lost the {colour} {obj}.",
                f"{name} looked under the bed, behind the door and all over the {place}, but the {obj} was not there.",
                self.one(f"{name} felt {sad}.", f"This made {name} very {sad}."),
                f'Then {friend} the {fan} came by and asked, "Why are you so {sad}, {name}?"',
                f'"I can not find my {obj}," said {name}.',
                f'"Let us look for it together," said {friend}.',
                f"They walked to the {p2} and there, beside a big stone, was the {colour} {obj}!",
                f'"Thank you, {friend}," said {name}. "You are a good friend."',
            ]
        elif kind == 1:
            s += [
                f"One {w} day, {name} met {a(fan)} named {friend} at the {p2}.",
                f"{friend} was {sad} because nobody wanted to play.",
                f'"Do you want to play {game} with me?" asked {name}.',
                f'{friend} smiled and said, "Yes, please!"',
                f"They played {game} until the sun went down.",
                f"After that day, {name} and {friend} met at the {p2} every week.",
            ]
        elif kind == 2:
            s += [
                f"One {w} day, {name} wanted to go to the {p2}, but the way was long.",
                f"{name} packed some {food} and the {colour} {obj} and began to walk.",
                f"On the road {name} saw {a(fan)} who was stuck in the mud.",
                f'"Please help me," said the {fan}. "My name is {friend}."',
                f"{name} used the {obj} to pull {friend} out.",
                f"{friend} was so {feel} that they shared the {food} and went to the {p2} together.",
            ]
        elif kind == 3:
            s += [
                f"One {w} day, {name} found a {colour} {obj} in the {p2}.",
                f'"Whose {obj} is this?" asked {name}.',
                f"The {fan} said it was not hers. The old man said it was not his.",
                f"At last {name} saw {friend}, who was looking for something.",
                f'"Is this {colour} {obj} yours?" asked {name}.',
                f'"Yes! Thank you for being honest," said {friend}.',
                f"{friend} gave {name} some {food}, and both of them were {feel}.",
            ]
        elif kind == 4:
            s += [
                f"One {w} day, {name} made a plan to build a house in the {p2}.",
                f"{name} asked {friend} the {fan} to help.",
                f"First they carried wood. Then they painted the door {colour}.",
                f"They put the {obj} on a shelf and cooked {food}.",
                f'When it was done, {name} said, "This is the best house in the whole {p2}."',
                f'{friend} laughed and said, "It is, because we made it together."',
            ]
        else:
            s += [
                f"One {w} night, there was a strange sound in the {p2}.",
                f"{name} was {sad}, but took the {colour} {obj} and went to look.",
                f"It was only {friend} the {fan}, who could not sleep.",
                f'"I am hungry," said {friend}.',
                f"{name} gave {friend} some {food} and told a story.",
                f"Soon {friend} fell asleep, and the {p2} was quiet again.",
            ]
        s.append(
            self.one(
                f"{name} went home and felt {feel}.",
                f"From that day on, {name} was never {sad} again.",
                f"And {name} and {friend} lived happily ever after.",
                f"{name} learned that it is good to help others.",
                f"That night {name} slept very well.",
            )
        )
        return " ".join(s)

    def question(self):
        """-> (prompt, answer): answers follow from the prompt alone."""
        r = self.r
        k = r.randrange(9)
        if k <= 2:
            n, an, ad = r.choice(NAMES), r.choice(ANIMALS), r.choice(ADJ)
            return (
                self.one(
                    f"Tell me a story about {a(ad)} {an} named {n}.",
                    f"Write a short story about {a(ad)} {an} called {n}.",
                    f"Please tell a story about {a(ad)} {an} named {n}.",
                ),
                self.story(name=n, animal=an, adj=ad),
            )
        if k == 3:
            x, y = r.randrange(0, 21), r.randrange(0, 21)
            if r.random() < 0.5:
                return f"What is {x} plus {y}?", f"{x} plus {y} is {x + y}."
            x, y = max(x, y), min(x, y)
            return f"What is {x} minus {y}?", f"{x} minus {y} is {x - y}."
        if k == 4:
            n, m = r.sample(NAMES, 2)
            o, q = r.sample(OBJECTS, 2)
            c, d = r.sample(COLOURS, 2)
            if r.random() < 0.5:
                return (
                    f"{n} has a {c} {o}. {m} has a {d} {q}. What colour is the {o}?",
                    f"The {o} is {c}.",
                )
            return f"{n} has a {c} {o}. {m} has a {d} {q}. Who has the {q}?", f"{m} has the {q}."
        if k == 5:
            n, m = r.sample(NAMES, 2)
            p, q = r.sample(PLACES, 2)
            return f"{n} went to the {p}. {m} went to the {q}. Where is {n}?", f"{n} is at the {p}."
        if k == 6:
            w = r.choice(ANIMALS + OBJECTS)
            return f"Spell the word {w}.", "-".join(w) + "."
        if k == 7:
            i = r.randrange(1, 10)
            return (
                (
                    f"What number comes after {NUM[i]}?",
                    f"The number after {NUM[i]} is {NUM[i + 1]}.",
                )
                if r.random() < 0.5
                else (
                    f"What number comes before {NUM[i]}?",
                    f"The number before {NUM[i]} is {NUM[i - 1]}.",
                )
            )
        return r.choice(FACTS)

    def document(self):
        if self.r.random() < 0.45:
            return self.story() + "<|endoftext|>"
        turns = "".join(
            f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n{ans}<|im_end|>\n"
            for q, ans in (self.question() for _ in range(self.r.choice([1, 1, 1, 2, 3])))
        )
        return "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" + turns + "<|endoftext|>"
