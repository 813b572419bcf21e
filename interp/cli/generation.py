"""Options of `interp run` that let the model continue the prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from interp.errors import BadInput

PANEL = "Generation (--generate)"

Generate = Annotated[
    int | None,
    typer.Option(
        "--generate",
        help="Let the model continue each prompt, or document of a corpus, by up to so many "
        "tokens, and measure the whole texts.",
        rich_help_panel=PANEL,
    ),
]
Sample = Annotated[
    bool,
    typer.Option(
        "--sample", help="Draw each token; else the likeliest is taken.", rich_help_panel=PANEL
    ),
]
Samples = Annotated[
    int, typer.Option(help="Texts per prompt, with --sample.", rich_help_panel=PANEL)
]
Temperature = Annotated[
    float, typer.Option(help="Divides the logits before a draw.", rich_help_panel=PANEL)
]
TopK = Annotated[
    int | None,
    typer.Option(help="Draw among the so many likeliest tokens only.", rich_help_panel=PANEL),
]
TopP = Annotated[
    float | None,
    typer.Option(
        help="Draw among the likeliest tokens whose probabilities sum to this.",
        rich_help_panel=PANEL,
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of the draws.", rich_help_panel=PANEL)]
UNSET: dict[str, Any] = {
    "do_sample": False, "samples": 1, "temperature": 1.0, "top_k": None, "top_p": None, "seed": 0,
}  # fmt: skip
FLAGS = {"do_sample": "--sample"}


def asked(new: int | None, **options: Any) -> dict[str, Any] | None:
    """The options of a generation for `interp.generate`, None without one.

    Raises `BadInput` for options of a generation that is not asked for.
    """
    given = [name for name, value in options.items() if value != UNSET[name]]
    if new is None and given:
        flags = (FLAGS.get(name, f"--{name.replace('_', '-')}") for name in given)
        raise BadInput(f"{', '.join(flags)}: only with --generate")
    return None if new is None else {"max_new_tokens": new, **options}


def of_corpus(written: Mapping[str, Any] | None) -> dict[str, Any]:
    """The options that `asked` gives, as `interp.run_corpus` takes them; none without any."""
    if written is None:
        return {}
    return {"generate" if name == "max_new_tokens" else name: x for name, x in written.items()}
