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
# # The embedding space: what does a model know of a word before it has read a sentence?
#
# Every token starts as one row of the embedding matrix W_E [V, d]. The rows are learned, and
# nothing forces them to have any order. Do they have one? How many dimensions do they use? Are
# words of one kind neighbours? Can one calculate with them?
#
# Each answer below has a control: vectors without any structure, of the same number, width and
# length. Anything they show as well is not a finding.
#
# Put `"gpt2-xl"`, `"demo-llama"`, or any other name in the first line. `"W_U"` in the second looks
# at the unembedding instead.

# %%
MODEL = "demo"
MATRIX = "W_E"

import numpy as np
import pandas as pd
import plotly.express as px

import interp

px.defaults.template, px.defaults.height = interp.render.figure_template(), 420

model = interp.load_model(MODEL)
space = interp.WordVectors.of(model, MATRIX)
control = space.random(seed=0)
print(f"{len(space.words):,} tokens, {space.vectors.shape[1]} dimensions")

# %% [markdown]
# Words to look at. `known` keeps those that are one token of this vocabulary, in the form that
# they have in running text (with the space before them).

# %%
KINDS = {
    "women": "Mary Anna Lucy Emma Sara Nora Alice Julia Helen Clara Ruth Ida",
    "men": "John Tom Paul Peter Mark David Henry Adam Simon Oscar Frank Leo",
    "places": "market garden park school forest station library village harbour museum",
    "verbs": "greeted thanked helped visited followed called invited praised hugged watched",
    "adverbs": "quietly slowly quickly happily sadly loudly gently carefully",
    "animals": "dog cat horse bird fish mouse cow sheep rabbit wolf duck fox",
    "colours": "red green blue white black yellow brown grey",
}
words = {kind: space.known(text.split()) for kind, text in KINDS.items()}
words = {kind: found for kind, found in words.items() if len(found) > 2}
kind_of = {word: kind for kind, found in words.items() for word in found}
pd.Series({kind: len(found) for kind, found in words.items()}, name="known words").to_frame()

# %% [markdown]
# ## How many dimensions are used?
#
# Covariance Σ = E_cᵀE_c / N with eigenvalues λ, singular values σ = √(Nλ):
#
# - effective rank exp(−Σ p ln p) with p = σ/Σσ (Roy & Vetterli 2007);
# - entropy dimension, the same with p = λ/Σλ (Del Giudice 2021);
# - participation ratio (Σλ)² / Σλ².
#
# All are 1 if one direction has all the variance, and d if all have the same. The control is
# *not* at d: a finite number of random vectors has a spread of eigenvalues too.

# %%
numbers = pd.DataFrame(
    {
        "this model": interp.measures.describe_vectors(space.vectors),
        "random vectors": interp.measures.describe_vectors(control.vectors),
    }
)
numbers.round(3)

# %% [markdown]
# The same over all components, as an analysis of the weights, which needs no prompts. Without
# structure the two lines would coincide.

# %%
embedding = interp.run(model, analyses="embedding")["embedding"]
embedding.plot(["cumulative", "random_cumulative"])

# %% [markdown]
# ## Do the vectors point every way? Anisotropy
#
# Anisotropy is the mean cosine of all pairs of different vectors (Ethayarajh 2019). Random
# directions have mean 0 and spread 1/√d. If the mean is clearly above 0, most of it is usually one
# common direction, the mean vector: `mean_cosine_centred` is what is left without it.
#
# Look at the *spread* too: pairs far outside the grey curve are the structure that the rest of
# this notebook is about.

# %%
draw = np.random.default_rng(0)
a, b = draw.integers(len(space.words), size=(2, 20_000))


def pair_cosines(vectors):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return (unit[a] * unit[b]).sum(axis=1)[a != b]


pairs = {"this model": pair_cosines(space.vectors), "random": pair_cosines(control.vectors)}
px.histogram(
    pd.DataFrame(pairs).melt(var_name="vectors", value_name="cosine"),
    x="cosine",
    color="vectors",
    barmode="overlay",
    nbins=120,
    color_discrete_sequence=["#0072B2", "gray"],
    title="Cosines of random pairs of tokens",
)

# %% [markdown]
# Contextual states of language models are strongly anisotropic (Ethayarajh 2019), and a few *rogue*
# dimensions can make most of a cosine (Timkey & van Schijndel 2109.04404). The table above says
# whether the embedding of this model is. Where the mean cosine is large, use `space.centred()`
# before you trust any similarity.
#
# ## A picture: PCA
#
# The first two principal components of the words above. The axes say how much of the variance the
# picture holds, and the caption how many of a word's neighbours in the picture are neighbours in
# the space (trustworthiness, Venna & Kaski 2001: 1 is faithful, about 0.5 is a shuffled picture).

# %%
chosen = list(kind_of)
space.pca(2, words=chosen).plot(kind_of)

# %% [markdown]
# The same words with random vectors: a picture of nothing. Any groups that you see here are made by
# your eye.

# %%
control.pca(2, words=chosen).plot(kind_of)

# %% [markdown]
# ## t-SNE: neighbours, and nothing else
#
# t-SNE places words so that neighbours stay together (van der Maaten & Hinton 2008). It minimises
# KL(P ‖ Q) between neighbour probabilities in the space and in the picture; the table below has its
# final value. Distances between far groups, sizes and densities mean nothing. openTSNE is used if
# it is installed, else scikit-learn.

# %%
perplexity = min(30.0, (len(chosen) - 1) / 4)
tsne = space.tsne(words=chosen, perplexity=perplexity)
tsne.plot(kind_of)

# %%
random_tsne = control.tsne(words=chosen, perplexity=perplexity)
pd.DataFrame(
    {
        name: {"KL": p.kl, "trustworthiness": p.trustworthiness, "points shuffled": p.shuffled}
        for name, p in {"this model": tsne, "random vectors": random_tsne}.items()
    }
).round(3)

# %% [markdown]
# Read the control with care: t-SNE is good at keeping *whatever* neighbours there are, so random
# vectors come out well above ½ too. It says how far to trust the picture, not that there is
# anything to see.
#
# ## Clusters, and whether they would come again
#
# Clustering a picture clusters its artefacts, so `clusters` works in the PCA space. HDBSCAN
# (Campello et al. 2013) needs no number of clusters; DBSCAN (Ester et al. 1996) needs a radius. The
# question is whether a cluster is one: four fifths of the words are clustered again, ten times, and
# the adjusted Rand index says how far both agree (1 the same, 0 chance).

# %%
found = space.clusters(words=chosen, min_size=5, components=10)
spread = np.median(np.linalg.norm(space.select(chosen).centred().vectors, axis=1))
dense = space.clusters(words=chosen, method="dbscan", eps=0.7 * spread, min_size=4, components=10)
rows = {}
for name, clusters in {"HDBSCAN": found, "DBSCAN": dense}.items():
    stable = clusters.stability[~np.isnan(clusters.stability)]
    rows[name] = {
        "clusters": clusters.n,
        "noise": clusters.noise,
        "stability": stable.mean() if len(stable) else np.nan,
        "lowest": stable.min() if len(stable) else np.nan,
        "clusters in random vectors": clusters.random_clusters,
    }
pd.DataFrame(rows).T.round(2)

# %%
tsne.plot(found.names)

# %%
table = found.frame.assign(kind=[kind_of[w] for w in found.frame["word"]])
pd.crosstab(table["cluster"], table["kind"])

# %% [markdown]
# Cluster −1 is noise. Rows that hold one kind only are clusters that we would have named the same
# way; the clustering never saw the kinds. In `"demo"` clusters 0 (verbs) and 2 (adverbs) are such
# rows. Cluster 1 is not: it has 7 men, 10 women and all 10 places. So the nouns are not parted into
# kinds.
#
# ## Neighbours
#
# `random_cosine` is what the neighbour of the same rank would have in a space of random directions,
# from a closed form: (c + 1)/2 of a random cosine c is Beta((d−1)/2, (d−1)/2) distributed. The best
# of thousands is never near 0, so a cosine of 0.3 may be nothing.

# %%
example = chosen[0]
print("nearest to", repr(example))
neighbours = space.nearest(example, 8)
neighbours.assign(above_chance=neighbours["cosine"] > neighbours["random_cosine"]).round(3)

# %% [markdown]
# A meaningful name is not yet a finding. In `"demo"` the nearest word to *Mary* is *her*, with a
# cosine of 0.263. The nearest of 704 random directions has 0.270. Only the next two, *Clara* and
# *Lucy*, are above chance for their rank, and by 0.01 at most.

# %% [markdown]
# All words with all others, in the order of the list above. A kind of alike words is a square on
# the diagonal. Places, verbs and adverbs each have one. Women and men make a single pale square:
# the mean cosine is 0.155 among women, 0.143 among men, and 0.073 between the two.

# %%
px.imshow(
    space.cosines(chosen),
    color_continuous_scale="RdBu_r",
    zmin=-1,
    zmax=1,
    height=620,
    title="Cosine of every word with every other",
)

# %% [markdown]
# **In a number:** mean cosine within kinds and between kinds, and the same when the kinds are
# shuffled among the words.

# %%
cosines = space.cosines(chosen).to_numpy()
kinds = np.array([kind_of[w] for w in chosen])
upper = np.triu_indices(len(chosen), 1)


def within_minus_between(kinds):
    same = (kinds[:, None] == kinds[None, :])[upper]
    return cosines[upper][same].mean() - cosines[upper][~same].mean()


seen = within_minus_between(kinds)
shuffled = np.array([within_minus_between(draw.permutation(kinds)) for _ in range(999)])
p = (1 + (shuffled >= seen).sum()) / 1000
print(
    f"within − between {seen:.3f}; shuffled {shuffled.mean():.3f} ± {shuffled.std():.3f}, p = {p}"
)

# %% [markdown]
# One number over all kinds hides that: 0.215 comes mostly from places (0.329), verbs (0.270) and
# adverbs (0.349).
#
# ## Along a sequence of words
#
# The cosine of each word with the next one; `random_pairs` is the mean over all pairs of the
# vocabulary. If kinds are apart, steps within a kind are higher than steps across. That holds for
# the steps from men to places, on to verbs and on to adverbs, which are all below 0. It does not
# hold from women to men: *Lucy* → *John* is 0.116, and so is *Anna* → *Lucy*.

# %%
sequence = [word for found in words.values() for word in found[:3]]
along = space.along(sequence)
along["step"] = along["word"].str.strip() + " → " + along["next"].str.strip()
figure = px.line(
    along,
    x="step",
    y=["cosine", "random_pairs"],
    markers=True,
    color_discrete_sequence=["#0072B2", "gray"],
    labels={"variable": ""},
)
figure.update_layout(title="Cosine from word to word", yaxis_title="cosine", xaxis_title="")
figure

# %% [markdown]
# ## As a graph
#
# Words are joined where their cosine is above a threshold. The threshold makes the picture, so it
# is chosen by a control: above it lie one in a hundred random pairs of the vocabulary.

# %%
threshold = float(np.quantile(pairs["this model"], 0.99))
space.graph(chosen, threshold).plot()

# %% [markdown]
# ## Analogies, with the query words and without
#
# a − b + c ≈ d, "king" − "man" + "woman" ≈ "queen" (Mikolov et al. 2013). Vectors are brought to
# length 1 first. Most reports silently leave out a, b and c from the answers. The table has the
# rank with them and without, and both in random vectors. The difference is often the whole effect:
# the nearest word to a − b + c tends to be a or c.

# %%
QUESTIONS = [
    ("him", "he", "she", "her"),
    ("her", "she", "he", "him"),
    ("his", "he", "she", "her"),
    ("king", "man", "woman", "queen"),
    ("Paris", "France", "Italy", "Rome"),
    ("walked", "walk", "talk", "talked"),
    ("dogs", "dog", "cat", "cats"),
]
asked = [tuple(space.known(list(q))) for q in QUESTIONS if len(space.known(list(q))) == 4]
space.analogies(asked)

# %%
space.analogy(*asked[0][:3], k=5).round(3) if asked else "no question has known words only"

# %% [markdown]
# The table of one question has eight rows for `k=5`: the eight best words of all, because up to
# three of them may be the question's own, which are marked.
#
# Ranks count from 1. With few words in the vocabulary a rank of 3 is less than it seems.
# `random_rank` is one draw per question, here 680, 8 and 703, and too little to compare with. By
# chance every rank among the 701 words outside the question is as likely as any other. So a
# `rank_without_query` of 2 or better has a probability of 2/701, 0.003. But this is a handful of
# questions about five words, not a test set.
#
# ## Semantic axes
#
# The direction from one word set to another: the difference of their means. Words of the two sets
# are projected on the axis made *without* them; otherwise any two random sets would separate.

# %%
axis = space.axis(words["women"], words["men"], space.known(["she", "he", "her", "him", "his"]))
axis = axis.sort_values("projection")
px.bar(
    axis,
    x="projection",
    y=axis["word"].str.strip(),
    color="side",
    orientation="h",
    height=640,
    title="Axis from men (−) to women (+), every word left out of its own axis",
    labels={"y": "", "projection": "cosine with the axis"},
).update_yaxes(categoryorder="total ascending", dtick=1)

# %%
women, men = (space.select(words[side]).vectors for side in ("women", "men"))
auc, null, p = interp.measures.axis_separation(women, men)
print(f"AUC of left-out names {auc:.2f}; names dealt at random {null:.2f}; p = {p:.3f}")

# %% [markdown]
# AUC: the probability that a left-out woman's name projects higher than a left-out man's. The null
# is *below* ½, because a left-out word pulls its own axis the other way. That is why the control is
# computed and not assumed.
#
# ## What this does not show
#
# - W_E is what the model is *given*. What it makes of a word in a sentence is in its states
#   (notebook 08).
# - That a direction separates two sets does not say that the model uses it. Steering along it does.
# - Rare tokens are hardly trained: their vectors are close to their initial values, and in large
#   vocabularies they are most of the rows.
# - The word lists were chosen by hand, and chosen lists have chosen results.
