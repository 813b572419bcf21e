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
# # Path and words: how far does a token travel, and does it matter?
#
# A token's vector makes one step per block. This notebook measures the length of that way, asks who
# makes each step (attention or the MLP), how fast the vector grows, whether tokens that travel far
# are predicted well, and whether nouns, verbs and adjectives travel differently.
#
# Put `"gpt2-xl"`, or any other name that TransformerLens loads, in the first line.

# %%
MODEL = "demo-llama"

from importlib.util import find_spec

import numpy as np
from IPython.display import Markdown, display

import interp

model = interp.load_model(MODEL)

# %% [markdown]
# ## Texts with parts of speech
#
# The embedded models read documents of their small language. Their generator knows the part of
# speech of every word. Real text needs a tagger: spaCy, with any pipeline (`pip install spacy`,
# `python -m spacy download en_core_web_sm`). Without one, a regular expression marks the most
# frequent words, and the words themselves are compared.
#
# `control="random-init"` also runs an untrained copy of the model.

# %%
if MODEL.startswith("demo"):
    texts, taggers = "demo", []  # the gold tags come with the texts
elif find_spec("en_core_web_sm"):
    texts, taggers = "her", [interp.spacy_tags("en_core_web_sm")]
else:
    texts, taggers = "her", [interp.regex(r"\b(?:the|a|and|in|to|of|on|her|his|he)\b", name="pos")]

results = interp.run(
    model,
    texts,
    ["path_length", "rotation", "next_token"],
    labellers=taggers,
    control="random-init",
    progress=False,
)
path = results["path_length"]
path.frame[["prompt", "token", "pos", "layer", "step", "path", "chord", "tortuosity"]].head()

# %% [markdown]
# ## How long is the way, and how straight?
#
# **Formulas.** Step: s_l = ‖x_{l+1} − x_l‖. Path up to block l: the sum of the steps. Chord:
# ‖x_{l+1} − x_0‖, the straight line from the start. Tortuosity: path / chord, 1 for a straight
# path, more for a winding one.
#
# **Null.** Steps at random directions in many dimensions are at right angles to each other. Then
# the chord is the root of the sum of squares, so that L equal steps have tortuosity √L.

# %%
path.plot()

# %% [markdown]
# The untrained copy is dotted and looks flat, because its vectors are short. On an axis of its own:

# %%
results.control["path_length"].plot()


# %%
def means(result, value):
    """Mean over tokens per layer, trained and untrained."""
    summary = result.summary()
    rows = summary[summary["value"] == value].set_index("layer")
    return rows["mean"], rows["control"]


def over_prompts(values):
    """Mean over tokens and its 95 % interval, by resampling whole prompts."""
    sums = values.groupby(level="prompt").agg(["sum", "count"]).to_numpy()
    draws = np.random.default_rng(0).integers(len(sums), size=(2000, len(sums)))
    total, count = np.moveaxis(sums[draws].sum(axis=1), 1, 0)
    return values.mean(), *np.quantile(total / count, [0.025, 0.975])


steps = path.frame[~path.frame["special"]].groupby(["prompt", "position"])
length = steps["step"].agg(lambda step: np.sqrt((step**2).sum()))  # the chord at right angles
tokens = steps.last().assign(null=steps["step"].sum() / length)
real, low, high = over_prompts(tokens["tortuosity"])
null = tokens["null"].mean()
difference, *interval = over_prompts(tokens["tortuosity"] - tokens["null"])
untrained = means(path, "tortuosity")[1].iloc[-1]
if interval[0] < 0 < interval[1]:
    verdict = "Whether the steps share a direction or cancel each other is not decided."
elif difference < 0:
    verdict = "So the steps share a direction more than steps at right angles do."
else:
    verdict = "So the steps cancel each other more than steps at right angles do."
Markdown(
    f"Over all blocks the path is {real:.2f} times as long as the chord [{low:.2f}, {high:.2f}] "
    "(95 % interval over prompts). The same steps at right angles to each other would give "
    f"{null:.2f}, a difference of {difference:+.2f} [{interval[0]:+.2f}, {interval[1]:+.2f}]; the "
    f"untrained copy has {untrained:.2f}. {verdict}"
)

# %% [markdown]
# **What this does not show.** Length is in activation units. Late blocks write longer vectors
# because the stream is longer there (see growth below), so most of the path is made by the last
# blocks.
# `relative_step` divides each step by the norm of the state it starts from:

# %%
path.plot("relative_step")

# %% [markdown]
# ## Who makes the step: attention or the MLP?
#
# **Formula.** Δ_l = a_l + m_l. The share of attention is (a_l·Δ_l)/‖Δ_l‖², that of the MLP
# likewise; the two sum to 1. A share below 0 works against the step, one above 1 is held back by
# the other.
#
# **Check.** The split means something only if the parts add up. `closing_error` is ‖x_l + a_l + m_l
# − x_{l+1}‖ / ‖x_{l+1}‖; the library refuses the split where it does not close.

# %%
path.plot(["attn_share", "mlp_share"])

# %%
terms = [c.removesuffix("_share") for c in path.values if c.endswith("_share")]
share, bare = (100 * x for x in means(path, f"{terms[0]}_share"))
worst = path.frame["closing_error"].max()
Markdown(
    f"The parts are {', '.join(terms)}. The share of *{terms[0]}* runs from {share.iloc[0]:.0f} % "
    f"in the first block to {share.iloc[-1]:.0f} % in the last (untrained: {bare.iloc[0]:.0f} % to "
    f"{bare.iloc[-1]:.0f} %). The largest closing error of any token in any block is {worst:.1g}."
)

# %% [markdown]
# Do the two work together or cancel? Their cosine is positive or negative. For unrelated vectors it
# is 0 on average; in a single token its standard deviation is 1/√d, in a mean over n unrelated
# tokens 1/√(n·d). Tokens of one text are not independent, so each mean has an interval over
# prompts: of unrelated vectors it would have 0 inside in 95 % of cases.

# %%
if "attn_mlp_cos" in path.frame:
    ordinary = path.frame[~path.frame["special"]].set_index(["prompt", "layer"])["attn_mlp_cos"]
    together = {block: over_prompts(cos) for block, cos in ordinary.groupby(level="layer")}
    lowest, highest = (f(together, key=lambda block: together[block][0]) for f in (min, max))

    def told(block):
        mean, low, high = together[block]
        return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}] in block {block}"

    apart = [block for block, (_, low, high) in together.items() if not low < 0 < high]
    bare = means(path, "attn_mlp_cos")[1]
    single = 1.96 / np.sqrt(model.cfg.d_model)
    display(path.plot("attn_mlp_cos"))
    display(
        Markdown(
            f"The mean over tokens lies between {told(lowest)} and {told(highest)} "
            "(95 % intervals over prompts); 0 lies outside the interval in "
            f"{len(apart)} of {len(together)} blocks. The means of the untrained copy lie between "
            f"{bare.min():+.2f} and {bare.max():+.2f}. The cosine of a *single* token would stay "
            f"within ±{single:.2f} in 95 % of cases if its two vectors were unrelated; in the "
            f"model {(ordinary.abs() > single).mean():.0%} of all cosines are outside that."
        )
    )

# %% [markdown]
# A step can also be split by direction: along the stream (`stretch`, which makes it longer or
# shorter) and perpendicular to it (`turn`, which rotates it).

# %%
kinds = [f"{t}_{k}" for t in terms for k in ("stretch", "turn")]
path.plot(kinds)

# %% [markdown]
# **What this does not show.** A large share says who *wrote*, not who *mattered* for the
# prediction. For that, remove the part and measure the loss (notebook 06 does so with heads).
#
# ## How fast does the vector grow?
#
# **Formula.** The slope of ln‖x_l‖ over l, by least squares, per token; its exponential is the
# factor per layer.
#
# **Control.** Steps at right angles make a vector longer too: ‖x_l‖² = ‖x_0‖² + Σ‖Δ‖².
# `orthogonal_growth` is the slope of *that* norm, with the same steps. Only growth beyond it means
# that blocks write along the stream.

# %%
path.plot("norm")

# %%
growth = interp.experiments.growth_rate(results)
growth.mean.round(3)

# %%
rate = growth.mean.set_index("value")
copied = interp.experiments.growth_rate(results.control).mean.set_index("value")
Markdown(
    f"The norm grows by a factor of {rate.loc['factor', 'mean']:.3f} per layer "
    f"(95 % interval over prompts {rate.loc['factor', 'low']:.3f} to "
    f"{rate.loc['factor', 'high']:.3f}). Steps at right angles would give "
    f"{np.exp(rate.loc['orthogonal_growth', 'mean']):.3f}; the untrained copy has "
    f"{copied.loc['factor', 'mean']:.3f}."
)

# %% [markdown]
# **Reported:** about 1.045 per layer for GPT-2 XL, which has 48 blocks (Heimersheim & Turner 2023,
# "Residual stream norms grow exponentially over the forward pass"). Compare the factor between
# models of equal depth only: with few blocks, each must do more.
#
# **What this does not show.** A line through ln‖x_l‖ may fit badly; `r2` in the table says how well
# it fits. Many models jump in the first block and in the last one.

# %%
growth.frame.loc[~growth.frame["special"], ["growth", "r2", "orthogonal_growth"]].describe().round(
    3
)

# %% [markdown]
# ## Do tokens that travel far predict well?
#
# **Question.** Over tokens: is the path length correlated with the logit, the log-probability and
# the rank of the token that actually comes next?
#
# **The trap.** Path and prediction both depend on the position in the text and on how frequent a
# token is. Then they are correlated even if neither depends on the other. The partial correlation
# therefore controls for position, frequency of the token and frequency of the next one.
#
# **Intervals and control.** The bootstrap resamples whole prompts. Grey: outcomes shuffled within
# prompts, which keeps everything but the link between path and outcome.

# %%
prediction = interp.experiments.path_prediction(results, resamples=300)
prediction.plot("partial_spearman")

# %%
prediction

# %%
untrained_prediction = interp.experiments.path_prediction(results.control, resamples=300)


def whole(found, outcome, kind):
    rows = found.frame[found.frame["outcome"] == outcome]
    row = rows.iloc[-1]
    return f"{row[kind]:+.2f} [{row[f'{kind}_low']:+.2f}, {row[f'{kind}_high']:+.2f}]"


lines = [
    f"| {outcome} | {whole(prediction, outcome, 'spearman')} "
    f"| {whole(prediction, outcome, 'partial_spearman')} "
    f"| {whole(untrained_prediction, outcome, 'partial_spearman')} |"
    for outcome in ("logit", "log_prob", "rank")
]
Markdown(
    "Whole path against the next token (Spearman, 95 % interval over prompts):\n\n"
    "| outcome | plain | partial | partial, untrained copy |\n|---|---|---|---|\n"
    + "\n".join(lines)
)

# %% [markdown]
# Rank has the opposite sign: 0 is the best rank, so a positive correlation with the rank and a
# negative one with the log-probability mean the same.
#
# **What this does not show.** A correlation does not say that a longer path *makes* a prediction
# better or worse. Tokens whose continuation is open (what did somebody buy?) differ from others in
# many ways. And the path of a token is complete before the next token is known: the path may depend
# on how certain the model is, not on whether it is right.
#
# ## Parts of speech
#
# **Question.** Do nouns, verbs, adjectives and function words travel differently?
#
# Words of several tokens are joined first: steps, angles and paths are averaged over the tokens of
# the word. The test asks whether all groups have the same mean, and shuffles labels *within*
# prompts. `eta2` is the share of the variance between words that the groups explain,
# `shuffled_eta2` the share that shuffled labels explain (never 0: more groups explain more by
# chance).

# %%
angle = interp.experiments.by_group(results, "angle", "pos", resamples=300)
angle.plot()

# %%
angle.total.round(2)

# %%
shuffles = 300
rows = []
for value in ("path", "angle", "turning", "tortuosity"):
    for name, source in (("trained", results), ("untrained copy", results.control)):
        test = interp.experiments.by_group(source, value, "pos", resamples=shuffles)
        test = test.total_test.iloc[0]
        rows.append(
            f"| {value} | {name} | {test['p']:.2g} | {test['eta2']:.3f} "
            f"| {test['shuffled_eta2']:.3f} |"
        )
Markdown(
    f"Groups over all layers, {shuffles} shuffles (the smallest p they can give is "
    f"1/{shuffles + 1} = {1 / (shuffles + 1):.2g}, where no shuffle reached what was seen):\n\n"
    "| value | model | p | η² | η² shuffled |\n|---|---|---|---|---|\n" + "\n".join(rows)
)

# %% [markdown]
# Read the untrained copy first. Words of one class are few and frequent (*the*, *a*, *.*), have
# typical positions, and have embeddings of their own even without training. All of that separates
# groups before anything was learned.
#
# Which pairs differ, in which block? All pairs and layers are corrected together:

# %%
pairs = angle.pairs.dropna(subset=["p_bh"])
columns = ["a", "b", "layer", "n_a", "n_b", "difference", "hedges_g", "p_bh"]
strongest = pairs.loc[pairs["hedges_g"].abs().sort_values(ascending=False).index, columns]
strongest[strongest["p_bh"] < 0.05].head(10).round(3)

# %% [markdown]
# ## In sum
#
# - A path in activation units is dominated by late blocks; state whether you mean steps, relative
#   steps, or tortuosity.
# - Report a split into attention and MLP with its closing error.
# - Report growth with the growth of the same steps at right angles.
# - A correlation over tokens must control for position and frequency, treat the prompt as the unit,
#   and come with shuffles. It is still not a cause.
# - Groups of words differ in an untrained model as well.
