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
# and to copy rows of random tokens. Ten checkpoints are kept, at steps that double.

# %%
import interp
from interp.demo.evaluate import load, repeated_tokens
from interp.demo.train_series import STEPS, train_series
from interp.experiments import change_points, compare_states, space_stability

folders = train_series("training", seeds=(0,), steps=STEPS[:-1])
[folder.name for folder in folders]

# %% [markdown]
# ## The language: one seed, step by step
#
# A folder of checkpoints is a series by itself. The steps are taken from the names.

# %%
series = interp.series("training/seed-0", "demo", ["rotation", "logit_lens"], progress=False)
series.members[["member", "at", "status", "n_layers", "d_model"]].head(4)

# %% [markdown]
# How well does the lens predict the next token, from each state and at each step?

# %%
series.plot("log_prob", over="both", width=900)

# %% [markdown]
# The last state gets better all the time. The early states do not: state 0 is the embedding alone,
# and its lens is best at step 128. After that it gets *worse* while the model gets better, and ends
# below where it began. The embedding stops being a guess at the next token and becomes what the
# blocks read. Earlier layers do not simply know less: they were given another task.
#
# The angle that each block turns the stream by:

# %%
series.plot("angle")

# %% [markdown]
# The untrained blocks hardly turn the stream at all, and for eight steps next to nothing happens.
# Then all four begin, between steps 8 and 16. Where does each curve change most? The change point
# splits it into a part before and a part after, so that the two means explain as much as possible
# of the curve; its interval is over prompts.

# %%
changes = change_points(series, value="angle", resamples=1000)
changes.short.round(3)

# %%
changes.plot("When it changed")

# %% [markdown]
# The change point does not date the beginning, which is the same for all four. It shows which
# blocks have most of their change early. By step 16 block 3 turns the stream by 19° and block 2
# by 16°: their change lies between steps 8 and 16. Blocks 0 and 1 are at 8° and 13° by then and
# rise further, so theirs lies one doubling later. No interval over prompts is wider than one
# doubling.
#
# `share` says how much of the curve one step explains: a sudden change has a share near 1, a
# straight line 0.75. Block 0 has the highest, 0.92, but its angle grows until the end of the run.
# Block 1 pauses and rises again; blocks 2 and 3 rise, fall and rise again. One number cannot
# describe such curves: read it together with the figure.
#
# ## Induction heads: late
#
# Random tokens and their repetition can only be predicted by a head that looks for the earlier
# occurrence and copies what came next.

# %%
tokens = repeated_tokens(load(folders[0])[1], rows=16, period=20)
heads = interp.series("training/seed-0", tokens, "attention", progress=False)
heads.plot("induction")

# %%
jump = change_points(heads, value="induction", resamples=1000).found
jump = jump.sort_values("size", ascending=False).head(4)
jump[["layer", "head", "low", "high", "before", "after", "share", "p_max"]].round(3)

# %% [markdown]
# Up to step 64 every head of the figure is where the untrained model is, at about 0.035. Then
# single heads rise a little above that. The highest is at about 0.08 at step 128 and at about 0.12
# at step 256; these are two different heads. At step 512 all four heads of block 2 are at 0.79 to
# 0.88. The shares are near 1 now, because nearly all of the change lies between the last two
# checkpoints. But these two are 256 steps apart, half of the run: whether the heads jump or grow
# steadily in between, only more checkpoints could show. Is it like that in every run? Two more
# seeds:

# %%
train_series("training", seeds=(1, 2), steps=STEPS[:-1])
ends = interp.series("training/seed-*/step-512", tokens, "attention", progress=False)
curves = ends["attention"].curves("induction")
curves.loc[curves.groupby("member")["mean"].idxmax()].round(2).drop(columns="undefined")

# %% [markdown]
# It is not. At step 512 the strongest head of the second seed is at 0.12, about where the first
# seed was at step 256, and that of the third is at 0.36. The same recipe, other random numbers:
# the band of *one* run over its prompts says nothing about when the next run would get there.
#
# ## Embeddings: stable over training, and over seeds?
#
# Every checkpoint's embedding is compared with the last one of its run after the best rotation,
# fitted on one half of the words and scored on the other. Grey: the words of one side permuted.

# %%
over_training = space_stability("training/seed-0", limit=200, resamples=40)
over_training.plot("Drift")

# %% [markdown]
# The embedding moves slowly. Even its random start is far closer to the end of the same run than
# permuted words are: most of each vector is still what it was drawn as. So what do seeds share,
# which were drawn independently?

# %%
both = ["training/seed-*/step-0", "training/seed-*/step-512"]
over_seeds = space_stability(*both, limit=200, resamples=40)
over_seeds.frame.pivot_table(index=["measure", "at"], values=["value", "null_mean"]).round(2)

# %% [markdown]
# At the start nothing, as it must be: every value is that of permuted words. At the end a little.
# Of a word's ten nearest neighbours 0.9 are the same in another seed, where chance gives 0.5, and
# CKA and RSA, 0.00 at step 0, are 0.05 at step 512. A picture of the neighbours in this embedding
# would be mostly a picture of its random start.

# %%
end = over_seeds.words[over_seeds.words["a"].str.contains("step-512")]
by_word = end.groupby("word")[["overlap", "cosine"]].mean().sort_values("overlap")
by_word.tail(6).iloc[::-1].round(2)

# %% [markdown]
# `overlap` is the share of a word's ten nearest neighbours that two seeds have in common, averaged
# over the three pairs of seeds: 0.33 is ten of thirty. By chance it is 0.05. But these are the six
# highest of 200 words. If all neighbours were drawn at random, the highest of 200 would be about
# 0.20, six of thirty: the first five rows are above that, *capital* is not. `cosine` tells whether
# the vector itself is the same after the rotation. For *library* it is 0.04: the neighbours are
# partly the same, the vector is not.
#
# ## The last steps
#
# Two checkpoints are as good as a base model and its fine-tune. Where do they part?

# %%
states = compare_states("training/seed-0/step-256", "training/seed-0/step-512", "demo")
states.short.round(3)

# %% [markdown]
# Everything moved, and more with depth. A fine-tune that changed one block only would show exactly
# 0 up to that block.
#
# ## How far this carries
#
# The bands and intervals are over prompts: they say how sure the curve of *this* run is. A run of
# 512 steps on a language of 704 tokens shows how to ask such questions, not what large models do.
