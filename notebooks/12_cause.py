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
# # Known, written, used: geometry with a cause
#
# Angles, steps and lenses describe the stream. They do not say what the model *uses*. A block may
# write a long vector that nothing reads, or a short one that the prediction hangs on. This
# notebook puts three numbers side by side for every block:
#
# - **known**: the KL divergence from the final prediction to the lens of the state that the block
#   leaves. 0 means that the state already says what the model will say.
# - **written**: the block's share of the length of the path.
# - **used**: the KL divergence when the block is left out for these tokens.
#
# The control of *used* is a push as long as the block's step, in a random direction: if it costs
# as much, only the size of the change mattered.
#
# Put another name in the first line, such as `"smollm2"` (after `interp get smollm2`) or
# `"gpt2-xl"`. The sentences below are about the embedded model.

# %%
MODEL = "demo-llama"

from scipy.stats import spearmanr

import interp
from interp.demo import her_documents
from interp.experiments import cause

model = interp.load_model(MODEL)
sentences = her_documents(n=24) if MODEL.startswith("demo") else "her"

# %% [markdown]
# ## The token "her"
#
# The model must know whom "her" means, so something has to look back. We leave blocks out for this
# token alone, and read the prediction there.

# %%
found = cause(
    model,
    sentences,
    target="her",
    positions={"role": "target"},
    push_layers=[1, 4, 6],
    control="random-init",
    progress=False,
)
found.frame[["layer", "known_kl", "written", "used_kl", "random_kl", "used_log_prob"]].round(3)

# %% [markdown]
# Three things stand out.
#
# **The first two blocks carry most.** Without block 0 or block 1 the prediction is 1.44 and 0.80
# nats away, more than without any of the others, although each writes less than a tenth of the
# path. In block 0 a random push of that length costs half as much (0.67), so that part of it is the
# size of the change; in block 1 it costs next to nothing (0.04).
#
# **Long is not important.** The last block writes more than a third of the path, more than any
# other. Without it the prediction changes by some hundredths of a nat, about as much as by a
# random push of that length. An analysis of step lengths alone would have pointed to it first.
#
# **Short can be important.** Blocks 4 and 5 together write half as much, and cost more than the
# last one on average, while random pushes of their size cost next to nothing. The intervals are
# wide, because few sentences carry the effect: look at them before you believe a mean.

# %%
found.plot("Known and used")

# %% [markdown]
# Do the blocks that write much get used much? The rank correlation over blocks, with its p:

# %%
written_used = spearmanr(found.frame["written"], found.frame["used_kl"])
f"{written_used.statistic:+.2f}, p = {written_used.pvalue:.2f}"

# %% [markdown]
# ## Which part of the block?

# %%
parts = found.left_out.pivot(index="layer", columns="part", values="kl")
parts.round(3)

# %% [markdown]
# In blocks 4 and 5 it is attention: without their MLPs hardly anything is lost. This is what
# looking back for a referent needs. In the last block it is the MLP: without its attention nothing
# is lost. In blocks 0 and 1 the whole block costs more than its two parts one by one (1.44 against
# 0.43 and 0.00, 0.80 against 0.08 and 0.14): each part can stand in for some of the other.

# %% [markdown]
# ## Pushes: does the direction matter?
#
# All pushes below but the rotation have the same length, one natural step. There are two controls:
# a random direction, and a random one *within* the cloud of states of these tokens.

# %%
one = found.pushes[found.pushes["dose"] == 1.0]
one.pivot(index="kind", columns="layer", values="kl").round(3)

# %% [markdown]
# At state 1 the model is least sensitive to what its tokens do anyway: a turn in the token's own
# plane and a change of length cost less than a hundredth of a random push of that length.
# At states 4 and 6 random directions cost little, as if most of them led to where nothing reads.
#
# A push within the cloud turns the token into a mixture of others. At states 4 and 6 it costs about
# seven times as much as a random push (0.021 against 0.003, and 0.093 against 0.013); at state 1 it
# costs half as much (0.66 against 1.34). So which of the two controls is the harder one depends on
# the state. Compare a direction that you found with both.

# %%
found.plot("Pushes")

# %% [markdown]
# ## The untrained copy
#
# In a model with random weights every block is used about as much as a random push of its size.
# That is what "used" looks like when nothing was learned.

# %%
found.control.frame[["layer", "known_kl", "written", "used_kl", "random_kl"]].round(4)

# %% [markdown]
# ## A real model
#
# The same at "her" in 16 English sentences on SmolLM2-135M-Instruct, measured on 2026-11-29 (12
# minutes of one core, so it is not run here):
#
# ```python
# texts = ...  # 16 sentences with "her"
# cause("smollm2", texts, target="her", positions={"role": "target"}, pushes=(), controls=2)
# ```
#
# | block | known (nats) | written | used [95 %] | random push | without attention | without MLP |
# |--:|--:|--:|--:|--:|--:|--:|
# | 0 | 10.96 | 1.7 % | 3.30 [1.91, 4.68] | 1.93 | 0.03 | 2.95 |
# | 1 | 8.32 | 1.7 % | 1.30 [0.45, 2.15] | 0.24 | 2.87 | 0.02 |
# | 10 | 10.56 | 2.0 % | 0.11 [0.06, 0.16] | 0.07 | 0.36 | 0.13 |
# | 17 | 11.98 | 1.8 % | 0.06 [0.02, 0.11] | 0.05 | 0.10 | 0.06 |
# | 24 | 4.53 | 9.9 % | 0.42 [0.29, 0.55] | 0.60 | 0.35 | 0.05 |
# | 28 | 0.96 | 8.7 % | 1.52 [1.18, 1.85] | 0.30 | 0.05 | 0.60 |
# | 29 | 0.00 | 17.6 % | 0.96 [0.59, 1.34] | 1.71 | 0.02 | 0.82 |
#
# Blocks 2 to 23 each write 1 to 4 % of the path and are used by less than 0.13 nats, about as much
# as a random push of that length: at this one token nothing shows that their direction matters.
# Blocks 1 and 28 are the ones that matter beyond their size, by a factor of five. The last block
# writes most, and what it writes costs less than a random push as long. Over all 30 blocks,
# written and used have a rank correlation of 0.79; the 8 blocks of the embedded model above have
# −0.24, which with so few is no correlation at all (p = 0.57). Knowledge comes late: after block 17
# the lens is still 12.0 nats away, after block 24 still 4.5.
#
# A warning is in the table as well. Without the attention of block 10 or block 1 the model loses
# *more* than without the whole block. The MLP then works on a state that never occurs, so a part
# that is left out is not a cause by itself. And 16 sentences are few: the intervals say so.

# %% [markdown]
# ## How far this carries
#
# Leaving a block out is a strong intervention: later blocks get states that they never saw in
# training, and may fail for that reason alone. A model may also repair what is lost (later blocks
# do more when an earlier one is gone). So "not used" here means "not needed for these tokens,
# alone", and several blocks that replace each other look unused one by one. The column `later`
# says how much the steps of the later blocks change.

# %%
found.frame[["layer", "later"]].round(2)
