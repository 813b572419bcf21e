# %% [markdown]
# # Pairs of prompts: where two streams part, and which difference matters
#
# A prompt and its twin differ in one word. Whatever differs later, in the stream, in a table or in
# the prediction, comes from that word. Here it is a name: a woman's in the one, a man's in the
# other, and the model has to say whom the farmer thanked.

# %%
PAIR_MODEL = "demo-llama"

import interp
from interp.demo.lexicon import MEN, WOMEN

sentence = "One day {name} found a dog in the park. The old farmer thanked"
answer = dict.fromkeys(WOMEN, " her") | dict.fromkeys(MEN, " him")


def twins(name, other):
    return {
        "clean": sentence.format(name=name),
        "corrupted": sentence.format(name=other),
        "answer": answer[name],
        "wrong": answer[other],
    }


names = list(zip(WOMEN, MEN, strict=True))
pairs = [twins(*(both if i % 2 else both[::-1])) for i, both in enumerate(names)]
pairs[0]

# %% [markdown]
# In half of the twelve pairs the woman is the clean one, in the other half the man. No name occurs
# twice, so the pairs are independent. One call runs both sides, compares the streams at every
# token and state, and then *patches*: it puts one state of the clean run into the corrupted run and
# looks how much of the clean prediction comes back.

# %%
found = interp.pairs(PAIR_MODEL, pairs, ["rotation", "logit_lens"], progress=False)
found.tokens[["pair", "place", "clean_token", "corrupted_token", "part"]].head(18)

# %%
found.frame[
    ["state", "angle", "relative_distance", "unrelated_relative_distance", "repeated_distance"]
].round(3)

# %% [markdown]
# The two streams are furthest apart at state 7, by 14°. That is *more* than between unrelated
# pairs, the clean prompt of one and the corrupted one of another, because many of these have two
# names of the same gender. From state 3 on the difference is beyond chance (`unrelated_p_max`). A
# second run of the clean prompts is at distance 0, so nothing here is noise of the computation.

# %%
found.plot("Distance")

# %% [markdown]
# ## Where they part, and where they meet
#
# Before the name the streams are the same to the last bit. At the name they differ from the start
# (state 0), at every later token from state 1 on: block 0 lets all of them look at the name. By
# "the same" the library means up to rounding. Ask where they are *nearly* the same, and in the
# first pair eight of 18 tokens never part by more than a tenth of their length; those that do part
# do not meet again:

# %%
near = interp.pairs(PAIR_MODEL, pairs, [], threshold=0.1, patch=False, progress=False)
parted = near.parting.merge(near.tokens[["pair", "place", "clean_token"]])
parted[parted["pair"] == 0][["clean_token", "parts", "peak_state", "peak", "meets"]].round(2)

# %% [markdown]
# Behind the name and the words next to it two places stand out: the **full stop**, and the **last
# token**, where the answer has to be given.
#
# ## Which difference does the prediction depend on?
#
# Left: how far apart the streams are. Right: how much of the difference between the logits of *her*
# and *him* comes back when this one state is taken from the clean run.

# %%
found.plot("Distance and patched effect")

# %% [markdown]
# The two pictures disagree, and that is the lesson.
#
# - **The name** stays far apart to the end. But from state 3 on next to nothing comes back when it
#   is patched: by then nobody reads it any more.
# - **The full stop** takes over. Block 1 writes there what the answer needs, and from state 3 to
#   state 6 three quarters of it can be put back at this token alone, which differs less than the
#   name and the word behind it.
# - **The last token** has it from state 7 on: block 6 fetches it from the full stop.
#
# Where a stream differs is not where the difference is used. Over the cells in which the streams
# differ at all, the two have a rank correlation of 0.42; it is computed for each pair and then
# averaged, because the cells of a pair are not independent.

# %%
found.correlation()[["pairs", "difference", "low", "high", "p"]].round(3)

# %% [markdown]
# ## The control of a patch
#
# A state of another prompt at the same place may bring an answer, too. Here an unrelated pair may
# have the same answer or the other one, so its patches should bring back much less.

# %%
found.plot("Recovered")

# %% [markdown]
# They bring back about a quarter. Had the woman been the clean one in all pairs, every unrelated
# patch would have brought *her* as well, and the control would be worth nothing. The library says
# so in a note when all pairs have one answer.
#
# ## Which measured quantities differ?
#
# For this question the direction has to be the same in all pairs: woman clean, man corrupted. The
# unit is the pair, and if the gender did not matter, the two sides of any pair could be swapped.
# The table has the first layer at which each quantity differs beyond such swaps; the p values hold
# for all layers of a column together.

# %%
women = [twins(woman, man) for woman, man in names]
one_way = interp.pairs(PAIR_MODEL, women, ["rotation", "logit_lens"], patch=False, progress=False)
one_way.onsets[["analysis", "column", "state", "difference", "p_max"]].round(3)

# %%
one_way.plot("rotation: angle")

# %% [markdown]
# Blocks 1 and 2 turn the stream by half a degree or more further if the name is a man's; no other
# block differs detectably. "State 2" means at state 2 *at the latest*: more pairs may show an
# earlier difference.
#
# ## Sides of different length
#
# Two sides of different length are refused until you say how their tokens correspond: by what is
# equal at both ends, or by the words that stand for each other.

# %%
longer = (
    "Mary found a dog. The old farmer thanked",
    "The driver found a dog. The old farmer thanked",
)
try:
    interp.pairs(PAIR_MODEL, [longer], [], progress=False)
except interp.BadInput as error:
    print(error)

# %%
by_words = interp.pairs(
    PAIR_MODEL, [longer], [], spans=[("Mary", "The driver")], patch=False, progress=False
)
by_words.tokens[["clean_position", "corrupted_position", "clean_token", "corrupted_token", "part"]]

# %% [markdown]
# ## A real model
#
# Eight sentences like "When Mary and John went to the store, John gave a drink to" on
# SmolLM2-135M-Instruct, with the other giver in the corrupted one; no name is in two pairs.
# Measured on 2026-11-29 (three minutes of one core, so it is not run here), every
# third state patched:
#
# | state | second name: distance | recovered [95 %] | unrelated | last: recovered | unrelated |
# |--:|--:|--:|--:|--:|--:|
# | 0 | 1.16 | 1.00 [1.00, 1.00] | 0.49 | 0.00 | 0.00 |
# | 12 | 0.68 | 1.00 [1.00, 1.01] | 0.53 | 0.00 | 0.00 |
# | 18 | 0.61 | 1.01 [1.00, 1.03] | 0.81 | −0.01 | −0.01 |
# | 21 | 0.49 | 0.48 [0.40, 0.56] | 0.24 | 0.48 | 0.47 |
# | 24 | 0.38 | 0.04 [−0.00, 0.09] | −0.00 | 0.73 | 0.41 |
# | 27 | 0.24 | −0.00 [−0.01, −0.00] | −0.00 | 0.92 | 0.53 |
# | 30 | 0.23 | 0.00 [0.00, 0.00] | 0.00 | 1.00 | 0.50 |
#
# Up to state 18 everything is at the second name; between states 18 and 24 it moves to the last
# token. The control tells what moves first. At state 21 the last token of a sentence *about other
# people* brings back as much as its own: what has arrived there is not a name, but which of the two
# names to take. Only from state 24 on the own one is ahead, when the name itself has been fetched.
