"""Home of a labeler's pages (paper 1.8, Fig. 12): login, home, the pages of a task, drafts, submissions, skips and undo.

No page says which model wrote what, and none takes text for markup.
"""

import re
import secrets
from datetime import UTC, datetime

from starlette.responses import JSONResponse, RedirectResponse, Response

from instruct_jax.labeling import auth, work
from instruct_jax.labeling.drafts import Malformed
from instruct_jax.labeling.instructions import FLAG_QUESTIONS, INSTRUCTIONS, SKIP_REASONS, USE_CASE_NAMES
from instruct_jax.labeling.visit import Visit
from instruct_jax.labeling.work import Refused


def login_page(visit: Visit) -> Response:
    """The form for the token."""
    if visit.session:
        return RedirectResponse("/", 303)
    return visit.page("login.html", problem=None, next=_local(visit.request.query_params.get("next", "")))


def log_in(visit: Visit) -> Response:
    """Starts a session for a token, at most ten failures an address in five minutes."""
    address, now = visit.request.client.host if visit.request.client else "", visit.store.now()
    after = _local(visit.text("next"))
    if visit.site.logins.blocked(address, now):
        problem = "Too many failed attempts from this address. Wait five minutes."
        return visit.page("login.html", code=429, problem=problem, next=after)
    replaced = visit.request.cookies.get(visit.site.cookie)
    secret = auth.log_in(visit.store, visit.text("token").strip(), replaced)
    if secret is None:
        visit.site.logins.failed(address, now)
        problem = "This token opens nothing. Ask whoever gave it to you for a new one."
        return visit.page("login.html", code=401, problem=problem, next=after)
    answer = RedirectResponse(after or "/", 303)
    answer.set_cookie(
        visit.site.cookie,
        secret,
        max_age=auth.SESSION_SECONDS,
        httponly=True,
        samesite="strict",
        secure=visit.site.https,
    )
    return answer


def log_out(visit: Visit) -> Response:
    """Ends the session here and in the store."""
    auth.log_out(visit.store, visit.request.cookies.get(visit.site.cookie))
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(visit.site.cookie, httponly=True, samesite="strict", secure=visit.site.https)
    return answer


def home(visit: Visit) -> Response:
    """What is next and how far one is; a researcher's home is their own page."""
    if visit.session.role == "researcher":
        return RedirectResponse("/researcher", 303)
    with visit.store.read() as connection:
        progress = work.progress(connection, visit.person, visit.store.now())
        undo = work.last_outcome(connection, visit.person)
    return visit.page(
        "home.html",
        progress=progress,
        next_url="/task" if progress["left"] else None,
        can_undo=undo is not None,
        screening=progress["screening"],
        instructions=INSTRUCTIONS[visit.site.phase],
    )


def next_task(visit: Visit) -> Response:
    """On to the task that comes next."""
    with visit.store.read() as connection:
        task = work.next_task(connection, visit.person)
    return RedirectResponse(f"/task/{task}" if task else "/", 303)


def task_page(visit: Visit) -> Response:
    """An output to rate, the outputs to rank, or a text to write."""
    with visit.store.read() as connection:
        task = work.open_task(connection, visit.person, visit.request.path_params["id"])
        shared = {
            "position": work.position(connection, visit.person),
            "can_undo": work.last_outcome(connection, visit.person) is not None,
        }
    contents, draft, order = task["contents"], task["draft"], task["order"]
    shared |= {
        "draft": draft,
        "version": task["version"],
        "key": secrets.token_urlsafe(16),
        "skip_reasons": SKIP_REASONS,
        "instructions": INSTRUCTIONS[visit.site.phase],
    }
    about = {"id": task["id"], "kind": task["kind"], "k": len(order)}
    if task["kind"] == "write_prompt":
        about |= {"brief": contents["brief"], "style": contents["style"]}
        return visit.page("write_prompt.html", task=about, use_cases=USE_CASE_NAMES, **shared)
    about["prompt"] = contents["prompt"]
    if task["kind"] == "demonstrate":
        return visit.page("demonstrate.html", task=about, **shared)
    texts = [contents["outputs"][stored]["text"] for stored in order]
    query = visit.request.query_params
    if query.get("stage") == "rank":
        outputs = [
            {"number": number, "text": text, "likert": said["likert"]}
            for number, (text, said) in enumerate(zip(texts, draft["outputs"]), start=1)
        ]
        return visit.page("rank.html", task=about, outputs=outputs, flags=FLAG_QUESTIONS, **shared)
    number = query.get("output", "1")
    if not re.fullmatch("[0-9]{1,4}", number) or not 1 <= int(number) <= len(texts):
        raise Refused(404, f"This task has outputs 1 to {len(texts)}.")
    return visit.page(
        "rate.html",
        task=about,
        output=int(number),
        text=texts[int(number) - 1],
        flags=FLAG_QUESTIONS,
        **shared,
    )


def save_draft(visit: Visit) -> Response:
    """Keeps the draft and says when."""
    version = _version(visit)
    work.save_draft(
        visit.store, visit.person, visit.request.path_params["id"], version, visit.sent.get("draft")
    )
    saved = datetime.fromtimestamp(visit.store.now(), UTC).isoformat(timespec="seconds")
    return JSONResponse({"saved": saved, "version": version})


def submit(visit: Visit) -> Response:
    """Stores the submission, or says for every field what is missing."""
    seconds = visit.sent.get("seconds", 0.0)
    if type(seconds) not in (int, float) or not 0 <= seconds <= 1e6:
        raise Malformed("seconds: must be a number of seconds from 0 to 1000000")
    task, draft = visit.request.path_params["id"], visit.sent.get("draft")
    key, version = _key(visit), _version(visit)
    problems = work.submit(visit.store, visit.person, task, key, version, draft, float(seconds))
    if problems:
        return JSONResponse({"message": "Something is missing.", "problems": problems}, 422)
    return JSONResponse({"next": "/task"})


def skip(visit: Visit) -> Response:
    """Passes over the task."""
    work.skip(visit.store, visit.person, visit.request.path_params["id"], _key(visit), visit.text("reason"))
    return JSONResponse({"next": "/task"})


def undo(visit: Visit) -> Response:
    """Reopens what was submitted or skipped last."""
    return JSONResponse({"next": f"/task/{work.undo(visit.store, visit.person)}"})


def _version(visit: Visit) -> int:
    version = visit.sent.get("version")
    if type(version) is not int or not 0 <= version < 2**53:
        raise Malformed("version: must be a whole number")
    return version


def _key(visit: Visit) -> str:
    key = visit.text("key", 100)
    if len(key) < 8:
        raise Malformed("key: must be the page's own, of at least 8 characters")
    return key


def _local(address: str) -> str:
    """An address of this site that a login may go on to, "" for any other."""
    return address if re.fullmatch(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]*", address) else ""
