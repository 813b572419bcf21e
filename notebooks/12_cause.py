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
# Two things stand out.
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
# ## Which part of the block?

# %%
parts = found.left_out.pivot(index="layer", columns="part", values="kl")
parts.round(3)

# %% [markdown]
# In blocks 4 and 5 it is attention: without their MLPs hardly anything is lost. This is what
# looking back for a referent needs. In the last block it is the MLP, which attention does not need
# any more.

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
# plane and a change of length cost a hundredth of what a random push of that length costs. In the
# middle and at the end random directions cost little, because most of them lead to where nobody
# reads. A push within the cloud turns the token into a mixture of others, and costs several times
# as much. Compare a direction that you found with this control, not with the isotropic one alone.

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
# written and used have a rank correlation of 0.79; in the embedded model above there is none.
# Knowledge comes late: at block 23 the lens is still 8.4 nats away.
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
