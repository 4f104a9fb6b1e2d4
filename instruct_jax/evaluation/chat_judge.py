"""Home of the judge that reads: an OpenAI-compatible chat endpoint is asked which of two responses is better, in both orders.

Not in the paper, whose judges are people. A reader prefers the first or the second of two responses for their place alone, so each
pair is asked both ways round: verdicts that contradict each other are a tie (Zheng et al. 2023). Replies are kept on disk, so that a
run that is repeated asks nothing again. The key comes from an environment variable, goes to the endpoint's own host only, and is
neither printed nor saved.
"""

import hashlib
import http.client
import json
import os
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from instruct_jax.errors import InputError
from instruct_jax.evaluation.comparisons import Pair

_FIELDS = ("prompt", "first", "second")
_VERDICT = re.compile(r"\[\[\s*(A|B|tie)\s*\]\]", re.IGNORECASE)
_LONGEST = 1 << 20  # bytes of a reply; a longer one is no chat completion
_LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class ChatSettings:
    """The endpoint (`url` up to and with /v1), its model, the file of the question, and how hard it may be pressed.

    `key_env` names the environment variable of the key ("": none is sent); `max_requests` is how many requests one run may make,
    repeated ones too; `retries` how often a request that failed or whose reply holds no verdict is made again; `timeout` and `pause`
    (before the first retry, doubled for each further one) are seconds. `prompt_file` holds {prompt}, {first} and {second}, and asks
    for a reply with [[A]], [[B]] or [[tie]]; the last one counts.
    """

    url: str
    model: str
    prompt_file: str
    key_env: str = "OPENAI_API_KEY"
    max_requests: int = 2_000
    requests_per_minute: float = 300.0
    workers: int = 4
    timeout: float = 60.0
    retries: int = 4
    pause: float = 1.0
    max_tokens: int = 512
    temperature: float = 0.0

    def __post_init__(self):
        lowest = {"max_requests": 0, "requests_per_minute": 1e-3, "workers": 1, "timeout": 1e-3, "retries": 0, "pause": 0, "max_tokens": 1,
                  "temperature": 0}  # fmt: skip
        for name, least in lowest.items():
            if not getattr(self, name) >= least:
                raise InputError(f"chat.{name} is {getattr(self, name)}: it must be at least {least}")


@dataclass(frozen=True)
class Verdicts:
    """An outcome a pair (1 the first response, 0 the second, 0.5 a tie, None no verdict in one of the orders); of the pairs with both
    verdicts the share that name the same response, or a tie, both ways round (`consistent`) and of the verdicts that are none the
    share that name what stood first (`first`), None where there is none; and how many requests were made and how many replies kept."""

    outcomes: list[float | None]
    consistent: float | None
    first: float | None
    requests: int
    kept: int


class ChatJudge:
    """judge(pairs) → Verdicts. `cache` is the JSON-lines file in which replies are kept, made if missing."""

    def __init__(self, settings: ChatSettings, cache: Path):
        """InputError for settings that cannot work: the prompt's file, the key, the address."""
        self._settings, self._cache = settings, cache
        self._template = _read_template(settings.prompt_file)
        self._headers = {"Content-Type": "application/json"} | _authorization(settings)
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._lock, self._next, self._requests, self._failed = threading.Lock(), 0.0, 0, False
        self._left = settings.max_requests
        self._replies = _read_cache(cache)

    def __call__(self, pairs: Sequence[Pair]) -> Verdicts:
        """Asks what was not asked before; InputError where the endpoint refuses, or where that is more than `max_requests`."""
        questions = [self._question(p, swapped) for p in pairs for swapped in (False, True)]
        known = {body for body in questions if self._digest(body) in self._replies}
        new = [body for body in dict.fromkeys(questions) if body not in known]
        if len(new) > self._left:
            most = self._settings.max_requests
            way = "raise it, or judge fewer prompts"
            if len(new) <= most:
                way = "what was judged so far is kept, the same command goes on"
            raise InputError(
                f"chat.max_requests is {most}, of which {self._left} are left: {len(pairs)} pairs need {len(new)} new requests; {way}"
            )
        self._requests, self._failed = 0, False
        if new:
            self._cache.parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(self._settings.workers) as pool:
            waiting = [pool.submit(self._ask, body) for body in new]
            try:
                for one in waiting:
                    one.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        verdicts = [_verdict(self._replies.get(self._digest(body), "")) for body in questions]
        return _reconcile(verdicts[::2], verdicts[1::2], self._requests, len(known))

    def _question(self, pair: Pair, swapped: bool) -> bytes:
        texts = [pair.first.text, pair.second.text]
        said = dict(zip(_FIELDS, [pair.prompt, *(reversed(texts) if swapped else texts)]))
        # In one pass: a response that says "{second}" is not filled in again.
        text = re.sub(r"\{(prompt|first|second)\}", lambda match: said[match[1]], self._template)
        s = self._settings
        body = {"model": s.model, "messages": [{"role": "user", "content": text}], "temperature": s.temperature,
                "max_tokens": s.max_tokens}  # fmt: skip
        return json.dumps(body, sort_keys=True).encode()

    def _ask(self, body: bytes) -> None:
        """One question until there is a verdict; a reply without one is kept when it is the last. Nothing is asked once another
        question has failed."""
        try:
            if not self._failed:
                self._until_answered(body)
        except InputError:
            self._failed = True
            raise

    def _until_answered(self, body: bytes) -> None:
        for attempt in range(self._settings.retries + 1):
            self._wait()
            reply, problem, wait = self._post(body)
            last = attempt == self._settings.retries
            if reply is not None and (_verdict(reply) is not None or last):
                self._keep(body, reply)
                return
            if last:
                raise InputError(
                    f"chat.url {self._settings.url}: gave no reply in {attempt + 1} attempts ({problem}); what was judged so far is "
                    "kept, the same command goes on"
                )
            time.sleep(max(wait, self._settings.pause * 2**attempt))

    def _wait(self) -> None:
        """Until this request's turn has come, by `requests_per_minute`; InputError where there may be no more of them."""
        with self._lock:
            if not self._left:
                raise InputError(
                    f"chat.max_requests is {self._settings.max_requests}: so many were made, with those that had to be repeated; what "
                    "was judged so far is kept, the same command goes on"
                )
            self._left -= 1
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + 60 / self._settings.requests_per_minute
            self._requests += 1
        time.sleep(max(0.0, turn - now))

    def _post(self, body: bytes) -> tuple[str | None, str, float]:
        """(reply or None, what was wrong, seconds that the endpoint asks to wait); InputError where asking again would not help."""
        s = self._settings
        request = urllib.request.Request(f"{s.url.rstrip('/')}/chat/completions", body, self._headers)
        try:
            with self._opener.open(request, timeout=s.timeout) as response:
                return *_content(response.read(_LONGEST + 1)), 0.0
        except urllib.error.HTTPError as error:
            with error:
                if error.code in (408, 409, 425, 429) or error.code >= 500:
                    return None, f"status {error.code}", _seconds(error.headers.get("Retry-After"))
                raise InputError(
                    f"chat.url {s.url}: answered {error.code} {error.reason}: {_REASONS.get(error.code, _OTHER)}"
                ) from None
        except (
            OSError,
            ValueError,
            http.client.HTTPException,
        ) as error:  # refused, timed out, cut off, no HTTP
            return None, type(error).__name__ + (f": {error}" if isinstance(error, OSError) else ""), 0.0

    def _digest(self, body: bytes) -> str:
        return hashlib.sha256(f"{self._settings.url}\n".encode() + body).hexdigest()

    def _keep(self, body: bytes, reply: str) -> None:
        with self._lock:
            self._replies[self._digest(body)] = reply
            with open(self._cache, "a", encoding="utf-8") as file:
                file.write(json.dumps({"digest": self._digest(body), "reply": reply}) + "\n")


_OTHER = "see chat.model and chat.url"
_REASONS = {
    401: "the key in chat.key_env's variable is not accepted",
    403: "the key in chat.key_env's variable may not do this",
    404: "chat.url ends with /v1, and chat.model is one that it serves",
}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The key must not follow a redirect to another host."""

    def redirect_request(self, *_):
        return None


def _read_template(path: str) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"chat.prompt_file {path}: cannot be read ({type(error).__name__})") from error
    missing = [name for name in _FIELDS if f"{{{name}}}" not in text]
    if missing:
        raise InputError(f"chat.prompt_file {path}: lacks {', '.join(f'{{{name}}}' for name in missing)}")
    return text


def _authorization(settings: ChatSettings) -> dict[str, str]:
    address = urllib.parse.urlsplit(settings.url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise InputError(f"chat.url is {settings.url!r}: write it as https://host/v1")
    if not settings.key_env:
        return {}
    key = os.environ.get(settings.key_env, "").strip()
    if not key:
        raise InputError(
            f"chat.key_env: the environment variable {settings.key_env} is not set; put the endpoint's key there, or set key_env to '' "
            "where none is needed"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise InputError(
            f"chat.key_env: the value of {settings.key_env} is no key: it holds spaces or other characters that none has"
        )
    if address.scheme == "http" and address.hostname not in _LOCAL:
        raise InputError(
            f"chat.url is {settings.url}: over http the key would travel in the clear; use https"
        )
    return {"Authorization": f"Bearer {key}"}


def _read_cache(path: Path) -> dict[str, str]:
    """Replies by the digest of their question; a last line that was cut off is as if it were not there."""
    found = {}
    if path.exists():
        for line in path.read_bytes().split(b"\n"):
            try:
                row = json.loads(line)
                found[row["digest"]] = row["reply"]
            except (ValueError, TypeError, KeyError):
                continue
        if not path.read_bytes().endswith(b"\n"):
            with open(path, "ab") as file:
                file.write(b"\n")
    return found


def _content(data: bytes) -> tuple[str | None, str]:
    """(the reply's text or None, what was wrong with it)."""
    if len(data) > _LONGEST:
        return None, f"a reply of more than {_LONGEST} bytes"
    try:
        content = json.loads(data)["choices"][0]["message"]["content"]
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        return None, "a reply that is no chat completion"
    return (content, "") if isinstance(content, str) else (None, "a reply without text")


def _seconds(header: str | None) -> float:
    try:
        return min(max(float(header or 0), 0.0), 120.0)
    except ValueError:  # a date
        return 0.0


def _verdict(reply: str) -> float | None:
    """1 for the response shown first, 0 for the other, 0.5 for a tie; None where the reply names none."""
    found = _VERDICT.findall(reply)
    return {"a": 1.0, "b": 0.0, "tie": 0.5}[found[-1].lower()] if found else None


def _reconcile(straight: list, swapped: list, requests: int, kept: int) -> Verdicts:
    """The verdicts of both orders as one a pair."""
    outcomes = [
        None if a is None or b is None else a if a == 1 - b else 0.5
        for a, b in zip(straight, swapped, strict=True)
    ]
    both = [(a, b) for a, b in zip(straight, swapped) if a is not None and b is not None]
    named = [v for v in (*straight, *swapped) if v in (0.0, 1.0)]
    consistent = sum(a == 1 - b for a, b in both) / len(both) if both else None
    return Verdicts(outcomes, consistent, sum(named) / len(named) if named else None, requests, kept)
