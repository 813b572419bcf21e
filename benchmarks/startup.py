"""Where the seconds of a whole command go: `interp run --prompts her`, `compare`, `report`.

    python -m benchmarks.startup                   # a section of docs/benchmarks.md
    python -m benchmarks.startup --model FOLDER    # a model of your own

By default on a model of 30 blocks, width 576 and vocabulary 49,152 with random weights, saved to a
folder and loaded from it. Each command runs in a process of its own whose Python code is compiled
already, as in an installation.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

SHAPE = {"layers": 30, "width": 576, "inner": 1536, "heads": 9, "groups": 3, "vocab": 49_152}
IMPORT, LIBRARIES, WEIGHTS = "import interp, torch, pandas", "import transformers", "load weights"
VERIFY, PROMPTS, MODEL = "verify the model", "read prompts", "passes: the model"
ROWS, TABLES, REPORT, REST = "rows, index, provenance", "write tables", "write report", "the rest"
LOADING = (LIBRARIES, WEIGHTS)
PHASES = {
    "interp.models.load:load_model": WEIGHTS,
    "interp.models.probe:inspect": VERIFY,
    "interp.models.for_model:prompts_of": PROMPTS,
    "interp.runs.before_loading:opened": PROMPTS,
    "interp.runs.run:labelled": PROMPTS,
    "interp.runs.feed:Feeder.feed": MODEL,
    "interp.runs.collect:Collector.take": ROWS,
    "interp.runs.collect:Collector.results": ROWS,
    "interp.runs.collect:token_index": ROWS,
    "interp.runs.provenance:provenance_of": ROWS,
    "interp.runs.results:Results.save": TABLES,
    "interp.runs.results:Results.report": REPORT,
}
LIMITS = {
    "import to first pass, beyond loading": ("s", 5.0),
    "writing tables, share of the whole": ("%", 10.0),
    "report, share of the whole": ("%", 10.0),
    "interp compare": ("s", 5.0),
    "interp report": ("s", 5.0),
}


# ---- in the measured process -----------------------------------------------------------------


class Clock:
    """Processor and wall time by phase, each without the phases inside it."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {}
        self.marks: dict[str, float] = {}
        self._inner: list[list[float]] = [[0.0, 0.0]]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time of the block, added to a phase."""
        self.marks.setdefault(name, time.process_time())
        began = time.process_time(), time.perf_counter()
        self._inner.append([0.0, 0.0])
        try:
            yield
        finally:
            whole = time.process_time() - began[0], time.perf_counter() - began[1]
            inner, spent = self._inner.pop(), self.spent.setdefault(name, [0.0, 0.0])
            for i in (0, 1):
                spent[i] += whole[i] - inner[i]
                self._inner[-1][i] += whole[i]

    def timed(self, function: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        """The function, with its time added to the phase that `name` gives for its arguments."""

        @wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            with self.phase(name(*args, **options)):
                return function(*args, **options)

        return call


def timed_command(arguments: Sequence[str], counted: bool) -> dict[str, Any]:
    """Run a command of `interp` in this process, and return its times.

    `counted`: by phase, with everything imported beforehand, in the order of a first use.
    """
    began, clock = time.perf_counter(), Clock()
    if counted:
        with clock.phase(IMPORT):
            for name in ("interp.cli", *(path.partition(":")[0] for path in PHASES)):
                import_module(name)
        with clock.phase(LIBRARIES):
            for name in ("transformers.modeling_utils", "transformer_lens.model_bridge"):
                import_module(name)
        _watch(clock)
    from interp.cli import main

    sys.argv = ["interp", *arguments]
    try:
        main()
    except SystemExit as ended:  # which is how a command returns
        if ended.code:
            raise
    return {
        "processor": time.process_time(),
        "seconds": time.perf_counter() - began,
        "phases": clock.spent,
        "first_pass": clock.marks.get(MODEL),
    }


def _watch(clock: Clock) -> None:
    """Puts the clock around every function of `PHASES`, and around every call of an analysis."""
    from interp.models.observer import Observer

    for path, phase in PHASES.items():
        module, _, name = path.partition(":")
        *owners, last = name.split(".")
        owner: Any = import_module(module)
        for part in owners:
            owner = getattr(owner, part)
        before = getattr(owner, last)
        after = clock.timed(before, lambda *_, phase=phase, **__: phase)
        # Also under the names by which other modules of the library imported it.
        for place in [owner, *(m for n, m in sys.modules.items() if n.startswith("interp."))]:
            if getattr(place, last, None) is before:
                setattr(place, last, after)
    observed = Observer._observe
    Observer._observe = clock.timed(observed, lambda _, __, call: f"passes: {call.analysis.name()}")


# ---- around it -------------------------------------------------------------------------------


def measure(model: str | None = None, threads: int = 1) -> dict[str, Any]:
    """Times of the three commands: by phase for the first, as a whole for the other two."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        environment = _environment(place, threads)
        folder_of_model = model or str(random_model(place / "model"))
        out = place / "out"
        # Python compiles what it has not seen, which an installation has done already.
        _run(["demo", "--out", str(place / "demo"), "--quiet"], environment, counted=True)
        asked = [
            "run",
            "--model",
            folder_of_model,
            "--prompts",
            "her",
            "--target",
            "her",
            "--quiet",
        ]
        found = {"run": _run([*asked, "--out", str(out)], environment, counted=True)}
        for command in (["compare", str(out)], ["report", str(out), "--overwrite"]):
            found[command[0]] = _run(command, environment, counted=False)
    return found | {"threads": threads, "model": model and Path(model).name}


def _environment(folder: Path, threads: int) -> dict[str, str]:
    own = {
        "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
    }
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | own


def _run(arguments: Sequence[str], environment: dict[str, str], *, counted: bool) -> Any:
    job = json.dumps({"arguments": list(arguments), "counted": counted})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.startup", "--job", job],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode:
        raise SystemExit(f"interp {' '.join(arguments)} failed\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def random_model(folder: Path, shape: Mapping[str, int] = SHAPE) -> Path:
    """A Llama model with random weights and a tokenizer trained on the built-in prompts."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from interp.prompts.sources import read

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape["vocab"],
        hidden_size=shape["width"],
        intermediate_size=shape["inner"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["groups"],
        max_position_embeddings=shape.get("positions", 2048),
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=shape["vocab"], special_tokens=["<s>"], initial_alphabet=alphabet,
        show_progress=False,
    )  # fmt: skip
    texts = read("her", text_column="text", language="english").texts
    backend.train_from_iterator(texts, trainer)
    special = dict.fromkeys(("bos_token", "eos_token", "pad_token"), "<s>")
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)
    return folder


# ---- what it says ----------------------------------------------------------------------------


def values(found: Mapping[str, Any]) -> dict[str, float]:
    """The measured value of every limit: processor seconds, or per cent of them."""
    run = found["run"]
    phases = {name: spent[0] for name, spent in run["phases"].items()}
    loading = sum(phases[name] for name in LOADING)
    shares = [100 * phases[name] / run["processor"] for name in (TABLES, REPORT)]
    others = [found[name]["processor"] for name in ("compare", "report")]
    return dict(zip(LIMITS, [run["first_pass"] - loading, *shares, *others], strict=True))


def section(found: Mapping[str, Any]) -> str:
    """The section of docs/benchmarks.md: a table of targets and one of phases."""
    rows = ["| target | limit | measured | |", "|---|---|---|---|"]
    for name, value in values(found).items():
        unit, limit = LIMITS[name]
        verdict = "met" if value <= limit else "**missed**"
        rows.append(f"| {name} | ≤ {limit:g} {unit} | {value:.1f} {unit} | {verdict} |")
    run = found["run"]
    table = ["| phase | processor seconds | seconds | share |", "|---|---|---|---|"]
    spent = dict(run["phases"])
    spent[REST] = [run[k] - sum(s[i] for s in spent.values()) for i, k in enumerate(_CLOCKS)]
    for name, (processor, seconds) in [*spent.items(), ("whole", [run[k] for k in _CLOCKS])]:
        share = f"{processor / run['processor']:.0%}"
        table.append(f"| {name} | {processor:.2f} | {seconds:.2f} | {share} |")
    what = found["model"] or (
        f"a model of {SHAPE['layers']} blocks, width {SHAPE['width']} and vocabulary "
        f"{SHAPE['vocab']:,}, random weights"
    )
    return "\n".join(
        [
            "## From start to finish",
            "",
            f"`interp run --prompts her` on {what};",
            "five analyses, tables and report included, in a process of its own with "
            f"{found['threads']} thread(s).",
            "Limits are of processor time, which other programs on the machine disturb least.",
            "",
            *rows,
            "",
            *table,
        ]
    )


_CLOCKS = ("processor", "seconds")


def main() -> None:
    """Print the section, or answer a job in the measured process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder of a model; random weights unless given")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print the numbers")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.job:
        job = json.loads(asked.job)
        print("\n" + json.dumps(timed_command(job["arguments"], job["counted"])))
        return
    found = measure(asked.model, asked.threads)
    print(json.dumps(found, indent=1) if asked.json else section(found))


if __name__ == "__main__":
    main()
