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
# # Lens, unembedding, steering: from vectors to words and back
#
# A language model turns its last vector into words by one matrix, the *unembedding* W_U. This
# notebook reads every earlier state through the same matrix (the logit lens), looks at the matrix
# itself, and then turns the question round: if a direction means a word, does pushing the stream
# along it make the model say that word?
#
# Put `"gpt2-xl"`, or any other name that TransformerLens loads, in the first line. `OTHER` is a
# second model, for comparison only.

# %%
MODEL = "demo-llama"
OTHER = "demo"

import numpy as np
import pandas as pd
import plotly.express as px
import torch
from IPython.display import Markdown

import interp

px.defaults.template, px.defaults.height = interp.render.figure_template(), 420

model = interp.load_model(MODEL)
n_blocks, vocabulary = model.cfg.n_layers, model.cfg.d_vocab

# %% [markdown]
# ## Sentences with one right pronoun
#
# Two people meet, then one of them does something to the other. If he does it, the next word is
# *her*; if she does it, *him*. Both words need the sentence before.

# %%
PEOPLE = [("Tom", "Lucy"), ("John", "Mary"), ("Paul", "Anna"), ("David", "Emma")]
VERBS = ["thanked", "helped", "called", "visited"]
for_her = [f"{man} met {woman}. Then he {verb}" for man, woman in PEOPLE for verb in VERBS]
for_him = [f"{woman} met {man}. Then she {verb}" for man, woman in PEOPLE for verb in VERBS]

results = interp.run(
    model,
    for_her + for_him,
    ["logit_lens", "prediction_geometry", "unembedding", "unembedding_spectrum"],
    labels={"answer": ["her"] * len(for_her) + ["him"] * len(for_him)},
    control="random-init",
    progress=False,
)
lens, untrained = results["logit_lens"], results.control["logit_lens"]

# %% [markdown]
# ## What would the model predict if it stopped here?
#
# **Formula.** z_l = T(N(x_l) W_U + b_U): the model's own final norm N (its statistics taken anew at
# every state), its unembedding, and its output transform T (a soft cap or scale, where there is
# one). Source: nostalgebraist 2020.
#
# **Check.** The last state must give the model's own logits. That is verified on every run; here is
# the largest relative error:

# %%
max(float(leaf.max.max()) for leaf in lens.leaves("identity_error").values())

# %%
lens.plot(prompt=0)

# %%
lens.plot("log_prob")

# %% [markdown]
# Two controls: a guess among V tokens has log-probability −ln V, and the dotted line is a copy of
# the model that was never trained.

# %%
summary = lens.summary().set_index(["value", "layer"])
guess = -np.log(vocabulary)
real, bare = summary.loc["log_prob", "mean"], summary.loc["log_prob", "control"]
better = real[real > guess]
Markdown(
    f"A guess is worth {guess:.1f} nats. The lens starts at {real.iloc[0]:.1f} and ends at "
    f"{real.iloc[-1]:.1f} (untrained copy: {bare.iloc[-1]:.1f}). "
    + (
        f"It is better than a guess from state {better.index[0]} on."
        if len(better) and (real.loc[better.index[0] :] > guess).all()
        else "It is not better than a guess throughout."
    )
)

# %% [markdown]
# How far is each state from the final distribution? KL has no upper bound, Jensen–Shannon is at
# most ln 2 ≈ 0.69, total variation at most 1. At the last state all are 0 by definition.

# %%
distances = ["kl_to_final", "js_to_final", "tv_to_final", "entropy"]
summary["mean"].unstack("value")[distances].round(3)

# %% [markdown]
# **What this does not show.** That the lens reads a word at state l does not mean that the model
# has it "in mind" there: early states are written for later blocks, in directions that W_U was not
# trained to read. A lens that is *bad* in early layers says little; a learned translation per layer
# (tuned lens, Belrose et al. 2303.08112) reads more.
#
# ## When is the word decided?
#
# **Definition.** Decision depth: the first state from which the most probable token stays the final
# one. 0 says that the embedding decides already, L that only the last block does. `agreeing` is the
# share of earlier states that agree, decided or not.

# %%
depth = pd.concat(
    [
        interp.experiments.decision_depth(result).frame.assign(model=name)
        for name, result in (("trained", lens), ("untrained copy", untrained))
    ]
)
depth = depth[~depth["special"]]
px.histogram(
    depth,
    x="decision_depth",
    color="model",
    barmode="group",
    histnorm="percent",
    height=340,
    labels={"decision_depth": f"state from which the word is decided (of {n_blocks})"},
)

# %%
last = depth.sort_values("position").groupby(["model", "prompt"]).tail(1)
pd.concat({"all tokens": depth, "the pronoun": last}).groupby([pd.Grouper(level=0), "model"])[
    ["decision_depth", "relative_depth", "agreeing"]
].mean()

# %% [markdown]
# Read it together with the untrained copy. In `"demo-llama"` the copy decides *later*: at state 7.3
# of 8 on average, against 6.4 for the trained model, and for the pronoun 7.0 against 3.2. Its most
# probable token keeps changing because nothing favours one. The opposite can happen as well: if
# blocks hardly change the stream, the first token wins early and nothing was decided. So a depth
# means something only next to that of the copy.
#
# ## Is the unembedding the embedding again?
#
# **Question.** Tied weights (Press & Wolf 2017) read words in and out with the same vectors. If the
# weights are not tied: how far are the two apart?
#
# `cosine` compares a token's row of W_U with its own row of W_E, `shuffled_cosine` with another
# token's.

# %%
other = interp.run(OTHER, analyses="unembedding")
rows = {MODEL: results["unembedding"].frame, OTHER: other["unembedding"].frame}
columns = ["same", "cosine", "shuffled_cosine", "difference", "norm", "mean_cosine"]
pd.DataFrame({name: frame[columns].astype(float).mean() for name, frame in rows.items()}).round(3)

# %%
results["unembedding"].plot("norm")

# %% [markdown]
# Norms matter: with the same angle to the state, a long row gets a larger logit. `mean_cosine` is
# the cosine of a token's row with the mean row: how much it has of the direction that all rows
# share.

# %%
frame = results["unembedding"].frame
shown = frame.sort_values("norm")[["vocab_token", "norm", "mean_cosine"]]
pd.concat({"shortest": shown.head(5), "longest": shown.tail(5)}).round(3)

# %% [markdown]
# Does the shared direction matter for the prediction? That depends on what is taken away.
# Subtracting the mean row m from every row lowers all logits by the same h·m, which changes no
# probability. Taking out each row's *component* along m lowers the logit of token i by
# (w_i·m)(h·m)/‖m‖², which differs from token to token. KL from the model's own prediction, for
# every position of one sentence (exact where logits are W_U h + b):

# %%
weight, bias = (
    None if x is None else x.detach().double().cpu() for x in interp.models.unembedding_of(model)
)
with torch.no_grad():
    logits = model(for_her[0])[0].double().cpu()
linear = logits if bias is None else logits - bias
shared = linear.mean(-1, keepdim=True)  # h·m, since m is the mean of the rows
mean_row = weight.mean(0)
part = (weight @ mean_row) / mean_row.square().sum()  # of each row along m
full = logits.log_softmax(-1)
changed = {
    "mean row subtracted": logits - shared,
    "component along it removed": logits - shared * part,
}
kl = {k: (full.exp() * (full - x.log_softmax(-1))).sum(-1) for k, x in changed.items()}
pd.DataFrame({k: {"mean KL": x.mean(), "largest KL": x.max()} for k, x in kl.items()}).T.astype(
    float
).round(4)

# %% [markdown]
# ## How many directions does the vocabulary read?
#
# **Formula.** W_U = U Σ Vᵀ. A large σ says that moving the state along that direction moves many
# logits. The directions with the smallest σ are *dark*: they are hardly read (Cancedda 2402.09221).
# Control: independent normal entries of the same size.

# %%
spectrum = results["unembedding_spectrum"]
spectrum.plot()

# %%
spectrum.frame.groupby("matrix")[["effective_rank", "participation_ratio"]].first().round(1)

# %% [markdown]
# How much of the state lies in which directions? They are cut into four bands of equal number, from
# the largest σ to the smallest. Per band: its share of ‖h‖² (h is the state after the final norm),
# its share in the spread of the logits, and the share of ‖h‖² in as many *random* directions.

# %%
geometry = results["prediction_geometry"]
table = geometry.summary().set_index(["value", "layer"])["mean"]
bands = {
    f"band {j}": {
        "share of h": table[f"h_share_{j}"].iloc[-1],
        "of the logits' spread": table[f"logit_share_{j}"].iloc[-1],
        "share of h, random directions": table[f"random_h_share_{j}"].iloc[-1],
    }
    for j in range(1, 5)
}
pd.DataFrame(bands).T.round(3)

# %% [markdown]
# What happens to the prediction if only the first half of the directions is kept? KL from the full
# prediction, and the KL when a random half is kept:

# %%
geometry.plot(["kl_top_2", "random_kl_top_2"])

# %%
kept = {
    f"{25 * j} %": (table[f"kl_top_{j}"].iloc[-1], table[f"random_kl_top_{j}"].iloc[-1])
    for j in (1, 2, 3)
}
pd.DataFrame(kept, index=["largest directions", "random directions"]).T.rename_axis("kept").round(3)

# %% [markdown]
# ## Why this word: norm or angle?
#
# **Formula.** z_i = ‖w_i‖ ‖h‖ cos θ_i (+ b_i). ‖h‖ is the same for all tokens. So the order of the
# top tokens comes from their norms, from their angles to h, or from the bias. The three shares sum
# to 1. The control turns h at random: then angles mean nothing, and what they still decide is
# chance.

# %%
geometry.plot(["norm_share", "cosine_share", "random_cosine_share"])

# %%
pick = ["cosine_share", "random_cosine_share", "norm_share", "bias_share"]
pick += ["logit_cosine_spearman", "random_logit_cosine_spearman", "top_cosine_rank"]
pd.DataFrame({"last state": {name: table[name].iloc[-1] for name in pick}}).round(3)

# %% [markdown]
# ## Which way does the loss pull?
#
# **Identity.** ∇_h(−log P(true)) = Σ_i P(i) w_i − w_true: the state is pulled from the mean word
# that the model expects toward the word that came. The table has it in closed form. Here it is
# checked against automatic differentiation, on a random h:

# %%
h = torch.randn(weight.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
h.requires_grad_()
loss = -torch.log_softmax(weight @ h, dim=-1)[5]
(automatic,) = torch.autograd.grad(loss, h)
closed = torch.softmax(weight @ h, dim=-1) @ weight - weight[5]
float((automatic - closed).detach().norm() / closed.detach().norm())

# %%
geometry.plot(["gradient_norm", "random_gradient_norm"])

# %% [markdown]
# That the two lines differ is not yet information about the next word. The random token is drawn
# from the whole vocabulary, the true one from these texts, and their rows of W_U are not alike: a
# state that knows nothing would be pulled otherwise by the two as well. The control that fits is
# the true words, shuffled among the positions. For `"demo-llama"` they pull with 1.64 at state 0,
# where the true word pulls with 1.75 and the random one with 1.96: no information yet, although the
# two lines of the figure differ. At the last state it is 1.57, against 1.08 for the true word: that
# gap is information.
#
# ## From vectors to words
#
# The direction w_her − w_him raises the logit of *her* over that of *him*. Which words lie along
# it? Both measures, because long rows win by dot product. The control is a random direction of the
# same length: some word is always nearest, so look at the *cosine*, not at the name, and compare it
# with `random_cosine`, the median for random directions.


# %%
def one_token(word):
    """The word as this tokenizer has it inside a sentence."""
    try:
        interp.prompts.token_id(model, f" {word}")
    except interp.BadInput:
        return word
    return f" {word}"


HER, HIM = one_token("her"), one_token("him")
direction = interp.experiments.unembedding_difference(model, HER, HIM)
noise = torch.randn(direction.shape, generator=torch.Generator().manual_seed(0))
noise *= direction.cpu().norm() / noise.norm()
nearest = interp.experiments.nearest_tokens
found = {
    "her − him, by dot": nearest(model, direction, k=5),
    "her − him, by cosine": nearest(model, direction, k=5, by="cosine"),
    "her − him, in W_E": nearest(model, direction, k=5, space="W_E"),
    "random, by cosine": nearest(model, noise, k=5, by="cosine"),
}
tables = {name: finding.frame for name, finding in found.items()}
pd.concat(tables)[["token", "dot", "cosine", "random_cosine", "norm"]].round(3)

# %% [markdown]
# ## Steering: does the direction do what it means?
#
# So far we only looked. Now we change the stream: at one state, at the last token (the verb), we
# add a multiple of a vector, and read the logit of *her* minus that of *him*.
#
# The vector is the difference in means (Marks & Tegmark 2310.06824): mean state before *her* minus
# mean state before *him*. It is made from half of the couples and tested on the other half, on the
# sentences whose right answer is *him*.
#
# **Control.** Random directions of the same length, steered in the same way. `random_p` is the
# share of directions, the given one included, whose effect is as large in size, whatever its sign.
# With 19 random directions
# it cannot fall below 1/20 = 0.05: this is the value of a direction that beats all of them. Take
# `controls=99` to be able to see less than 0.05.

# %%
LAYER = n_blocks // 2
half = len(for_her) // 2
vector = interp.experiments.mean_difference(model, for_her[:half], for_him[:half], LAYER)
test = for_him[half:]

response = interp.experiments.dose_response(
    model,
    test,
    vector,
    layers=LAYER,
    positions="last",
    targets=(HER, HIM),
    controls=19,
    progress=False,
)
response.plot()

# %%
response.frame[response.frame["direction"] == "given"].round(3)

# %%
at_one = response.frame.query("direction == 'given' and dose == 1").iloc[0]
beside = response.frame.query("direction == 'random' and dose == 1").iloc[0]
Markdown(
    f"One dose at state {LAYER} moves the logit difference by {at_one['effect']:+.1f} "
    f"[{at_one['low']:+.1f}, {at_one['high']:+.1f}] (95 % over {at_one['prompts']:.0f} prompts), "
    f"from {at_one['mean'] - at_one['effect']:+.1f} to {at_one['mean']:+.1f}. Random directions "
    f"move it by {beside['effect']:+.1f} (the extremes of {19}: {beside['lowest']:+.1f}, "
    f"{beside['highest']:+.1f}); random_p = {at_one['random_p']:.2g}, at least {1 / 20:.2g}."
)

# %% [markdown]
# Look at the negative doses, too. At dose −2 the given direction moves the difference by −3.2, far
# outside the grey range (+5.6 to +14.3), and `random_p` is 1.00: it asks which effect is *larger*,
# and every random direction has a larger one. All 19 push toward *her*, at dose −2 and at dose 2.
# These sentences want *him* and start at −12.3. A push in any direction disturbs what gives them
# that answer, so the difference comes nearer to 0. The same random directions lower it in sentences
# that want *her*.
#
# An addition also makes the vector longer. A *rotation* turns it toward the direction and keeps its
# length, so that only the direction can be the cause. A *projection* takes the direction out.

# %%
turned = interp.experiments.dose_response(
    model,
    test,
    vector,
    kind="rotate",
    layers=LAYER,
    positions="last",
    targets=(HER, HIM),
    controls=19,
    progress=False,
)
turned.plot()

# %%
without = interp.experiments.dose_response(
    model,
    for_him[half:] + for_her[half:],
    vector,
    kind="project",
    layers=LAYER,
    positions="last",
    targets=(HER, HIM),
    controls=19,
    progress=False,
)
without.frame[["direction", "dose", "mean", "effect", "low", "high", "random_p"]].round(3)

# %% [markdown]
# The mean over both kinds of sentences hides what a projection does. If the direction carries the
# answer, the two kinds come nearer to each other. Half of these prompts want *him*, half *her*:

# %%
single = without.effects.query("direction == 'given'").copy()
single["answer"] = np.where(single["prompt"] < len(test), "him", "her")
single.groupby(["answer", "dose"])["value"].mean().unstack().round(2)

# %% [markdown]
# They come nearer, but they do not meet in the middle. The sentences that want *him* go from −12.32
# to +4.19, past those that want *her*, which fall from 8.99 to 2.79. Both means are now above 0:
# without the direction the model prefers *her* in both kinds of sentences.
#
# At which state does steering work? One dose at each, along a direction that is made at that state.
# (Not at state 0: the same verbs enter the model in both kinds of sentences.)

# %%
rows = []
for layer in np.unique(np.linspace(1, n_blocks, min(n_blocks, 8)).round().astype(int)):
    at = interp.experiments.mean_difference(model, for_her[:half], for_him[:half], int(layer))
    found = interp.experiments.dose_response(
        model,
        test,
        at,
        doses=[1.0],
        layers=int(layer),
        positions="last",
        targets=(HER, HIM),
        controls=4,
        progress=False,
    ).frame
    rows += [row | {"state": layer} for row in found[found["dose"] == 1].to_dict("records")]
by_state = pd.DataFrame(rows)
px.line(
    by_state,
    x="state",
    y="effect",
    color="direction",
    error_y=by_state["high"] - by_state["effect"],
    markers=True,
    height=340,
    labels={"effect": "change (logits)"},
)

# %% [markdown]
# **What this does not show.**
#
# - Random directions are isotropic, the stream is not: it varies little along a random direction.
#   Beating them says that the direction matters, not that it *means* "female object".
# - A direction that steers need not be the one that the model uses.
# - Large doses leave the region where states lie; what the model does there says little.
# - A bias of the readout, where there is one, belongs to no direction.
#
# ## In sum
#
# The lens, the spectrum and the nearest words say what *can be read* from a state. Steering says
# what *changes* the output. A claim about the model needs both, each with its control.
