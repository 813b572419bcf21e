# %% [markdown]
# # Pairs of prompts: where two streams part, and which difference matters
#
# A question and its twin. In the clean prompt the answer is the one name, in the corrupted one it
# is the other, and all that differs is two words.

# %%
MODEL = "demo-llama"

import interp
from interp.demo.lexicon import MEN, WOMEN

names = list(zip(WOMEN, MEN, strict=True))
text = "{a} was {x} . {b} was {y} . Who was {asked} ?"
moods = [("happy", "sad"), ("tired", "proud")]
pairs = [
    {
        "clean": text.format(a=a, b=b, x=x, y=y, asked=x).replace(" .", ".").replace(" ?", "?"),
        "corrupted": text.format(a=a, b=b, x=y, y=x, asked=x).replace(" .", ".").replace(" ?", "?"),
        "answer": f" {a}",
        "wrong": f" {b}",
    }
    for a, b in names
    for x, y in moods
]
pairs[0]
