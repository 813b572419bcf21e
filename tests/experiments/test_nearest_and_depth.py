"""Nearest tokens of a vector, and the depth at which a prediction is decided."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from steering_help import TEXTS, draw

import interp
from interp import BadInput
from interp.errors import UnknownName

pytestmark = pytest.mark.usefixtures("clean")


# ---- tokens and vectors ----------------------------------------------------------------------


def test_targets_that_are_not_one_token(gpt2):
    v = draw(gpt2.cfg.d_model)
    with pytest.raises(
        BadInput, match=r"target 'the man' is 2 tokens of this model \('the' \+ 'man'\).*one token"
    ):
        interp.experiments.dose_response(gpt2, TEXTS, v, layers=1, targets="the man")
    with pytest.raises(BadInput, match="target 'zebra' is not in the vocabulary .*'<unk>'"):
        interp.experiments.dose_response(gpt2, TEXTS, v, layers=1, targets="zebra")
    with pytest.raises(BadInput, match="did you mean 'queen'"):
        interp.prompts.token_id(gpt2, "quen")
    with pytest.raises(BadInput, match="token 9999 is no token id: the model has 0 … 112"):
        interp.prompts.token_id(gpt2, 9999)
    with pytest.raises(BadInput, match="token '': give a token's text"):
        interp.prompts.token_id(gpt2, "")
    assert interp.prompts.token_id(gpt2, "her") == gpt2.tokenizer.convert_tokens_to_ids("her")


@pytest.mark.parametrize("space", ["W_U", "W_E"])
@pytest.mark.parametrize("by", ["dot", "cosine"])
def test_nearest_tokens_against_numpy(llama, space, by):
    rows = (llama.W_U.T if space == "W_U" else llama.W_E).detach().double().numpy()
    vectors = draw(2, llama.cfg.d_model)
    frame = interp.experiments.nearest_tokens(llama, vectors, space=space, by=by, k=7).frame
    for i, x in enumerate(vectors.double().numpy()):
        score = rows @ x
        if by == "cosine":
            score = score / np.linalg.norm(rows, axis=1) / np.linalg.norm(x)
        part = frame[frame["vector"] == i]
        best = np.argsort(-score)[:7]
        assert part["token_id"].tolist() == best.tolist()
        np.testing.assert_allclose(part[by], score[best], rtol=1e-4)
        assert part["token"].tolist() == [llama.tokenizer.decode([t]) for t in best]
    single = interp.experiments.nearest_tokens(llama, vectors[0], space=space, by=by, k=7).frame
    pd.testing.assert_frame_equal(single, frame[frame["vector"] == 0].drop(columns="vector"))


def test_a_tokens_own_row_is_nearest_by_cosine(gpt2):
    frame = interp.experiments.nearest_tokens(
        gpt2, gpt2.W_E[15], space="W_E", by="cosine", k=1
    ).frame
    assert frame["token_id"].tolist() == [15]
    assert frame["cosine"].iloc[0] == pytest.approx(1, abs=1e-6)


def test_the_given_tokens_are_not_what_is_nearest(gpt2):
    names = gpt2.tokenizer.convert_ids_to_tokens(range(40))
    a, b = (t for t in names if gpt2.tokenizer.convert_tokens_to_ids(t) in (20, 30))
    for minus, given in ((None, [a]), (b, [a, b])):
        found = interp.experiments.nearest_tokens(gpt2, a, minus=minus, by="cosine")
        own = " and ".join(map(repr, given))
        first = next(t for t in found.frame["token"] if t not in given)
        assert f": the nearest token, {own} left out, is {first!r}, cosine" in found.sentence
    only = interp.experiments.nearest_tokens(gpt2, a, by="cosine", k=1)
    assert f"no token but {a!r} was listed" in only.sentence


def test_bad_vectors_for_nearest_tokens(gpt2):
    with pytest.raises(BadInput, match=r"shape \(7,\); allowed is \[24\], the width of W_U"):
        interp.experiments.nearest_tokens(gpt2, draw(7))
    with pytest.raises(BadInput, match="NaN or infinite"):
        interp.experiments.nearest_tokens(gpt2, draw(24) * torch.nan)
    with pytest.raises(UnknownName, match="unknown space 'W_V'; did you mean"):
        interp.experiments.nearest_tokens(gpt2, draw(24), space="W_V")
    with pytest.raises(UnknownName, match="unknown by 'cos'"):
        interp.experiments.nearest_tokens(gpt2, draw(24), by="cos")
    with pytest.raises(BadInput, match="k is 0"):
        interp.experiments.nearest_tokens(gpt2, draw(24), k=0)
    nowhere = interp.experiments.nearest_tokens(gpt2, torch.zeros(24), by="cosine").frame
    assert nowhere["cosine"].isna().all()


# ---- decision depth --------------------------------------------------------------------------


def test_decision_depth_by_loops(model):
    result = interp.run(model, TEXTS, "logit_lens", target="her", progress=False)["logit_lens"]
    depth = interp.experiments.decision_depth(result).frame
    assert len(depth) == len(result.tokens)
    assert {"token", "role", "special"} <= set(depth.columns)
    for row in depth.itertuples():
        agrees = (
            result.frame.query("prompt == @row.prompt and position == @row.position")
            .sort_values("layer")["agrees"]
            .tolist()
        )
        expected = len(agrees)
        while expected and agrees[expected - 1]:
            expected -= 1
        assert row.decision_depth == expected
        assert row.relative_depth == pytest.approx(expected / (len(agrees) - 1))
        assert row.agreeing == pytest.approx(np.mean(agrees[:-1]))


def test_decision_depth_of_made_up_tables():
    def table(agrees):
        n = len(agrees)
        return pd.DataFrame(
            {"prompt": 0, "position": 0, "layer": range(n), "agrees": agrees, "token": "x"}
        )

    cases = {(True, True, True): 0, (False, True, True): 1, (True, False, True): 2}
    for agrees, expected in cases.items():
        out = interp.experiments.decision_depth(table(agrees).sample(frac=1, random_state=1)).frame
        assert out["decision_depth"].tolist() == [expected]
    with pytest.raises(BadInput, match=r"each state 0 … 2 once; this table was filtered"):
        interp.experiments.decision_depth(table([True] * 3).query("layer != 1"))
    with pytest.raises(UnknownName, match="unknown column 'agrees'"):
        interp.experiments.decision_depth(table([True]).drop(columns="agrees"))
    with pytest.raises(BadInput, match="a table is needed, not int"):
        interp.experiments.decision_depth(3)


def test_decision_depth_of_a_summary_is_refused(gpt2):
    result = interp.run(gpt2, TEXTS, "logit_lens", keep="summary", progress=False)["logit_lens"]
    with pytest.raises(BadInput, match="run the lens with keep='tokens'"):
        interp.experiments.decision_depth(result)
