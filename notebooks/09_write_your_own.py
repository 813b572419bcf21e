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
# # Write your own: a new measurement in fifteen lines
#
# You have an idea of something to measure. This notebook takes one from the literature to a tested
# analysis that runs on any model, inside your own workflow, over a corpus, in a report, and under a
# name on the command line.
#
# **The idea.** A few coordinates of the residual stream are far larger than all others (*rogue
# dimensions*, Timkey & van Schijndel 2109.04404; *massive activations*, Sun et al. 2402.17762, who
# find them at the first token above all). How much of a state's squared length lies in its k
# largest coordinates?
#
# share = (sum of the k largest x_i²) / ‖x‖²
#
# Put `"gpt2-xl"` or any other name in the first line: what these papers report is of large models.

# %%
MODEL = "demo-llama"

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import interp
from interp.geometry import at_least_float32, ratio

model = interp.load_model(MODEL)
PROMPTS = "demo" if MODEL.startswith("demo") else "her"


# %% [markdown]
# ## Fifteen lines


# %%
@dataclass(frozen=True)
class Rogue(interp.Analysis):
    """Share of a state's squared length that lies in its k largest coordinates."""

    k: int = 1

    sites = ("resid_post",)
    columns = {"share": "Σ of the k largest x_i² over Σ x_i², after the block; ratio"}
    ranges = {"share": (0, 1)}
    plots = (interp.Plot("line", ("share",), "Rogue dimensions", "share of ‖x‖²"),)

    def observe(self, batch):
        square = at_least_float32(batch["resid_post"]).square()
        largest = square.topk(self.k, dim=-1).values.sum(-1)
        return {"share": interp.PerToken(ratio(largest, square.sum(-1)))}


# %% [markdown]
# Line by line.
#
# - `@dataclass(frozen=True)`: parameters are fields with defaults. They are stored with the result.
# - `sites`: what it reads. You name what you want ("the stream after the block") and not a hook
#   point. The library knows where that is in each architecture, and refuses by name where it is
#   missing.
# - `columns`: what each value means, with its unit. It is shown with tables and in the report.
# - `ranges`: the least and largest possible value; `math.inf` is an open end. Intervals of means
#   stay in it.
# - `plots`: a declaration. The library draws, for all analyses alike.
# - `observe` gets one batch at one block and returns named *leaves*. `PerToken` is one number per
#   token: `[batch, pos]`. It is pure: nothing is kept in `self`, nothing in the batch is changed.
#
# There is no loop over layers, no hook, no padding, no table, no file format. `batch` also has
# `tokens`, `mask`, `special` (BOS and the like, and a first token with a massive norm),
# `positions`, `targets`, `layer`, and `terms` (attention and MLP).
#
# ## Does it keep the contract?
#
# `check_analysis` runs it on synthetic activations, without a model, and tests laws that every
# measurement over batches has to keep: the result may not depend on padding, on how prompts are
# batched, on their order, on the dtype, on earlier calls …

# %%
interp.check_analysis(Rogue())


# %% [markdown]
# ## What the laws catch
#
# Here are three plausible versions with a mistake each. All of them run, and give numbers that look
# fine.


# %%
class OfTheBatch(Rogue):
    """Mistake: the norm is a mean over the batch, so a token's value depends on its neighbours."""

    def observe(self, batch):
        square = at_least_float32(batch["resid_post"]).square()
        largest = square.topk(self.k, dim=-1).values.sum(-1)
        return {"share": interp.PerToken(largest / square.sum(-1).mean())}


class InPlace(Rogue):
    """Mistake: `square_` works in the model's own memory and changes what it computes next."""

    def observe(self, batch):
        square = batch["resid_post"].square_()
        largest = square.topk(self.k, dim=-1).values.sum(-1)
        return {"share": interp.PerToken(ratio(largest, square.sum(-1)))}


class CountsPadding(Rogue):
    """Mistake: tokens are counted by the shape of the batch, padding included."""

    def observe(self, batch):
        rows, columns = batch.tokens.shape
        return super().observe(batch) | {"tokens": interp.Count(np.asarray(rows * columns))}


def verdict(faulty):
    try:
        interp.check_analysis(faulty())
    except interp.errors.BrokenPlugin as error:
        first = next(iter(error.broken))
        return {"laws broken": ", ".join(error.broken), "first seen": error.broken[first]}
    return {"laws broken": "none", "first seen": ""}


table = pd.DataFrame(
    {kind.__name__: verdict(kind) for kind in (OfTheBatch, InPlace, CountsPadding)}
).T
table.style.set_properties(**{"text-align": "left", "white-space": "normal"})

# %% [markdown]
# The error also says how to fix each (`print(error)`). The laws *cannot* catch a formula that is
# wrong in the same way on every token. For that, compare with an independent computation of a case
# that you can do by hand, and keep it as a test:

# %%
square = torch.tensor([3.0, 0.0, -4.0, 0.0], dtype=torch.float64).square()
print("computed", ratio(square.topk(1).values.sum(), square.sum()).item(), "by hand", 16 / 25)

# %% [markdown]
# ## Run it on a model
#
# `control="random-init"` also runs an untrained copy: it shows what architecture and chance give.
# Another control is the value for Gaussian vectors of this width.

# %%
results = interp.run(model, PROMPTS, [Rogue(), "rotation"], control="random-init", progress=False)
results["rogue"].frame.head(3)

# %%
width = model.cfg.d_model
noise = torch.randn(20_000, width, generator=torch.Generator().manual_seed(0)).square()
gaussian = (noise.max(-1).values / noise.sum(-1)).mean().item()
untrained = results.control["rogue"].frame["share"].mean()
print(f"Gaussian vectors of width {width}: {gaussian:.3f}; untrained copy: {untrained:.3f}")
results["rogue"].plot()

# %% [markdown]
# What exceeds the controls was made by training. The figure leaves out special tokens. Sun et al.
# report massive activations at the first token above all, so look at it separately:

# %%
frame = results["rogue"].frame
frame.groupby(["layer", frame["position"] == 0])["share"].mean().unstack().rename(
    columns={True: "first token", False: "all others"}
).round(3)

# %% [markdown]
# Parameters need no further code, and are stored with the result:

# %%
ten = interp.run(model, PROMPTS, Rogue(k=10), progress=False)["rogue"]
print(ten.analysis)
ten.summary().round(3).head(3)

# %% [markdown]
# ## In your own workflow
#
# Nothing has to be registered. Whatever runs through the model while it is attached is observed:
# here the model writes a text.

# %%
start = "Mary" if MODEL.startswith("demo") else "When Mary and John went to the store"
with interp.attach(model, Rogue()) as probes:
    model.generate(start, max_new_tokens=8, do_sample=False, verbose=False)
probes["rogue"].frame.groupby("token", sort=False)["share"].mean().round(3).to_frame()

# %% [markdown]
# ## Report, file, and back
#
# One HTML file that opens without a network, with your figure, your columns and what was verified
# about the model. Saved results are Parquet, JSON and safetensors with checksums. They name your
# class but do not store it, so loading needs the class (imported, or registered as below).

# %%
folder = Path(tempfile.mkdtemp())
report = results.report(folder / "report.html")
results.save(folder / "out")
again = interp.load(folder / "out")
print(f"{report.name}: {report.stat().st_size / 1e6:.1f} MB")
same = np.array_equal(
    again["rogue"].frame["share"], results["rogue"].frame["share"], equal_nan=True
)
print("loaded:", again["rogue"].analysis, "with the same numbers" if same else "CHANGED")


# %% [markdown]
# ## Leaves: when one number per token is too much
#
# Rows per token are right for hundreds of prompts. Over a corpus, keep something of fixed size. A
# leaf knows how it merges, so an analysis never writes a merge.
#
# | leaf | holds | for |
# |---|---|---|
# | `PerToken`, `PerHead` | a number per token (and head) | tables; means with `keep="summary"` |
# | `Sum`, `Count` | totals | frequencies, sums of matrices |
# | `Moments` | count, mean, variance, range | means with spread, of numbers or vectors |
# | `Histogram` | counts between fixed edges | distributions |
# | `Cov` | mean and scatter matrix of vectors | PCA, spectra |
# | `TopK` | the k highest scores, and where | the extreme tokens; with `priority` a random sample |
# | `Examples` | whole arrays of the first few prompts | maps |
# | `Once` | facts of the weights | scope `"weights"` |
#
# The same measurement with state of fixed size, however many tokens go through:


# %%
@dataclass(frozen=True)
class RogueProfile(interp.Analysis):
    """Distribution of the share of the largest coordinate, and the most extreme tokens."""

    k: int = 5

    sites = ("resid_post",)
    columns = {
        "share": "largest x_i² over Σ x_i², after the block; ratio",
        "extreme": "the same, of the tokens where it is largest; ratio",
    }

    def observe(self, batch):
        square = at_least_float32(batch["resid_post"]).square()
        share = ratio(square.amax(-1), square.sum(-1))
        ordinary = batch.mask & ~batch.special
        edges = [i / 20 for i in range(1, 20)]
        return {
            "share": interp.Histogram.of(share, ordinary, edges),
            "extreme": interp.TopK.of(self.k, share, batch.ids, batch.positions, ordinary),
        }


print(len(interp.check_analysis(RogueProfile()).passed), "laws hold")
profile = interp.run(model, PROMPTS, RogueProfile, progress=False)["rogue_profile"]
extreme = profile.frame[profile.frame["value"] == "extreme"].groupby("layer").head(1)
extreme[["layer", "prompt", "position", "token", "score"]].round(3)

# %% [markdown]
# ## Merging
#
# Half of the corpus here, half there, merged: the same as all at once, to the last count. The laws
# test this on synthetic batches; here it is done with the model. This is why runs over shards,
# processes and machines give one answer.

# %%
language = "demo" if PROMPTS == "demo" else "english"
texts = list(interp.read_prompts(PROMPTS, model.tokenizer, language=language).texts)
cut = len(texts) // 2
parts = [
    interp.run(model, part, RogueProfile, progress=False)["rogue_profile"].leaves("share")
    for part in (texts[:cut], texts[cut:], texts)
]
first, second, whole = parts
same = {
    layer: np.array_equal(first[stack, layer].merge(second[stack, layer]).counts, leaf.counts)
    for (stack, layer), leaf in whole.items()
}
print("merged halves equal the whole at every block:", all(same.values()))

# %% [markdown]
# ## A name: register it
#
# Put the class into a package of yours, and one line into its `pyproject.toml`:
#
# ```toml
# [project.entry-points."interp.analyses"]
# stretch = "my_analyses:Stretch"
# ```
#
# After `pip install` the name works everywhere: `interp.run(model, prompts, "stretch")`,
# `interp run --analyses stretch`, `interp list`, `interp check stretch`. Installing writes two
# small things next to each other, the module and a note of its entry points. Here we write both by
# hand into a temporary folder, so that the notebook leaves nothing behind:

# %%
SOURCE = '''
"""Analyses of mine."""

from interp import Analysis, PerToken, Plot
from interp.geometry import norm, ratio


class Stretch(Analysis):
    """How much longer a block makes a state: norm after over norm before."""

    sites = ("resid_pre", "resid_post")
    columns = {"stretch": "norm of x_{l+1} over norm of x_l; ratio"}
    plots = (Plot("line", ("stretch",), "Growth of the norm per block", "ratio"),)

    def observe(self, batch):
        return {"stretch": PerToken(ratio(norm(batch["resid_post"]), norm(batch["resid_pre"])))}
'''
site = folder / "site"
info = site / "my_analyses-1.0.dist-info"
info.mkdir(parents=True)
(site / "my_analyses.py").write_text(SOURCE, encoding="utf-8")
(info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-analyses\nVersion: 1.0\n")
(info / "entry_points.txt").write_text("[interp.analyses]\nstretch = my_analyses:Stretch\n")
sys.path.insert(0, os.fspath(site))

print(len(interp.check_analysis("stretch").passed), "laws hold")
interp.run(model, PROMPTS, "stretch", progress=False)["stretch"].plot()

# %% [markdown]
# A name that is missing, one that two packages claim, and a plug-in that cannot be imported are
# three different errors:

# %%
try:
    interp.run(model, PROMPTS, "strech", progress=False)
except interp.errors.UnknownName as error:
    print(error)

# %% [markdown]
# ## What this does not show
#
# - Passing all laws means that the *counting* is right. Whether the number means what its name says
#   is up to you: state the formula, its source, its unit, and what vectors without structure give.
# - One large coordinate is a fact about a basis. Rotate the basis and it is gone. Folded or centred
#   weights are another basis too: compare only results of one basis.
# - That a coordinate is large does not say that anything reads it. Switch it off and measure.
