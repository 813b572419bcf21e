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
# model continues each eight times, drawn at a high temperature so that it errs now and then.

# %%
cases = choices(12, seed=1, kind="giving")
prompts = [{"text": case.prompt, "answer": case.right.strip()} for case in cases]
written = interp.generate(
    model,
    prompts,
    ["next_token", "settling", "path_length", "rotation"],
    max_new_tokens=16,
    do_sample=True,
    temperature=1.5,
    samples=8,
    seed=0,
    stop=[],
    progress=False,
)
texts = written.texts
texts.loc[:5, ["given", "sample", "prompt", "text"]]

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
    f"The entropy shows {rises} (p over all measures: {own['p_max']:.2g}). Its slope is {apart} "
    f"that of the shuffled text, {shuffled['slope']:+.3f}."
)

# %% [markdown]
# **What this does not show.** The prompts stop where the context leaves one name, so the first
# choices are nearly closed and later ones more open: part of a drift may be that beginning. The
# curve shows it, and the table of tokens (`found.tokens`) lets you leave it out.
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
