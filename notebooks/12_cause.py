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
# ## How far this carries
#
# Leaving a block out is a strong intervention: later blocks get states that they never saw in
# training, and may fail for that reason alone. A model may also repair what is lost (later blocks
# do more when an earlier one is gone). So "not used" here means "not needed for these tokens,
# alone", and several blocks that replace each other look unused one by one. The column `later`
# says how much the steps of the later blocks change.

# %%
found.frame[["layer", "later"]].round(2)
