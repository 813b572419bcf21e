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
# # First look: what happens to a token's vector on its way through the model?
#
# Every block of a transformer adds something to a token's vector, the *residual stream*. This
# notebook measures four things on the way through the blocks, with a model that comes with the
# library: how far the vector turns, how far it travels, what the model would predict if it stopped
# half-way, and where its heads look.
#
# Put `"gpt2-xl"`, or any other name that TransformerLens loads, in the first line and run it
# again. The embedded models speak a small English-like language with known referents.

# %%
MODEL = "demo"

from IPython.display import Markdown

import interp

model = interp.load_model(MODEL)
interp.inspect(model)

# %% [markdown]
# `inspect` measured this with a short probe and took nothing from names: where the stream is read,
# whether attention and MLP add up to the step of each block (*closes*), and which path from the
# last state reproduces the model's own logits.
#
# ## One call, five tables
#
# The built-in prompts `"her"` are texts with the word *her* after a verb. `target="her"` gives the
# token *her* the role `target`, the verb before it `previous`, and as many other tokens `random`.
# The fifth table, `random_pairs`, is a control: angles between unrelated states. Another control
# is an untrained copy of the model: `control="random-init"` runs it over the same prompts, so that
# its values stand next to the model's (dotted in the figures, `control…` in the summaries).

# %%
results = interp.run(
    model,
    "her",
    ["rotation", "path_length", "logit_lens", "attention", "random_pairs"],
    target="her",
    control="random-init",
    progress=False,
)
results["rotation"].frame.head()

# %% [markdown]
# Every row is a token in a block. Special tokens are marked and left out of summaries. What each
# column means, and its unit:

# %%
results["rotation"].columns

# %% [markdown]
# ## Does the pronoun turn further than the verb?
#
# The question of the "her" experiment: a pronoun has to be bound to its referent, a verb does not.
# Formula: θ_l = 2·atan2(‖û−v̂‖, ‖û+v̂‖), the angle between the state before and after block l.

# %%
results["rotation"].plot(by="role")

# %% [markdown]
# A difference between two curves means nothing without a test. Tokens of one text are not
# independent, so intervals and permutations treat the *text* (the prompt) as the unit.
# `permutation_p_max` is corrected for all layers (family-wise, by the maximum statistic). What it
# tests is `within_difference`, the difference within texts. `compare` returns a *finding*: its
# table is `.frame`, its figure `.plot()`, and `.save(folder)` writes both.

# %%
comparison = interp.compare(
    results["rotation"], value="angle", between="role", a="target", b="previous"
)
columns = ["layer", "mean_a", "mean_b", "within_difference", "control_within_difference"]
table = comparison.frame[[*columns, "within_g", "permutation_p_max"]]
table.style.hide(axis="index").format(precision=2).format("{:.2g}", subset="permutation_p_max")

# %% [markdown]
# p is never 0: 2,000 shuffles were made, so that the smallest p is 1/2001, printed as 0.0005. In
# words, with what the untrained copy does:

# %%
blocks = comparison.frame.loc[comparison.differs, ["layer", "within_difference"]]
more, less = (
    ", ".join(str(n) for n in blocks.loc[sign * blocks["within_difference"] > 0, "layer"]) or "none"
    for sign in (1, -1)
)
Markdown(
    f"**Answer:** the pronoun turns further than the verb in these blocks: {more}; less far in "
    f"these: {less}. In the other blocks no difference can be told from shuffled labels.\n\n"
    f"**The untrained copy:** {comparison.untrained('block')}."
)

# %% [markdown]
# **Controls.** How large would the difference be by chance? With roles shuffled within texts it
# lies between `shuffled_within_low` and `shuffled_within_high` in 95 % of shuffles. And how large
# is an angle? Two unrelated states are *not* at 90°, because the space is anisotropic.

# %%
band = ["shuffled_within_low", "shuffled_within_high"]
comparison.frame[["layer", "within_difference", *band]].round(2)

# %%
results["random_pairs"].frame.groupby("kind")["angle"].describe().round(1)

# %% [markdown]
# For GPT-2 XL, the course that this experiment comes from reports random pairs at 70–80°, about 10°
# per block in the middle, and from block 30 on about 15° for *her* against about 10° for the verb
# (M. X Cohen, *A deep understanding of AI language model mechanisms*, part 5, "Calculating
# rotations of embeddings vectors"). The numbers above are those of the model named at the top; they
# do not carry over to another one.
#
# ## How far does the vector travel, and who makes the step?
#
# This is a table of blocks: `layer` l is block l, from state l to state l + 1. Path: the sum of the
# steps. Chord: the straight line from the start. Their quotient, the
# tortuosity, is 1 for a straight path. The share of attention in a step is (a·Δ)/‖Δ‖². Together
# with the share of the MLP it is 1, because the sum of the block closes (see above).

# %%
summary = results["path_length"].summary()
wanted = ["norm", "step", "path", "chord", "tortuosity", "attn_share", "mlp_share"]
summary[summary["value"].isin(wanted)].pivot(index="layer", columns="value", values="mean").round(2)

# %%
results["path_length"].plot("attn_share")

# %% [markdown]
# ## What would the model predict if it stopped here?
#
# The logit lens reads every state through the model's own final norm and unembedding. Below it is
# drawn for the shortest of the prompts it was kept for. The last state gives the prediction of the
# model itself; every run checks that.
#
# This is a table of *states*: `layer` 0 is what enters block 0, and `layer` l + 1 is what block l
# leaves. It has one row more than a table of blocks. `results.merged("path_length", "logit_lens")`
# joins the two by the column `state`.

# %%
lens = results["logit_lens"]
kept = lens.frame.groupby("prompt")["position"].nunique().loc[:2]
lens.plot(prompt=int(kept.idxmin()), width=1350)  # wide: scroll it sideways

# %%
summary = lens.summary()
summary = summary[summary["value"].isin(["log_prob", "entropy", "kl_to_final"])]
summary.pivot(index="layer", columns="value", values=["mean", "control"]).round(2)

# %% [markdown]
# ## Where do the heads look?
#
# Scores per head: attention on the token before (`previous`), on what followed an earlier copy
# of this token (`induction`), on the first token (`sink`).

# %%
heads = results["attention"].summary(by=["layer", "head"])
heads = heads[heads["value"].isin(["previous", "induction", "sink"])]
heads.pivot(index=["layer", "head"], columns="value", values="mean").round(2).sort_values(
    "previous", ascending=False
).head(6)

# %% [markdown]
# ## Every number at its token
#
# The explorer is one page with all tables of the run: choose a prompt, a token and a depth, and
# every measure, the lens and the heads follow; a switch shows the untrained copy. In a notebook
# that runs it stands here and can be used; what is stored is a picture. `.save("explorer.html")`
# writes it as a file that opens without a network.

# %%
results.explore()

# %% [markdown]
# ## In your own workflow
#
# Three more lines in code that you already have. Your own hooks stay, and the tables show the
# stream as they leave it: here the attention of the third block is switched off.


# %%
def no_attention(value, hook):
    return value * 0


tokens = model.to_tokens("John greeted Mary. Then he thanked her.")
with interp.attach(model, "path_length") as probes:
    model.run_with_hooks(tokens, fwd_hooks=[("blocks.2.hook_attn_out", no_attention)])

probes["path_length"].frame.groupby("layer")["attn_norm"].mean().round(3)

# %% [markdown]
# Block 2 shows 0: the table has what your hook did.
#
# ## What this does not show
#
# - How far a vector turns does not say *why*. Steering and patching can.
# - A small model of a small language is not a large model of English.
# - Angles depend on the basis: folded and centred weights give other numbers. The provenance names
#   the basis; compare only results of one basis.
