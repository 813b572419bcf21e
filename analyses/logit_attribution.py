"""The contribution of every term of the stream to the logit of an answer."""

from collections.abc import Mapping
from typing import Any, ClassVar

from interp import Analysis, Batch, Leaf, PerToken, Plot
from interp.geometry import at_least_float32, dot, norm, ratio


class LogitAttribution(Analysis):
    """Direct contribution of each term of each block to the logit of the target.

    Question: which attention layers and MLPs write the answer? The last state is a sum, x_L = x_0
    + Σ terms. With the statistics of the final norm frozen at x_L the logit is a sum too: each
    term's vector, centred where the norm centres and scaled by its r and γ, times the column of
    W_U. Given a second answer (against=), every number is of the difference of the two logits.

    What adds up: `stream_logit` of block 0, the embedding's part, plus the parts of all terms of
    all blocks, plus `rest_logit` of all blocks, which is rounding unless a hook changes the
    stream, plus `constant_logit`, is the target's logit before the model's output transform (a
    soft cap or scale; most models have none), or the logit difference. Sources: Elhage et al. 2021
    for direct paths, Wang et al. 2211.00593 for logit differences.

    Caveats: direct paths only: what a term does through later blocks is in their parts. A term
    may write what a later one takes back. One logit alone moves with all others: give two answers
    where you can. Where the blocks are no sum of named terms, or the final norm is no scale per
    dimension, the analysis is refused. It holds the terms of a pass until its end.
    """

    sites: ClassVar[tuple[str, ...]] = (
        "resid_pre",
        "resid_post",
        "terms",
        "resid_final",
        "readout",
    )
    columns: ClassVar[Mapping[str, str]] = {
        "stream_logit": "part of x_l, the state before the block; logits, NaN without target",
        "stream_logit_after": "part of x_{l+1}, the state after the block; logits",
        "attn_logit": "part of what attention adds in this block; logits",
        "mlp_logit": "part of what the MLP adds in this block; logits",
        "rest_logit": "part of what the step has beyond its terms, which is rounding unless a hook "
        "changes the stream; logits",
        "constant_logit": "part of the norm's and the unembedding's bias, the same at every block",
        "*_logit": "as attn_logit, for a term of another name; logits",
    }
    plots: ClassVar[tuple[Plot, ...]] = (
        Plot(
            "line",
            ("attn_logit", "mlp_logit"),
            "Who writes the answer",
            "part of the logit (difference)",
            "terms that have nothing to do with the answer are at 0.",
        ),
        Plot(
            "line",
            ("stream_logit_after",),
            "The answer in the stream, by the last state's norm",
            "part of the logit (difference)",
            "a stream that does not move toward the answer stays flat.",
        ),
    )

    def check_parameters(self, anatomy: Any = None) -> None:
        """Raises `Unsupported` for a model whose contributions to a logit do not add up."""
        if anatomy is not None and anatomy.readout is not None:
            anatomy.readout.check_adds_up(anatomy.d_model, anatomy.dtype)

    def observe(self, batch: Batch) -> dict[str, PerToken | Leaf]:
        mask = batch.mask
        direction, constant = batch.direction()
        before, after = (at_least_float32(batch[s][mask]) for s in ("resid_pre", "resid_post"))
        terms = {name: at_least_float32(x[mask]) for name, x in batch.terms.items()}
        rest = after - sum(terms.values(), start=before)
        parts = {"stream_logit": before, "stream_logit_after": after}
        parts |= {f"{name}_logit": term for name, term in terms.items()} | {"rest_logit": rest}
        values = {name: dot(x, direction) for name, x in parts.items()}
        values |= {"constant_logit": constant, "error": ratio(norm(rest), norm(after))}
        grids = {name: batch.to_grid(v[None])[0] for name, v in values.items()}
        _, told = batch.open_steps(grids.pop("error"))
        return {name: PerToken(grid) for name, grid in grids.items()} | told
