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
# # Positions: how does a model know what comes where?
#
# Attention by itself does not see order: shuffle the earlier tokens and it takes the same from
# each. So a model is told positions: by a vector that is added to each token (GPT-2, `"demo"`), or
# by turning queries and keys by an angle that grows with the position (rotary: Llama,
# `"demo-llama"`). This notebook looks at what there is, what the first block makes of it, and which
# heads care.
#
# Put `"gpt2-xl"`, or any other name that TransformerLens loads, in the first line. A model without
# learned positions is told so below, by name, and the rest runs. `OTHER` is a second model for the
# shift test.

# %%
MODEL = "demo"
OTHER = "demo-llama"

import numpy as np
import pandas as pd
import plotly.express as px
from IPython.display import Markdown, display

import interp

px.defaults.template, px.defaults.height = interp.render.figure_template(), 420
from analyses.position_profile import PositionProfile

model = interp.load_model(MODEL)
learned = True
try:
    positions = interp.models.position_matrix(model)
except interp.errors.Unsupported as reason:
    learned = False
    display(Markdown(f"> {reason}"))

# %% [markdown]
# ## Sinusoids: position as rotation
#
# **Formula** (Vaswani et al. 2017). PE(p, 2k) = sin(p / 10000^{2k/d}), PE(p, 2k+1) = cos(…). Each
# pair of components is the hand of a clock, and each clock runs slower than the one before.

# %%
encoding = interp.measures.sinusoidal(96, 64)
px.imshow(
    encoding.T,
    aspect="auto",
    color_continuous_scale="RdBu",
    height=340,
    labels={"x": "position", "y": "component", "color": ""},
)

# %% [markdown]
# Why clocks? Because going on by δ positions is then the *same* rotation everywhere: there is one
# matrix R_δ with PE(p + δ) = R_δ PE(p) for every p. The model can look "three back" by one linear
# map. Checked here, for every position and a few shifts:

# %%
errors = {
    shift: np.abs(
        encoding[shift:] - encoding[:-shift] @ interp.measures.shift_rotation(shift, 64).T
    ).max()
    for shift in (1, 3, 17)
}
pd.Series(errors, name="largest error").rename_axis("shift").to_frame()

# %% [markdown]
# And R_δ is a rotation (its transpose undoes it), so that the dot product of two encodings depends
# on their distance alone:

# %%
products = encoding @ encoding.T
distance = np.subtract.outer(np.arange(96), np.arange(96))
spread = max(np.ptp(products[distance == d]) for d in range(64))
float(spread)

# %% [markdown]
# ## Learned positions: did training find clocks?
#
# GPT-2 learns one vector per position, W_pos, and nobody tells it about sinusoids. Four questions:
#
# - **spectrum**: in how many directions does W_pos extend? Control: Gaussian vectors;
# - **period**: Fourier transform of each principal component along the positions. How much of its
#   power lies in one frequency? Control: the same vectors in shuffled order;
# - **sinusoidal share**: how much of the variance lies in the span of the sinusoids? Slow sinusoids
#   can hardly be told apart, so the span has `sinusoidal_rank` directions and not d. Control: its
#   exact expectation for shuffled order;
# - **shift**: R² of W_pos[p + δ] predicted linearly from W_pos[p], on held-out positions. 0 or less
#   for vectors without order. Few positions do not determine many clocks, so that even true
#   sinusoids need not reach 1: the second table below has them.

# %%
if learned:
    own = interp.run(model, analyses="positions")["positions"]
    display(own.plot(["share", "random_share"]))
    display(own.plot(["peak_share", "shuffled_peak_share"]))

# %%
if learned:
    facts = own.frame.iloc[0]
    rows = [("sinusoidal share", facts["sinusoidal_share"], facts["sinusoidal_chance"])]
    rows += [
        (f"linear shift by {s}, R²", facts[f"shift_{s}"], facts[f"shuffled_shift_{s}"])
        for s in (1, 4, 16)
    ]
    display(pd.DataFrame(rows, columns=["", "learned", "control"]).set_index("").round(3))
    n, d = positions.shape
    display(
        Markdown(
            f"The sinusoids span {facts['sinusoidal_rank']:.0f} directions "
            f"({n} positions, width {d})."
        )
    )
    display(own.frame[["component", "share", "period", "peak_share"]].head(6).round(3))

# %%
if learned:
    # The same questions to true sinusoids and to noise, at the size of this matrix: the two ends.
    ends = {
        "true sinusoids": interp.measures.sinusoidal(n, d + d % 2)[:, :d],
        "noise": np.random.default_rng(0).standard_normal((n, d)),
    }
    display(
        pd.DataFrame(
            {
                name: {
                    "sinusoidal share": interp.measures.sinusoidal_share(x)[0],
                    "linear shift by 1, R²": interp.measures.shift_linearity(x, 1),
                }
                for name, x in ({"this model": positions} | ends).items()
            }
        ).round(3)
    )

# %% [markdown]
# **What this does not show.** That W_pos *has* clocks does not say that heads read them. And
# positions that training seldom reached are still near their random start: they count as noise
# (`Positions(first=…)` looks at the first ones only).
#
# ## Token against position at the input
#
# **Formula.** The state that enters block 0 is z = v + p, token vector plus position vector. So the
# cosine of two of them is a sum of four parts:
#
# z_i·z_j = v_i·v_j + v_i·p_j + p_i·v_j + p_i·p_j, each divided by ‖z_i‖‖z_j‖.
#
# The sum is checked against the model's own states; `share` is how much of the variation of the
# cosines (within a row) each part carries. Control: an untrained copy of the model.

# %%
SENTENCE = "Tom met Lucy. Then he thanked her, and she smiled."
try:
    untrained = interp.random_copy(model)
    cosines = interp.experiments.split_cosines(model, SENTENCE)
    bare = interp.experiments.split_cosines(untrained, SENTENCE).frame["share"]
    display(cosines.frame.assign(untrained_share=bare).round(3))
    display(Markdown(f"Largest error of the sum: {cosines.error:.1g}."))
    display(cosines.plot())
except interp.errors.Unsupported as reason:
    display(Markdown(f"> {reason}"))

# %% [markdown]
# The position part is smooth along the diagonal: neighbours look alike. The token part jumps: it is
# large where the same word occurs twice.
#
# ## Token against position in the scores of the first block
#
# **Formula.** The first block normalises z first. With the scale of that norm held at its own value
# it is linear, and the score of a head (query·key/√d_head) falls into token–token, token–position,
# position–token, position–position (query named first) and what biases add. Again the sum is
# checked against the model's own scores.
#
# A head that looks "one back" must have its variation in position–position; one that looks for
# equal words, in token–token. Control: the share that a part has in the untrained copy, which is
# the same for all heads but for chance.

# %%
try:
    scores = interp.experiments.split_scores(model, SENTENCE)
    bare = interp.experiments.split_scores(untrained, SENTENCE).frame
    shares = pd.concat({"trained": scores.frame, "untrained": bare}, names=["model"])
    table = shares.reset_index("model").pivot(
        index=["model", "head"], columns="part", values="share"
    )
    display(table.round(2), Markdown(f"Largest error of the sum: {scores.error:.1g}."))
    display(scores.plot())
except interp.errors.Unsupported as reason:
    display(Markdown(f"> {reason}"))

# %% [markdown]
# **What this does not show.** The split is exact in block 0 only. Later states are no sum of a
# token and a position any more. And with rotary positions there is no such sum anywhere: content
# and distance multiply.
#
# ## Distance against content in the scores, in any model
#
# **Formula.** What can be asked of every model: how much of a score depends on the distance i − j
# and on nothing else? s_ij = r_i + f(i − j) + content, r_i and f by least squares; r_i, one number
# per query, is nothing that a softmax sees. A bias that is added by distance (ALiBi, T5) is in f
# exactly; with rotary positions f is what distance does to the average pair.
#
# Control: `shuffled_share`, what f would explain if the keys of each query were shuffled. In one
# sentence that is much: each distance has a number of its own.

# %%
rotary = interp.load_model(OTHER)
by_distance = pd.concat(
    interp.experiments.split_distance(rotary, SENTENCE, block=b).frame.assign(block=b)
    for b in range(interp.inspect(rotary).stacks[0].n_blocks)
)
by_distance = by_distance[by_distance["part"] == "distance"].reset_index(drop=True)
by_distance["name"] = by_distance["block"].astype(str) + "." + by_distance["head"].astype(str)
px.scatter(
    by_distance,
    x="name",
    y=["share", "shuffled_share"],
    height=320,
    color_discrete_map={"shuffled_share": "lightgrey"},
    labels={"name": "block.head", "value": "share of distance", "variable": ""},
)

# %% [markdown]
# Draw the head that follows the distance most: `distance` is the same along each diagonal,
# `content` is what is left.

# %%
most = by_distance.loc[by_distance["share"].idxmax()]
interp.experiments.split_distance(rotary, SENTENCE, block=int(most["block"])).plot(
    head=int(most["head"])
)

# %% [markdown]
# **What this does not show.** One sentence: a share a little above its control is nothing. And
# "content" is all that distance alone does not explain, which with rotary positions holds content
# *at* a distance, too. Over many prompts, and of the attention itself, the next section asks.
#
# ## Content heads and position heads
#
# This works in any block of any model: take the mean attention at each distance i − j, and ask what
# share of the variance between pairs the distance explains (η²). Near 1: a position head. Control:
# `shuffled`, the expectation with the keys of every query shuffled. It is not 0, because rows are
# shorter at the start of a text.
#
# An untrained copy of the model is the second control.

# %%
texts = "demo" if MODEL.startswith("demo") else "her"
results = interp.run(
    model, texts, PositionProfile(max_offset=16), control="random-init", progress=False
)
profile = results["position_profile"]
profile.plot(["pattern_share", "pattern_shuffled"])

# %%
keys = ["layer", "head"]


def heads(result):
    columns = ["pattern_share", "pattern_shuffled"]
    return result.frame.groupby(keys)[columns].first()


bare = heads(results.control["position_profile"]).add_suffix(", untrained")
best = heads(profile).join(bare).sort_values("pattern_share", ascending=False)
best.head(8).round(3)

# %% [markdown]
# Here is the profile itself, of the head that cares most for distance and of the one that cares
# least: mean attention against the distance, with one standard deviation over pairs.

# %%
chosen = {"cares most": best.index[0], "cares least": best.index[-1]}
curves = pd.concat(
    [
        profile.frame.set_index(keys)
        .loc[[head]]
        .assign(kind=f"{kind}: block {head[0]}, head {head[1]}")
        for kind, head in chosen.items()
    ]
)
curves = curves[curves["offset"] >= 0]
px.line(
    curves,
    x="offset",
    y="pattern",
    color="kind",
    error_y="pattern_std",
    markers=True,
    height=360,
    labels={"offset": "distance (tokens back)", "pattern": "mean attention", "kind": ""},
)

# %% [markdown]
# **What this does not show.** A head with a small share is not "a content head" by that alone: it
# may look at nothing in particular (evenly, or at the first token). Large standard deviations at a
# distance say that something else than distance decides.
#
# ## The same text, later
#
# **Question.** Move a text to later positions and change nothing else. A model that knows only
# distances does not notice.
#
# `angle` is how far each state turns by the move, `between_tokens`, the control, how far different
# tokens of the text are apart. `pattern_change` is the total variation of the attention,
# `even_change` the distance of the pattern from even attention.

# %%
shifts = {MODEL: interp.experiments.shift_test(model, SENTENCE, shifts=(1, 8, 32))}
if MODEL != OTHER:
    shifts[OTHER] = interp.experiments.shift_test(
        interp.load_model(OTHER), SENTENCE, shifts=(1, 8, 32)
    )
moved = pd.concat([found.frame.assign(model=name) for name, found in shifts.items()])
px.line(
    moved,
    x="layer",
    y="angle",
    color="model",
    line_dash="shift",
    markers=True,
    height=340,
    labels={"layer": "state", "angle": "angle (degrees)"},
)

# %%
values = ["angle", "between_tokens", "relative_change", "pattern_change", "even_change"]
moved.groupby(["model", "shift"])[values].mean().round(4)

# %% [markdown]
# With rotary positions the change is rounding: scores depend on i − j only. With learned ones it is
# what training made of it.
#
# **What this does not show.** One sentence is one sentence. And a model that never saw a text start
# at position 32 is asked something new; that it answers differently is no fault.
#
# ## Beyond the last position
#
# A learned encoding ends. What lies beyond is no small error but no vector at all, so it is
# refused, before anything runs:

# %%
limit = interp.inspect(model).n_ctx
for attempt in (
    lambda: interp.experiments.shift_test(model, SENTENCE, shifts=(limit,)),
    lambda: interp.run(model, ["he " * (limit + 1)], "rotation", progress=False),
):
    try:
        attempt()
    except (interp.BadInput, interp.errors.Unsupported) as refusal:
        print(refusal, end="\n\n")
    else:
        print("this model takes it: its positions have no end\n")

# %% [markdown]
# ## In sum
#
# - Sinusoids make "go on by δ" one rotation. Whether a learned encoding does so is a number, and it
#   has a control: the same vectors in shuffled order.
# - In block 0 of a model with added positions, cosines and scores fall into token and position
#   parts exactly, and the sum is checked.
# - In the scores of any block, what depends on distance alone can be told from the rest by least
#   squares, and compared with shuffled keys.
# - In any block of any model, the share of variance that distance explains tells position heads
#   from the others, compared with shuffled keys and an untrained copy.
# - The shift test says whether positions are absolute to the model, or only distances matter.
