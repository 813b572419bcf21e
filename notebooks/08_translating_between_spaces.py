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
# # Translating between spaces: do two models mean the same by a word?
#
# Two models of different architecture and width put the same words into two spaces. No coordinate
# of one has anything to do with a coordinate of the other. Can one space still be *turned* into the
# other? And if not the vectors: is at least the order among the words the same?
#
# "They are similar" is never an answer; any two spaces are similar to some degree. Every score
# below comes with the same score after the words of one space were shuffled.
#
# Put any two names that TransformerLens loads in the first lines, `"gpt2"` and `"gpt2-xl"` for
# instance. They may have different tokenizers and widths: words are matched as words.

# %%
MODEL = "demo"
OTHER = "demo-llama"

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.express as px

import interp

px.defaults.template, px.defaults.height = interp.render.figure_template(), 400

model, other = interp.load_model(MODEL), interp.load_model(OTHER)

tokens = interp.WordVectors.of(model).words
WORDS = [t.strip() for t in tokens if t.startswith(" ") and t.strip().isalpha()][:1000]
print(f"{len(WORDS)} words: {', '.join(WORDS[:8])} …")

# %% [markdown]
# ## A map that only turns: orthogonal Procrustes
#
# min ‖E₁W − E₂‖_F with WᵀW = I: the best rotation (and one common stretch) from space 1 to space 2.
# If the spaces differ in width, the wider one is cut to its leading principal axes, and the notes
# say so.
#
# A rotation with many parameters can fit anything, so it is fitted on four fifths of the words and
# scored on the rest. The score: take a held-out word, turn it, look at its nearest neighbours among
# *all* words of the other model. **precision@k** is how often its own word is among the first k.
#
# Some words are neighbours of everything (*hubs*). Two remedies: CSLS takes off each word's mean
# similarity to its neighbours (Conneau et al. 2018), the inverted softmax normalises over the
# queries (Smith et al. 2017).

# %%
SPACE = "W_U"
turned = interp.experiments.compare_spaces(
    (model, SPACE), (other, SPACE), words=WORDS, method="procrustes", resamples=499
)
turned.plot()

# %%
turned.frame[["score", "value", "null_mean", "null_sd", "p", "p_holm", "n", "n_fit"]].round(4)

# %% [markdown]
# **How to read it.** Grey: the same after shuffling, refitting and rescoring, 499 times. A dot to
# the right of its grey bar is a translation that works on words the map has never seen. The
# residual is better when it is *lower*.
#
# Precision@1 may be much lower than @10. Then the right *region* is found and the right word in it
# is not. Words that are used alike (names, in the small language) cannot be told apart by any map,
# because the models had no reason to put them in the same order.

# %%
own = turned.frame.set_index("score")
better = own.loc[
    [f"{s}@10" for s in ("cosine", "csls", "inverted_softmax")], ["value", "null_mean"]
]
better.assign(times_chance=better["value"] / better["null_mean"]).round(3)

# %% [markdown]
# ## A map that may also stretch: affine
#
# E₂ ≈ E₁A + b by least squares with a small ridge. It has more freedom and so fits the training
# words better. Does that survive on the held-out ones? More freedom lifts the null as well.

# %%
stretched = interp.experiments.compare_spaces(
    (model, SPACE), (other, SPACE), words=WORDS, method="affine", resamples=99
)
both = pd.concat([turned.frame, stretched.frame])
wide = both.pivot(index="score", columns="method", values=["value", "null_mean"]).round(3)
wide.loc[["residual", "cosine@1", "cosine@10", "csls@10", "inverted_softmax@10"]]

# %% [markdown]
# ## Similarity without a map: CKA, RSA, mutual neighbours
#
# - **CKA**: HSIC(K, L)/√(HSIC(K, K)·HSIC(L, L)) with K = E₁E₁ᵀ, L = E₂E₂ᵀ: are the same pairs of
#   words alike? (Kornblith et al. 2019). *Debiased*: the plain estimator goes to 1 for anything
#   when there are not many more words than dimensions (Murphy et al. 2405.01012). Both are below,
#   so that you see it: look at the null of `cka_biased`.
# - **RSA**: Spearman correlation of the two matrices of dissimilarities.
# - **Mutual k-NN**: the share of the 10 nearest neighbours that a word has in both spaces
#   (Huh et al. 2405.07987, who report that it grows with the quality of the models); k/(n−1) by
#   chance.

# %%
alike = interp.experiments.compare_spaces(
    (model, SPACE),
    (other, SPACE),
    words=WORDS,
    method=("cka", "cka_biased", "rsa", "mutual_knn"),
    resamples=499,
)
alike.plot()

# %% [markdown]
# Which matrix of one model is most like which of the other? W_E says what goes in, W_U what comes
# out; in a model with tied weights they are one.

# %%
pairs = [(a, b) for a in ("W_E", "W_U") for b in ("W_E", "W_U")]
rows = []
for a, b in pairs:
    scores = interp.experiments.compare_spaces(
        (model, a), (other, b), words=WORDS, method=("cka", "mutual_knn"), resamples=199
    ).frame.set_index("method")
    rows.append({"a": a, "b": b} | scores["value"].to_dict() | {"p": scores["p"].max()})
pd.DataFrame(rows).round(3)

# %% [markdown]
# ## Layer by layer
#
# The same words in the same sentences, read at every state of both models: a CKA for every pair of
# states. 0 is what enters the first block.
#
# Two traps. (1) Words of one sentence are not independent, so the null moves whole *sentences*. (2)
# If you pick the best of many pairs, you must compare it with the best of as many pairs under
# shuffling: that is `p_max`.

# %%
if MODEL.startswith("demo"):
    from interp.demo.language import demo_documents

    TEXTS = [document.text for document in demo_documents(40)]
else:
    TEXTS = list(interp.read_prompts("her", model.tokenizer).texts)

layers = interp.experiments.compare_layers(model, other, TEXTS, resamples=199)
layers.plot()

# %%
pd.Series(layers.best).round(3).to_frame("most similar pair")

# %% [markdown]
# **The control that matters here.** Equal words have equal inputs in *any* two models, trained or
# not. That alone lifts CKA above its shuffled null. So the same figure with an untrained copy of
# the first model: what it shows is the tokens, and only what exceeds it was learned.

# %%
untrained = interp.experiments.compare_layers(interp.random_copy(model), other, TEXTS, resamples=99)
untrained.plot()

# %%
pd.DataFrame(
    {
        "trained": layers.frame["value"].describe(),
        "untrained": untrained.frame["value"].describe(),
        "sentences shuffled": layers.frame["null_mean"].describe(),
    }
).loc[["mean", "min", "max"]].round(3)

# %% [markdown]
# ## Static word vectors from a file
#
# word2vec and GloVe come as text: a word and its numbers per line. Here we make such a file from
# the other model's matrix, read it back, and use it like any space. With your own GloVe file the
# last two cells are all you need (`limit=` reads the most frequent words only).

# %%
folder = Path(tempfile.mkdtemp())
space = interp.WordVectors.of(other, SPACE)
found = space.select(space.known(WORDS))
lines = [
    f"{word.strip()} {' '.join(f'{x:.5f}' for x in vector)}"
    for word, vector in zip(found.words, found.vectors, strict=True)
]
(folder / "small.glove.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
print(lines[0][:70], "…")

# %%
glove = interp.experiments.read_word_vectors(folder / "small.glove.txt")
glove.explore().nearest(glove.words[0], 5).round(3)

# %%
from_file = interp.experiments.compare_spaces(
    (model, SPACE), glove, method=("cka", "mutual_knn"), resamples=99
)
from_file.frame[["method", "value", "null_mean", "p", "n"]].round(4)

# %% [markdown]
# The numbers are those of the comparison with the model itself, up to the five digits that were
# written and the words that the file has.
#
# ## One word, two senses: contextual drift
#
# "bank" enters the model as the same vectors in every sentence. In a sentence about a river it
# should become another vector than in one about money. For all pairs of occurrences in *different*
# sentences: the mean cosine within a sense minus between senses, at every state. The null shuffles
# the senses among the sentences, and `p_max` again corrects for having looked at every state.

# %%
if MODEL.startswith("demo"):
    from interp.demo.language import generate

    documents = generate(260, 0, ["sense"], "held_out")
    SENTENCES = [d for d in documents if " bank" in d.text][:80]
    LABELS = None
else:
    SENTENCES = [
        "They swam to the muddy bank.",
        "The boat lay at the bank.",
        "Reeds grew along the bank.",
        "We fished from the bank all day.",
        "The river flooded its bank.",
        "Ducks sat on the bank.",
        "She opened an account at the bank.",
        "The bank raised its interest rate.",
        "He asked the bank for a loan.",
        "The bank was robbed of its cash.",
        "My salary goes to the bank.",
        "The bank refused the mortgage.",
    ]
    LABELS = {"sense": ["river"] * 6 + ["money"] * 6}

drift = interp.experiments.contextual_drift(model, SENTENCES, "bank", labels=LABELS)
drift.plot()

# %%
drift.frame[["layer", "within", "between", "difference", "random", "null_sd", "p", "p_max"]].round(
    4
)

# %% [markdown]
# Do not read "cosine 0.8" as "alike": the column `random` says how alike *any* two tokens are
# there. And do not read a small difference as no difference: compare it with `null_sd`. State 0 is
# the check: before the first block the context is not there yet, so nothing may differ (learned
# positions apart, where the senses stand at other places).
#
# ## Does the sense change what comes next?
#
# Sample continuations after both contexts at temperature τ, P_τ(y | x) = Π softmax(z/τ), and
# estimate the Jensen–Shannon divergence of the two distributions: 0 if they are the same, at most
# ln 2 ≈ 0.69. The control is a pair of contexts that differ as much in words but agree in the
# sense.

# %%
if MODEL.startswith("demo"):
    END = " Later Ruth said that the bank"
    STARTS = ["Ruth swam in the river.", "Ruth earned a salary.", "The boat was on the river."]
else:
    END = " The bank"
    STARTS = ["They swam across the river.", "She earned a salary.", "The boat was on the river."]
river, money, river_again = (start + END for start in STARTS)

rows = []
for temperature in (0.5, 1.0, 2.0):
    for name, second in {"river, money": money, "river, river (control)": river_again}.items():
        found = interp.experiments.continuation_divergence(
            model, river, second, temperature=temperature, length=5, samples=48
        )
        rows.append(found.frame.assign(pair=name, temperature=temperature))
figure = px.line(
    pd.concat(rows),
    x="length",
    y="js",
    error_y="js_se",
    color="pair",
    facet_col="temperature",
    markers=True,
    color_discrete_sequence=["#0072B2", "gray"],
    title="Divergence of sampled continuations",
    labels={
        "js": "Jensen–Shannon (nats)",
        "length": "tokens",
        "pair": "senses",
        "temperature": "τ",
    },
)
figure.add_hline(y=np.log(2), line={"color": "silver", "dash": "dot", "width": 1})
figure

# %% [markdown]
# The dotted line is the maximum, ln 2. A curve that rises with length is no surprise: two
# distributions of longer texts can only be told apart better. What counts is the distance between
# blue and grey at the same length and temperature. High temperatures flatten everything and bring
# the curves together.
#
# ## What this does not show
#
# - A linear map between two spaces says that they are alike, not that the models *use* them alike.
# - Both embedded models learned the same texts. That their spaces agree is the least one may expect
#   of them, and says nothing about models of different data.
# - The "Platonic" convergence that Huh et al. report is a trend over many models; two models make
#   no trend.
# - CKA weighs directions by their variance. A few large directions can make or break it. Mutual
#   neighbours see only what is local. Where the two disagree, both are right.
