"""The compiled lens against float64, against its form in PyTorch, and under threads and forks."""

import math
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr

from interp.models.lens import blocks, loops
from interp.models.lens.head import Head, LensStatistics
from interp.models.lens.plain import PlainLens
from interp.models.lens.statistics import lens_statistics

NAMES = LensStatistics.names()
RNG = np.random.default_rng(5)
LONG = 1800  # seconds that are over only where something waits for ever


@pytest.fixture(autouse=True, scope="module")
def prepared():
    """The loops as every run reads them: compiled here, they add in another order."""
    assert blocks.loops() is loops


def given_logits(z, targets=None, bias=None, **options):
    """The lens on logits `[state, row, vocab]` themselves; the last state is the model's own."""
    z = torch.as_tensor(z, dtype=torch.float32)
    targets = torch.zeros(z.shape[1], dtype=torch.int64) if targets is None else targets
    head = Head(torch.eye(z.shape[-1]), bias)
    stats = lens_statistics(z[:-1], head, z[-1], torch.as_tensor(targets), **options)
    return arrays(stats)


def arrays(stats):
    return {name: getattr(stats, name).double().numpy() for name in NAMES}


def expected(z, targets):
    """Every statistic in float64, by the definitions."""
    z = np.asarray(z, np.float64)
    log_p = log_softmax(z, axis=-1)
    p, q = np.exp(log_p), np.exp(log_p[-1])
    at = np.broadcast_to(np.asarray(targets)[None, :, None], (*z.shape[:2], 1))
    chosen = np.take_along_axis(z, at, -1)
    with np.errstate(invalid="ignore"):
        entropy = -np.where(p > 0, p * log_p, 0).sum(-1)
    return {
        "log_prob": np.take_along_axis(log_p, at, -1)[..., 0],
        "rank": (z > chosen).sum(-1),
        "entropy": entropy,
        "kl_to_final": rel_entr(q, p).sum(-1),
        "js_to_final": (rel_entr(p, (p + q) / 2) + rel_entr(q, (p + q) / 2)).sum(-1) / 2,
        "tv_to_final": np.abs(p - q).sum(-1) / 2,
        "top_token": p.argmax(-1),
        "top_prob": p.max(-1),
        "agrees": p.argmax(-1) == p.argmax(-1)[-1],
    }


def close(got, wanted, tolerance=1e-6, **looser):
    for name, values in wanted.items():
        allowed = looser.get(name, tolerance)
        np.testing.assert_allclose(got[name], values, rtol=allowed, atol=allowed, err_msg=name)


def test_exp_and_log_against_numpy():
    x = np.linspace(-87, 0, 20_001).astype(np.float32)
    got = np.array([loops.exp(v) for v in x], np.float64)
    assert np.abs(got / np.exp(x.astype(np.float64)) - 1).max() < 6e-6
    # In a sum of e^x what counts is the error relative to the largest, 1.
    assert np.abs(got - np.exp(x.astype(np.float64))).max() < 1.5e-7
    y = np.exp(np.linspace(-87, 0.5, 20_001)).astype(np.float32)
    got, true = np.array([loops.log(v) for v in y], np.float64), np.log(y.astype(np.float64))
    assert np.abs(got - true).max() < 5e-6
    assert np.abs(got[true != 0] / true[true != 0] - 1).max() < 2e-7
    assert loops.exp(np.float32(-np.inf)) == loops.exp(np.float32(-1e30)) == 0
    assert math.isnan(loops.exp(np.float32(np.nan)))


@pytest.mark.parametrize("scale", [0.01, 1, 30, 100])
@pytest.mark.parametrize("vocab", [2, 300, 5000])
def test_every_statistic_of_logits_up_to_a_hundred(scale, vocab):
    z = RNG.uniform(-scale, scale, (3, 4, vocab)).astype(np.float32)
    z[1] = z[2] + np.float32(1e-3) * z[1]  # close to the final distribution
    targets = RNG.integers(0, vocab, 4)
    head = Head(torch.eye(vocab)) if vocab <= 300 else None
    got = given_logits(z, targets) if head else through_factors(z, targets)
    # KL is a sum of differences of logits, each of them rounded to float32.
    close(got, expected(z, targets), kl_to_final=2e-7 * max(scale, 10))


def through_factors(z, targets):
    """The lens on given logits of many tokens, without a unit matrix as large as their square."""
    states, rows, vocab = z.shape
    weight = torch.from_numpy(z[:-1].reshape(-1, vocab).T.copy())
    h = torch.eye((states - 1) * rows).view(states - 1, rows, -1)
    head = Head(weight)
    stats = lens_statistics(h, head, torch.from_numpy(z[-1]), torch.from_numpy(targets))
    return arrays(stats)


def test_log_sum_exp_of_a_large_vocabulary():
    z = np.float32(100) * RNG.uniform(-1, 1, (2, 3, 262_144)).astype(np.float32)
    z[0, 1] = RNG.standard_normal(262_144)
    targets = np.array([5, 262_143, 100_000])
    close(through_factors(z, targets), expected(z, targets), kl_to_final=2e-5)


def test_forbidden_tokens_in_any_block(monkeypatch):
    monkeypatch.setattr(blocks, "COLUMNS", 16)
    z = RNG.standard_normal((3, 5, 70)).astype(np.float32)
    z[:, :, :20], z[:, :, 64:] = -np.inf, -np.inf
    targets = np.array([3, 30, 69, 40, 50])
    got = through_factors(np.nan_to_num(z, neginf=-1e38), targets)
    close(got, expected(z, targets))
    assert np.isneginf(got["log_prob"][:, [0, 2]]).all()
    bias = torch.zeros(70)
    bias[:20], bias[64:] = -torch.inf, -torch.inf
    free = RNG.standard_normal((3, 5, 70)).astype(np.float32)
    logits = free[-1] + bias.numpy()
    stats = lens_statistics(
        torch.from_numpy(free[:-1]), Head(torch.eye(70), bias), torch.from_numpy(logits),
        torch.from_numpy(targets),
    )  # fmt: skip
    close(arrays(stats), expected(free + bias.numpy(), targets))


def test_kl_is_infinite_where_a_state_forbids_what_the_model_says():
    bias = torch.tensor([-torch.inf, 0.0, 0.0])
    final = torch.tensor([[1.0, 0.0, 0.0]])
    stats = lens_statistics(final[None], Head(torch.zeros(3, 3), bias), final, torch.tensor([0]))
    assert stats.kl_to_final[0].item() == math.inf
    assert 0 < stats.js_to_final[0].item() <= math.log(2)


def test_soft_cap_and_half_precision_weights():
    def cap(z):
        return 5 * torch.tanh(z / 5)

    weight = torch.from_numpy(RNG.standard_normal((200, 8))).bfloat16()
    bias = torch.from_numpy(RNG.standard_normal(200)).bfloat16()
    h = torch.from_numpy(4 * RNG.standard_normal((3, 6, 8))).bfloat16()
    targets = RNG.integers(0, 200, 6)
    z = (cap(h.double() @ weight.double().T + bias.double())).numpy()
    head = Head(weight, bias, cap)
    stats = lens_statistics(
        h[:-1], head, torch.from_numpy(z[-1]).float(), torch.from_numpy(targets)
    )
    assert stats.entropy.dtype == torch.float32
    close(arrays(stats), expected(z, targets), 3e-6)


def test_ties_within_and_across_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "COLUMNS", 3)
    row = [3.0, 1.0, 3.0, 1.0, 3.0, 0.0, 1.0]
    z = np.tile(np.float32(row), (2, 7, 1))
    got = given_logits(z, np.arange(7))
    assert got["rank"].tolist() == [[0, 3, 0, 3, 0, 6, 3]] * 2
    assert (got["top_token"] == 0).all()


@pytest.mark.parametrize("form", ["compiled", "PyTorch"])
@pytest.mark.parametrize("divergences", [True, False])
@pytest.mark.parametrize("columns", [7, 1000])
@pytest.mark.parametrize("k", [1, 5, 60])
def test_the_best_tokens_are_those_of_a_sort(monkeypatch, form, divergences, columns, k):
    monkeypatch.setattr("interp.models.lens.blocks.COLUMNS", columns)
    monkeypatch.setattr("interp.models.lens.blocks.ROWS", 12)  # several chunks, some without any
    if form == "PyTorch":
        monkeypatch.setattr("interp.models.lens.statistics.loops", lambda: None)
    z = RNG.permuted(np.arange(3.0 * 20 * 50).reshape(3, 20, 50), axis=-1).astype(np.float32)
    rows = np.arange(20) % 5 == 2
    head, targets = Head(torch.eye(50)), torch.zeros(20, dtype=torch.int64)
    stats = lens_statistics(
        torch.from_numpy(z[:-1]),
        head,
        torch.from_numpy(z[-1]),
        targets,
        divergences=divergences,
        best=k,
        best_rows=torch.from_numpy(rows),
    )
    order = np.argsort(-z[:, rows], axis=-1)[..., :k]
    assert (stats.best.tokens.numpy() == order).all()
    assert (stats.best.logits.numpy() == np.take_along_axis(z[:, rows], order, -1)).all()
    assert (stats.best.tokens[..., 0] == stats.top_token[:, torch.from_numpy(rows)]).all()


@pytest.mark.parametrize("form", ["compiled", "PyTorch"])
@pytest.mark.parametrize("states", [0, 1, 3])
@pytest.mark.parametrize("columns", [7, 1000])
def test_the_last_state_is_read_for_the_rows_to_be_checked(monkeypatch, form, states, columns):
    monkeypatch.setattr("interp.models.lens.blocks.COLUMNS", columns)
    monkeypatch.setattr("interp.models.lens.blocks.ROWS", 12)  # several chunks, some without any
    if form == "PyTorch":
        monkeypatch.setattr("interp.models.lens.statistics.loops", lambda: None)
    h, weight = RNG.standard_normal((states + 1, 20, 4)), RNG.standard_normal((50, 4))
    bias, rows = RNG.standard_normal(50), np.arange(20) % 9 < 2
    logits = h[-1] @ weight.T + bias
    logits[rows, np.arange(50)[-rows.sum() :]] += 0.1 * np.arange(rows.sum())
    logits[~rows] += 1  # not looked at
    as_float = [torch.from_numpy(x).float() for x in (h, weight, bias, logits)]
    stats = lens_statistics(
        as_float[0][:-1],
        Head(*as_float[1:3]),
        as_float[3],
        torch.zeros(20, dtype=torch.int64),
        end=as_float[0][-1],
        checked=torch.from_numpy(rows),
    )
    wanted = 0.1 * np.arange(rows.sum()) / np.abs(logits[rows]).max(-1)
    np.testing.assert_allclose(stats.end_error.numpy(), wanted, atol=1e-6)
    plain = lens_statistics(
        as_float[0][:-1], Head(*as_float[1:3]), as_float[3], torch.zeros(20).long()
    )
    assert plain.end_error is None
    for name in NAMES:
        np.testing.assert_allclose(
            getattr(stats, name), getattr(plain, name), rtol=1e-5, atol=1e-6, err_msg=name
        )


def test_nan_in_one_block_of_the_vocabulary_is_no_equality(monkeypatch):
    monkeypatch.setattr(blocks, "COLUMNS", 4)
    h, weight = torch.ones(2, 3, 2), torch.ones(12, 2)
    logits = h[-1] @ weight.T
    logits[1, 5] = torch.nan
    stats = lens_statistics(
        h[:-1], Head(weight), logits, torch.arange(3), end=h[-1], checked=torch.ones(3).bool()
    )
    assert stats.end_error.isnan().tolist() == [False, True, False]


def test_no_best_tokens_are_kept_unless_they_are_wanted():
    z = torch.from_numpy(RNG.standard_normal((2, 4, 9)).astype(np.float32))
    nobody = torch.zeros(4, dtype=torch.bool)
    targets, head = torch.zeros(4, dtype=torch.int64), Head(torch.eye(9))
    assert lens_statistics(z[:-1], head, z[-1], targets).best is None
    assert lens_statistics(z[:-1], head, z[-1], targets, best=3, best_rows=nobody).best is None
    every = lens_statistics(z[:-1], head, z[-1], targets, best=3).best
    assert every.tokens.shape == (2, 4, 3)


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf])
@pytest.mark.parametrize("at", [0, 9])
def test_a_row_with_nan_is_nan_and_no_other(monkeypatch, bad, at):
    monkeypatch.setattr(blocks, "COLUMNS", 4)
    z = RNG.standard_normal((2, 3, 12)).astype(np.float32)
    clean = through_factors(z, np.arange(3))
    weight = torch.from_numpy(z[0].T.copy())
    broken = z[-1].copy()
    broken[1, at] = bad
    stats = lens_statistics(
        torch.eye(3)[None], Head(weight), torch.from_numpy(broken), torch.arange(3)
    )
    got = arrays(stats)
    for name in ("log_prob", "entropy", "top_prob"):
        assert np.isnan(got[name][-1, 1]), name
    for name in ("kl_to_final", "js_to_final", "tv_to_final"):
        assert np.isnan(got[name][0, 1]), name
    for name in set(NAMES) - {"agrees"}:
        np.testing.assert_array_equal(got[name][:, [0, 2]], clean[name][:, [0, 2]], err_msg=name)


@pytest.mark.parametrize("columns", [1, 3, 1000])
@pytest.mark.parametrize(("rows", "part"), [(1, 1), (4, 100), (100, 3), (100, 7), (100, 100)])
@pytest.mark.parametrize("threads", [1, 3])
def test_blocks_parts_and_threads_of_any_size(monkeypatch, threads, rows, part, columns):
    z = RNG.standard_normal((5, 9, 40)).astype(np.float32)
    targets = RNG.integers(0, 40, 9)
    for name, value in (("ROWS", rows), ("PART", part), ("COLUMNS", columns)):
        monkeypatch.setattr(blocks, name, value)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        close(given_logits(z, targets), expected(z, targets))
    finally:
        torch.set_num_threads(before)


@settings(max_examples=40, deadline=None)
@given(
    states=st.integers(0, 4),
    rows=st.integers(0, 6),
    vocab=st.integers(1, 60),
    scale=st.sampled_from([0.1, 3.0, 50.0]),
    seed=st.integers(0, 99),
    divergences=st.booleans(),
)
def test_compiled_form_equals_the_one_in_pytorch(states, rows, vocab, scale, seed, divergences):
    rng = np.random.default_rng(seed)
    h = torch.from_numpy(rng.standard_normal((states, rows, 5))).float()
    head = Head(torch.from_numpy(scale * rng.standard_normal((vocab, 5))).float())
    logits = torch.from_numpy(scale * rng.standard_normal((rows, vocab))).float()
    targets = torch.from_numpy(rng.integers(0, vocab, rows))
    compiled = blocks.BlockLens(head, states, rows, loops, divergences=divergences)
    plain = PlainLens(head, divergences=divergences, fuse=False)
    got, wanted = (lens.statistics(h, logits, targets) for lens in (compiled, plain))
    assert len(got) == len(wanted) == (2 if states else 1)
    for ours, theirs in zip(got, wanted, strict=True):
        for name in theirs:
            allowed = 2e-6 * max(scale, 5)
            np.testing.assert_allclose(
                ours[name], theirs[name], rtol=allowed, atol=allowed, err_msg=name
            )


def test_a_row_that_forbids_everything_has_no_distribution():
    z = RNG.standard_normal((2, 3, 12)).astype(np.float32)
    final = z[-1].copy()
    final[1] = -np.inf
    weight = torch.from_numpy(z[0].T.copy())
    stats = lens_statistics(
        torch.eye(3)[None], Head(weight), torch.from_numpy(final), torch.arange(3)
    )
    got, clean = arrays(stats), through_factors(z, np.arange(3))
    for name in ("log_prob", "entropy", "top_prob"):
        assert np.isnan(got[name][-1, 1]), name
        np.testing.assert_array_equal(got[name][:, [0, 2]], clean[name][:, [0, 2]])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_weights_that_require_gradients(mode):
    weight = torch.nn.Parameter(torch.from_numpy(RNG.standard_normal((30, 4))).float())
    h = torch.from_numpy(RNG.standard_normal((3, 5, 4))).float()
    with mode():
        stats = lens_statistics(h[:-1], Head(weight), h[-1] @ weight.T, torch.arange(5))
    z = (h.double() @ weight.detach().double().T).numpy()
    close(arrays(stats), expected(z, np.arange(5)), 2e-6)


def test_kept_memory_is_used_again_and_let_go():
    z = RNG.standard_normal((4, 9, 40)).astype(np.float32)
    first = given_logits(z)
    with blocks.kept_memory():
        for rows in (9, 2, 9):
            close(given_logits(z[:, :rows]), {n: v[:, :rows] for n, v in first.items()}, 0)
        store = blocks._memory(4, torch.zeros(0))
        assert store.data_ptr() == blocks._memory(4, torch.zeros(0)).data_ptr()
    assert blocks._KEPT.get() is None


def test_kept_memory_that_is_left_elsewhere_is_let_go_all_the_same():
    first, second = copy_context(), copy_context()  # two cells of a notebook
    kept = blocks.kept_memory()
    first.run(kept.__enter__)
    assert first.run(blocks._memory, 4, torch.zeros(0)) is not None
    held = first[blocks._KEPT]
    assert len(held) == 1
    second.run(kept.__exit__, None, None, None)
    assert held == {}


# ---- threads, processes, machines ------------------------------------------------------------

LENS = """
import os, sys, numpy as np, torch, warnings
from interp.models.lens import blocks
from interp.models.lens.head import Head
from interp.models.lens.statistics import lens_statistics

def lens(seed=0):
    torch.manual_seed(seed)
    h, head = torch.randn(3, 40, 16), Head(torch.randn(5000, 16))
    return lens_statistics(h[:-1], head, head.logits(h[-1]), torch.arange(40)).entropy.numpy()
"""


def python(body, **environment):
    """What a process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", LENS + textwrap.dedent(body)],
        capture_output=True,
        text=True,
        timeout=LONG,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[-2], done.stderr


def test_two_python_threads_at_once():
    z = [RNG.standard_normal((4, 60, 300)).astype(np.float32) for _ in range(4)]
    alone = [given_logits(one) for one in z]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(given_logits, z * 3))
    finally:
        torch.set_num_threads(before)
    for i, got in enumerate(together):
        close(got, alone[i % 4])


def test_after_a_fork_in_a_spawned_process_and_with_one_thread():
    said, _ = python(
        """
        if __name__ == "__main__":
            torch.set_num_threads(2)
            mine = lens()
            reading, writing = os.pipe()
            child = os.fork()
            if not child:
                torch.set_num_threads(1)  # what every worker that PyTorch forks does
                same = np.allclose(lens(), mine, atol=1e-6)
                os.write(writing, b"same" if same else b"other")
                os._exit(0)
            os.waitpid(child, 0)
            forked = os.read(reading, 9).decode()
            torch.set_num_threads(1)
            print(forked, np.allclose(lens(), mine, atol=1e-6))
        """
    )
    assert said == "same True"


def test_compiled_code_is_kept_for_later_processes(tmp_path):
    body = """
        lens()
        from interp.models.lens import loops
        print(sum(loops.add_up.stats.cache_hits.values()), len(loops.add_up.overloads))
    """
    kept = {"NUMBA_CACHE_DIR": str(tmp_path)}
    assert python(body, **kept)[0] == "1 1", "compiled apart, and read from its file here too"
    assert list(tmp_path.rglob("loops.add_up*.nbc"))
    (done,) = tmp_path.rglob("prepared-*")
    before = done.stat().st_mtime_ns
    assert python(body, **kept)[0] == "1 1"
    assert done.stat().st_mtime_ns == before, "nothing was compiled again"


def test_where_nothing_can_be_written_it_is_compiled_in_memory(monkeypatch):
    asked = []

    def nowhere(cache=False, **options):
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(loops, "njit", nowhere)
    assert loops.compiled(loops.SUM)(abs) is abs
    assert asked == [True, False]


def test_without_the_compiler_pytorch_does_the_same_and_says_so_once():
    body = """
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = [lens(), lens()]
        print(found[0].sum(), [str(w.message) for w in said if "numba" in str(w.message)])
    """
    usual: dict = {}
    exec(LENS, usual)  # noqa: S102
    off = python(body, NUMBA_DISABLE_JIT="1")[0].split(" ", 1)
    gone = python("sys.modules['numba'] = None\n" + textwrap.dedent(body))[0].split(" ", 1)
    for total, said in (off, gone):
        assert float(total) == pytest.approx(float(usual["lens"]().sum()), rel=1e-6)
        assert said.count("numba cannot be used here") == 1
    assert "(RuntimeError: NUMBA_DISABLE_JIT is set); the lens runs in PyTorch alone" in off[1]
    assert "(ModuleNotFoundError: import of numba halted" in gone[1]


def test_a_preparation_is_said_where_something_is_compiled(monkeypatch, tmp_path, capfd):
    place = SimpleNamespace(stats=SimpleNamespace(cache_path=str(tmp_path)))
    mine = SimpleNamespace(add_up=place, __file__=loops.__file__)
    monkeypatch.setattr(blocks, "_compiled_elsewhere", lambda: True)
    blocks._compile_apart(mine)
    assert capfd.readouterr().err == f"{blocks.PREPARING} …\n"
    blocks._compile_apart(mine)  # the files are there
    assert capfd.readouterr().err == ""
    place.stats.cache_path = None
    blocks._compile_apart(mine)
    assert capfd.readouterr().err == f"{blocks.EVERY_TIME} …\n"


def test_a_remark_is_for_those_who_watch(monkeypatch, capsys):
    import rich.console

    from interp._progress import remark

    remark("nobody")
    assert capsys.readouterr().err == ""
    remark("a log", unwatched=True)
    assert capsys.readouterr().err == "a log …\n"
    printed = []
    watched = SimpleNamespace(
        is_terminal=True, is_jupyter=False, print=lambda text, **_: printed.append(text)
    )
    monkeypatch.setattr(rich.console, "Console", lambda **_: watched)
    remark("preparing")
    remark("preparing again", unwatched=True)
    assert printed == ["preparing …", "preparing again …"]


def test_processes_that_start_together_compile_the_same_code(tmp_path):
    """Four processes with one empty cache: every bit of their statistics is the same."""
    script = """
import os, sys, torch
torch.set_num_threads(1)
from interp.models.lens.head import Head
from interp.models.lens.statistics import lens_statistics
torch.manual_seed(0)
head = Head(torch.randn(3000, 16))
h = torch.randn(3, 40, 16)
found = lens_statistics(h[:-1], head, head.logits(h[-1].clone()), torch.arange(40))
sys.stdout.write(found.log_prob.double().numpy().tobytes().hex())
"""
    environment = dict(os.environ, NUMBA_CACHE_DIR=str(tmp_path / "cache"), PYTHONPATH=str(ROOT))
    running = [
        subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    printed = {process.communicate(timeout=LONG)[0] for process in running}
    assert len(printed) == 1
    assert len(printed.pop()) > 100
