"""A labeling server on a free port of this machine, and people who use it over HTTP; shared by the labeling tests."""

import contextlib
import json
import re
import threading
import time
from itertools import count

import httpx
import uvicorn

from instruct_jax.data.cleaning.fewshot import expand_few_shot
from instruct_jax.labeling import assignment, auth, tasks
from instruct_jax.labeling.app import make_app
from instruct_jax.labeling.store import Store
from instruct_jax.labeling.tasks import Task

KEYS = count()


def rank_task(source, texts=("one", "two", "three"), model="model-secret", **more):
    """A task to rank outputs of one model."""
    outputs = [{"text": text, "made_by": [[model, True]]} for text in texts]
    return Task("rank", source, {"prompt": f"prompt of {source}", "outputs": outputs}, **more)


def make_store(folder, work=(), people=("ann",), overlap=0.0, seed=0):
    """A store with tasks and labelers of the training pool; returns (store, tokens by id)."""
    store = Store(folder / "labels.db", seed)
    with store.write() as connection:
        store.set(connection, "overlap", overlap)
        store.set(connection, "overlap_people", 2)
    tasks.load(store, work)
    return store, {person: auth.add_person(store, person, "labeler") for person in people}


def slots(store):
    """{prompt id: {people who have the task, open or done}}."""
    with store.read() as connection:
        rows = connection.execute("SELECT t.source, s.person FROM slots s JOIN tasks t ON t.number = s.task")
        found = {}
        for source, person in rows:
            found.setdefault(source, set()).add(person)
        return found


def share_out(store):
    with store.write() as connection:
        assignment.share_out(connection)


def filled(draft, ranks=None, likert=None, flags=None):
    """A draft with everything that a submission needs; lists are in the order shown."""
    if "outputs" in draft:
        k = len(draft["outputs"])
        said = zip(likert or range(1, k + 1), flags or [{}] * k)
        outputs = [{"likert": value, "flags": yes, "notes": "", "seconds": 1.0} for value, yes in said]
        return {"outputs": outputs, "ranks": list(ranks or range(1, k + 1)), "seconds": 0.0}
    if "response" in draft:
        return draft | {"response": "an answer"}
    pairs = [{"query": "2 + 2", "response": "4"}, {"query": "3 + 3", "response": "6"}]
    return draft | {
        "text": "Write about rivers.",
        "instruction": "Add.",
        "pairs": pairs if draft["pairs"] else [],
    }


@contextlib.contextmanager
def serving(store, **settings):
    """The address of the application, served by uvicorn from a thread."""
    config = uvicorn.Config(
        make_app(store, expand_few_shot, **settings), port=0, log_config=None, ws="none", lifespan="off"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def once(method, url, **more):
    """One request by nobody in particular."""
    return httpx.request(
        method, url, verify=False, timeout=30, **more
    )  # without reading certificates, which is slow


class Person:
    """Somebody with a browser that runs no scripts: logged in, with the CSRF token of their session."""

    def __init__(self, url, token):
        self.http = httpx.Client(base_url=url, timeout=30, verify=False)
        assert self.http.post("/login", data={"token": token}).status_code == 303
        self.csrf = auth.csrf_of(self.http.cookies["session"])

    def get(self, path, **more):
        return self.http.get(path, **more)

    def post(self, path, **fields):
        content = json.dumps({"csrf": self.csrf, **fields})
        return self.http.post(path, content=content, headers={"Content-Type": "application/json"})

    def send(self, path, **fields):
        """Posts a form."""
        return self.http.post(path, data={"csrf": self.csrf, **fields})

    def task(self):
        """(address, what the page's script is given) of the next task, None when nothing is left."""
        address = self.get("/task").headers["location"]
        return (address, state_of(self.get(address).text)) if address != "/" else None

    def submit(self, address, draft, key=None, seconds=12.0, version=9):
        key = key or f"key-{next(KEYS):08}"
        return self.post(f"{address}/submit", key=key, version=version, draft=draft, seconds=seconds)

    def close(self):
        self.http.close()


def state_of(html):
    """The JSON that a task's page carries for its script."""
    return json.loads(
        re.search(r'<script type="application/json" id="state">(.*?)</script>', html, re.DOTALL)[1]
    )
