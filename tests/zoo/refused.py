"""Models that TransformerLens 4.3 does not serve, with the reason as measured.

Each has a plain model, so a test can tell when one of them starts to work.
"""

from __future__ import annotations

from dataclasses import dataclass

from zoo.decoders import FALCON, MULTIPLIERS, OPT
from zoo.encoders import BART
from zoo.entry import Entry, hf
from zoo.experts import LOCAL
from zoo.mixers import HALF_LINEAR, SSM

UNKNOWN = "Could not determine supported architecture"


@dataclass(frozen=True)
class Refusal:
    """What happens: an error whose text contains `reason`, or, if `wrong`, logits that differ."""

    entry: Entry
    reason: str
    wrong: bool = False


_GROUPED_FALCON = {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}

_REFUSALS = [
    Refusal(
        hf("granite-moe-shared", "GraniteMoeSharedForCausalLM", **LOCAL, **MULTIPLIERS), UNKNOWN
    ),
    Refusal(hf("helium", "HeliumForCausalLM", head_dim=6), UNKNOWN),
    Refusal(hf("biogpt", "BioGptForCausalLM"), UNKNOWN),
    Refusal(hf("diffllama", "DiffLlamaForCausalLM"), UNKNOWN),
    Refusal(hf("modernbert", "ModernBertForMaskedLM", kind="encoder"), UNKNOWN),
    Refusal(
        hf(
            "distilbert",
            "DistilBertForMaskedLM",
            kind="encoder",
            tiny=False,
            dim=24,
            hidden_dim=40,
            n_layers=3,
            n_heads=4,
        ),
        UNKNOWN,
    ),
    Refusal(hf("albert", "AlbertForMaskedLM", kind="encoder", embedding_size=16), UNKNOWN),
    Refusal(hf("electra", "ElectraForMaskedLM", kind="encoder", embedding_size=24), UNKNOWN),
    Refusal(
        hf("bart-asymmetric", "BartForConditionalGeneration", **{**BART, "decoder_layers": 2}),
        "only supports symmetric configs",
    ),
    Refusal(
        hf("falcon-40b", "FalconForCausalLM", **_GROUPED_FALCON, multi_query=True),
        "split_with_sizes",
    ),
    Refusal(
        hf("falcon-40b-grouped", "FalconForCausalLM", **_GROUPED_FALCON, multi_query=False),
        "grouped query, key and value are split as if they were not",
        wrong=True,
    ),
    Refusal(
        hf(
            "granite-moe-hybrid-no-positions",
            "GraniteMoeHybridForCausalLM",
            **HALF_LINEAR,
            **SSM,
            **LOCAL,
            position_embedding_type=None,
            shared_intermediate_size=16,
        ),
        "Original component not set",
    ),
    Refusal(
        hf("opt-post-norm", "OPTForCausalLM", **OPT, do_layer_norm_before=False),
        "Original component not set",
    ),
]

REFUSED: dict[str, Refusal] = {refusal.entry.name: refusal for refusal in _REFUSALS}

NOT_TEXT = (
    "ASTForAudioClassification",
    "DeiTForImageClassification",
    "DeiTModel",
    "HubertForCTC",
    "HubertModel",
    "ViTForImageClassification",
    "ViTModel",
    "Wav2Vec2ForCTC",
    "Wav2Vec2ForPreTraining",
    "Wav2Vec2Model",
)
"""Supported by TransformerLens, but fed with sound or pictures instead of tokens."""

REMOTE_CODE = (
    "BD3LM",
    "BaiChuanForCausalLM",
    "BaichuanForCausalLM",
    "DreamModel",
    "ExaoneForCausalLM",
    "GiddForDiffusionLM",
    "HyenaDNAForCausalLM",
    "InternLM2ForCausalLM",
    "LLaDA2MoeModelLM",
    "LLaDAModelLM",
    "OpenELMForCausalLM",
    "OuroForCausalLM",
    "QwenForCausalLM",
    "RWKV7ForCausalLM",
    "RavenForCausalLM",
)
"""Supported by TransformerLens, but their code is not in transformers: not measured here."""
