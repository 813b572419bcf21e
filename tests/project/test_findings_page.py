"""docs/findings.md has no number that was not measured, and its sentences follow the numbers."""

from __future__ import annotations

import copy
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT

import interp

sys.path.insert(0, str(ROOT))  # `docs` is a folder, not an installed package

from docs.findings_build import heads, massive, page, parts, rounding, sentences, translation

DOCS = ROOT / "docs"
NUMBERS = json.loads((DOCS / "data" / "findings.json").read_text(encoding="utf-8"))
PAGE = (DOCS / "findings.md").read_text(encoding="utf-8")
OPEN, CLOSE = "⟦", "⟧"
# Names, and conventions that are no measurement: the level of a test, an angle of 90°.
CONSTANTS = (
    *("SmolLM2", "GPT-2 XL", "GPT-2", "LLaMA2-7B", "135 M", "135 million", "Q4_1", "Q8_0", "BF16"),
    *(
        "p < 0.05",
        "90°",
        "block 0",
        "block 1",
        "state 0",
        "99 %",
        "precision@10",
        "precision@1",
        "(Holm)",
    ),
    *("residual (1: nothing explained)", "Olsson et al."),
)


class _Marked:
    """A value that shows, wherever it is written, that it came from the numbers."""

    def __format__(self, spec: str) -> str:
        kind = next(k for k in (bool, int, float, str) if isinstance(self, k))
        return f"{OPEN}{format(kind(self), spec)}{CLOSE}"


class _Int(_Marked, int): ...


class _Float(_Marked, float): ...


class _Text(_Marked, str): ...


def marked(value: Any) -> Any:
    """The numbers with every leaf marked."""
    if isinstance(value, dict):
        return {name: marked(each) for name, each in value.items()}
    if isinstance(value, list):
        return [marked(each) for each in value]
    kinds = {int: _Int, float: _Float, str: _Text}
    return kinds[type(value)](value) if type(value) in kinds else value


# ---- the page ----------------------------------------------------------------------------------


def test_the_page_is_what_its_numbers_say():
    assert page.page(NUMBERS) == PAGE, "run `python -m docs.findings_build --page`"
    assert set(page.FINDINGS) <= set(NUMBERS)


def test_every_number_on_the_page_comes_from_the_json():
    text = page.page(marked(NUMBERS))
    assert text.replace(OPEN, "").replace(CLOSE, "") == PAGE
    typed = re.sub(f"{OPEN}[^{CLOSE}]*{CLOSE}", "", text)
    for constant in CONSTANTS:
        typed = typed.replace(constant, "")
    assert [line for line in typed.split("\n") if re.search(r"\d", line)] == []
    assert text.count(OPEN) > 300


def test_the_readme_names_the_blocks_in_which_her_turns_further_or_less_far():
    readme, her = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split()), NUMBERS["her"]
    runs = np.split(her["more"], np.flatnonzero(np.diff(her["more"]) > 1) + 1)
    *first, last = [f"{r[0]} to {r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs]
    more = f"further than the verb before it in blocks {', '.join(first)} and {last} (permutation"
    assert more in readme
    *late, end = [b for b in her["less"] if b >= her["late_from"]]
    assert len(late) + 1 == her["late_less"] == 3, "the README has this number as a word"
    less = f"of the last {her['late']} blocks, {', '.join(map(str, late))} and {end}, it turns less"
    assert f"In three {less} far" in readme


def test_a_typed_number_would_be_found():
    one = marked({"x": {"mean": 1.5, "low": 1.0, "high": 2.0}})
    assert parts.told(one["x"]) == f"{OPEN}1.5{CLOSE} [{OPEN}1.0{CLOSE}, {OPEN}2.0{CLOSE}]"
    assert OPEN not in f"{one['x']['mean'] - 1:.1f}"  # computed on the page: not from the numbers


def test_every_finding_has_its_figure_and_they_are_small():
    pictures = sorted((DOCS / "images" / "findings").glob("*.png"))
    assert [p.stem for p in pictures] == sorted(page.FINDINGS)
    assert sum(p.stat().st_size for p in pictures) < 1.5 * 2**20
    assert all(f"(images/findings/{p.name})" in PAGE for p in pictures)


def test_the_head_tells_rounded_weights_from_others():
    assert "keeps them as Q4_1 and F32; the last" in page._weights({"rounded_to": ["Q4_1", "F32"]})
    assert "keeps them as" not in page._weights({"rounded_to": []})


# ---- sentences follow the numbers --------------------------------------------------------------


def interval(mean: float, half: float = 0.1) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half}


def changed(name: str, changes: dict[str, Any]) -> str:
    """A section with made-up numbers in these places."""
    numbers = copy.deepcopy(NUMBERS[name])
    for path, value in changes.items():
        *way, last = path.split("/")
        place = numbers
        for step in way:
            place = place[step]
        if isinstance(value, dict) and isinstance(place.get(last), dict):
            place[last] |= value
        else:
            place[last] = value
    return page.FINDINGS[name].tell(numbers)


PAIRS = list(NUMBERS.get("translation", {}).get("pairs", {}))
MORE, LESS = interval(1.0), interval(-1.0)
KINDS = {k: {"count": 3, "first_block": i + 2, "best": []} for i, k in enumerate(heads.KINDS)}
RISE = {"loss": interval(5.0), "found": MORE, "random": interval(0.2), "random_most": 0.3}
ABLATED = {"heads": 3, "draws": 19, "first": RISE | {"more": MORE, "p": 0.05}}
SURE = RISE | {"more": MORE, "p": 0.05}
ALL, NONE = MORE | {"count": 7, "n": 7}, interval(0) | {"count": 0, "n": 9}
P = {"p": 0.001}
OPPOSITES = {
    "first and last": (
        "her",
        {"tokens/first_more": MORE, "tokens/last_more": MORE},
        "**Holds.**",
        {"tokens/first_more": MORE, "tokens/last_more": LESS},
        "**Holds for the first block, not for the last.**",
    ),
    "random pairs": (
        "her",
        {"random": interval(75)},
        "**Holds.** *Published:* 70 to 80°",
        {"random": interval(60)},
        "states are narrower.** *Published:* 70 to 80°",
    ),
    "her, late": (
        "her",
        {"late": 11, "late_more": 11, "late_less": 0},
        "further in all of the last 11 blocks",
        {"late": 11, "late_more": 0, "late_less": 4},
        "Does not hold at 135 M parameters: *her* turns further in none of the last 11",
    ),
    "her, where": (
        "her",
        {"more": [4, 5], "less": []},
        "before it in blocks 4 and 5, and less far in no block",
        {"more": [], "less": [7]},
        "before it in no block, and less far in block 7",
    ),
    "growth": (
        "growth",
        {"factor": interval(1.1, 0.01)},
        "The norm grows: ×1.1000",
        {"factor": interval(0.9, 0.01)},
        "**Does not hold at 135 M parameters.**",
    ),
    "growth as published": (
        "growth",
        {"factor": interval(1.045, 0.01)},
        "published factor lies inside",
        {"factor": interval(1.02, 0.01)},
        "more slowly than published",
    ),
    "growth against right angles": (
        "growth",
        {"factor": interval(1.2, 0.01), "orthogonal": interval(1.1)},
        "go along it",
        {"factor": interval(1.05, 0.01), "orthogonal": interval(1.1)},
        "partly against it",
    ),
    "massive": (
        "massive",
        {"shares": dict.fromkeys(("first", "delimiter"), ALL) | {"other": NONE}},
        "**Holds: at the starting token and delimiters",
        {"shares": dict.fromkeys(("first", "delimiter", "other"), NONE)},
        "other tokens are massive as often",
    ),
    "massive, counts": (
        "massive",
        {"shares/other": {"count": 1, "n": 961}},
        "first all 64, other 1 of 961.",
        {"shares/other": {"count": 0, "n": 961}},
        "first all 64, other none of 961.",
    ),
    "growth, learned": (
        "growth",
        {"untrained": interval(1.1, 0.01), "over_untrained": interval(0.02, 0.01)},
        "grows there as well. The trained model grows faster than that (difference of the factors",
        {"untrained": interval(1.1, 0.01), "over_untrained": interval(0.02, 0.03)},
        "grows there as well. The trained model does not detectably grow faster or more slowly",
    ),
    "growth, untrained": (
        "growth",
        {"over_untrained": interval(-0.05, 0.01)},
        "The trained model grows more slowly than that",
        {"untrained": interval(0.9, 0.01)},
        "it shrinks there. The trained model grows faster than that",
    ),
    "ablation, control": (
        "heads",
        {"ablation": ABLATED | {"second": SURE}},
        "So the control moves too: ablating these heads costs something",
        {"ablation": ABLATED | {"first": RISE | {"found": interval(0.0)}, "second": SURE}},
        "So the control does not move, as far as can be told.",
    ),
    "ablation, control lowered": (
        "heads",
        {"ablation": ABLATED | {"first": RISE | {"found": LESS}, "second": SURE}},
        "So the control moves too, the other way",
        {"ablation": ABLATED | {"first": RISE | {"found": MORE}, "second": SURE}},
        "that part of the rise is no loss of copying.",
    ),
    "massive at all": (
        "massive",
        {"states": 12},
        "12 massive states",
        {"states": 0},
        "No state here is massive.",
    ),
    "prediction": (
        "prediction",
        {"partial": interval(0.4)},
        "travel far predict the next token better, at equal",
        {"partial": interval(-0.4)},
        "travel far predict the next token worse, at equal",
    ),
    "prediction, nothing": (
        "prediction",
        {"plain": interval(0.4), "partial": interval(0.01) | {"null_low": -0.1, "null_high": 0.1}},
        "cannot be decided, at equal position and frequency, though no more than with shuffled",
        {"plain": interval(-0.4), "partial": interval(-0.3) | {"null_low": -0.1, "null_high": 0.1}},
        "The covariates do not change that.",
    ),
    "speech": (
        "speech",
        {f"values/path/{kind}": MORE | {"p_holm": 0.001} for kind in ("within", "adjusted")},
        "Nouns travel further than adjectives, as they stand, and at equal frequency and position",
        {f"values/path/{kind}": LESS | {"p_holm": 0.001} for kind in ("within", "adjusted")},
        "Nouns travel less far than adjectives, as they stand, and at equal",
    ),
    "speech, frequency": (
        "speech",
        {
            "values/path/within": MORE | {"p_holm": 0.001},
            "values/path/adjusted": MORE | {"p_holm": 0.001},
            "values/path/untrained": MORE,
        },
        "and so it is in the untrained copy",
        {
            "values/path/within": MORE | {"p_holm": 0.001},
            "values/path/adjusted": MORE | {"p_holm": 0.2},
            "values/path/untrained": interval(0),
        },
        "As they stand, nouns travel further than adjectives; at equal frequency and position, it "
        "cannot be decided",
    ),
    "speech, undecided": (
        "speech",
        {f"values/angle/{kind}": interval(0) | {"p_holm": 0.4} for kind in ("within", "adjusted")},
        "Neither as they stand nor at equal frequency and position can it be decided whether nouns "
        "turn further",
        {f"values/angle/{kind}": LESS | {"p_holm": 0.001} for kind in ("within", "adjusted")},
        "Nouns turn less than adjectives, as they stand, and",
    ),
    "depth": (
        "depth",
        {"late": interval(0.7)},
        "decided by the last state only.**",
        {"late": interval(0.2)},
        "**Holds in kind: most predictions are decided before",
    ),
    "depth, learned": (
        "depth",
        {"late_more": MORE},
        "are decided later than in the untrained copy",
        {"late_more": LESS},
        "are decided earlier than in the untrained copy",
    ),
    "heads": (
        "heads",
        {"kinds": KINDS, "untrained": dict.fromkeys(heads.KINDS, 0)},
        "**Holds: all three kinds",
        {"kinds": KINDS, "untrained": {"previous": 0, "duplicate": 9, "induction": 0}},
        "**Holds for previous and induction; not for duplicate.**",
    ),
    "order of heads": (
        "heads",
        {"kinds/previous/first_block": 1, "kinds/induction/first_block": 4},
        "is in block 1, before the first induction head in block 4",
        {"kinds/previous/first_block": 4, "kinds/induction/first_block": 4},
        "is in block 4, not before the first induction head in block 4",
    ),
    "ablation": (
        "heads",
        {"ablation": ABLATED | {"second": SURE}},
        "raises the loss of the second copy more than ablating random ones",
        {"ablation": ABLATED | {"second": SURE | {"more": interval(0)}}},
        "raises the loss of the second copy no more than ablating random ones",
    ),
    "ablation, rank": (
        "heads",
        {"ablation": ABLATED | {"second": SURE}},
        "copy more than ablating",
        {"ablation": ABLATED | {"second": SURE | {"p": 0.3}}},
        "copy no more than ablating",
    ),
    "translation": (
        "translation",
        {f"pairs/{k}/scores/cosine@1": {"p": 0.001} for k in PAIRS},
        "**Holds in kind",
        {f"pairs/{k}/scores/cosine@1": {"p": 0.9} for k in PAIRS},
        "**Does not hold at 135 M parameters: words are found no more often",
    ),
    "apple": (
        "apple",
        {"apart_count": 20, "untrained/top": {"difference": 0.0}, "top": {"difference": 0.2}},
        "more than in the untrained copy",
        {"apart_count": 0},
        "**Does not hold at 135 M parameters: the context does not tell",
    ),
    "apple, learned": (
        "apple",
        {"apart_count": 9, "untrained/top": {"difference": 0.0}, "top": {"difference": 0.2}},
        "senses apart, more than in the untrained copy.**",
        {"apart_count": 9, "untrained/top": {"difference": 0.4}, "top": {"difference": 0.2}},
        "**Does not hold beyond the untrained copy",
    ),
    "apple, specific": (
        "apple",
        {"apart_count": 9, "middle": {"within": 0.9}, "end": {"within": 0.8}},
        "**Holds: occurrences of one sense grow less alike",
        {"apart_count": 9, "middle": {"within": 0.7}, "end": {"within": 0.8}},
        "**Does not hold: occurrences do not grow",
    ),
    "rounding, means": (
        "rounding",
        {f"roundings/{k}/verdicts": {"most": 0.0} for k in (*rounding.ROUNDINGS, rounding.ACROSS)},
        "Means over the sentences move less",
        {"roundings/BF16/verdicts": {"most": 99.0}},
        "Means over the sentences move as well",
    ),
    "rounding": (
        "rounding",
        {"roundings/BF16/verdicts": {"changed_count": 0}},
        "and the verdict is the same in all 30 blocks; with Q8_0",
        {"roundings/BF16/verdicts": {"changed_count": 2, "changed": [4, 9]}},
        "and the verdict changes in 2 of 30 blocks (4 and 9); with Q8_0",
    ),
}


@pytest.mark.parametrize("case", OPPOSITES.values(), ids=OPPOSITES)
def test_a_sentence_turns_with_the_numbers(case):
    name, changes, said, opposite, said_then = case
    first, second = changed(name, changes), changed(name, opposite)
    assert said in first
    assert said not in second
    assert said_then in second
    assert said_then not in first


def test_every_finding_has_an_opposite():
    assert {name for name, *_ in OPPOSITES.values()} == set(page.FINDINGS)


# ---- what is measured --------------------------------------------------------------------------


def test_numbers_become_json_and_undefined_ones_none():
    given = {"a": np.float32(1.23456789), "b": [np.int64(3), float("nan")], "c": np.bool_(True)}
    assert parts.plain(given) == {"a": 1.23457, "b": [3, None], "c": True}


def test_a_mean_over_tokens_leaves_out_what_is_undefined():
    x, prompts = np.asarray([1.0, 3.0, np.nan, 5.0]), np.asarray([0, 0, 1, 1])
    found = parts.clustered(x, prompts)
    assert (found["mean"], found["n"], found["prompts"]) == (3.0, 3, 2)
    assert found["low"] < 3 < found["high"]


def test_the_analysis_of_massive_activations_keeps_the_contract_and_finds_a_planted_one(llama):
    interp.check_analysis(massive.Largest())
    tokens = torch.arange(12).reshape(2, 6)

    def plant(value, hook):
        value = value.clone()
        value[:, 2, 5] = -1e6
        return value

    with interp.attach(llama, massive.Largest()) as probes:
        llama.run_with_hooks(tokens, fwd_hooks=[("blocks.0.hook_resid_post", plant)])
    frame = probes["largest"].frame
    at = frame[frame["layer"] == 0].pivot_table(
        index="prompt", columns="position", values="exceeds"
    )
    assert at[2].tolist() == [1, 1]
    assert at.drop(columns=2).to_numpy().sum() == 0
    row = frame[(frame["layer"] == 0) & (frame["position"] == 2)].iloc[0]
    assert (row["dimension"], row["largest"]) == (5, 1e6)


def test_the_median_is_that_of_the_prompt_without_padding(llama):
    tokens = torch.arange(12).reshape(2, 6)
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, 4:] = False
    frame = interp.run(llama, tokens, massive.Largest(), mask=mask, progress=False)["largest"].frame
    _, cache = llama.run_with_cache(tokens[1:, :4])
    size = cache["blocks.0.hook_resid_post"][0].abs().double().numpy()
    # torch's median is the lower one of two.
    median = np.sort(size.ravel())[(size.size - 1) // 2]
    own = frame[(frame["layer"] == 0) & (frame["prompt"] == 1)]
    assert len(own) == 4
    np.testing.assert_allclose(own["decades"], np.log10(size.max(axis=1) / median), atol=1e-5)


def test_tokens_are_labelled_by_place():
    model = interp.load_model("demo")
    run = interp.run(model, ["John ran. Mary slept."], "norm", labellers=[massive.place])
    tokens = run.tokens
    assert tokens["place"].iloc[0] == "first"
    assert (tokens["place"] == "delimiter").sum() == 2
    assert (tokens.loc[tokens["place"] == "delimiter", "token"].str.strip() == ".").all()


def test_random_heads_are_of_the_same_blocks_and_others():
    rng, chosen = np.random.default_rng(0), [(1, 0), (1, 2), (4, 3)]
    for _ in range(20):
        drawn = heads.others(chosen, 5, rng)
        assert [b for b, _ in drawn] == [1, 1, 4]
        assert not set(drawn) & set(chosen)
        assert len(set(drawn)) == 3
    assert heads.others([(0, h) for h in range(4)], 5, rng) == [(0, 4)]


def test_heads_are_replaced_by_their_mean_and_the_loss_is_that_of_torch(llama):
    tokens = torch.randint(0, 40, (3, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, cache = llama.run_with_cache(tokens)
    means = heads.mean_outputs(llama, tokens)
    z = cache["blocks.1.attn.hook_z"]
    torch.testing.assert_close(means[1], z[:, 1:].flatten(0, 1).mean(dim=0))

    seen = {}

    def look(value, hook):
        seen["z"] = value.clone()

    hooks = heads.replaced(means, [(1, 0)])
    llama.run_with_hooks(tokens, fwd_hooks=[*hooks, ("blocks.1.attn.hook_z", look)])
    torch.testing.assert_close(seen["z"][:, :, 0], means[1][0].expand_as(z[:, :, 0]))
    torch.testing.assert_close(seen["z"][:, :, 1:], z[:, :, 1:])

    whole = heads.loss(llama, tokens)
    for i in range(3):
        wanted = torch.nn.functional.cross_entropy(logits[i, :4], tokens[i, 1:5])
        assert whole[0, i].item() == pytest.approx(wanted.item(), rel=1e-5)
        wanted = torch.nn.functional.cross_entropy(logits[i, 5:8], tokens[i, 6:])
        assert whole[1, i].item() == pytest.approx(wanted.item(), rel=1e-5)
    assert (heads.loss(llama, tokens, hooks) - whole).abs().max() > 0


def test_sequences_are_repeated_and_without_doubles():
    model = interp.load_model("demo-llama")
    tokens = heads.repeated(model).numpy()
    first, second = tokens[:, 1 : heads.LENGTH + 1], tokens[:, heads.LENGTH + 1 :]
    assert (first == second).all()
    assert all(len(set(row)) == heads.LENGTH for row in first.tolist())
    assert set(tokens[:, 0]) == {model.tokenizer.bos_token_id}


def test_columns_that_move_are_measured_against_the_same_rows():
    own = _Result([1.0, 2.0, 3.0, 9.0], special=[False, False, False, True])
    other = _Result([1.0, 2.5, 3.1, 0.0], special=[False, False, False, True])
    found = rounding._columns({"a": own}, {"a": other})["a.angle"]
    assert found["median"] == pytest.approx(0.1)
    assert found["p99"] == pytest.approx(np.percentile([0, 0.5, 0.1], 99))
    assert found["typical"] == 2.0
    moved = _Result([1.0, 2.0, 3.0, 9.0], special=[False] * 4, start=1)
    with pytest.raises(ValueError, match="other rows"):
        rounding._columns({"a": own}, {"a": moved})


class _Result:
    values = ("angle",)

    def __init__(self, angles, special, start=0):
        self.frame = pd.DataFrame(
            {"prompt": 0, "position": np.arange(start, start + len(angles)), "layer": 0}
            | {"special": special, "angle": angles}
        )


def test_weights_are_rounded_along_the_other_axis():
    gguf = pytest.importorskip("gguf")
    pytest.importorskip("interp.models.rounding")
    matrix = torch.randn(64, 96, generator=torch.Generator().manual_seed(1))
    found = rounding._across(matrix)
    kind = gguf.GGMLQuantizationType.Q4_1
    column = np.ascontiguousarray(matrix[:, 7].numpy())
    wanted = gguf.dequantize(gguf.quantize(column, kind), kind)
    np.testing.assert_array_equal(found[:, 7].numpy(), wanted)
    assert found.shape == matrix.shape


def test_precision_has_a_wilson_interval():
    found = translation._proportion(0.25, 200)
    z, n, p = 1.959963984540054, 200, 0.25
    middle, half = (p + z**2 / 2 / n), z * np.sqrt(p * (1 - p) / n + z**2 / 4 / n**2)
    low, high = (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)
    assert (found["low"], found["high"]) == pytest.approx((low, high))


def test_sentences_have_the_word_once_in_one_spelling():
    texts = [*sentences.FRUIT, *sentences.COMPANY]
    assert len(set(texts)) == len(texts) == 48
    for text in texts:
        assert len(re.findall(r"\bapple\b", text)) == 1
        assert text == text.lower()
        assert len(text.split("apple")[0].split()) >= 3  # words that tell the sense come first


def test_the_builder_needs_nothing_of_this_machine():
    files = (Path(p) for p in (DOCS / "findings_build").glob("*.py"))
    assert not [f.name for f in files if re.search(r"/(tmp|work|home|root)/", f.read_text())]
