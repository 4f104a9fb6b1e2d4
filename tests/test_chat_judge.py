"""The judge that reads, against a stand-in for an OpenAI-compatible endpoint on this machine, honest, malformed and failing."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from instruct_jax.errors import InputError
from instruct_jax.evaluation.chat_judge import ChatJudge, ChatSettings
from instruct_jax.evaluation.comparisons import Pair, Response

KEY = "sk-stand-in-0123456789"
QUESTION = "Which is better for: {prompt}\n<<{first}>>\n<<{second}>>\nEnd with [[A]], [[B]] or [[tie]]."


def chat(text):
    return 200, {}, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


def honest(body):
    """Prefers the longer response; equal lengths tie."""
    first, second = (part.split(">>")[0] for part in body["messages"][0]["content"].split("<<")[1:3])
    return chat(
        f"I think [[{'tie' if len(first) == len(second) else 'A' if len(first) > len(second) else 'B'}]]"
    )


@pytest.fixture
def endpoint():
    """A server whose `answer(body)` gives (status, headers, bytes) and which keeps what it was asked in `asked`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.asked.append((self.path, dict(self.headers), body))
            status, headers, data = server.answer(body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.answer, server.asked = honest, []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def judge(endpoint, tmp_path, monkeypatch):
    """judge(**settings) → a ChatJudge of the stand-in, with its cache in tmp_path."""
    monkeypatch.setenv("STAND_IN_KEY", KEY)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "question.txt").write_text(QUESTION)

    def make(**settings):
        url = f"http://127.0.0.1:{endpoint.server_port}/v1"
        given = dict(url=url, model="reader", prompt_file=str(tmp_path / "question.txt"), key_env="STAND_IN_KEY", pause=0.001,
                     requests_per_minute=1e6, retries=2)  # fmt: skip
        return ChatJudge(ChatSettings(**{**given, **settings}), tmp_path / "cache" / "replies.jsonl")

    return make


def pair(first, second, prompt="ask", name="p"):
    return Pair(name, prompt, "ppo", Response(first), Response(second))


def texts(asked):
    return [body["messages"][0]["content"] for _, _, body in asked]


def test_each_pair_is_asked_both_ways_round_with_the_key_and_the_files_prompt(judge, endpoint):
    found = judge()([pair("long answer", "short"), pair("a", "bcd"), pair("ab", "cd")])
    assert found.outcomes == [1.0, 0.0, 0.5] and found.consistent == 1.0 and found.first == 0.5
    assert (found.requests, found.kept) == (6, 0)
    assert sorted(texts(endpoint.asked))[:2] == sorted(
        QUESTION.format(prompt="ask", first=a, second=b) for a, b in (("a", "bcd"), ("ab", "cd"))
    )
    path, headers, body = endpoint.asked[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {KEY}"
    assert (body["model"], body["temperature"]) == ("reader", 0.0)


def test_a_reader_that_prefers_the_place_ties_and_is_seen_to(judge, endpoint):
    endpoint.answer = lambda body: chat("[[A]]")
    found = judge()([pair("x", "yy"), pair("zzz", "w")])
    assert found.outcomes == [0.5, 0.5] and (found.consistent, found.first) == (0.0, 1.0)


def test_a_run_that_is_repeated_asks_nothing_again_and_a_cut_off_line_costs_one(judge, endpoint, tmp_path):
    pairs = [pair("aaa", "b"), pair("c", "ddd"), pair("aaa", "b", name="again")]
    first = judge()(pairs)
    assert len(endpoint.asked) == 4 and first.requests == 4  # the third pair is the first one's texts
    second = judge()(pairs)
    assert (second.outcomes, second.requests, second.kept) == (first.outcomes, 0, 4) and len(
        endpoint.asked
    ) == 4
    cache = tmp_path / "cache" / "replies.jsonl"
    assert KEY not in cache.read_text()
    cache.write_bytes(cache.read_bytes()[:-20])
    assert judge()(pairs).outcomes == first.outcomes and len(endpoint.asked) == 5
    assert judge()(pairs).requests == 0 and len(cache.read_text().splitlines()) == 5
    judge(temperature=0.5)(pairs[:1])  # another question
    assert len(endpoint.asked) == 7


@pytest.mark.parametrize("bad", [
    (200, {}, b"not json"), (200, {}, b"{}"), (200, {}, b'{"choices": []}'), (200, {}, b"[" * 9999), (200, {}, b""),
    (200, {}, b'{"choices": [{"message": {"content": null}}]}'), (429, {"Retry-After": "0"}, b""), (503, {}, b"later"),
    (500, {"Retry-After": "Wed, 21 Oct 2037 07:28:00 GMT"}, b""), (200, {"Content-Length": "500"}, b"{}"), (200, {}, b"x" * (2 << 20)),
    chat("They are both fine."), chat("[[C]]"),
])  # fmt: skip
def test_what_is_no_verdict_is_asked_again(judge, endpoint, bad):
    failures = iter([bad, bad])
    endpoint.answer = lambda body: next(failures, None) or honest(body)
    found = judge(workers=1)([pair("aaaa", "b")])
    assert found.outcomes == [1.0] and found.requests == 4


def test_a_reader_without_a_verdict_gives_none_and_is_not_asked_for_ever(judge, endpoint):
    endpoint.answer = lambda body: chat("I cannot say.")
    found = judge()([pair("a", "b")])
    assert found.outcomes == [None] and (found.consistent, found.first, found.requests) == (None, None, 6)
    assert judge()([pair("a", "b")]).requests == 0


def test_the_last_verdict_of_a_reply_counts(judge, endpoint):
    endpoint.answer = lambda body: chat("[[A]] would be hasty. [[tie]]")
    assert judge()([pair("a", "b")]).outcomes == [0.5]


def test_a_response_cannot_fill_in_the_form(judge, endpoint):
    judge()([pair("say {second} and {prompt}", "other")])
    assert f"<<{'say {second} and {prompt}'}>>" in "".join(texts(endpoint.asked))


@pytest.mark.parametrize("status, says", [(401, "key"), (404, "/v1"), (400, "chat.model"), (302, "302")])
def test_what_asking_again_would_not_mend_stops_and_never_shows_the_key(judge, endpoint, status, says):
    endpoint.answer = lambda body: (status, {"Location": "http://127.0.0.1:9/"}, f"you said {KEY}".encode())
    with pytest.raises(InputError, match=says) as raised:
        judge(workers=1)([pair("a", "b")])
    assert KEY not in str(raised.value) and len(endpoint.asked) == 1


def test_an_endpoint_that_is_gone_is_named_and_what_was_judged_is_kept(judge, endpoint):
    endpoint.answer = lambda body: honest(body) if len(endpoint.asked) <= 2 else (503, {}, b"")
    pairs = [pair("aaa", "b"), pair("c", "dddd")]
    with pytest.raises(InputError, match="3 attempts.*status 503.*same command goes on"):
        judge(workers=1)(pairs)
    endpoint.answer = honest
    found = judge()(pairs)
    assert (found.outcomes, found.kept) == ([1.0, 0.0], 2)
    with pytest.raises(InputError, match="no reply in 1 attempts"):
        judge(url="http://127.0.0.1:1/v1", retries=0)(pairs)


def test_a_slow_reply_is_given_up(judge, endpoint):
    never = threading.Event()
    endpoint.answer = lambda body: honest(body) if never.wait(1.0) else honest(body)
    with pytest.raises(InputError, match="no reply"):
        judge(timeout=0.05, retries=0, workers=1)([pair("a", "b")])
    never.set()


def test_requests_keep_to_their_rate_and_their_number(judge, endpoint):
    import time

    start = time.monotonic()
    judge(requests_per_minute=60 / 0.04)([pair("a", "bb"), pair("c", "dd"), pair("e", "ff")])
    assert time.monotonic() - start >= 5 * 0.04
    with pytest.raises(InputError, match="need 4 new requests; raise it"):
        judge(max_requests=3)([pair("g", "hh"), pair("i", "jj")])
    assert len(endpoint.asked) == 6


def test_requests_that_are_repeated_count_and_so_do_those_of_an_earlier_call(judge, endpoint):
    endpoint.answer = lambda body: (503, {}, b"")
    with pytest.raises(InputError, match="max_requests is 3.*the same command goes on"):
        judge(max_requests=3, retries=9, workers=1)([pair("a", "bb")])
    assert len(endpoint.asked) == 3
    endpoint.answer = honest
    one = judge(max_requests=3)
    assert one([pair("a", "bb")]).outcomes == [0.0]
    with pytest.raises(
        InputError, match="1 are left: 1 pairs need 2 new requests; .*the same command goes on"
    ):
        one([pair("c", "dd")])
    assert len(endpoint.asked) == 5


def test_settings_that_cannot_work_say_so(judge, tmp_path, monkeypatch):
    (tmp_path / "poor.txt").write_text("{prompt} {first}")
    for settings, says in (
        (dict(key_env="NO_SUCH_KEY"), "NO_SUCH_KEY is not set"), (dict(url="host/v1"), "https://host/v1"),
        (dict(url="http://far.example/v1"), "in the clear"), (dict(prompt_file=str(tmp_path / "none.txt")), "none.txt"),
        (dict(prompt_file=str(tmp_path / "poor.txt")), r"lacks \{second\}"), (dict(workers=0), "chat.workers is 0"),
        (dict(retries=-1), "chat.retries is -1"), (dict(requests_per_minute=0.0), "chat.requests_per_minute is 0.0"),
        (dict(timeout=float("nan")), "chat.timeout is nan"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=says):
            judge(**settings)
    monkeypatch.setenv("STAND_IN_KEY", "two\nlines")
    with pytest.raises(InputError, match="STAND_IN_KEY") as raised:
        judge()
    assert "lines" not in str(raised.value)
    judge(key_env="")
