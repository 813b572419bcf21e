"""Every experiment as a command: on saved results, on a model, on words, on positions."""

from __future__ import annotations

import typer

from interp.cli.app import SeriesFolder, app
from interp.cli.made import Made, add

SAVED, MODEL = "On saved results", "On a model"
K = {"k": "-k"}

ON_RESULTS = (
    Made(
        "groups",
        "groups:by_group",
        options={"groups": "--only"},
        defaults={"value": "angle"},
        needs=("rotation",),
    ),
    Made("predict", "path_prediction:path_prediction", needs=("path_length", "next_token")),
    Made("curvature", "curvature:curvature_entropy", needs=("token_curvature", "next_token")),
    Made("growth", "growth:growth_rate", needs=("path_length",)),
    Made("steps", "generation_steps:generation_steps", options={"values": "--value"}),
    Made("depth", "depth:decision_depth", needs=("logit_lens",)),
    Made("heads", "heads:head_types", needs=("attention",)),
    Made("massive", "massive:massive_dimensions", needs=("massive_activations",)),
    Made("changes", "changes:change_points", folder=SeriesFolder),
    Made("members", "members:compare_members", folder=SeriesFolder),
    Made("rollout", "heads:rollout", needs=("attention",)),
)
ON_MODEL = (
    Made(
        "nearest",
        "nearest:nearest_tokens",
        ("vector",),
        K | {"of": "--matrix", "space": "--in", "by": "--similarity"},
        {"by": "cosine"},
    ),
    Made("spaces", "spaces:compare_spaces", ("a", "b"), K),
    Made("layers", "layers:compare_layers", ("a", "b"), K, models=("a", "b")),
    Made("states", "states:compare_states", ("a", "b")),
    Made("stability", "stability:space_stability", options=K),
    Made("drift", "drift:contextual_drift", ("word",)),
    Made("continuations", "continuations:continuation_divergence", ("a", "b")),
    Made("steer", "steer:steer", options={"targets": "--token"}),
    Made("cause", "cause:cause"),
    Made("leave-out", "massive:leave_out_dimensions"),
)
ON_WORDS = (
    Made("near", "word_questions:near", ("word",), K | {"by": "--similarity"}),
    Made("analogy", "word_questions:analogy", ("a", "b", "c"), K),
    Made("axis", "word_questions:axis", options={"positive": "--to", "negative": "--from"}),
    Made("cosines", "word_questions:cosines"),
    Made("graph", "word_questions:graph"),
    Made("map", "word_questions:picture"),
    Made("clusters", "word_questions:clusters"),
)
ON_POSITIONS = (
    Made("split", "score_split:split_input", ("prompt",), {"of": "--sum"}),
    Made("shift", "shift:shift_test", ("prompt",)),
)

ON_READOUTS = (Made("tuned-lens", "tuned_lens:fit_tuned_lens", options={"file": "--file"}),)

words = typer.Typer(no_args_is_help=True, help="The embedding space: words and their vectors.")
positions = typer.Typer(no_args_is_help=True, help="Token and position at the input of a model.")
fit = typer.Typer(no_args_is_help=True, help="Fit what reads the stream.")
app.add_typer(fit, name="fit", rich_help_panel=MODEL)
app.add_typer(words, name="words", rich_help_panel=MODEL)
app.add_typer(positions, name="positions", rich_help_panel=MODEL)

for group, commands, panel in (
    (app, ON_RESULTS, SAVED),
    (app, ON_MODEL, MODEL),
    (words, ON_WORDS, None),
    (positions, ON_POSITIONS, None),
    (fit, ON_READOUTS, None),
):
    for made in commands:
        add(group, made, panel)
