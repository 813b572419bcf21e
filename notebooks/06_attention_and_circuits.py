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
# # Attention and circuits: where do heads look, and what breaks without them?
#
# A head moves information from earlier tokens to the current one. Its *pattern* A says how much it
# takes from where: A[q, k] is the weight of key k for query q, and every row sums to 1.
#
# First we measure patterns over a corpus and sort heads into types. Then we do what a pattern
# cannot do: switch heads off, with an ordinary TransformerLens hook, and see what the model loses.
#
# Put `"gpt2-xl"`, `"demo"`, or any other name that TransformerLens loads, in the first line.

# %%
MODEL = "demo-llama"

import pandas as pd
import plotly.express as px
import torch

import interp

px.defaults.template, px.defaults.height = interp.render.figure_template(), 400

model = interp.load_model(MODEL)
n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads

# %% [markdown]
# ## Two corpora
#
# **Text.** The embedded models read their own small language; any other model reads English.
#
# **Random tokens, repeated once.** Nothing but the repetition can be predicted here. A model that
# predicts the second half has looked up the first. This is the standard material for induction
# heads (Olsson et al., arXiv 2209.11895).

# %%
text = "demo" if MODEL.startswith("demo") else "her"

special = set(model.tokenizer.all_special_ids)
ordinary = torch.tensor([i for i in range(len(model.tokenizer)) if i not in special])
draw = torch.Generator().manual_seed(0)
half = ordinary[torch.randint(len(ordinary), (12, 20), generator=draw)]
start = model.tokenizer.bos_token_id
first = torch.full((12, 1), int(ordinary[0]) if start is None else start)
repeats = torch.cat([first, half, half], dim=1)

on_text = interp.run(model, text, ["attention", "next_token"], progress=False)
halves = [["-"] + ["first"] * 20 + ["second"] * 20] * 12
on_repeats = interp.run(
    model,
    repeats,
    ["attention", "next_token"],
    token_labels={"half": halves},
    progress=False,
)

# %% [markdown]
# ## Where do heads look, on average?
#
# For each query token and head:
#
# - `entropy` −Σ A ln A: 0 if one key gets everything, ln n if n keys share alike;
# - `distance` Σ A·(q − k), in tokens (`abs_distance` Σ A·|q − k|, for models that look ahead);
# - `previous` A[q, q−1], `sink` A[q, 0];
# - `duplicate`: attention on earlier copies of the same token;
# - `induction`: attention on the tokens that *followed* these copies.
#
# Rows have to sum to 1. Here is the check:

# %%
frame = on_text["attention"].frame
print("row sums from", frame["row_sum"].min().round(6), "to", frame["row_sum"].max().round(6))

# %%
means = on_text["attention"].summary(by=["layer", "head"])
means.pivot(index=["layer", "head"], columns="value", values="mean").round(2).head(2 * n_heads)

# %%
on_text["attention"].plot("previous")

# %% [markdown]
# **How to read it.** One cell per head. A dark cell is a head with one habit. Without any habits
# all cells would be equally pale: a head that looks everywhere alike gives each of n keys 1/n.
#
# ## Head types
#
# A score alone is no type. In short prompts a head that spreads evenly already puts much weight on
# the token before. `head_types` therefore gives three numbers: the score, what *even* attention
# over the same keys would give (`uniform`, the control), and
#
# excess = (score − uniform) / (1 − uniform),
#
# which is 1 for a head that does nothing else and 0 for an even one. Intervals resample prompts.
# A head is of a type if its excess passes a threshold (0.3, a convention) *and* its interval lies
# above the control. It can be of several: "induction+sink" finds what came before where there is
# something to find, and rests on the first token elsewhere.

# %%
types = interp.experiments.head_types(on_repeats["attention"]).frame
types.drop_duplicates(["layer", "head"]).pivot(index="layer", columns="head", values="types")

# %%
columns = ["kind", "layer", "head", "score", "score_low", "score_high", "uniform", "excess"]
best = types.sort_values("excess", ascending=False).groupby("kind").head(2)
best.sort_values(["kind", "excess"], ascending=[True, False])[columns].round(2)

# %% [markdown]
# A type is a habit on *this* corpus. On text the same heads may sort differently:

# %%
prose = interp.experiments.head_types(on_text["attention"], resamples=200).frame
prose.drop_duplicates(["layer", "head"]).pivot(index="layer", columns="head", values="types")

# %% [markdown]
# Elhage et al. (2021, "A mathematical framework for transformer circuits") and Olsson et al.
# (2209.11895) report previous-token heads in early blocks and induction heads one block or more
# later: the induction head needs to know, at each key, which token came before it, and a
# previous-token head writes that down. Heads that put their attention on the first token are
# *sinks* (Xiao et al. 2309.17453); a high sink score means "nothing to do here" rather than "the
# first token matters".
#
# Not every model has every type. `none` marks a head without a type. Where a type has no head, the
# best head of its kind is only the least bad one.
#
# ## Maps
#
# One prompt, the heads with the highest induction score. When you run it, this is an interactive
# picture (circuitsvis); hover to read single weights. An induction head shows a stripe that runs
# parallel to the diagonal, as far below it as the repeated part is long.

# %%
on_repeats["attention"].plot("pattern", score=["induction", "previous"], prompt=0)

# %% [markdown]
# ## Rollout: where does a token's content come from, over all blocks?
#
# Ã_l = ½·I + ½·Ā_l (mean over heads; the ½ is the stream that skips the block), R_l = Ã_l R_{l−1}
# (Abnar & Zuidema 2020). `rollout`: the model. `even`, the control: the same product with even
# attention.

# %%
rolled = interp.experiments.rollout(on_repeats["attention"], prompt=0)
rolled.plot()

# %%
# How far the two pictures differ: total variation of each row, 0 (the same) to 1.
last = rolled.frame[rolled.frame["layer"] == rolled.frame["layer"].max()]
rows = (last["rollout"] - last["even"]).abs().groupby(last["query"]).sum() / 2
rows.describe()[["mean", "min", "max"]].round(3).to_frame("from even attention")

# %% [markdown]
# What both pictures share is not a finding. Rollout only follows positions: it ignores values, MLPs
# and the signs of what is written. It cannot say what mattered. For that we intervene.
#
# ## How certain is the model, position by position?
#
# Entropy −Σ p ln p of the output, and the probability of its first choice. In random tokens the
# first half cannot be predicted, and a well-calibrated model is unsure there. The control is a
# guess among V tokens: entropy ln V, log-probability −ln V.

# %%
certain = (
    on_repeats["next_token"]
    .frame.groupby(["position", "half"], as_index=False)[["entropy", "log_prob", "top_prob"]]
    .mean()
)
figure = px.line(
    certain,
    x="position",
    y=["entropy", "log_prob"],
    title="Random tokens, said twice: certainty of the output",
    labels={"value": "nats", "variable": ""},
)
grey = {"color": "gray", "width": 1, "dash": "dot"}
guess = torch.tensor(float(len(ordinary))).log().item()
figure.add_hline(y=guess, line=grey, annotation_text="entropy of a guess")
figure.add_hline(y=-guess, line=grey, annotation_text="log P of a guess")
figure.add_vline(x=20.5, line=grey, annotation_text="second half begins")
figure

# %%
summary = on_repeats["next_token"].summary(by="half")
wanted = ["entropy", "top_prob", "log_prob", "rank"]
summary.pivot(index="half", columns="value", values="mean")[wanted].round(2)

# %% [markdown]
# Certain is not right: compare `entropy`, how sure the model is, with `log_prob`, how right it is.
# In the first half a model that was not trained on such noise is often sure *and* wrong: its
# log-probability falls below −ln V.
#
# ## A circuit, in a notebook that already works
#
# Suppose this is your notebook. You have a model, tokens, and a hook that switches heads off:


# %%
def without(heads):
    """Ordinary TransformerLens hooks: the output of these (layer, head) is set to zero."""

    def hook_for(head):
        def hook(z, hook):
            z = z.clone()
            z[:, :, head] = 0
            return z

        return hook

    return [(f"blocks.{layer}.attn.hook_z", hook_for(head)) for layer, head in heads]


def heads_of(kind, below=n_layers):
    """Heads of a type, best first; the best two where no head passes for it."""
    rows = types[(types["kind"] == kind) & (types["layer"] < below)]
    rows = rows.sort_values("excess", ascending=False)
    typed = rows[rows["typed"]]
    rows = typed if len(typed) else rows.head(2)
    return list(zip(rows["layer"], rows["head"], strict=True))


induction = heads_of("induction")
layer, head = induction[0]
loss = model.run_with_hooks(repeats, return_type="loss", fwd_hooks=without([(layer, head)]))
print(f"loss without L{layer}H{head}: {loss.item():.3f}")

# %% [markdown]
# One number. *Where* does the damage arise? With three more lines (the import, the `with`, the
# table) the same call shows the prediction at every state. Nothing else in your notebook changes;
# the probes see the stream as your hooks leave it.

# %%
with interp.attach(model, "logit_lens") as probes:
    model.run_with_hooks(repeats, return_type="loss", fwd_hooks=without([(layer, head)]))
probes["logit_lens"].frame.head(3)

# %% [markdown]
# Now with its controls. *Any* missing head may cost something, so each case has a partner: one
# induction head off, and one other head off; all induction heads off, and as many other heads off.


# %%
def observed(heads):
    """The lens by state and the patterns, over the second half, while these heads are off."""
    with interp.attach(model, "logit_lens", "attention") as probes:
        model.run_with_hooks(repeats, fwd_hooks=without(heads))
    tables = [probes[name].frame for name in ("logit_lens", "attention")]
    lens, patterns = (t[t["position"].between(21, 39)] for t in tables)
    return lens.groupby("layer")["log_prob"].mean(), patterns


everyone = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
circuit = {*induction, *heads_of("previous")}
others = [everyone[i] for i in torch.randperm(len(everyone), generator=draw).tolist()]
others = [x for x in others if x not in circuit]
n = min(len(induction), len(others))
cases = {
    "nothing off": [],
    "one induction head off": induction[:1],
    "one other head off": others[:1],
    f"{n} induction heads off": induction[:n],
    f"{n} other heads off": others[:n],
}
curves = pd.DataFrame({name: observed(heads)[0] for name, heads in cases.items()})
figure = px.line(
    curves,
    markers=True,
    color_discrete_sequence=["black", "orange", "silver", "crimson", "gray"],
    title="Log-probability of the repeated token, read at every state",
    labels={"value": "log P (nats)", "layer": "state", "variable": ""},
)
figure.update_layout(legend={"orientation": "h", "y": -0.25})
figure

# %%
end = curves.iloc[-1]
(end - end["nothing off"]).rename("change of log P at the last state").to_frame().round(3)

# %% [markdown]
# Read the curves from left to right. Before the first ablated block they coincide exactly: that
# checks the whole set-up. After it, what the heads carried is missing, unless other heads carry it
# too. If removing one head changes little and removing all of them changes much, the heads are
# redundant: ablating single heads would have missed the circuit.
#
# ## Does the induction head depend on previous-token heads?
#
# The theory says so: they write, at each key, which token came before it. Then removing them must
# change the induction head's *own pattern*, and removing as many other heads of the same blocks
# must not.

# %%
previous = heads_of("previous", below=max(1, layer))
near = [(b, h) for b in range(max(1, layer)) for h in range(n_heads) if (b, h) not in previous]
n = max(1, min(len(previous), len(near)))
rows = {}
for name, heads in {
    "nothing off": [],
    f"{n} previous-token heads off": previous[:n],
    f"{n} other heads of these blocks off": near[:n],
}.items():
    curve, patterns = observed(heads)
    own = patterns[(patterns["layer"] == layer) & (patterns["head"] == head)]
    rows[name] = {
        f"induction score of L{layer}H{head}": own["induction"].mean(),
        "change of log P at the last state": curve.iloc[-1] - end["nothing off"],
    }
pd.DataFrame(rows).T.round(3)

# %% [markdown]
# ## Are these heads special? A distribution of controls
#
# One group of other heads may be a lucky draw. So draw 40 groups of as many heads at random, switch
# each off, and compare the induction heads with their distribution. With 40 groups the p value
# cannot fall below 1/41 = 0.024.

# %%
second = repeats[:, 22:]


def log_prob(heads):
    with torch.no_grad():
        logits = model.run_with_hooks(repeats, fwd_hooks=without(heads))
    return logits[:, 21:-1].log_softmax(-1).gather(-1, second[..., None]).mean().item()


intact, size = log_prob([]), min(len(induction), len(others))
groups = [torch.randperm(len(others), generator=draw)[:size].tolist() for _ in range(40)]
changes = [log_prob([others[i] for i in group]) - intact for group in groups]
own = log_prob(induction[:size]) - intact
px.strip(
    x=[*changes, own],
    y=[*["40 random groups"] * 40, "the induction heads"],
    color=[*["random"] * 40, "induction"],
    color_discrete_sequence=["gray", "crimson"],
    title=f"What the repetition loses without {size} heads",
    labels={"x": "change of log P (nats)", "y": ""},
    height=260,
).update_layout(showlegend=False).update_yaxes(automargin=True)

# %%
p = (1 + sum(c <= own for c in changes)) / (1 + len(changes))
print(f"induction heads {own:.2f}, random groups {min(changes):.2f} to {max(changes):.2f}")
print(f"share of groups that cost at least as much (their own included): {p:.3f}")

# %% [markdown]
# ## What this does not show
#
# - A pattern says where a head looks, not what it takes from there or whether a later block reads
#   it.
# - A zero is an unusual input for later blocks. Replacing a head by its mean, or by its value on
#   another prompt (patching), changes less, with the same three lines.
# - "No effect" may mean that another head does the same. "An effect" may be damage that is
#   unrelated to the habit; that is why the figure has the other heads.
# - Types are conventions with a threshold. They describe heads on *this* corpus: the same head may
#   be a sink on text and an induction head on repetitions.
