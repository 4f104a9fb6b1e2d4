"""Forty labelers at once on loopback: latency by kind of request, and whether a submission is ever lost or stored twice.

    PYTHONPATH=. python tests/benchmarks/labeling_load.py                     # 40 labelers, 30 s, 12 submissions a second
    PYTHONPATH=. python tests/benchmarks/labeling_load.py --kill              # and `kill -9` of the server in the middle

The server is a child process, as a team would start it. Each labeler is a thread with one connection: log in, then again and again
open the next task, save two drafts, submit, at a steady pace; every fifth time they log in anew. What is not answered is sent again
with the same key, as the pages do. Every acknowledged submission is then looked for in the database.
"""

import argparse
import http.client
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlencode

from instruct_jax.labeling import auth, tasks
from instruct_jax.labeling.store import Store
from instruct_jax.labeling.tasks import Task

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("login", "task", "page", "draft", "submit")


class Server:
    """`python -m instruct_jax.label` in a process of its own."""

    def __init__(self, database: Path):
        self.database, self.port = database, 0
        self.start()

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "instruct_jax.label",
            "--db",
            str(self.database),
            "--port",
            str(self.port),
        ]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        self.port = int(line.rpartition(":")[2])

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


class Labeler(threading.Thread):
    """One person at work until `until`; keeps the time of each request and which keys were acknowledged when."""

    def __init__(self, server: Server, person: str, token: str, pace: float, until: float):
        super().__init__()
        self.server, self.person, self.token, self.pace, self.until = server, person, token, pace, until
        self.times: list[tuple[str, float]] = []
        self.acknowledged: list[tuple[str, float]] = []
        self.retries = 0
        self.random = random.Random(person)
        self.cookie = ""
        self.failure: BaseException | None = None
        self.connection: http.client.HTTPConnection | None = None

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # told by the parent, which fails
            self.failure = error

    def _work(self) -> None:
        due = time.monotonic() + self.random.uniform(0, self.pace)
        for turn in range(10**9):
            time.sleep(max(0.0, due - time.monotonic()))
            if time.monotonic() >= self.until:
                return
            due += self.pace * self.random.uniform(0.7, 1.3)
            if turn % 5 == 0:
                self._log_in()
            address = self._request("task", "GET", "/task")[1]["location"]
            if address == "/":
                raise RuntimeError("no tasks are left: make more")
            html = self._request("page", "GET", address)[2]
            state = json.loads(re.search(r'id="state">(.*?)</script>', html, re.DOTALL)[1])
            draft, key = state["draft"], state["key"]
            draft["ranks"] = [self.random.randint(1, len(draft["ranks"])) for _ in draft["ranks"]]
            for output in draft["outputs"]:
                output["likert"] = self.random.randint(1, 7)
            for version in (1, 2):
                self._send("draft", f"{address}/draft", {"version": version, "draft": draft})
            self._send(
                "submit", f"{address}/submit", {"key": key, "version": 3, "draft": draft, "seconds": 20.0}
            )
            self.acknowledged.append((key, time.monotonic()))

    def _log_in(self) -> None:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = self._request("login", "POST", "/login", urlencode({"token": self.token}), headers)[1]
        self.cookie = answer["set-cookie"].partition(";")[0]

    def _send(self, kind: str, path: str, fields: dict) -> None:
        csrf = auth.csrf_of(self.cookie.partition("=")[2])
        self._request(
            kind, "POST", path, json.dumps({"csrf": csrf, **fields}), {"Content-Type": "application/json"}
        )

    def _request(
        self, kind: str, method: str, path: str, body: str | None = None, headers: dict | None = None
    ):
        """(status, headers, text); sends again until it is answered, and times the attempt that was."""
        while True:
            start = time.perf_counter()
            try:
                if self.connection is None:
                    self.connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
                self.connection.request(method, path, body, {"Cookie": self.cookie, **(headers or {})})
                answer = self.connection.getresponse()
                text = answer.read().decode()
            except (OSError, http.client.HTTPException):
                if self.connection is not None:
                    self.connection.close()
                self.connection = None
                self.retries += 1
                time.sleep(0.05)
                continue
            self.times.append((kind, time.perf_counter() - start))
            if answer.status not in (200, 303):
                raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]}")
            return answer.status, answer.headers, text


def prepare(database: Path, labelers: int, work: int) -> dict[str, str]:
    """A database with `work` tasks of four outputs, a tenth of them for two people; tokens by person."""
    store = Store(database)
    with store.write() as connection:
        store.set(connection, "overlap", 0.1)
    people = [f"person-{i:02}" for i in range(labelers)]
    tokens = {person: auth.add_person(store, person, "labeler") for person in people}
    outputs = [{"text": f"output {k} " + "and so on " * 40, "made_by": [["model", True]]} for k in range(4)]
    contents = {"prompt": "What is to be done? " * 20, "outputs": outputs}
    tasks.load(store, [Task("rank", f"prompt-{i}", contents) for i in range(work)])
    store.close()
    return tokens


def measure(folder: Path, labelers: int, seconds: float, rate: float, kill: bool) -> dict:
    """Runs the load; {acknowledged, lost, doubled, stored, retries, down, seconds, processor, times: {kind: [seconds]}}."""
    database = folder / "labels.db"
    tokens = prepare(database, labelers, int(rate * seconds * 2) + 20 * labelers)
    spent = _processor_seconds()
    server = Server(database)
    begin = time.monotonic()
    crowd = [
        Labeler(server, person, token, labelers / rate, begin + seconds) for person, token in tokens.items()
    ]
    down = 0.0
    try:
        for labeler in crowd:
            labeler.start()
        if kill:
            time.sleep(seconds / 2)
            start = time.monotonic()
            server.kill()
            server.start()
            down = time.monotonic() - start
        for labeler in crowd:
            labeler.join()
    finally:
        server.stop()
    spent = _processor_seconds() - spent
    failures = [labeler.failure for labeler in crowd if labeler.failure]
    if failures:
        raise failures[0]
    store = Store(database)
    with store.read() as connection:
        stored = Counter(
            tuple(row) for row in connection.execute("SELECT person, key FROM outcomes WHERE undone IS NULL")
        )
        twice = connection.execute(
            "SELECT count(*) FROM (SELECT 1 FROM outcomes WHERE undone IS NULL GROUP BY person, task HAVING count(*) > 1)"
        ).fetchone()[0]
        check = connection.execute("PRAGMA integrity_check").fetchone()[0]
    store.close()
    acknowledged = [(labeler.person, key) for labeler in crowd for key, _ in labeler.acknowledged]
    last = max(at for labeler in crowd for _, at in labeler.acknowledged)
    times = {kind: sorted(t for labeler in crowd for k, t in labeler.times if k == kind) for kind in KINDS}
    return {
        "acknowledged": len(acknowledged), "stored": sum(stored.values()), "integrity": check,
        "lost": sum(not stored[entry] for entry in acknowledged), "doubled": twice + sum(n > 1 for n in stored.values()),
        "retries": sum(labeler.retries for labeler in crowd), "down": down, "seconds": last - begin, "processor": spent, "times": times,
    }  # fmt: skip


def _processor_seconds() -> float:
    """What this process's children that have ended took of the processor."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def report(found: dict) -> str:
    """The result as text."""
    lines = [
        f"{found['acknowledged']} submissions acknowledged in {found['seconds']:.1f} s "
        f"({found['acknowledged'] / found['seconds']:.1f} a second), {found['stored']} stored, {found['lost']} lost, "
        f"{found['doubled']} doubled; database {found['integrity']}"
    ]
    if found["down"]:
        lines.append(
            f"killed once, answering again after {found['down']:.1f} s; {found['retries']} attempts sent again"
        )
    share = 100 * found["processor"] / found["seconds"]
    lines.append(f"the server took {share:.0f} % of one core, its start included")
    lines.append(f"{'':8}{'requests':>9}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}")
    everything = sorted(t for times in found["times"].values() for t in times)
    for kind, times in [*found["times"].items(), ("all", everything)]:
        cuts = "".join(
            f"{1000 * times[min(len(times) - 1, int(q * len(times)))]:9.1f}" for q in (0.5, 0.95, 0.99)
        )
        lines.append(f"{kind:8}{len(times):9}{cuts}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--labelers", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=12.0, help="submissions a second, of all together")
    parser.add_argument(
        "--kill", action="store_true", help="kill -9 the server in the middle and start it again"
    )
    args = parser.parse_args()
    print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), args.labelers, args.seconds, args.rate, args.kill)
    print(report(found))
    return 1 if found["lost"] or found["doubled"] or found["integrity"] != "ok" else 0


if __name__ == "__main__":
    sys.exit(main())
