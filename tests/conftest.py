"""Shared models and switches of the tests."""

from __future__ import annotations

import os
from pathlib import Path

# Before any import of transformers: no test may reach for a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.pop("COLUMNS", None)  # what goes through a pipe has no width
if "PYTEST_XDIST_WORKER" in os.environ:  # the cores are busy with the other processes
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import random

import numpy as np
import pytest
import torch
from browser_help import DARK, NO_WEBGL, each_browser, launch
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"
FULL = os.environ.get("INTERP_FULL") == "1"

# The same examples on every machine, however slow it is; the long sweep draws others each time.
settings.register_profile(
    "here",
    deadline=None,
    derandomize=not FULL,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.load_profile("here")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long sweeps run only when asked for."""
    skip = pytest.mark.skip(reason="long sweep; set INTERP_FULL=1")
    for item in items:
        if "full" in item.keywords and not FULL:
            item.add_marker(skip)


STARTED: dict[tuple[str, str], dict] = {}
"""States of the files' own generators before their first test."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """The same draws for a test whichever ran before it, also from a generator of its file."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  what a library draws
    random.seed(0)
    for name, own in vars(getattr(item, "module", None) or object).items():
        if isinstance(own, np.random.Generator):
            started = STARTED.setdefault((item.path.name, name), own.bit_generator.state)
            own.bit_generator.state = started


@pytest.fixture(scope="session")
def gpt2():
    """A tiny random GPT-2 bridge, sequential blocks, learned positions."""
    return _inspected("gpt2")


@pytest.fixture(scope="session")
def llama():
    """A tiny random Llama bridge, rotary positions, grouped keys."""
    return _inspected("llama")


@pytest.fixture(scope="session")
def gpt2_tokenizer():
    """GPT-2's real tokenizer, where its files are at hand."""
    files = SHARED_DATA / "gpt2-tokenizer"
    if not files.is_dir():
        pytest.skip(f"no real GPT-2 vocabulary at {files}")
    from transformers import GPT2Tokenizer

    return GPT2Tokenizer.from_pretrained(str(files), pad_token="<|endoftext|>")  # noqa: S106


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request):
    """Both tiny bridges, one after the other, where a file has no `model` of its own."""
    return request.getfixturevalue(request.param)


def _inspected(name: str):
    """A model that is inspected already: a test that patches the library leaves it nothing else."""
    import interp

    model = _boot(name)
    interp.inspect(model)
    return model


def _boot(name: str):
    from zoo import ZOO
    from zoo.boot import boot

    torch.manual_seed(0)
    return boot(ZOO[name])


@pytest.fixture(scope="session")
def smollm2():
    """A real language model; skips visibly where `interp get` has not fetched it."""
    from real_models import fetched

    import interp

    fetched("smollm2")
    return interp.load_model("smollm2")


@pytest.fixture(scope="session")
def reference():
    """The same model by plain transformers, in float64."""
    from real_models import Reference, fetched

    return Reference(fetched("smollm2"))


@pytest.fixture(scope="session")
def english(smollm2):
    """Sentences as that model reads them."""
    from real_models import SENTENCES

    import interp

    bos = interp.inspect(smollm2).prepends_bos
    return interp.read_prompts(list(SENTENCES), smollm2.tokenizer, prepend_bos=bos)


@pytest.fixture(scope="session")
def plain(reference, english):
    """Plain passes over these sentences, by prompt number."""
    return [reference(ids) for ids in english.tokens]


@pytest.fixture(scope="session")
def real_results(smollm2, english):
    """One run over these sentences with the analyses that most tests read."""
    from real_models import MAIN

    import interp

    return interp.run(smollm2, english, list(MAIN), progress=False)


@pytest.fixture(scope="module")
def driver():
    """Playwright; it is ended with the file, because its loop of events would disturb others."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module", params=each_browser())
def browser(request, driver):
    """Each installed browser in turn; for tests marked by `browser_help.in_a_browser`."""
    running = launch(driver, request.param)
    yield running
    running.close()


@pytest.fixture(scope="module", params=each_browser())
def in_the_dark(request, driver):
    """Each browser in a dark system; a visit has to ask for `color_scheme="dark"` too."""
    running = launch(driver, request.param, **DARK[request.param])
    yield running
    running.close()


@pytest.fixture(scope="module", params=each_browser())
def without_webgl(request, driver):
    """Each installed browser in turn, with WebGL switched off."""
    running = launch(driver, request.param, **NO_WEBGL[request.param])
    yield running
    running.close()


@pytest.fixture(scope="module")
def hasty():
    """Write without waiting for the disk, for tests of what is written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("interp._files._sync", lambda path: None)
        yield


@pytest.fixture
def clean(gpt2, llama):
    """Assert after the test that the shared models carry no hook."""
    yield
    for model in (gpt2, llama):
        assert hooks_on(model) == []


def forgotten(model):
    """The model, of which nothing is known any more: it is inspected anew."""
    from interp.models.probe import KNOWN

    vars(model).pop(KNOWN, None)
    return model


def hooks_on(model) -> list[str]:
    """Every hook left on a bridge: hook points, and the wrapped model's own."""
    left = [name for name, point in model.hook_dict.items() if point.fwd_hooks or point.bwd_hooks]
    left += [n for n, p in model.hook_dict.items() if p._forward_hooks or p._backward_hooks]
    inner = model._driver.underlying_model
    left += ["wrapped model"] * (len(inner._forward_hooks) + len(inner._forward_pre_hooks))
    return left
