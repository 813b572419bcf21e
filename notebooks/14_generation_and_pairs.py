# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Generation, and pairs of prompts
#
# The other notebooks watch a model read. Here it writes. Every token that it writes is chosen by
# one pass, and that pass has a way through the blocks, a depth at which it settles and a certainty
# like any other. The second half compares a prompt with its twin.
#
# Put another name in the first line, such as `"smollm2"` (after `interp get smollm2`), with prompts
# of its language. The sentences below are about the embedded model.

# %%
MODEL = "demo-llama"

import pandas as pd
from IPython.display import Markdown

import interp
from interp.demo.language import choices
from interp.experiments import generation_steps, written_values

model = interp.load_model(MODEL)

# %% [markdown]
# ## What the model writes
#
# Twelve prompts of the small language stop right before a name that the context determines. The
# model continues each eight times, drawn at a high temperature, so that many answers are wrong. A
# text ends where the model ends it, or after 16 tokens.

# %%
cases = choices(12, seed=1, kind="giving")
prompts = [{"text": case.prompt, "answer": case.right.strip()} for case in cases]
drawn = {"max_new_tokens": 16, "do_sample": True, "temperature": 1.5, "samples": 8, "seed": 0}
written = interp.generate(
    model,
    prompts,
    ["next_token", "settling", "path_length", "rotation"],
    **drawn,
    progress=False,
)
texts = written.texts
texts.loc[:5, ["given", "sample", "prompt", "text", "new_tokens", "stopped"]]

# %% [markdown]
# Every table has a row per token of the finished text, the prompt's and the model's own. Four
# columns tell them apart: `given` and `sample` (which prompt, which continuation), `generated`, and
# `generation_step`, which counts the written tokens from 1.

# %%
rows = written["path_length"].frame.query("prompt == 0 and layer == 7")
rows[["position", "token", "given", "sample", "generated", "generation_step", "path"]].tail(20)

# %% [markdown]
# ## One clean pass
#
# The tables are those of one pass over the finished text. Is that what happened while it was
# written, one token at a time, with a KV cache? Attach to the model while it generates, and
# compare.

# %%
prompt = model.to_tokens(cases[0].prompt)
with interp.attach(model, "path_length", "rotation") as steps:
    out = model.generate(
        prompt, max_new_tokens=16, do_sample=False, stop_at_eos=False, verbose=False
    )
whole = interp.run(model, out[:, :-1], ["path_length", "rotation"], progress=False)

keys = ["position", "layer"]
largest = {}
for name, value in (("path_length", "path"), ("rotation", "angle")):
    both = steps[name].frame.merge(whole[name].frame, on=keys, suffixes=("", "_whole"))
    largest[value] = (both[value] - both[f"{value}_whole"]).abs().max()
pd.Series(largest, name="largest difference")

# %% [markdown]
# They differ by rounding only. A cache that is not continued rightly would show here; where
# `interp.inspect` measures that, `interp.generate` writes without one, and a note says so.
#
# ## The token and the pass that chose it
#
# The pass over token p chose token p + 1. So the log-probability of a written token, the entropy of
# what it was drawn from, the depth at which that settled and the way of the stream stand one
# position earlier in the tables. `written_values` moves them to the token.

# %%
values = written_values(written)
columns = ["token", "generation_step", "log_prob", "entropy", "settling_depth", "angle_to_start"]
values.loc[(values["prompt"] == 0) & values["generated"], columns].head(8)

# %% [markdown]
# The same as a picture: what the model wrote, coloured by the log-probability of each token. The
# report of a generation (`written.report()`) has the text with a choice of the measure, beside the
# curves over the steps.

# %%
found = generation_steps(written, model)
found.plot("The texts")

# %% [markdown]
# ## Does it change along the text?
#
# **Formula.** The slope per written token, with a level of its own for each text.
#
# **Unit.** The given prompt: its eight samples resemble each other.
#
# **Controls.** The same tokens in random order after the prompt, and as many random tokens. What
# drifts there as well comes from the place in the text, not from what it says.

# %%
found

# %%
found.plot("Entropy")

# %%
own, shuffled = (
    found.frame.set_index(["value", "text"]).loc[("entropy", text)]
    for text in ("as written", "shuffled")
)
rises = "no drift that differs from chance"
if own["p_max"] < 0.05:
    rises = f"a change of {own['slope']:+.3f} nats per token"
apart = "not told apart from"
if shuffled["difference_p_max"] < 0.05:
    apart = "above" if shuffled["difference"] > 0 else "below"
Markdown(
    f"The entropy shows {rises} (slope {own['slope']:+.3f}, p over all measures: "
    f"{own['p_max']:.2g}). Its slope is {apart} that of the shuffled text, "
    f"{shuffled['slope']:+.3f}."
)

# %% [markdown]
# Of the two grey lines the solid one is the shuffled text, the dashed one are random tokens. As the
# model writes, no drift can be told from chance. In the shuffled text the entropy rises:
# the prediction spreads over more tokens. It does not get worse by that. The log-probability of
# the shuffled tokens rises as well, by 0.166 per step (p over all measures 0.025), and that of
# random tokens by 0.256: the next token gets more likely, not less. The two do not contradict
# each other. A prediction that is spread out gives an unexpected token more probability than one
# that is sure of another token. The written and the shuffled text differ detectably in the slope
# of the entropy only, not in that of the log-probability.
#
# **What this does not show.** The slope is one line through all steps, and the curve is none: the
# choice at step 4, where a new sentence has just begun, is the most open of all. Texts have
# different lengths, so late steps are those of few, long texts. Each text has a level of its own,
# so that this alone makes no slope.
#
# ### A text has an end
#
# With `stop=[]` the model writes on after the token that ends a text. What follows is another text.
# A slope over both has the step between them in it. By default `generation_steps` leaves out what
# comes after the end, and says so in a note; `after_end=True` keeps it.

# %%
on = interp.generate(model, prompts, "next_token", **drawn, stop=[], progress=False)
both = {kept: generation_steps(on, after_end=kept) for kept in (False, True)}
pd.concat(
    {
        "to the end" if not kept else "and beyond it": f.frame.set_index("value")[
            ["n", "slope", "p"]
        ]
        for kept, f in both.items()
    },
    axis=1,
)

# %%
Markdown("\n".join(f"- {note}" for f in both.values() for note in f.notes))

# %% [markdown]
# With the second texts the entropy seems to rise by 0.03 nats per token, far beyond chance. It is
# an artefact: up to the end it does not rise, and a new text simply begins with open choices.
#
# ## Right and wrong answers
#
# A text is correct if its first word is the name that the context determines.

# %%
words = texts["text"].str.extract(r"(\w+)")[0]
answers = texts["given"].map(dict(enumerate(p["answer"] for p in prompts)))
correct = (words == answers).tolist()
pd.Series(correct).groupby(texts["given"]).mean().rename("share of right answers").to_frame().T

# %% [markdown]
# At this temperature 52 of the 96 answers are right and 44 wrong.
#
# Texts are compared by the means of their first six tokens. Labels are shuffled among the samples
# of a prompt, so an easy prompt does not pass for a property of right answers.

# %%
compared = generation_steps(written, labels=correct, first=6)
shown = ["value", "texts_a", "texts_b", "within", "within_low", "within_high", "p_max"]
compared.comparison[shown]

# %%
differ = compared.comparison.query("p_max < 0.05")["value"].tolist()
Markdown(f"Right and wrong answers differ in: {', '.join(differ) or 'nothing'}.")

# %% [markdown]
# That a wrong answer is less likely is no discovery: at a high temperature a wrong name is an
# unlikely draw. And before the first draw there is nothing to differ in. All samples of a prompt
# come from one and the same pass there:

# %%
beginning = values[values["generation_step"] == 1].groupby("given")
measures = ["log_prob", "entropy", "settling_depth", "angle_to_start"]
spread = beginning[measures].max() - beginning[measures].min()
spread.max().round(3).rename("largest spread over the samples of a prompt").to_frame().T

# %% [markdown]
# Only the log-probability differs, which is that of the name that was drawn. A sampled model errs
# without having computed anything else. To find errors that the model itself *makes*, compare
# prompts with each other, or greedy answers.

# %% [markdown]
# ## Pairs of prompts: where two streams part, and which difference matters
#
# A prompt and its twin differ in one word. Whatever differs later, in the stream, in a table or in
# the prediction, comes from that word. Here it is a name: a woman's in the one, a man's in the
# other, and the model has to say whom the farmer thanked.

# %%
PAIR_MODEL = "demo-llama"

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
    [
        "state",
        "angle",
        "relative_distance",
        "unrelated_relative_distance",
        "unrelated_p_max",
        "repeated_distance",
    ]
].round(3)

# %% [markdown]
# The angle between the two streams is largest at state 7, 14°; their relative distance at state
# 8, 0.246. That distance is *more* than the 0.160 between unrelated pairs, the clean prompt of
# one and the corrupted one of another. Many of these have two names of the same gender. The test
# compares the relative distances and asks in both directions, nearer or further; from state 3 on
# `unrelated_p_max` is below 0.05. A second run of the clean prompts is at distance 0, so nothing
# here is noise of the computation.

# %%
found.plot("Distance")

# %% [markdown]
# ### Where they part, and where they meet
#
# Before the name the streams are the same up to rounding. At the name they differ from the start
# (state 0), at every later token from state 1 on: block 0 lets all of them look at the name. That
# is the column `parts`, the first state with a difference beyond rounding. `nearly` asks where
# they part by more than a tenth of their length. In the first pair the three tokens before the
# name cannot part. Of the other 15, five never part so far. Those that do part do not meet again
# (`meets`):

# %%
near = interp.pairs(PAIR_MODEL, pairs, [], threshold=0.1, patch=False, progress=False)
parted = near.parting.rename(columns={"parts": "nearly"}).merge(
    found.parting[["pair", "place", "parts"]]
)
parted = parted.merge(near.tokens[["pair", "place", "clean_token", "part"]])
shown = ["clean_token", "part", "parts", "nearly", "peak_state", "peak", "meets"]
parted.loc[parted["pair"] == 0, shown].round(2)

# %% [markdown]
# After the name and the words next to it, two places stand out. One is the **full stop**, the other
# the **last token**, where the answer has to be given.
#
# ### Which difference does the prediction depend on?
#
# Left: how far apart the streams are. Right: how much of the difference between the logits of *her*
# and *him* comes back when this one state is taken from the clean run.

# %%
found.plot("Distance and patched effect", width=1380)

# %% [markdown]
# The two pictures disagree, and that is the lesson.
#
# - **The name** stays far apart to the end. But from state 3 on next to nothing comes back when it
#   is patched: by then nobody reads it any more.
# - **The full stop** takes over. Block 1 writes there what the answer needs, and from state 3 to
#   state 6 three quarters of it can be put back at this token alone, which differs less than the
#   name and the word after it.
# - **The last token** has it from state 7 on: block 6 fetches it from the full stop.
#
# Where a stream differs is not where the difference is used. Over the cells in which the streams
# differ at all, the two have a rank correlation of 0.42; it is computed for each pair and then
# averaged, because the cells of a pair are not independent.

# %%
found.correlation()[["pairs", "difference", "low", "high", "p"]].round(3)

# %% [markdown]
# ### The control of a patch
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
# ### Which measured quantities differ?
#
# For this question the direction has to be the same in all pairs: woman clean, man corrupted. The
# unit is the pair, and if the gender did not matter, the two sides of any pair could be swapped.
# The table has the first layer at which each quantity differs beyond such swaps; the p values hold
# for all layers of a column together.

# %%
women = [twins(woman, man) for woman, man in names]
one_way = interp.pairs(PAIR_MODEL, women, ["rotation", "logit_lens"], patch=False, progress=False)
one_way.onsets[["analysis", "column", "state", "difference", "p_max"]].round(3)

# %% [markdown]
# The table of onsets has first layers only. `tests` has all of them:

# %%
angles = one_way.tests.query("analysis == 'rotation' and column == 'angle'")
angles[["layer", "state", "mean_clean", "mean_corrupted", "difference", "low", "high", "p_max"]]

# %%
one_way.plot("rotation: angle")

# %%
hit = angles[angles["p_max"] < 0.05]
listed = " and ".join(f"{row.layer:.0f} (by {row.difference:+.2f}°)" for row in hit.itertuples())
Markdown(f"Blocks that turn the stream by another angle if the name is a man's: {listed}.")

# %% [markdown]
# No other block differs *detectably*: more pairs may show smaller differences, so "state 2" in the
# table of onsets means at state 2 *at the latest*.
#
# ### Sides of different length
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
# ### A real model
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
