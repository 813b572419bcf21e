"""Parts of a logit: what adds up, against TransformerLens and against float64."""

import numpy as np
import pytest
import torch
from zoo import ZOO
from zoo.boot import boot

import interp
from analyses.head_attribution import HeadAttribution
from analyses.logit_attribution import LogitAttribution
from analyses.logit_difference import LogitDifference
from interp import Analysis, PerHead
from interp.errors import Unsupported
from interp.geometry import norm
from interp.models.frozen import frozen_scale

IDS = torch.tensor([[3, 9, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])
ANSWERS, OTHERS = [7, 11], [4, 4]


def attributed(model, *kinds, **options):
    options = {"targets": ANSWERS, "against": OTHERS, "progress": False} | options
    return interp.run(model, IDS, kinds, **options)


def total(frame):
    """Sum of all parts of each token, by prompt and position."""
    terms = [c for c in frame if c.endswith("_logit") and not c.startswith(("stream", "constant"))]
    keys = ["prompt", "position"]
    parts = frame.groupby(keys)[terms].sum().sum(axis=1)
    first = frame[frame["layer"] == 0].set_index(keys)
    return parts + first["stream_logit"] + first["constant_logit"]


def as_grid(series):
    return series.to_numpy().reshape(IDS.shape)


@pytest.mark.parametrize("against", [None, OTHERS], ids=["logit", "difference"])
def test_parts_add_up_to_the_models_own_logits(model, against):
    frame = attributed(model, LogitAttribution, against=against)["logit_attribution"].frame
    logits = model(IDS).detach().double()
    expected = torch.stack([z[:, t] for z, t in zip(logits, ANSWERS, strict=True)])
    if against is not None:
        expected -= torch.stack([z[:, t] for z, t in zip(logits, against, strict=True)])
    np.testing.assert_allclose(as_grid(total(frame)), expected.numpy(), atol=2e-5)


def test_what_terms_leave_over_is_rounding_without_hooks(model):
    frame = attributed(model, LogitAttribution)["logit_attribution"]
    assert not any("do not add up" in note for note in frame.notes)
    assert frame.frame["rest_logit"].abs().max() < 1e-6 * model(IDS).abs().max()


def test_what_a_hook_adds_to_the_stream_is_a_part_of_its_own(gpt2):
    answers = {"targets": ANSWERS, "against": OTHERS}
    hook = ("blocks.1.hook_resid_post", lambda v, hook: v + torch.linspace(0, 3, v.shape[-1]))
    with interp.attach(gpt2, LogitAttribution, **answers) as probes:
        logits = gpt2.run_with_hooks(IDS, fwd_hooks=[hook]).detach().double()
    result = probes["logit_attribution"]
    pairs = zip(logits, ANSWERS, OTHERS, strict=True)
    expected = torch.stack([z[:, a] - z[:, b] for z, a, b in pairs])
    np.testing.assert_allclose(as_grid(total(result.frame)), expected.numpy(), atol=2e-5)
    most = result.frame.groupby("layer")["rest_logit"].agg(lambda x: x.abs().max())
    assert most[1] > 1e-2
    assert most.drop(1).max() < 1e-6
    assert sum("terms of block 1 do not add up to the step" in n for n in result.notes) == 1


@pytest.fixture(scope="module")
def folded():
    """A model in compatibility mode: TransformerLens' own attribution leaves γ out elsewhere."""
    torch.manual_seed(0)
    model = boot(ZOO["gpt2"])
    model.enable_compatibility_mode()
    return model


def their_parts(parts, cache):
    answers, others = torch.tensor(ANSWERS), torch.tensor(OTHERS)
    return cache.logit_attrs(parts, tokens=answers, incorrect_tokens=others).detach().numpy()


def test_parts_are_those_of_transformer_lens(folded):
    """`decompose_resid` and `logit_attrs`, the library's own frozen norm and direct attribution."""
    frame = attributed(folded, LogitAttribution)["logit_attribution"].frame
    _, cache = folded.run_with_cache(IDS)
    parts, labels = cache.decompose_resid(mode="all", apply_ln=False, return_labels=True)
    theirs = dict(zip(labels, their_parts(parts, cache), strict=True))
    blocks = [label for label in labels if label[0].isdigit()]
    assert len(blocks) == 2 * folded.cfg.n_layers
    for label in blocks:
        layer, kind, _ = label.split("_")
        mine = frame[frame["layer"] == int(layer)][f"{kind}_logit"]
        np.testing.assert_allclose(as_grid(mine), theirs[label], atol=2e-5)
    embedded = sum(values for label, values in theirs.items() if "embed" in label)
    start = frame[frame["layer"] == 0]["stream_logit"]
    np.testing.assert_allclose(as_grid(start), embedded, atol=2e-5)


def test_heads_are_those_of_transformer_lens(folded):
    frame = attributed(folded, HeadAttribution)["head_attribution"].frame
    _, cache = folded.run_with_cache(IDS)
    theirs = their_parts(cache.stack_head_results(layer=-1), cache)
    assert len(theirs) == folded.cfg.n_layers * folded.cfg.n_heads
    for place, values in enumerate(theirs):
        layer, head = divmod(place, folded.cfg.n_heads)
        mine = frame[(frame["layer"] == layer) & (frame["head"] == head)]["head_logit"]
        np.testing.assert_allclose(as_grid(mine), values, atol=2e-5)


def test_parts_by_hand_in_float64(model):
    """The final norm written out in float64, layer by layer and head by head."""
    results = attributed(model, LogitAttribution, HeadAttribution, against=None)
    _, cache = model.run_with_cache(IDS)
    last = model.cfg.n_layers - 1
    x = cache[f"blocks.{last}.hook_resid_post"].detach().double()
    centred = model.cfg.normalization_type.startswith("LN")
    final = model.ln_final
    gamma = final.weight.detach().double()
    spread = x - x.mean(-1, keepdim=True) if centred else x
    scale = (spread.square().mean(-1, keepdim=True) + float(model.cfg.eps)).sqrt()
    column = model.W_U.detach().double()[:, ANSWERS].T[:, None]

    def read(term):
        term = term.detach().double()
        term = term - term.mean(-1, keepdim=True) if centred else term
        return (term / scale * gamma * column).sum(-1).numpy()

    frame = results["logit_attribution"].frame
    heads = results["head_attribution"].frame
    for layer in range(last + 1):
        here = frame[frame["layer"] == layer]
        attn = cache[f"blocks.{layer}.hook_attn_out"]
        np.testing.assert_allclose(as_grid(here["attn_logit"]), read(attn), atol=2e-5)
        mlp = cache[f"blocks.{layer}.hook_mlp_out"]
        np.testing.assert_allclose(as_grid(here["mlp_logit"]), read(mlp), atol=2e-5)
        z = cache[f"blocks.{layer}.attn.hook_z"].detach().double()
        w_out = model.blocks[layer].attn.W_O.detach().double()
        for head in range(model.cfg.n_heads):
            mine = heads[(heads["layer"] == layer) & (heads["head"] == head)]["head_logit"]
            theirs = read(z[:, :, head] @ w_out[head])
            np.testing.assert_allclose(as_grid(mine), theirs, atol=2e-5)


class Heads(Analysis):
    """Norm of each head's output."""

    sites = ("result",)
    columns = {"size": "norm of the output of a head"}  # noqa: RUF012

    def observe(self, batch):
        return {"size": PerHead(norm(batch["result"]).transpose(1, 2))}


def test_site_result_is_the_hook_of_transformer_lens(gpt2):
    frame = interp.run(gpt2, IDS, Heads, progress=False)["heads"].frame
    gpt2.set_use_attn_result(True)
    try:
        _, cache = gpt2.run_with_cache(IDS)
    finally:
        gpt2.set_use_attn_result(False)
    for layer in range(gpt2.cfg.n_layers):
        theirs = cache[f"blocks.{layer}.attn.hook_result"].detach().norm(dim=-1)
        mine = frame[frame["layer"] == layer].pivot(index=["prompt", "position"], columns="head")
        np.testing.assert_allclose(mine["size"].to_numpy(), theirs.flatten(0, 1).numpy(), atol=1e-5)


def test_from_a_cache_come_the_same_parts(gpt2):
    run = attributed(gpt2, LogitAttribution, HeadAttribution)
    _, cache = gpt2.run_with_cache(IDS)
    again = interp.from_cache(
        cache, [LogitAttribution, HeadAttribution], targets=ANSWERS, against=OTHERS
    )
    for name, column in (("logit_attribution", "mlp_logit"), ("head_attribution", "head_logit")):
        np.testing.assert_allclose(run[name].frame[column], again[name].frame[column], atol=1e-5)


@pytest.mark.parametrize("family", ["gemma2", "granite"])
def test_heads_are_refused_where_a_norm_or_scale_follows(family):
    model = boot(ZOO[family])
    with pytest.raises(Unsupported, match="'head_attribution' needs result.*does not add up to"):
        interp.run(model, IDS, HeadAttribution, targets=7, progress=False)
    frame = attributed(model, LogitAttribution, against=None)["logit_attribution"].frame
    linear = model.ln_final(last_state(model)) @ model.W_U
    expected = torch.stack([z[:, t] for z, t in zip(linear.detach(), ANSWERS, strict=True)])
    np.testing.assert_allclose(as_grid(total(frame)), expected.numpy(), atol=1e-4)


def last_state(model):
    _, cache = model.run_with_cache(IDS)
    return cache[f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"]


def test_lens_of_two_answers_ends_in_the_models_own_difference(model):
    frame = attributed(model, LogitDifference)["logit_difference"].frame
    logits, cache = model.run_with_cache(IDS)
    n = model.cfg.n_layers
    for layer in range(n + 1):
        name = f"blocks.{layer}.hook_resid_pre" if layer < n else f"blocks.{n - 1}.hook_resid_post"
        z = model.unembed(model.ln_final(cache[name])).detach()
        rows = [row[:, a] - row[:, b] for row, a, b in zip(z, ANSWERS, OTHERS, strict=True)]
        mine = frame[frame["layer"] == layer]["logit_diff"]
        np.testing.assert_allclose(as_grid(mine), torch.stack(rows).numpy(), atol=2e-5)
    log_p = logits.detach().log_softmax(-1)
    ratio = torch.stack([p[:, a] - p[:, b] for p, a, b in zip(log_p, ANSWERS, OTHERS, strict=True)])
    last = frame[frame["layer"] == n]["logit_diff"]
    np.testing.assert_allclose(as_grid(last), ratio.numpy(), atol=2e-5)


# ---- the frozen norm -------------------------------------------------------------------------


def layer_norm(gamma, beta, eps=1e-3):
    return lambda x: torch.nn.functional.layer_norm(x, x.shape[-1:], gamma, beta, eps)


def rms_norm(gamma, eps=1e-3):
    return lambda x: gamma * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


@pytest.mark.parametrize("width", [7, 8, 3, 64])
@pytest.mark.parametrize("kind", ["layer", "rms", "none", "half"])
def test_frozen_norm_is_taken_apart_whatever_its_name(width, kind):
    random = torch.Generator().manual_seed(width)
    gamma, beta, x = (torch.randn(n, width, generator=random) for n in (1, 1, 5))
    x = x * 3 + 1
    kinds = {
        "layer": layer_norm(gamma[0], beta[0]),
        "rms": rms_norm(gamma[0]),
        "none": lambda x: x,
        "half": lambda x: x * width**-0.5,
    }
    scale, shift, centred = frozen_scale(kinds[kind], x, 1e-4, "path")
    assert centred == (kind == "layer")
    moved = x - x.mean(-1, keepdim=True) if centred else x
    np.testing.assert_allclose(scale * moved + shift, kinds[kind](x), atol=1e-4)
    if kind == "layer":
        np.testing.assert_allclose(shift, beta[0], atol=1e-6)
        spread = (x.var(-1, unbiased=False, keepdim=True) + 1e-3).sqrt()
        np.testing.assert_allclose(scale, gamma / spread, rtol=1e-4)


def test_another_function_is_refused_by_name():
    with pytest.raises(Unsupported, match=r"readout unembed\(gelu\) ends in no norm of the form"):
        frozen_scale(torch.nn.functional.gelu, torch.randn(4, 8), 1e-4, "unembed(gelu)")


def test_a_projection_to_another_width_is_refused_by_name():
    model = boot(ZOO["opt-350m"])
    assert interp.inspect(model).readout.weight.shape[1] == 16 != model.cfg.d_model
    for analysis in ("head_attribution", "logit_attribution"):
        with pytest.raises(
            Unsupported, match=r"takes the 24 numbers of a state to 16, so that con"
        ):
            interp.run(model, [[5, 9, 11]], analysis, progress=False)


def test_no_row_is_no_error():
    scale, _, _ = frozen_scale(rms_norm(torch.ones(8)), torch.zeros(0, 8), 1e-4, "path")
    assert scale.shape == (0, 8)


@pytest.mark.parametrize("kind", [LogitAttribution, HeadAttribution, LogitDifference])
def test_they_keep_the_contract(kind):
    assert interp.check_analysis(kind).passed
