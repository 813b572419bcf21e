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
# Put another name in the first line, such as `"smollm2"` (after `interp get smollm2`), and prompts
# of its language. The sentences below are about the embedded model.

# %%
MODEL = "demo-llama"


import interp
from interp.demo.language import choices

model = interp.load_model(MODEL)

# %% [markdown]
# ## What the model writes
#
# The small language has facts about countries and their capitals. Twelve prompts stop right before
# an answer that is known, and the model continues each eight times, drawn at a high temperature so
# that it errs now and then.

# %%
cases = choices(12, seed=1, kind="fact")
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
    control="random-init",
    progress=False,
)
written.texts.head(8)
