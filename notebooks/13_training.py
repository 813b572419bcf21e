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
# The run is small enough to happen now: a Llama of four blocks learns the demo language, and rows
# of random tokens that repeat themselves. Three seeds, ten checkpoints each.

# %%
from pathlib import Path

import interp
from interp.demo import demo_documents
from interp.demo.evaluate import load, repeated_tokens
from interp.demo.train_series import STEPS, train_series

train_series("training")
STEPS

# %% [markdown]
# ## One run, over the language

# %%
prompts = demo_documents(24)
series = interp.series(
    "training/seed-0", prompts, ["rotation", "logit_lens"], out="one", progress=False
)
series

# %% [markdown]
# ## Rotation

# %%
series["rotation"].plot("angle")
