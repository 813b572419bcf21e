"""Answers, layers, positions and parameters that a caller gives to `run` and to `attach`."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from zoo import ZOO, boot

import interp
from analyses.logit_attribution import LogitAttribution
from analyses.logit_difference import LogitDifference
from analyses.logit_lens import LogitLens
from interp.contract.kept import Kept
from interp.errors import BadInput, UnknownName, Unsupported

IDS = torch.tensor([[3, 9, 4, 1], [2, 6, 5, 3], [8, 8, 7, 2]])
QUIET = {"progress": False}


# ---- answers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "targets", [[7, 11, 5], np.array([7, 11, 5]), torch.tensor([7, 11, 5]), pd.Series([7, 11, 5])]
)
def test_one_answer_per_prompt(model, targets):
    frame = interp.run(model, IDS, "next_token", targets=targets, **QUIET)["next_token"].frame
    log_p = model(IDS).detach().log_softmax(-1)
    expected = torch.stack([p[:, t] for p, t in zip(log_p, [7, 11, 5], strict=True)])
    np.testing.assert_allclose(frame["log_prob"], expected.flatten().numpy(), atol=1e-5)


def test_attach_takes_the_same_answers(model):
    options = {"targets": [7, 11, 5], "against": 4}
    run = interp.run(model, IDS, LogitDifference, **options, **QUIET)
    with interp.attach(model, LogitDifference, **options) as probes:
        model(IDS)
    columns = ["prompt", "position", "layer", "logit_diff", "target_logit", "contrast_logit"]
    pd.testing.assert_frame_equal(
        run["logit_difference"].frame[columns], probes["logit_difference"].frame[columns]
    )


def test_a_decoder_is_asked_for_the_answers_of_the_prompts():
    model, ids = boot(ZOO["t5"]), IDS + 3
    options = {"targets": [7, 11, 5], "against": 4}
    frame = interp.run(model, ids, LogitDifference, **options, **QUIET)["logit_difference"].frame
    with interp.attach(model, LogitDifference, **options) as probes, torch.no_grad():
        logits = model(ids)
    columns = ["prompt", "position", "layer", "logit_diff", "target_logit", "contrast_logit"]
    pd.testing.assert_frame_equal(frame[columns], probes["logit_difference"].frame[columns])
    last = frame[frame["layer"] == frame["layer"].max()].sort_values(["prompt", "position"])
    expected = torch.stack([z[:, t] for z, t in zip(logits, [7, 11, 5], strict=True)])
    np.testing.assert_allclose(last["target_logit"], expected.flatten().numpy(), atol=1e-4)
    np.testing.assert_allclose(last["contrast_logit"], logits[..., 4].flatten(), atol=1e-4)
    with pytest.raises(Unsupported, match="by position are of the prompt, which the encoder reads"):
        interp.run(model, ids, "next_token", targets=ids.roll(1, 1).tolist(), **QUIET)


def test_answers_change_between_passes(gpt2):
    with interp.attach(gpt2, "next_token", targets=7, positions=-1) as probes:
        gpt2(IDS)
        probes.answer(targets=[1, 2, 3])
        gpt2(IDS)
        probes.answer()
        gpt2(IDS)
    logits = gpt2(IDS).detach()[:, -1]
    expected = [*logits[:, 7], *logits[[0, 1, 2], [1, 2, 3]], *[torch.nan] * 3]
    np.testing.assert_allclose(probes["next_token"].frame["logit"], expected, atol=1e-5)


def test_text_of_an_answer_is_one_token(gpt2):
    text = interp.run(gpt2, ["the man saw her"], "next_token", targets=["woman"], **QUIET)
    assert text["next_token"].frame["logit"].notna().all()
    with pytest.raises(BadInput, match=r"targets\[0\] 'the man' is 2 tokens of this model"):
        interp.run(gpt2, ["the man saw her"], "next_token", targets=["the man"], **QUIET)


def test_another_number_of_answers_than_prompts_is_refused(gpt2):
    with pytest.raises(BadInput, match="targets= has 2 answers and there are 3 prompts; give one"):
        interp.run(gpt2, IDS, "next_token", targets=[7, 11], **QUIET)


@pytest.mark.parametrize("against", [None, 4, [5, 6]])
def test_a_pass_of_another_number_of_prompts_than_answers_runs_unobserved(gpt2, against):
    """An attached observer never ends a call: the user may have meant another pass."""
    analyses = ["rotation", "next_token" if against is None else LogitDifference]
    expected = gpt2(IDS[:1]).detach()
    with interp.attach(gpt2, *analyses, targets=[7, 11], against=against, positions=-1) as probes:
        told = "this pass is not observed: 2 answers were given and the pass has 1 prompt; give one"
        with pytest.warns(UserWarning, match=told):
            assert torch.equal(gpt2(IDS[:1]), expected)
        gpt2(IDS)  # of the same kind: counted, without another warning
        gpt2(IDS[:2])
    assert probes.results.provenance["attached"]["not_observed"] == {"answers": 2}
    frame = probes["rotation"].frame.query("layer == 0")
    assert frame["prompt"].tolist() == [0, 1]
    assert "Not observed, or not wholly: 2 passes (answers)." in probes["rotation"].notes


def test_bad_input_of_a_pass_never_ends_it(gpt2):
    expected = gpt2(IDS[:1]).detach()
    with interp.attach(gpt2, "next_token") as probes:
        probes.label(kind=[[1, 2]])  # no value of a label, which shows when a pass comes
        with pytest.warns(
            UserWarning, match="not observed: BadInput: labels 'kind': prompt 0 has list"
        ):
            assert torch.equal(gpt2(IDS[:1]), expected)
    assert probes.results.provenance["attached"]["not_observed"] == {"it failed": 1}


@pytest.mark.parametrize("way", [interp.run, interp.attach], ids=["run", "attach"])
def test_two_answers_are_asked_for_before_the_first_pass(gpt2, way):
    prompts = (IDS, LogitDifference) if way is interp.run else (LogitDifference,)
    with pytest.raises(BadInput, match="'logit_difference' compares two answers: pass targets="):
        way(gpt2, *prompts, targets=7)


def test_rows_per_position_still_are_targets(gpt2):
    rows = [[5, -1, 6, -1]] * 3
    frame = interp.run(gpt2, IDS, "next_token", targets=rows, **QUIET)["next_token"].frame
    assert frame["logit"].notna().tolist() == [True, False, True, False] * 3
    with pytest.raises(BadInput, match="against= takes one token, or one for each prompt"):
        interp.run(gpt2, IDS, LogitDifference, against=rows, **QUIET)


def test_the_untrained_copy_has_the_same_answers(gpt2):
    options = {"targets": [7, 11, 5], "against": 4, "positions": -1}
    results = interp.run(gpt2, IDS, LogitAttribution, control="random-init", **options, **QUIET)
    control = results.control["logit_attribution"].frame
    assert control["attn_logit"].notna().all()
    assert len(control) == len(results["logit_attribution"].frame) == 3 * gpt2.cfg.n_layers
    assert "compared with token '.' (4)" in " ".join(results.provenance["prompts"]["notes"])


# ---- rows --------------------------------------------------------------------------------------


def test_rows_of_kept_layers_and_positions_are_those_of_the_whole_run(model):
    names = ["path_length", "logit_lens"]
    whole = interp.run(model, IDS, names, **QUIET)
    part = interp.run(model, IDS, names, layers=[1, -1], positions=[0, -1], **QUIET)
    last = {"path_length": model.cfg.n_layers - 1, "logit_lens": model.cfg.n_layers}
    for name in names:
        frame = whole[name].frame
        expected = frame[frame["layer"].isin([1, last[name]]) & frame["position"].isin([0, 3])]
        pd.testing.assert_frame_equal(
            part[name].frame, expected.reset_index(drop=True), check_exact=False, rtol=1e-4
        )
    assert part.provenance["kept"] == {"layers": [1, -1], "positions": [0, -1]}


def test_last_is_the_end_of_each_prompt_whatever_its_length(model):
    prompts = ["the man saw her", "he was very old and the house was small", "dog"]
    frame = interp.run(model, prompts, "norm", positions="last", layers=0, **QUIET)["norm"].frame
    whole = interp.run(model, prompts, "norm", layers=0, **QUIET)["norm"].frame
    ends = whole.groupby("prompt")["position"].max().tolist()
    assert frame["position"].tolist() == ends
    with interp.attach(model, "norm", positions="last", layers=0) as probes:
        model(prompts)
    assert probes["norm"].frame["position"].tolist() == ends


def test_a_summary_is_of_the_kept_positions(gpt2):
    options = {"keep": "summary", "layers": 0} | QUIET
    frame = interp.run(gpt2, IDS, "norm", positions=[1], **options)["norm"].frame
    rows = interp.run(gpt2, IDS, "norm", positions=[1], layers=0, **QUIET)["norm"].frame
    assert frame["n"].tolist() == [3]
    np.testing.assert_allclose(frame["mean"], rows["norm"].mean(), rtol=1e-6)


def test_blocks_beyond_the_kept_ones_are_not_run(gpt2):
    seen = []
    last = f"blocks.{gpt2.cfg.n_layers - 1}.hook_out"
    hook = gpt2.hook_dict[last].add_hook(lambda x, hook: seen.append(1))
    try:
        interp.run(gpt2, IDS, "norm", layers=0, **QUIET)
    finally:
        hook.hook.remove()
        gpt2.reset_hooks()
    assert gpt2.cfg.n_layers > 1
    assert not seen, "the pass ends where nothing more is read"


def test_sums_over_positions_say_that_they_are(gpt2):
    result = interp.run(gpt2, IDS, "layer_similarity", positions=-1, **QUIET)["layer_similarity"]
    assert any(n.startswith("positions= keeps rows of tokens") for n in result.notes)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"layers": 9}, "layers= names 9; these tables have 0 … "),
        ({"layers": [0, -9]}, "layers= names -9; these tables have"),
        ({"positions": "first"}, "positions='first'; give a number, several, or 'last'"),
        ({"layers": []}, r"layers=\[\]; give a number"),
        ({"positions": [0.5]}, r"positions=\[0.5\]; give a number"),
        ({"layers": True}, "layers=True; give a number"),
    ],
)
def test_rows_that_are_not_there_are_refused(gpt2, options, text):
    with pytest.raises(BadInput, match=text):
        interp.run(gpt2, IDS, "norm", **options, **QUIET)
    with pytest.raises(BadInput, match=text):
        interp.attach(gpt2, "norm", **options)


@pytest.mark.parametrize("given", [range(2), np.array([0, 1]), torch.tensor([0, 1]), (0, 1, 0)])
def test_several_numbers_in_any_form(given):
    assert Kept.of(given).layers == (0, 1)


# ---- parameters --------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"logit_lens": {"top_k": 2}}, {"logit_lens.top_k": 2}])
def test_parameters_by_name(gpt2, settings):
    results = interp.run(gpt2, IDS, ["logit_lens", "norm"], settings=settings, **QUIET)
    assert results["logit_lens"].analysis == LogitLens(top_k=2)
    with interp.attach(gpt2, "logit_lens", settings=settings) as probes:
        gpt2(IDS)
    assert probes["logit_lens"].analysis == LogitLens(top_k=2)


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        (
            {"logit_lens.topk": 2},
            UnknownName,
            "of logit_lens 'topk'; did you mean 'top_k'",
        ),
        ({"lens.top_k": 2}, UnknownName, "unknown analysis in settings= 'lens'"),
        ({"logit_lens.top_k": "2"}, BadInput, "logit_lens.top_k='2'; expected a value like 5"),
        ({"logit_lens": 2}, BadInput, r"give \{'logit_lens': \{'parameter': value\}\} or"),
    ],
)
def test_wrong_parameters_are_named(gpt2, settings, error, text):
    with pytest.raises(error, match=text):
        interp.run(gpt2, IDS, "logit_lens", settings=settings, **QUIET)


@pytest.mark.parametrize("name", ["targets", "against"])
def test_a_column_that_is_given_for_its_answers_is_told(llama, name):
    texts, values = ["the man saw", "the woman saw"], [" the", " a"]
    table = pd.DataFrame({"text": texts, "answer of mine": values})
    told = rf"have a column 'answer of mine': .* values, {name}=list\(table\['answer of mine'\]\)"
    with pytest.raises(BadInput, match=f"tokens of this model.*{told}"):
        interp.run(llama, table, "next_token", **{name: "answer of mine"}, **QUIET)
    read = interp.prompts.read_prompts(table, llama.tokenizer)
    for ask in (interp.run, interp.experiments.cause):
        rest = ["next_token"] if ask is interp.run else []
        with pytest.raises(BadInput, match=told):
            ask(llama, read, *rest, **{name: "answer of mine"}, **QUIET)
    with pytest.raises(BadInput, match=told):
        interp.attach(llama, "next_token", prompts=read, **{name: "answer of mine"})
    given = {name: list(table["answer of mine"])}
    assert len(interp.run(llama, table, "next_token", **given, **QUIET)["next_token"].frame)
    with pytest.raises(BadInput) as plain:
        interp.run(llama, texts, "next_token", **{name: "answer of mine"}, **QUIET)
    assert "column" not in str(plain.value)


# ---- depth -------------------------------------------------------------------------------------


def test_one_key_of_depth_joins_blocks_and_states(model):
    results = interp.run(model, IDS, ["path_length", "logit_lens", "rotation"], **QUIET)
    both = results.merged("path_length", "logit_lens", "rotation")
    n = model.cfg.n_layers
    assert sorted(both["state"].unique()) == list(range(n + 1))
    assert "layer" not in both
    assert len(both) == IDS.numel() * (n + 1)
    # What the tables say of one vector: ‖x_l‖ before block l is ‖x_l‖ after block l − 1.
    _, cache = model.run_with_cache(IDS)
    for state in range(1, n + 1):
        x = cache[f"blocks.{state - 1}.hook_resid_post"].detach()
        rows = both[both["state"] == state]
        np.testing.assert_allclose(rows["norm_after"], x.norm(dim=-1).flatten(), rtol=1e-5)
        p = model.unembed(model.ln_final(x)).detach().softmax(-1)
        np.testing.assert_allclose(rows["top_prob"], p.amax(-1).flatten(), rtol=1e-4)
    first = both[both["state"] == 0]
    assert first["norm_after"].isna().all()
    assert first["top_prob"].notna().all()
    assert both["token"].notna().all()


def test_layers_that_leave_tables_without_common_states_are_told(model):
    names = ("path_length", "logit_lens")
    last = model.cfg.n_layers - 1
    chosen = [0, last]
    results = interp.run(model, IDS, names, layers=chosen, **QUIET)
    with pytest.warns(UserWarning, match="layers= counts blocks in a table") as told:
        both = results.merged(*names)
    assert told[0].filename == __file__
    assert sorted(both["state"].unique()) == sorted({0, 1, last, last + 1})
    # What it says to pass gives every chosen block its state, in both tables.
    assert f"layers={sorted({0, 1, last, last + 1})} and join with how='inner'" in str(told[0])
    wider = interp.run(model, IDS, names, layers=sorted({0, 1, last, last + 1}), **QUIET)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inner = wider.merged(*names, how="inner")
        whole = interp.run(model, IDS, names, **QUIET).merged(*names)
    assert {1, last + 1} <= set(inner["state"])
    assert inner[["path", "log_prob"]].iloc[0].notna().all()
    same = whole[whole["state"].isin(set(inner["state"]))].reset_index(drop=True)
    pd.testing.assert_frame_equal(inner[["state", "path"]], same[["state", "path"]])
    with interp.attach(model, *names, layers=chosen) as probes:
        model(IDS)
    with pytest.warns(UserWarning, match="layers= counts blocks in a table") as told:
        probes.merged(*names)
    assert told[0].filename == __file__
    with pytest.raises(BadInput, match="how is 'inne' — did you mean|how is 'inne'"):
        results.merged(*names, how="inne")


def test_columns_of_two_tables_keep_their_analysis(gpt2):
    both = interp.run(gpt2, IDS, ["norm", "path_length"], **QUIET).merged("norm", "path_length")
    np.testing.assert_allclose(both["norm"], both["norm_after"], rtol=1e-5)
    lenses = interp.run(gpt2, IDS, ["logit_lens", "attention"], **QUIET)
    both = lenses.merged("logit_lens", "attention", heads="mean")
    assert {"logit_lens_entropy", "attention_entropy"} <= set(both)


def test_every_column_of_a_merged_table_belongs_to_its_state_or_is_named_before(model):
    """A block's first state is the state before that of the row: its norm must not pass for it."""
    names = ["path_length", "logit_attribution", "logit_lens"]
    results = interp.run(model, IDS, names, targets=7, **QUIET)
    both = results.merged(*names)
    assert not {"norm", "stream_logit", "layer"} & set(both)
    size = both.pivot_table(index=["prompt", "position"], columns="state", values="norm_after")
    before = both.pivot_table(index=["prompt", "position"], columns="state", values="norm_before")
    np.testing.assert_allclose(before[list(size)[1:]], size[list(size)[:-1]], rtol=1e-5)
    assert {"stream_logit_before", "stream_logit_after"} <= set(both)
    told = both.attrs["columns"]
    labels = {"role"} & set(both)
    assert set(told) == set(map(str, both)) - labels
    assert told["norm_before"] == "‖x_l‖; activation units; of block l = state − 1"
    assert told["state"].startswith("number of the state that the row ends in")
    assert told["top_prob"] == results["logit_lens"].columns["top_prob"]


@pytest.mark.parametrize("heads", ["mean", "sum", "max", "min"])
def test_heads_are_reduced_to_a_row_of_their_block(gpt2, heads):
    results = interp.run(gpt2, IDS, ["logit_lens", "attention"], **QUIET)
    both = results.merged("logit_lens", "attention", heads=heads)
    assert len(both) == len(results["logit_lens"].frame)
    frame = results["attention"].frame
    for row in both[both["state"] > 0].sample(20, random_state=0).itertuples():
        at = (frame["prompt"] == row.prompt) & (frame["position"] == row.position)
        rows = frame[at & (frame["layer"] == row.state - 1)]
        assert row.attention_entropy == pytest.approx(getattr(np, heads)(rows["entropy"]))
        assert np.isnan(row.previous) == rows["previous"].isna().all()
    told = both.attrs["columns"]["attention_entropy"]
    assert (
        told == f"{heads} over the heads of: −Σ A log A over the keys; nats; of block l = state − 1"
    )
    assert both.loc[both["state"] == 0, "attention_entropy"].isna().all()


def test_tables_with_other_rows_are_refused_by_name(gpt2):
    results = interp.run(gpt2, IDS, ["norm", "attention", "embedding"], **QUIET)
    heads = "table of 'attention' has a row per head; pass heads=\"mean\" for the mean over the"
    with pytest.raises(BadInput, match=heads):
        results.merged("norm", "attention")
    with pytest.raises(BadInput, match=heads):
        results.merged("attention")
    with pytest.raises(BadInput, match="heads is 'men'; did you mean 'mean'"):
        results.merged("norm", "attention", heads="men")
    with pytest.raises(BadInput, match="table of 'embedding' has the columns"):
        results.merged("norm", "embedding")
    with pytest.raises(BadInput, match=r"tables or more; 'norm' alone is results\['norm'\].st"):
        results.merged("norm")
    summary = interp.run(gpt2, IDS, ["norm", "rotation"], keep="summary", **QUIET)
    with pytest.raises(BadInput, match="table of 'norm' is a summary of groups"):
        summary.merged("norm", "rotation")
    with pytest.raises(BadInput, match="'embedding' has no column 'layer', and so no depth"):
        _ = results["embedding"].states


def test_what_was_attached_is_joined_as_a_run_is(gpt2):
    names = ("path_length", "logit_lens")
    with interp.attach(gpt2, *names) as probes:
        gpt2(IDS)
    own = interp.run(gpt2, IDS, names, **QUIET).merged(*names)
    joined = probes.merged(*names)
    shared = [c for c in own if c in joined]
    assert {"state", "path", "log_prob", "token"} <= set(shared)
    pd.testing.assert_frame_equal(joined[shared], own[shared], check_dtype=False)
    with pytest.raises(UnknownName, match="result 'norm'"):
        probes.merged("norm", "path_length")


def test_what_was_attached_is_explored_reported_and_saved_as_a_run_is(gpt2, tmp_path):
    with interp.attach(gpt2, "norm", "rotation") as probes:
        gpt2(IDS)
    page = probes.explore("mine").save(tmp_path / "explorer.html")
    assert page.read_text(encoding="utf-8").count("mine")
    assert probes.report(tmp_path / "report.html", title="mine").stat().st_size > 10_000
    saved = interp.load(probes.save(tmp_path / "run"))
    both = saved["norm"].frame, probes["norm"].frame
    pd.testing.assert_frame_equal(*both, check_dtype=False)
    with pytest.raises(BadInput, match="exists|not empty"):
        probes.save(tmp_path / "run")


def test_heads_are_joined_as_the_message_says(llama):
    """Parts of heads add up to what attention writes, which has no bias here."""
    asked = ["head_attribution", "logit_attribution"]
    results = interp.run(llama, IDS, asked, targets=5, **QUIET)
    both = results.merged(*asked, heads="sum")
    assert len(both) == len(results["logit_attribution"].frame)
    np.testing.assert_allclose(both["head_logit"], both["attn_logit"], atol=1e-4)


def test_weights_of_a_block_are_at_hand(model):
    class Read(interp.Analysis):
        """Norm of the mixed values after W_O, by hand."""

        sites = ("z",)
        columns = {"size": "norm"}  # noqa: RUF012

        def observe(self, batch):
            out = torch.einsum("bphe,hed->bpd", batch["z"], batch.weight("W_O"))
            return {"size": interp.PerToken(out.norm(dim=-1))}

    frame = interp.run(model, IDS, Read, **QUIET)["read"].frame
    _, cache = model.run_with_cache(IDS)
    for layer in range(model.cfg.n_layers):
        attn = model.blocks[layer].attn
        out = cache[f"blocks.{layer}.hook_attn_out"].detach()
        bias = getattr(attn, "b_O", None)
        out = out if bias is None else out - bias.detach()
        mine = frame[frame["layer"] == layer]["size"]
        np.testing.assert_allclose(mine, out.norm(dim=-1).flatten(), rtol=1e-4)


def test_a_weight_that_is_none_is_named(gpt2):
    class Wrong(interp.Analysis):
        """Reads a matrix that there is none of."""

        sites = ("z",)
        columns = {"size": "norm"}  # noqa: RUF012

        def observe(self, batch):
            return {"size": interp.PerToken(batch.weight("W_X"))}

    with pytest.raises(interp.errors.ObserveError, match="unknown weight of a block 'W_X'"):
        interp.run(gpt2, IDS, Wrong, **QUIET)
