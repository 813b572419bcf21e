"""HookedTransformer of TransformerLens 3.9 through the same sites; run by `run_tl39.sh`.

Supported: `HookedTransformer` of TransformerLens 3.9 with `inspect`, `run`, `attach` and
`from_cache`. Every table is compared with NumPy in float64 on TransformerLens's own cache. Not
collected by the ordinary tests: TransformerLens 4 has no HookedTransformer.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

transformer_lens = pytest.importorskip("transformer_lens")
if not hasattr(transformer_lens, "HookedTransformer"):
    pytest.skip("needs TransformerLens 3.9; use run_tl39.sh", allow_module_level=True)

import interp  # noqa: E402

BASE = {
    "n_layers": 3,
    "d_model": 24,
    "n_ctx": 40,
    "d_head": 8,
    "n_heads": 3,
    "d_mlp": 40,
    "d_vocab": 97,
    "act_fn": "gelu",
    "normalization_type": "LN",
    "seed": 1,
    "device": "cpu",
    "initializer_range": 0.3,
}
LAYOUTS = {
    "LN": {},
    "rotary RMS gated": {
        "normalization_type": "RMS",
        "positional_embedding_type": "rotary",
        "rotary_dim": 8,
        "gated_mlp": True,
        "act_fn": "silu",
    },
    "parallel": {"parallel_attn_mlp": True},
    "attn_only": {"attn_only": True},
    "no norm": {"normalization_type": None},
    "soft cap": {"output_logits_soft_cap": 2.0},
}


@pytest.fixture(scope="module", params=LAYOUTS)
def model(request):
    config = transformer_lens.HookedTransformerConfig(**(BASE | LAYOUTS[request.param]))
    return transformer_lens.HookedTransformer(config).eval()


def tokens_of(n=2, length=9):
    return torch.randint(0, 97, (n, length), generator=torch.Generator().manual_seed(0))


def grid(result, value):
    """`[layer, prompt, position]` or `[layer, head, prompt, position]`."""
    frame = result.frame
    index = [c for c in ("layer", "head", "prompt", "position") if c in frame]
    frame = frame.sort_values(index)
    return frame[value].to_numpy(float).reshape([frame[c].nunique() for c in index])


def degrees(u, v):
    dot = (u * v).sum(-1)
    cross = np.sqrt(np.maximum((u * u).sum(-1) * (v * v).sum(-1) - dot**2, 0))
    return np.degrees(np.arctan2(cross, dot))


@torch.no_grad()
def truth(model, tokens):
    logits, cache = model.run_with_cache(tokens)
    names = [f"blocks.{i}.hook_resid_pre" for i in range(3)] + ["blocks.2.hook_resid_post"]
    pattern = np.stack([cache[f"blocks.{i}.attn.hook_pattern"].double().numpy() for i in range(3)])
    return np.stack([cache[n].double().numpy() for n in names]), logits, cache, pattern


def test_rotation_and_path_length(model):
    tokens = tokens_of()
    x, _, cache, _ = truth(model, tokens)
    results = interp.run(model, tokens, ["rotation", "path_length"], progress=False)
    np.testing.assert_allclose(
        grid(results["rotation"], "angle"), degrees(x[:-1], x[1:]), atol=2e-3
    )
    if "blocks.0.hook_resid_mid" in cache:
        mid = np.stack([cache[f"blocks.{i}.hook_resid_mid"].double().numpy() for i in range(3)])
        got = grid(results["rotation"], "attn_angle")
        np.testing.assert_allclose(got, degrees(x[:-1], mid), atol=2e-3)
    step = np.linalg.norm(np.diff(x, axis=0), axis=-1)
    path = results["path_length"]
    np.testing.assert_allclose(grid(path, "path"), step.cumsum(0), rtol=1e-4)
    np.testing.assert_allclose(
        grid(path, "chord"), np.linalg.norm(x[1:] - x[0], axis=-1), rtol=1e-4
    )
    attn = np.stack([cache[f"blocks.{i}.hook_attn_out"].double().numpy() for i in range(3)])
    share = (attn * np.diff(x, axis=0)).sum(-1) / step**2
    np.testing.assert_allclose(grid(path, "attn_share"), share, atol=1e-4)


@torch.no_grad()
def test_logit_lens(model):
    tokens = tokens_of()
    x, logits, _, _ = truth(model, tokens)
    lens = []
    for state in x[:-1]:
        state = torch.tensor(state, dtype=torch.float32)
        state = model.ln_final(state) if model.cfg.normalization_type else state
        z, cap = model.unembed(state), model.cfg.output_logits_soft_cap
        lens.append(cap * torch.tanh(z / cap) if cap > 0 else z)
    z = torch.stack([*lens, logits]).double().numpy()
    log_p = z - z.max(-1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True))
    result = interp.run(model, tokens, "logit_lens", progress=False)["logit_lens"]
    wanted = np.take_along_axis(log_p[:, :, :-1], tokens.numpy()[None, :, 1:, None], -1)[..., 0]
    np.testing.assert_allclose(grid(result, "log_prob")[..., :-1], wanted, atol=1e-4)
    np.testing.assert_allclose(grid(result, "entropy"), -(np.exp(log_p) * log_p).sum(-1), atol=1e-4)
    kl = (np.exp(log_p[-1]) * (log_p[-1] - log_p)).sum(-1)
    np.testing.assert_allclose(grid(result, "kl_to_final"), kl, atol=1e-4)


def test_attention(model):
    tokens = tokens_of()
    pattern = truth(model, tokens)[3]
    result = interp.run(model, tokens, "attention", progress=False)["attention"]
    entropy = -np.where(pattern > 0, pattern * np.log(np.where(pattern > 0, pattern, 1)), 0)
    expected = entropy.sum(-1).transpose(0, 2, 1, 3)
    np.testing.assert_allclose(grid(result, "entropy"), expected, atol=1e-4)
    sink = pattern[..., 0].transpose(0, 2, 1, 3)
    np.testing.assert_allclose(grid(result, "sink"), sink, atol=1e-6)


def test_every_entry_point_is_observed_and_nothing_stays(model):
    tokens = tokens_of()
    alone = model(tokens)
    with interp.attach(model, "rotation", "logit_lens") as probes:
        watched = model(tokens)
        model.run_with_hooks(tokens, fwd_hooks=[])
        model.run_with_cache(tokens)
    assert torch.equal(alone, watched)
    frame = probes["rotation"].frame
    assert frame.groupby("call").size().tolist() == [54, 54, 54]
    assert "forward" not in vars(model)
    assert not any(p.fwd_hooks or p._forward_hooks for p in model.hook_dict.values())
    modules = [model, model.embed, model.unembed, *model.blocks]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)


def test_interventions_are_seen_and_failures_dropped(model):
    tokens = tokens_of()

    def double(value, hook):
        return value * 2

    def fail(value, hook):
        raise RuntimeError("mine")

    hooks = [("blocks.1.hook_resid_pre", double)]
    with interp.attach(model, "path_length") as probes:
        model.run_with_hooks(tokens, fwd_hooks=hooks)
        with pytest.raises(RuntimeError, match="mine"):
            model.run_with_hooks(tokens, fwd_hooks=[("blocks.1.hook_resid_pre", fail)])
    with model.hooks(fwd_hooks=hooks):
        expected = truth(model, tokens)[0]
    got = grid(probes["path_length"], "norm")
    np.testing.assert_allclose(got, np.linalg.norm(expected[:-1], axis=-1), rtol=1e-4)


def test_generation_with_cache_continues_positions(model):
    with interp.attach(model, "rotation") as probes:
        out = model.generate(
            tokens_of(1, 5), max_new_tokens=3, stop_at_eos=False, do_sample=False, verbose=False
        )
    frame = probes["rotation"].frame.query("layer == 0")
    assert frame["position"].tolist() == list(range(7))
    assert frame["token_id"].tolist() == out[0, :7].tolist()


def test_masks_leave_padding_out(model):
    tokens, mask = tokens_of(), torch.ones(2, 9, dtype=torch.int64)
    mask[1, :3] = 0
    with interp.attach(model, "rotation") as probes:
        model(tokens, attention_mask=mask)
    frame = probes["rotation"].frame.query("layer == 0")
    assert frame.groupby("prompt").size().tolist() == [9, 6]
    alone = interp.run(model, tokens[1:, 3:], "rotation", progress=False)["rotation"].frame
    got = frame.query("prompt == 1")["angle"].tolist()
    assert got == pytest.approx(alone.query("layer == 0")["angle"].tolist(), abs=2e-3)


def test_a_cache_gives_the_tables_of_run(model):
    import pandas as pd

    tokens = tokens_of()
    _, cache = model.run_with_cache(tokens)
    results = interp.from_cache(cache, tokens=tokens)
    for name, result in interp.run(model, tokens, progress=False).items():
        pd.testing.assert_frame_equal(results[name].frame, result.frame, rtol=1e-4, atol=1e-4)
