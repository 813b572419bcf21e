"""From prompts to tables: every column against an independent computation; every refusal."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import special, stats

import interp
from analyses.attention import Attention
from analyses.logit_lens import LogitLens
from analyses.path_length import PathLength
from analyses.random_pairs import RandomPairs
from analyses.rotation import Rotation
from interp import BadInput, InterpError
from interp._files import to_parquet
from interp.errors import UnknownName

pytestmark = pytest.mark.usefixtures("clean")
TEXTS = ["the man saw her in a red house", "a queen told her", "the dog met him on the old road ."]
ALL = (Rotation, PathLength, LogitLens, Attention, RandomPairs)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def results(model):
    return interp.run(model, TEXTS, ALL, target="her", progress=False)


@pytest.fixture(scope="module")
def truth(model):
    """Per prompt, run alone through the model: everything in float64 NumPy."""
    out = []
    with torch.no_grad():
        for text in TEXTS:
            tokens = model.to_tokens(text)
            logits, cache = model.run_with_cache(tokens)
            n = len(model.blocks)
            states = [cache[f"blocks.{i}.hook_resid_pre"] for i in range(n)]
            states.append(cache[f"blocks.{n - 1}.hook_resid_post"])
            lens = [model.unembed(model.ln_final(x)) for x in states[:-1]] + [logits]
            out.append(
                {
                    "tokens": tokens[0].numpy(),
                    "x": torch.stack(states)[:, 0].double().numpy(),
                    "attn": np.stack([_np(cache[f"blocks.{i}.hook_attn_out"]) for i in range(n)]),
                    "mlp": np.stack([_np(cache[f"blocks.{i}.hook_mlp_out"]) for i in range(n)]),
                    "mid": np.stack([_np(cache[f"blocks.{i}.hook_resid_mid"]) for i in range(n)]),
                    "pattern": np.stack(
                        [_np(cache[f"blocks.{i}.attn.hook_pattern"]) for i in range(n)]
                    ),
                    "lens": torch.stack(lens)[:, 0].double().numpy(),
                }
            )
    return out


def _np(x: torch.Tensor) -> np.ndarray:
    return x[0].double().numpy()


def grid(result, value: str, prompt: int, index=("layer",)) -> np.ndarray:
    frame = result.frame.query("prompt == @prompt")
    table = frame.pivot(index=list(index), columns="position", values=value).sort_index()
    return table.to_numpy(dtype=float, na_value=np.nan)


def degrees(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Angle by the sine and cosine in float64, unlike the library's half-angle form."""
    dot = (u * v).sum(-1)
    cross = np.sqrt(np.maximum((u * u).sum(-1) * (v * v).sum(-1) - dot**2, 0))
    return np.degrees(np.arctan2(cross, dot))


def along_and_across(term: np.ndarray, x: np.ndarray) -> dict[str, np.ndarray]:
    """Length along x, signed, and the length of what remains."""
    along = (term * x).sum(-1) / size(x)
    return {"stretch": along, "turn": size(term - (along / size(x))[..., None] * x)}


def size(x: np.ndarray) -> np.ndarray:
    return np.sqrt((x * x).sum(-1))


def test_rotation_columns(results, truth):
    for prompt, t in enumerate(truth):
        x, mid, delta = t["x"], t["mid"], np.diff(t["x"], axis=0)
        expected = {
            "angle": degrees(x[:-1], x[1:]),
            "angular_path": degrees(x[:-1], x[1:]).cumsum(axis=0),
            "attn_angle": degrees(x[:-1], mid),
            "mlp_angle": degrees(mid, x[1:]),
            "turning": np.concatenate(
                [degrees(delta[:-1], delta[1:]), np.full((1, x.shape[1]), np.nan)]
            ),
        }
        for name, value in expected.items():
            np.testing.assert_allclose(
                grid(results["rotation"], name, prompt), value, atol=2e-3, err_msg=name
            )


def test_path_length_columns(results, truth):
    for prompt, t in enumerate(truth):
        x, delta = t["x"], np.diff(t["x"], axis=0)
        step, path = size(delta), np.cumsum(size(delta), axis=0)
        chord = size(x[1:] - x[0])
        expected = {
            "norm": size(x[:-1]),
            "norm_after": size(x[1:]),
            "step": step,
            "relative_step": step / size(x[:-1]),
            "path": path,
            "chord": chord,
            "tortuosity": path / chord,
            "attn_share": (t["attn"] * delta).sum(-1) / step**2,
            "mlp_share": (t["mlp"] * delta).sum(-1) / step**2,
            "attn_norm": size(t["attn"]),
            "mlp_norm": size(t["mlp"]),
            **{
                f"{name}_{part}": value
                for name in ("attn", "mlp")
                for part, value in along_and_across(t[name], x[:-1]).items()
            },
            "attn_mlp_cos": (t["attn"] * t["mlp"]).sum(-1) / size(t["attn"]) / size(t["mlp"]),
        }
        for name, value in expected.items():
            np.testing.assert_allclose(
                grid(results["path_length"], name, prompt),
                value,
                rtol=2e-4,
                atol=2e-5,
                err_msg=name,
            )


def test_shares_sum_to_one_and_blocks_close(results):
    frame = results["path_length"].frame
    assert np.allclose(frame["attn_share"] + frame["mlp_share"], 1, atol=1e-4)
    assert (frame["closing_error"] < 1e-5).all()
    assert (frame["tortuosity"] >= 1 - 1e-6).all()


def test_logit_lens_columns(results, truth):
    for prompt, t in enumerate(truth):
        z = t["lens"]
        log_p = special.log_softmax(z, axis=-1)
        p, q = np.exp(log_p), np.exp(log_p[-1])
        nxt = np.append(t["tokens"][1:], 0)
        at = (slice(None), np.arange(len(nxt)), nxt)
        target_logit = z[at][..., None]
        nothing = np.zeros(p.shape[:2])
        nothing[:, -1] = np.nan
        middle = (p + q) / 2
        expected = {
            "log_prob": log_p[at] + nothing,
            "rank": (z > target_logit).sum(-1) + nothing,
            "entropy": stats.entropy(p, axis=-1),
            "kl_to_final": special.rel_entr(np.broadcast_to(q, p.shape), p).sum(-1),
            "js_to_final": (special.rel_entr(p, middle) + special.rel_entr(q, middle)).sum(-1) / 2,
            "tv_to_final": np.abs(p - q).sum(-1) / 2,
            "top_prob": p.max(-1),
            "agrees": p.argmax(-1) == p[-1].argmax(-1),
        }
        for name, value in expected.items():
            np.testing.assert_allclose(
                grid(results["logit_lens"], name, prompt), value, rtol=1e-3, atol=1e-5, err_msg=name
            )


def test_last_lens_state_is_the_model_itself(results):
    frame = results["logit_lens"].frame
    last = frame[frame["layer"] == frame["layer"].max()]
    assert (last["kl_to_final"] < 1e-6).all()
    assert last["agrees"].all()
    errors = results["logit_lens"].leaves("identity_error")["", -1]
    assert errors.max < 1e-4


def test_lens_top_token_is_text(results, model, truth):
    frame = results["logit_lens"].frame.query("prompt == 0 and layer == 0").sort_values("position")
    best = truth[0]["lens"][0].argmax(-1)
    assert frame["top_token"].tolist() == [model.tokenizer.decode([i]) for i in best]


def test_lens_examples_hold_the_top_tokens(results, truth):
    ids = results["logit_lens"].examples("top_tokens")["", -1]
    probs = results["logit_lens"].examples("top_probs")["", -1]
    for prompt, t in enumerate(truth):
        p = special.softmax(t["lens"], axis=-1)
        order = np.sort(p, axis=-1)[..., ::-1][..., :5]
        np.testing.assert_allclose(probs[prompt], order, rtol=1e-3)
        np.testing.assert_allclose(np.take_along_axis(p, ids[prompt], -1), order, rtol=1e-3)


def loops(pattern: np.ndarray, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Head statistics of one head by plain loops: `pattern [query, key]`."""
    n = len(tokens)
    out = {k: np.full(n, np.nan) for k in ("previous", "duplicate", "induction")}
    out |= {k: np.zeros(n) for k in ("entropy", "distance", "abs_distance", "sink", "row_sum")}
    for i in range(n):
        row = pattern[i]
        out["entropy"][i] = -sum(a * np.log(a) for a in row if a > 0)
        out["distance"][i] = sum(a * (i - j) for j, a in enumerate(row))
        out["abs_distance"][i] = sum(a * abs(i - j) for j, a in enumerate(row))
        out["sink"][i], out["row_sum"][i] = row[0], row.sum()
        if i:
            out["previous"][i] = row[i - 1]
        copies = [j for j in range(i) if tokens[j] == tokens[i]]
        if copies:
            out["duplicate"][i] = sum(row[j] for j in copies)
            out["induction"][i] = sum(row[j + 1] for j in copies)
    return out


def test_attention_columns(results, truth):
    for prompt, t in enumerate(truth):
        n_layers, n_heads = t["pattern"].shape[:2]
        for layer in range(n_layers):
            for head in range(n_heads):
                expected = loops(t["pattern"][layer, head], t["tokens"])
                chosen = (
                    results["attention"]
                    .frame.query("prompt == @prompt and layer == @layer and head == @head")
                    .sort_values("position")
                )
                for name, value in expected.items():
                    np.testing.assert_allclose(chosen[name], value, atol=1e-5, err_msg=name)


def test_attention_maps_are_the_patterns(results, truth):
    for layer in range(len(truth[0]["pattern"])):
        kept = results["attention"].examples("pattern")["", layer]
        assert sorted(kept) == [0, 1]
        np.testing.assert_allclose(kept[0], truth[0]["pattern"][layer], atol=1e-5)


def test_induction_and_duplicate_on_a_repeated_prompt(gpt2):
    tokens = torch.randint(5, 100, (1, 6)).repeat(1, 2)
    frame = interp.run(gpt2, tokens, Attention, progress=False)["attention"].frame
    assert frame.query("position < 6")["induction"].isna().all()
    assert frame.query("position >= 6")["induction"].notna().all()


def test_random_pairs_are_angles_of_kept_states(results, truth):
    frame = results["random_pairs"].frame
    assert frame["angle"].between(0, 180).all()
    assert (
        frame.query("kind == 'same layer'")["layer_a"]
        == frame.query("kind == 'same layer'")["layer_b"]
    ).all()
    # All ordinary states fit in the sample, so the mean angle of a block has a closed form.
    states = np.concatenate([t["x"][1][1:] for t in truth])
    pairs = [degrees(states[i], states[j]) for i in range(len(states)) for j in range(i)]
    mean = frame.query("layer == 0")["angle"].mean()
    assert abs(mean - np.mean(pairs)) < 5 * np.std(pairs) / np.sqrt(128)


def test_one_token_as_the_target_of_every_position(model, results):
    """Against the lens of the same states with the ids written out."""
    prompts = results["logit_lens"].frame.drop_duplicates(["prompt", "position"])
    ids = [[7] * int(n) for n in prompts.groupby("prompt").size()]
    said = interp.run(model, TEXTS, LogitLens, targets=7, progress=False)["logit_lens"].frame
    written = interp.run(model, TEXTS, LogitLens, targets=ids, progress=False)["logit_lens"].frame
    for value in ("log_prob", "rank"):
        np.testing.assert_array_equal(said[value], written[value])
        assert said[value].notna().all()
    with pytest.raises(BadInput, match="target 100000 is no token id"):
        interp.run(model, TEXTS, LogitLens, targets=100000, progress=False)


def test_batched_equals_one_by_one(model):
    together = interp.run(model, TEXTS, (Rotation, PathLength, LogitLens), progress=False)
    for prompt, text in enumerate(TEXTS):
        alone = interp.run(model, [text], (Rotation, PathLength, LogitLens), progress=False)
        for name in together:
            a = together[name].frame.query("prompt == @prompt")
            b = alone[name].frame
            for value in alone[name].values:
                np.testing.assert_allclose(
                    a[value], b[value], rtol=1e-3, atol=2e-3, err_msg=f"{name} {value}"
                )


def test_size_of_the_batch_does_not_matter(model):
    many = interp.run(model, TEXTS, ALL[:4], max_tokens=12, progress=False)
    one = interp.run(model, TEXTS, ALL[:4], max_tokens=4096, progress=False)
    for name in many:
        pd.testing.assert_frame_equal(
            many[name].frame, one[name].frame, check_exact=False, rtol=1e-3, atol=2e-3
        )


def test_geometry_alone_stops_before_the_unembedding(gpt2):
    fired = []
    with gpt2.hooks(fwd_hooks=[("unembed.hook_in", lambda v, hook: fired.append(1))]):
        interp.run(gpt2, TEXTS, (Rotation, PathLength), progress=False)
        assert not fired
        interp.run(gpt2, TEXTS, (LogitLens,), progress=False)
        assert fired


def test_roles_of_the_target_word(results):
    frame = results["rotation"].frame.query("layer == 0")
    assert frame.query("role == 'target'")["token"].str.strip().tolist() == ["her", "her"]
    assert frame.query("role == 'previous'")["token"].str.strip().tolist() == ["saw", "told"]


def test_special_tokens_are_marked_and_left_out_of_summaries(results):
    frame = results["path_length"].frame
    assert frame.query("special")["position"].unique().tolist() == [0]
    kept = results["path_length"].summary()
    both = results["path_length"].summary(special=True)
    rows = lambda t: t.query("layer == 0 and value == 'norm'")["n"].item()  # noqa: E731
    assert rows(both) - rows(kept) == len(TEXTS)
    mean = frame.query("layer == 0 and not special")["norm"].mean()
    assert kept.query("layer == 0 and value == 'norm'")["mean"].item() == pytest.approx(mean)


def test_every_value_column_is_documented(results):
    for name, result in results.items():
        assert set(result.values) <= set(result.columns), name


def test_summary_run_equals_moments_of_the_rows(gpt2):
    labels = {"kind": ["x", "y", "x"]}
    rows = interp.run(gpt2, TEXTS, (Rotation,), labels=labels, progress=False)["rotation"]
    kept = interp.run(
        gpt2, TEXTS, (Rotation,), labels=labels, keep="summary", by=["kind"], progress=False
    )["rotation"].frame
    for (layer, kind), group in rows.frame.query("not special").groupby(["layer", "kind"]):
        record = kept.query("layer == @layer and kind == @kind and value == 'angle'")
        assert record["n"].item() == len(group)
        assert record["mean"].item() == pytest.approx(group["angle"].astype(float).mean())
        assert record["std"].item() == pytest.approx(group["angle"].astype(float).std(), rel=1e-6)


def test_save_and_load_are_equal(results, tmp_path):
    folder = results.save(tmp_path / "out")
    again = interp.load(folder)
    assert list(again) == list(results)
    assert again.provenance == results.provenance
    for name, result in results.items():
        pd.testing.assert_frame_equal(again[name].frame, result.frame.reset_index(drop=True))
        assert again[name].analysis == result.analysis
        assert again[name].strings == dict(result.strings)
        for key, leaves in again[name].state.items():
            for leaf_name, leaf in leaves.items():
                for part, array in leaf.arrays().items():
                    expected = result.state[key][leaf_name].arrays()[part]
                    np.testing.assert_array_equal(array, expected)
    assert not [p for p in folder.rglob("*") if p.suffix in (".pkl", ".pickle", ".pt")]


def test_analyses_of_the_weights_need_no_prompts(gpt2, tmp_path):
    run = interp.run(gpt2, analyses="embedding")
    expected = interp.run(gpt2, TEXTS, "embedding", progress=False)["embedding"].frame
    pd.testing.assert_frame_equal(run["embedding"].frame, expected)
    assert run.tokens.empty
    assert run.provenance["prompts"]["count"] == 0
    again = interp.load(run.save(tmp_path / "out"))
    pd.testing.assert_frame_equal(again["embedding"].frame, expected)
    assert run.report(tmp_path / "report.html").stat().st_size > 1000
    beside = interp.run(gpt2, analyses="embedding", control="random-init")
    assert len(beside.control["embedding"].frame) == len(expected)
    with pytest.raises(BadInput, match="analysis 'rotation' reads prompts: pass some as the"):
        interp.run(gpt2, analyses=["embedding", "rotation"])


def test_what_is_missing_in_a_table_is_not_saved_as_text(tmp_path):
    frame = pd.DataFrame(
        {
            "flag": [True, np.nan, False],
            "text": ["nan", None, np.nan],
            "mixed": [1, "a", np.nan],
        },
        dtype=object,
    )
    to_parquet(frame, tmp_path / "t.parquet")
    again = pd.read_parquet(tmp_path / "t.parquet")
    assert again.isna().to_numpy().tolist() == frame.isna().to_numpy().tolist()
    kept = {name: again[name].dropna().tolist() for name in again}
    assert kept == {"flag": [True, False], "text": ["nan"], "mixed": ["1", "a"]}


def test_saving_into_an_existing_folder_is_refused_and_nothing_changes(results, tmp_path):
    folder = results.save(tmp_path / "out")
    before = sorted(p.name for p in folder.iterdir())
    with pytest.raises(BadInput, match="exists; choose another or allow it to be replaced"):
        results.save(folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(BadInput, match="holds no results of this library"):
        results.save(tmp_path / "mine", overwrite=True)
    assert sorted(p.name for p in folder.iterdir()) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "out"]
    assert results.save(folder, overwrite=True) == folder


def test_load_of_something_else_is_refused(tmp_path, results):
    with pytest.raises(BadInput, match="holds no results"):
        interp.load(tmp_path)
    folder = results.save(tmp_path / "out")
    (folder / "rotation.parquet").write_bytes(b"broken")
    with pytest.raises(InterpError, match=r"rotation.parquet' is damaged \(its SHA-256"):
        interp.load(folder)


def test_provenance_says_what_was_measured(results, model):
    p = results.provenance
    assert p["model"]["basis"] == "raw"
    assert p["model"]["dtype"] == "float32"
    assert p["prompts"]["count"] == len(TEXTS)
    assert p["prompts"]["token_ids"][0] == model.to_tokens(TEXTS[0])[0].tolist()
    assert p["analyses"]["attention"] == {"maps": 2}
    assert {"torch", "transformer-lens", "numpy"} <= set(p["versions"])


# ---- bad input -------------------------------------------------------------------------------


def test_unknown_analysis_names_the_nearest(gpt2):
    with pytest.raises(UnknownName, match="unknown analysis 'rotatoin'; did you mean 'rotation'"):
        interp.run(gpt2, TEXTS, "rotatoin", progress=False)


def test_no_and_double_analysis(gpt2):
    with pytest.raises(BadInput, match="no analysis was asked for"):
        interp.run(gpt2, TEXTS, [], progress=False)
    with pytest.raises(BadInput, match="'rotation' was asked for twice"):
        interp.run(gpt2, TEXTS, [Rotation, Rotation()], progress=False)
    with pytest.raises(BadInput, match="an analysis is a name, an Analysis or its class, not 3"):
        interp.run(gpt2, TEXTS, [3], progress=False)


def test_unknown_site_of_a_plugin(gpt2):
    class Typo(interp.Analysis):
        sites = ("resid_pots",)

        def observe(self, batch):
            return {}

    with pytest.raises(
        UnknownName, match=r"declared by analysis 'typo'\) 'resid_pots'; did you mean 'resid_post'"
    ):
        interp.run(gpt2, TEXTS, Typo, progress=False)


def test_prompt_problems_reach_the_user(gpt2):
    with pytest.raises(BadInput, match="context"):
        interp.run(gpt2, ["the man " * 200], Rotation, progress=False)
    with pytest.raises(BadInput, match="'zebra'"):
        interp.run(gpt2, TEXTS, Rotation, target="zebra", progress=False)
    with pytest.raises(BadInput):
        interp.run(gpt2, [], Rotation, progress=False)
    with pytest.raises(BadInput):
        interp.run(gpt2, torch.tensor([[3, 9999]]), Rotation, progress=False)


def test_training_mode_is_refused(gpt2):
    gpt2.train()
    try:
        with pytest.raises(BadInput, match=r"call model\.eval\(\)"):
            interp.run(gpt2, TEXTS, Rotation, progress=False)
    finally:
        gpt2.eval()


def test_a_model_that_yields_nan_is_refused(gpt2):
    def poison(value, hook):
        value = value.clone()
        value[:, 2] = torch.nan
        return value

    with (
        gpt2.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", poison)]),
        pytest.raises(InterpError, match="model yields NaN .*prompt 2.*nothing was kept"),
    ):
        interp.run(gpt2, TEXTS, Rotation, progress=False)


def test_summary_words_are_checked(gpt2):
    with pytest.raises(UnknownName, match="value of keep 'sumary'; did you mean 'summary'"):
        interp.run(gpt2, TEXTS, Rotation, keep="sumary", progress=False)
    with pytest.raises(BadInput, match="use keep='summary'"):
        interp.run(gpt2, TEXTS, Rotation, by=["role"], progress=False)
    with pytest.raises(UnknownName, match="label 'rol'"):
        interp.run(gpt2, TEXTS, Rotation, target="her", keep="summary", by=["rol"], progress=False)


def test_models_that_cannot_be_loaded(tmp_path):
    with pytest.raises(BadInput, match=r"there is no model folder './nowhere'"):
        interp.load_model("./nowhere")
    with pytest.raises(BadInput, match=r"no config\.json"):
        interp.load_model(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_text("")
    with pytest.raises(BadInput, match="pickle only"):
        interp.load_model(tmp_path)
    with pytest.raises(BadInput, match="cannot load a model from dict"):
        interp.load_model({})
    with pytest.raises(BadInput, match="unknown dtype 'float23'; did you mean 'float32'"):
        interp.load_model("demo", dtype="float23")
    with pytest.raises(InterpError, match="not on this machine and the hub cannot be reached"):
        interp.load_model("gpt2-xl")


def test_what_is_no_bridge_is_refused():
    with pytest.raises(BadInput, match=r"expected a TransformerBridge, got Linear"):
        interp.inspect(torch.nn.Linear(2, 2))


def test_unknown_result_and_column(results):
    with pytest.raises(UnknownName, match="unknown result 'rotatio'; did you mean 'rotation'"):
        results["rotatio"]
    with pytest.raises(UnknownName, match="unknown column 'layr'; did you mean 'layer'"):
        results["rotation"].summary(by="layr")
