"""The live explorer: who is answered, what a prompt gives, and that nothing stays behind."""

from __future__ import annotations

import importlib.util
import json
import socket
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from explorer_help import Told, data_of, read

import interp
from interp import BadInput
from interp.errors import InterpError, Unsupported
from interp.runs.explorer.live.server import (
    LARGEST,
    Desk,
    Server,
    app_of,
    require_server,
)
from interp.runs.explorer.live.session import MOST_NEW, Asked, Session, Stopped

SERVES = all(importlib.util.find_spec(name) for name in ("starlette", "uvicorn", "httpx"))
needs_server = pytest.mark.skipif(not SERVES, reason="needs starlette, uvicorn and httpx")
NAMES = ["rotation", "path_length", "logit_lens", "attention", "trajectory"]
PROMPT = "Mary was tired, so John told her"
TOKEN, PORT = "a-token", 8123
HOST = f"127.0.0.1:{PORT}"
LONG = 600  # seconds that are over only where something waits for ever


@pytest.fixture(scope="module")
def model():
    return interp.load_model("demo-llama")


@pytest.fixture
def session(model):
    return Session(model, NAMES, prompt="Leo met her")


# ---- the session -------------------------------------------------------------------------------


def test_a_typed_prompt_has_the_numbers_of_a_run(session, model):
    told = Told(session.run(Asked(PROMPT)))
    both = interp.run(model, ["Leo met her", PROMPT], NAMES, progress=False)
    assert told.tokens["token"].tolist() == both.tokens["token"].tolist()
    for name in ("rotation.angle", "path_length.step", "logit_lens.entropy", "trajectory.outside"):
        analysis, value = name.split(".")
        frame = both[analysis].frame
        expected = frame.set_index(["prompt", "position", "layer"])[value].unstack()
        found = read(told.measure(name)["values"])
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-5, err_msg=name)
    assert told.payload["lens"]["prompts"] == [0, 1]
    assert [p["prompt"] for p in told.payload["attention"]["patterns"]] == [0, 1]


def test_all_prompts_share_one_basis(session, model):
    told = Told(session.run(Asked(PROMPT)))
    frame = interp.run(model, ["Leo met her", PROMPT], ["trajectory"], progress=False)
    frame = frame["trajectory"].frame.sort_values(["prompt", "position", "layer"])
    coords = read(told.payload["trajectory"]["coords"])
    expected = frame[["pc1", "pc2", "pc3"]].to_numpy().reshape(coords.shape)
    for axis in range(3):  # an axis has no sign of its own
        sign = np.sign((coords[..., axis] * expected[..., axis]).sum())
        np.testing.assert_allclose(coords[..., axis], sign * expected[..., axis], atol=1e-3)


def test_a_continuation_streams_in_and_is_what_generate_writes(session, model):
    lines: list[dict] = []
    told = Told(session.run(Asked(PROMPT, new_tokens=5), lines.append))
    results = interp.generate(model, [PROMPT], "norm", max_new_tokens=5, progress=False)
    expected = results.texts["text"].iloc[0]
    counts = [line["tokens"] for line in lines]
    assert counts == sorted(counts)
    assert len(counts) >= min(4, results.texts["new_tokens"].iloc[0])
    assert lines[-1]["text"] == expected
    assert all(expected.startswith(line["text"]) for line in lines)
    marks = read(told.payload["tokens"]["generated"])
    assert marks.sum() == results.texts["new_tokens"].iloc[0]
    assert told.tokens["token"].tolist()[-len(results.tokens) :] == results.tokens["token"].tolist()


def test_draws_are_those_of_their_seed(session, model):
    asked = Asked(PROMPT, new_tokens=6, sample=True, temperature=1.5, seed=3)
    first = Told(session.run(asked)).tokens["token"].tolist()[-6:]
    assert Told(session.run(asked)).tokens["token"].tolist()[-6:] == first
    results = interp.generate(
        model, [PROMPT], "norm", max_new_tokens=6, do_sample=True, temperature=1.5, seed=3,
        progress=False,
    )  # fmt: skip
    assert results.tokens["token"].tolist()[-6:] == first


def test_stopping_adds_nothing(session):
    stop = threading.Event()
    seen = []

    def tell(line):
        seen.append(line)
        stop.set()

    before = session.payload
    with pytest.raises(Stopped):
        session.run(Asked(PROMPT, new_tokens=50), tell, stop)
    assert len(seen) == 1
    assert session.payload is before
    assert session.run(Asked(PROMPT))["prompts"]["id"] == [0, 1]


def test_a_refused_prompt_adds_nothing(session):
    with pytest.raises(BadInput, match="context"):
        session.run(Asked("her " * 4000))
    with pytest.raises(BadInput, match="context"):
        session.run(Asked(PROMPT, new_tokens=MOST_NEW))
    assert session.run(Asked(PROMPT))["prompts"]["id"] == [0, 1]


def test_the_first_prompt_is_there_without_being_asked_for(model):
    told = Told(Session(model, ["rotation"]).payload)
    assert told.payload["prompts"]["id"] == [0]
    assert len(told.tokens) > 3
    assert told.payload["title"] == "Inside demo-llama"


def test_a_session_is_full_at_some_point(session, monkeypatch):
    monkeypatch.setattr("interp.runs.explorer.live.session.MOST_PROMPTS", 1)
    with pytest.raises(BadInput, match="1 prompts are on the page; start again for more"):
        session.run(Asked(PROMPT))


def test_a_model_without_a_tokenizer_is_refused(gpt2, monkeypatch):
    monkeypatch.setattr(gpt2, "tokenizer", None)
    with pytest.raises(BadInput, match="has no tokenizer, so it reads no typed prompts"):
        Session(gpt2, ["norm"])


def test_what_a_model_lacks_is_left_out_and_said(model, monkeypatch):
    wire = type(interp.inspect(model)).wire

    def without_attention(anatomy, analyses):
        if analyses[0].name() == "attention":
            raise Unsupported("no block has a pattern")
        return wire(anatomy, analyses)

    monkeypatch.setattr(type(interp.inspect(model)), "wire", without_attention)
    session = Session(model, ["rotation", "attention"])
    assert session.notes == ("not measured: no block has a pattern",)
    assert session.payload["attention"] is None
    with pytest.raises(Unsupported, match="no block has a pattern"):
        Session(model, ["attention"])


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "expected an object"),
        ({}, "expected an object"),
        ({"prompt": 5}, "expected an object"),
        ({"prompt": "  "}, "the prompt is empty"),
        ({"prompt": "a", "new_token": 3}, "unknown field 'new_token'; did you mean 'new_tokens'"),
        ({"prompt": "a", "new_tokens": True}, "new_tokens is True; expected int"),
        ({"prompt": "a", "new_tokens": -1}, "allowed is 0 to 4096"),
        ({"prompt": "a", "new_tokens": 2, "sample": 1}, "sample is 1; expected bool"),
        (
            {"prompt": "a", "new_tokens": 2, "sample": True, "temperature": 0},
            "temperature is 0; allowed is a number above 0",
        ),
        ({"prompt": "x" * 20_001}, "20,001 letters; at most 20,000"),
    ],
)
def test_requests_of_another_form_are_refused(document, message):
    with pytest.raises(BadInput, match=message):
        Asked.of(document)


def test_a_request_is_read_as_it_was_meant():
    asked = Asked.of({"prompt": "a", "new_tokens": 2, "sample": True, "top_k": 5, "top_p": None})
    how = asked.sampling()
    assert (how.max_new_tokens, how.do_sample, how.top_k, how.top_p) == (2, True, 5, None)
    assert not Asked.of({"prompt": "a", "new_tokens": 2, "temperature": 0.5}).sampling().do_sample


def test_without_the_extra_the_line_that_installs_it_is_named(monkeypatch):
    import builtins

    real = builtins.__import__

    def no_server(name, *rest, **more):
        if name in ("starlette", "uvicorn"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", no_server)
    with pytest.raises(InterpError, match=r"pip install 'interp-stream\[live\]'"):
        require_server()


# ---- who is answered ---------------------------------------------------------------------------


class Canned:
    """A session that answers at once, or when it is told to."""

    def __init__(self):
        self.payload = {"title": "t", "prompts": {"id": []}, "measures": [], "attention": None}
        self.payload |= {"lens": None, "trajectory": None}
        self.go, self.order = threading.Event(), []
        self.go.set()

    def run(self, asked, tell, stop):
        self.order.append(asked.prompt)
        if asked.prompt == "refused":
            raise Unsupported("it has no such thing")
        if asked.prompt == "broken":
            raise RuntimeError("out of memory\nand more")
        if asked.prompt == "endless":
            assert stop.wait(LONG), "nobody stopped it"
            raise Stopped
        assert self.go.wait(LONG)
        tell({"type": "text", "text": "x", "tokens": 1})
        return {**self.payload, "echo": asked.prompt}


@pytest.fixture
def canned():
    return Canned()


@pytest.fixture
def desk(canned):
    made = Desk(canned)
    yield made
    made.close()


@pytest.fixture
def client(desk):
    from starlette.testclient import TestClient

    with TestClient(app_of(desk, TOKEN, PORT), base_url=f"http://{HOST}") as made:
        yield made


def lines_of(answer) -> list[dict]:
    return [json.loads(line) for line in answer.text.splitlines()]


def post(client, document, **headers):
    return client.post("/run", json=document, headers={"x-interp-token": TOKEN, **headers})


@needs_server
def test_the_page_is_served_to_the_holder_of_the_token(client):
    answer = client.get("/", params={"token": TOKEN})
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "connect-src 'self'" in policy
    assert "unsafe-eval" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert data_of(answer.text)["live"] == {"url": "/", "token": TOKEN}


@needs_server
@pytest.mark.parametrize(
    ("address", "headers"),
    [
        ("/", {}),
        ("/?token=", {}),
        ("/?token=a-tokem", {}),
        ("/?token=ä", {}),
        ("/run", {"x-interp-token": "wrong"}),
        ("/nowhere", {}),
        (f"/?token={TOKEN}", {"host": f"evil.example:{PORT}"}),
        (f"/?token={TOKEN}", {"host": "127.0.0.1:1"}),
        (f"/?token={TOKEN}", {"origin": "https://evil.example"}),
        (f"/?token={TOKEN}", {"origin": "null"}),
        (f"/?token={TOKEN}", {"origin": f"https://{HOST}"}),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nobody_else_is_answered(client, canned, address, headers, method):
    answer = client.request(method, address, headers=headers, json={"prompt": "a"})
    assert answer.status_code == 403
    assert TOKEN not in answer.text
    assert canned.order == []


@needs_server
def test_websockets_are_closed(client):
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises(WebSocketDisconnect), client.websocket_connect(f"/?token={TOKEN}"):
        pass


@needs_server
def test_a_prompt_is_answered_line_by_line(client):
    answer = post(client, {"prompt": "a"}, origin=f"http://{HOST}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    lines = lines_of(answer)
    assert [line["type"] for line in lines] == ["queued", "started", "text", "payload"]
    assert lines[-1]["payload"]["echo"] == "a"
    assert lines[-1]["payload"]["live"] == {"url": "/", "token": TOKEN}


@needs_server
@pytest.mark.parametrize(
    ("prompt", "message"),
    [("refused", "it has no such thing"), ("broken", "RuntimeError: out of memory")],
)
def test_a_failure_is_a_line_and_not_the_end(client, prompt, message):
    assert lines_of(post(client, {"prompt": prompt}))[-1] == {"type": "error", "message": message}
    assert lines_of(post(client, {"prompt": "a"}))[-1]["type"] == "payload"


@needs_server
def test_requests_that_cannot_be_read_are_refused_with_the_reason(client):
    answer = post(client, {"prompt": ""})
    assert (answer.status_code, answer.json()) == (422, {"message": "the prompt is empty"})
    headers = {"x-interp-token": TOKEN}
    answer = client.post("/run", content=b"{", headers=headers)
    assert answer.status_code == 422
    assert answer.json()["message"].startswith("no JSON")
    answer = client.post("/run", content=b" " * (LARGEST + 1), headers=headers)
    assert answer.status_code == 413
    assert client.get("/run", headers=headers).status_code == 405


def until(condition) -> None:
    """Waits for what other threads bring about."""
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@needs_server
def test_prompts_are_run_one_after_the_other_and_a_full_queue_says_so(client, canned, desk):
    canned.go.clear()
    answers: list = []

    def ask(i: int) -> None:
        answers.append(lines_of(post(client, {"prompt": str(i)})))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(9)]
    for thread in threads:
        thread.start()
    until(lambda: desk.waiting == 9 and canned.order)
    assert len(canned.order) == 1, "one at a time"
    refused = post(client, {"prompt": "one too many"})
    canned.go.set()
    for thread in threads:
        thread.join(LONG)
    assert refused.status_code == 429
    assert "8 prompts wait already" in refused.json()["message"]
    assert sorted(lines[-1]["payload"]["echo"] for lines in answers) == [str(i) for i in range(9)]
    assert sorted(lines[0]["ahead"] for lines in answers) == list(range(9))


# ---- the server --------------------------------------------------------------------------------


@contextmanager
def served(canned):
    """A server that runs, and its thread, which ends with the block."""
    with Server(canned) as server:
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield server, thread
        finally:
            server.stop()
            thread.join(LONG)
        assert not thread.is_alive()


@pytest.fixture
def running(canned):
    with served(canned) as (server, _):
        yield server


@needs_server
def test_it_listens_on_the_loopback_address_only(running):
    import httpx

    assert running.address == f"http://127.0.0.1:{running.port}/?token={running.token}"
    assert httpx.get(running.address, timeout=LONG).status_code == 200
    assert httpx.get(running.address + "x", timeout=LONG).status_code == 403
    assert running._socket.getsockname()[0] == "127.0.0.1"
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for other in others - {"127.0.0.1"}:
        with socket.socket() as asking:
            asking.settimeout(1)
            assert asking.connect_ex((other, running.port)) != 0


@needs_server
def test_leaving_stops_the_work(running):
    import httpx

    headers = {"x-interp-token": running.token}
    url = f"http://127.0.0.1:{running.port}/run"
    asked = {"json": {"prompt": "endless"}, "headers": headers, "timeout": LONG}
    with httpx.stream("POST", url, **asked) as answer:
        first = next(answer.iter_lines())
        assert json.loads(first)["type"] == "queued"
    answer = httpx.post(url, **asked | {"json": {"prompt": "next"}})
    assert lines_of(answer)[-1]["type"] == "payload"


@needs_server
def test_ending_stops_the_work_and_frees_the_port(canned):
    import httpx

    with served(canned) as (server, thread):
        headers = {"x-interp-token": server.token}
        url = f"http://127.0.0.1:{server.port}/run"
        asked = {"json": {"prompt": "endless"}, "headers": headers, "timeout": LONG}
        with httpx.stream("POST", url, **asked) as answer:
            next(answer.iter_lines())
            server.stop()
            until(lambda: not thread.is_alive())
    assert not [t for t in threading.enumerate() if t.name.startswith("interp-live")]
    with socket.socket() as asking:
        assert asking.connect_ex(("127.0.0.1", server.port)) != 0
    with Server(canned, port=server.port) as again:
        assert again.port == server.port


@needs_server
def test_a_port_can_be_had_again_at_once_after_a_browser_was_there(canned):
    """The system keeps a connection that the server closed for a minute, and its port with it."""
    import httpx

    with httpx.Client(timeout=LONG) as browser:
        with served(canned) as (server, _):
            assert browser.get(server.address).status_code == 200
        # The connection is kept for the next request, so that the server is the one who closes it.
    with Server(canned, port=server.port) as again:
        assert again.port == server.port


@needs_server
def test_a_port_that_is_taken_is_refused(canned):
    with Server(canned) as server:
        with pytest.raises(BadInput, match=f"port {server.port} cannot be used .* free one"):
            Server(canned, port=server.port)
    with pytest.raises(BadInput, match="port 70000; allowed is 0"):
        Server(canned, port=70_000)
