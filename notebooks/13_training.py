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
# # A model and its own past
#
# What a trained model shows, it learned at some time. A *series* measures the same prompts in
# several models, here the checkpoints of a training run, one in memory at a time.
#
# The run is small enough to happen now: a Llama of four blocks, 64 wide, learns the demo language
# and to copy rows of random tokens. Three seeds, ten checkpoints each, at steps that double.

# %%
import pandas as pd

import interp
from interp.demo.evaluate import load, repeated_tokens
from interp.demo.train_series import STEPS, train_series
from interp.experiments import change_points, compare_states, space_stability

folders = train_series("training")
len(folders), STEPS

# %% [markdown]
# ## The language: one seed, step by step
#
# A folder of checkpoints is a series by itself. The steps are taken from the names.

# %%
series = interp.series("training/seed-0", "demo", ["rotation", "logit_lens"], progress=False)
series.members[["member", "at", "status", "n_layers", "d_model"]]

# %% [markdown]
# How well does the lens predict the next token, from each state and at each step?

# %%
series.plot("log_prob", over="both", width=900)

# %% [markdown]
# Everything improves at first, and the last state stays ahead. The early states do not keep what
# they had: state 0 is the embedding alone, and its lens gets worse again while the model gets
# better. The embedding stops being a guess at the next token and becomes an address for the blocks.
#
# The same for the angle that each block turns the stream by:

# %%
series.plot("angle")

# %% [markdown]
# The untrained blocks turn the stream little, all alike. When did that change? The change point is
# the best single step of each curve, with an interval over prompts.

# %%
changes = change_points(series, value="angle", resamples=1000)
changes.short.round(3)

# %%
changes.plot("When it changed")

# %% [markdown]
# The interval is about the *place* of the best step. `share` says how much of the curve such a step
# explains: a sudden change has a share near 1, a straight line 0.75. Here the profiles grow over
# several doublings, so that the place is the middle of the rise and not a moment of birth.
#
# ## Induction heads: sudden
#
# Random tokens and their repetition can only be predicted by a head that looks for the earlier
# occurrence and copies what came next.

# %%
tokens = repeated_tokens(load(folders[0])[1], rows=16, period=20)
heads = interp.series("training/seed-*", tokens, ["attention", "next_token"], progress=False)
curves = heads["attention"].curves("induction")
best = curves.loc[curves.groupby(["run", "at"])["mean"].idxmax()]
best.pivot(index="at", columns="run", values="mean").round(2)

# %% [markdown]
# The strongest head of each seed, at each step. Nothing for most of the run, then a jump within one
# or two doublings, not at the same step in every seed. And in which head?

# %%
last = best[best["at"] == STEPS[-1]]
last[["run", "layer", "head", "mean", "low", "high"]].round(2)

# %% [markdown]
# The head is another one in each seed: heads of two seeds cannot be matched by their numbers. A
# curve of one seed:

# %%
one = interp.series("training/seed-0", tokens, "attention", progress=False)
one.plot("induction")

# %%
jump = change_points(one, value="induction", resamples=1000)
jump.found.head(4)[["layer", "head", "low", "high", "before", "after", "share", "p_max"]].round(3)

# %% [markdown]
# ## Embeddings: stable over training, and over seeds?
#
# Every checkpoint's embedding is compared with the last one of its run after the best rotation,
# fitted on one half of the words and scored on the other. Grey: the words of one side permuted.

# %%
over_training = space_stability("training/seed-0", limit=200, resamples=40)
over_training.plot("Drift")

# %%
over_seeds = space_stability("training/seed-*", limit=200, resamples=40)
table = over_seeds.frame[over_seeds.frame["at"].isin([0, 32, 512])]
table.pivot_table(index=["measure", "at"], values=["value", "null_mean"]).round(2)

# %% [markdown]
# Untrained, two seeds have nothing in common but chance. Trained, they agree on which words are
# neighbours far more than chance, and yet one is not a rotation of the other: most of the length
# is left. Which words agree?

# %%
end = over_seeds.words[over_seeds.words["a"].str.endswith("step-512")]
by_word = end.groupby("word")[["overlap", "cosine"]].mean().sort_values("overlap")
pd.concat([by_word.tail(6).iloc[::-1], by_word.head(6)]).round(2)

# %% [markdown]
# ## The last steps
#
# Two checkpoints are as good as a base model and its fine-tune. Where do they part?

# %%
states = compare_states("training/seed-0/step-256", "training/seed-0/step-512", "demo")
states.short.round(3)

# %% [markdown]
# A fine-tune that changed one block only would show exactly 0 up to that block. Here everything
# moved, and more with depth.
#
# ## How far this carries
#
# The bands and intervals are over prompts. They say how sure the curve of *this* run is, not what
# another seed would do: that needs several seeds, and three are few. And a run of 512 steps on a
# language of 704 tokens shows how to ask, not what large models do.
