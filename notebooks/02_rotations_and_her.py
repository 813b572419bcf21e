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
# # Rotations: does a pronoun turn further than the word before it?
#
# A token enters a transformer as a vector. Every block adds something to it, so the vector turns
# and grows. This notebook measures the turning. It then repeats the "her" experiment (M. X Cohen,
# *A deep understanding of AI language model mechanisms*, part 5, "Calculating rotations of
# embeddings vectors", with GPT-2 XL): a pronoun has to be bound to somebody earlier in the text.
# Does its vector turn further for that?
#
# Any model goes in the first line: `"gpt2-xl"`, `"meta-llama/Llama-3.2-1B"`, a local folder, or the
# other embedded model, `"demo"`. The embedded models speak a small English-like language.

# %%
MODEL = "demo-llama"

from IPython.display import Markdown

import interp
from analyses.rotation import Rotation
from analyses.trajectory import Trajectory

model = interp.load_model(MODEL)
interp.inspect(model)

# %% [markdown]
# ## One run
#
# The built-in prompts `"her"` have the word *her* right after a verb: 64 English sentences, or 54
# texts of the small language for the embedded models. `target="her"` puts tokens into three groups
# (column `role`):
#
# - `target`: the token *her*;
# - `previous`: the token right before it, the verb;
# - `random`: as many other tokens of the same sentences.
#
# `control="random-init"` runs the same prompts through a copy of the model that was never trained.
# Anything the untrained copy shows as well was not learned.

# %%
results = interp.run(
    model,
    "her",
    [
        Rotation(),
        "random_pairs",
        "path_length",
        # Directions (unit=True), and of all tokens, not only of the first ones.
        Trajectory(unit=True, tokens=100_000),
    ],
    target="her",
    control="random-init",
    progress=False,
)
rotation, untrained = results["rotation"], results.control["rotation"]
rotation.frame[["prompt", "token", "layer", "role", "angle", "attn_angle", "turning"]].head()

# %% [markdown]
# ## How far does a block turn a vector?
#
# **Question.** Which blocks turn the vector far, and which hardly touch its direction?
#
# **Formula.** θ_l = 2·atan2(‖û − v̂‖, ‖û + v̂‖), where û and v̂ are the states x_l and x_{l+1}
# brought to length 1. It is the same angle that arccos of the cosine gives, but arccos loses small
# angles: in float32, most angles of 0.006° come out as exactly 0.
#
# `attn_angle` is the turn by attention, `mlp_angle` the turn by the MLP after it. They exist where
# the model has a true state between the two. The dotted lines are the untrained copy.

# %%
rotation.plot()

# %%
summary = rotation.summary()
angles = summary[summary["value"] == "angle"].set_index("layer")
middle = angles.iloc[1:-1] if len(angles) > 2 else angles
Markdown(
    f"Block 0 turns a token by {angles['mean'].iloc[0]:.0f}° on average, the blocks in the middle "
    f"by {middle['mean'].mean():.0f}°, the last one by {angles['mean'].iloc[-1]:.0f}°. "
    f"In the untrained copy it is {angles['control'].iloc[0]:.0f}°, "
    f"{angles.loc[middle.index, 'control'].mean():.0f}° and {angles['control'].iloc[-1]:.0f}°."
)

# %% [markdown]
# **Reported for GPT-2 XL** (source above): near 90° in the first block for every token, then about
# 10° per block in the middle, and a burst at the last block, before unembedding.
#
# **What this does not show.** A large angle is not a large change of the prediction: the
# unembedding hardly reads some directions. And an angle depends on lengths: a block turns a vector
# far if what it adds is long compared with the vector. Compare the two lengths, and both with the
# untrained copy:

# %%
first = results["path_length"].summary().set_index(["value", "layer"])
ratio = first.loc["relative_step", ["mean", "control"]]
ratio.rename(columns={"mean": "step / norm", "control": "untrained"}).round(2)

# %% [markdown]
# In `"demo-llama"` the step of block 0 is 2.2 times as long as the embedding, those of blocks 2 to
# 6 are about half as long as the state. In the untrained copy no block stands out (0.4 to 0.9), and
# its first block turns no further than the next ones. So the large first turn was learned.
#
# ## How far apart are unrelated vectors?
#
# **Question.** How large is an angle of 30°? That depends on the angle between two unrelated
# states.
#
# In an isotropic space of many dimensions, random vectors are at 90°. The states of language models
# are not isotropic: they share directions. So we draw pairs of random tokens, from random positions
# and random layers.

# %%
pairs = results["random_pairs"]
pairs.plot()

# %%
both = {"trained": pairs, "untrained": results.control["random_pairs"]}
for name, result in both.items():
    table = result.frame.groupby("kind")["angle"].describe()[["count", "mean", "std"]]
    print(name, table.round(1).to_string(), sep="\n")

# %% [markdown]
# **Reported for GPT-2 XL** (source above): 70–80° and not 90°, because the space is anisotropic.
# Read every angle in this notebook against these numbers, not against 90°.
#
# ## Does *her* turn further than the verb before it?
#
# **Question.** The verb and the pronoun are neighbours in the same sentences. Is one turned further
# than the other, in which blocks, and by how much?
#
# **Test.** Tokens of one sentence are not independent of each other. So intervals come from drawing
# whole *sentences* again, and the test shuffles the roles *within* sentences. There is one test per
# block; `permutation_p_max` compares each with the largest statistic of all blocks in every
# shuffle, so that it holds for all blocks together. What it tests is `within_difference`, the
# contrast within sentences; the table also has `difference`, pooled over tokens. The effect size
# `within_g` is the contrast within sentences in standard deviations.

# %%
her = interp.compare(rotation, value="angle", between="role", a="target", b="previous")
her.plot(pairs=pairs)

# %%
her.frame[
    [
        *("layer", "n_a", "n_b", "mean_a", "mean_b", "within_difference"),
        *("within_difference_low", "within_difference_high", "difference", "within_g"),
        *("permutation_p", "permutation_p_max"),
    ]
].round(3)

# %% [markdown]
# The control of the test: in 95 % of shuffles of the roles the difference lies between
# `shuffled_within_low` and `shuffled_within_high`. `shuffled_welch_rate` says how often Welch's
# test over tokens calls shuffled labels significant at 5 %: where it is far above 0.05, do not
# trust `welch_p`.

# %%
band = ["shuffled_within_low", "shuffled_within_high"]
her.frame[["layer", "within_difference", *band, "shuffled_welch_rate"]].round(3)


# %%
def told(comparison):
    """The finding of a comparison in a sentence, from its own numbers."""
    hits = comparison.frame[comparison.differs]
    if hits.empty:
        return f"{comparison.finding('blocks')}."
    best = hits.loc[hits[comparison.effect].abs().idxmax()]
    more = int((hits[comparison.contrast] > 0).sum())
    return (
        f"{comparison.finding('blocks')}; in {more} of them *{comparison.a}* turns further. The "
        f"largest effect is in block {best['layer']:.0f}: {best[comparison.contrast]:+.1f}° "
        f"(g = {best[comparison.effect]:+.2f})."
    )


no_training = interp.compare(untrained, value="angle", between="role", a="target", b="previous")
Markdown(f"**Trained:** {told(her)}\n\n**Untrained copy:** {told(no_training)}")

# %% [markdown]
# The untrained copy is the control that matters most here. *her* is always the same token, verbs
# differ, and the two stand at different positions: that alone can separate the groups in a model
# that has learned nothing. Only what the trained model shows beyond its untrained copy can have to
# do with binding.

# %%
no_training.plot()

# %%
columns = ["layer", "within_difference", "within_difference_low", "within_difference_high"]
her.frame[columns].merge(no_training.frame[columns], on="layer", suffixes=("", " untrained")).round(
    2
)

# %% [markdown]
# **Reported for GPT-2 XL** (source above; 48 blocks, 54 sentences): from block 30 on about 15° for
# *her* against about 10° for the verb. The reading given there: the pronoun keeps being bound to
# its referent.
#
# **What this does not show.** That two groups differ does not say why. *her* and a verb differ in
# part of speech, in frequency and in what comes next. A third group, random tokens of the same
# sentences, shows how much two arbitrary groups differ; the experiment that says whether the angle
# has to do with *binding* changes the referent, or patches attention.

# %%
any_word = interp.compare(rotation, value="angle", between="role", a="target", b="random")
Markdown(f"**Against random tokens of the same sentences:** {told(any_word)}")

# %% [markdown]
# ## Attention or MLP?
#
# Binding needs information from earlier tokens, and only attention moves information between
# tokens. So it is worth looking at the turn by attention alone. (Models without a true state
# between attention and MLP do not have this column.)

# %%
part = "attn_angle" if "attn_angle" in rotation.frame else "angle"
by_part = interp.compare(rotation, value=part, between="role", a="target", b="previous")
by_part.plot()

# %% [markdown]
# ## Does the next block go on in the same direction?
#
# **Formula.** Sequential adjustment, or *turning*: φ_l = ∠(Δ_l, Δ_{l+1}), the angle between two
# successive steps. 0°: the next block goes on in the same direction. 90°: it does something
# unrelated. More than 90°: it takes something back. In many dimensions unrelated steps are at 90°.
# That is the null here, and the untrained copy shows whether it holds.

# %%
rotation.plot("turning", by="role")

# %%
turning = summary[summary["value"] == "turning"].dropna(subset=["mean"])
Markdown(
    f"Here two successive steps are {turning['mean'].min():.0f}° to {turning['mean'].max():.0f}° "
    f"apart (untrained: {turning['control'].min():.0f}° to {turning['control'].max():.0f}°). "
    f"{int((turning['mean'] > 90).sum())} of {len(turning)} pairs of blocks are beyond 90°."
)

# %% [markdown]
# ## The paths of the groups
#
# One set of principal axes is fitted to all states of all tokens and layers, so that layers can be
# compared. States are brought to length 1 first, because this notebook is about directions; else
# a few long states would determine the axes. Every thin line is a token on its way from the
# embedding (small dot) to the last state (large dot); the thick lines are the means of the groups.

# %%
results["trajectory"].plot(by="role")

# %%
results["trajectory"].plot("pc3", by="role")

# %%
shares = results["trajectory"].frame.iloc[0]
names = ["pc1_share", "pc2_share", "pc3_share", "shown_share", "walk_share", "gaussian_share"]
shares[[*names, "effective_dimension"]].astype(float).round(3).to_frame("value")

# %% [markdown]
# **Controls.** A picture of smooth curves means nothing by itself: random walks give such curves
# too (Antognini & Sohl-Dickstein 2018). `walk_share` is the variance that three axes show of random
# walks with steps as long as these, `gaussian_share` that of unrelated vectors. Only what exceeds
# both says something about the model. The part of each state that the three axes leave out:

# %%
results["trajectory"].plot("outside")

# %% [markdown]
# Where this is near 1, two lines that meet in the picture may be far apart.
#
# ## In sum
#
# - Read an angle against random pairs, not against 90°.
# - Read a difference between groups against shuffled labels, with the sentence as the unit, and
#   against an untrained copy of the model.
# - The angle says that something happens to a token, not what. Notebook 04 changes directions and
#   measures what the model then predicts.
# - Angles belong to a basis: folded and centred weights (compatibility mode) give others. The
#   provenance names the basis; compare only results of one basis.
# - In bfloat16, angles of a fraction of a degree are rounding errors; `interp.inspect` states the
#   smallest angle that can be resolved.
