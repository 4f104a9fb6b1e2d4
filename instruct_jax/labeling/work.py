"""Home of a labeler's work: what is next, drafts, submissions, skips and undo.

Every function is one transaction. A submission comes with a random key of its page: sent again, as after a lost connection, it is
answered as the first time and stored once.
"""

import json
import sqlite3
from datetime import datetime, timedelta

from instruct_jax.labeling import assignment, drafts, screening, tasks
from instruct_jax.labeling.store import Store


class Refused(Exception):
    """Something that this person may not do now; `status` is HTTP's, `body` goes into a JSON answer."""

    def __init__(self, status: int, message: str, **body):
        super().__init__(message)
        self.status = status
        self.body = body


def next_task(connection: sqlite3.Connection, person: str) -> str | None:
    """The id of the first task that this person has open, screening first; None when nothing is left."""
    row = connection.execute(
        "SELECT t.id FROM slots s JOIN tasks t ON t.number = s.task WHERE s.person = ? AND s.done = 0 "
        "ORDER BY t.screening DESC, t.number LIMIT 1",
        [person],
    ).fetchone()
    return row and row["id"]


def open_task(connection: sqlite3.Connection, person: str, task_id: str) -> dict:
    """A task of this person with the draft so far.

    Returns:
      {number, id, kind, contents, order, draft, version}; `order` as assignment.shown_order, empty where nothing is ranked.

    Raises:
      Refused: 404 no such task, 403 not theirs, 409 done already.
    """
    task = tasks.find(connection, task_id)
    if task is None:
        raise Refused(404, "There is no such task.")
    slot = connection.execute(
        "SELECT done, version, draft FROM slots WHERE task = ? AND person = ?", [task["number"], person]
    ).fetchone()
    if slot is None:
        raise Refused(403, "This task is not assigned to you.")
    if slot["done"]:
        raise Refused(409, "You have submitted or skipped this task already.", submitted=True)
    contents = json.loads(task["contents"])
    return {
        "number": task["number"], "id": task["id"], "kind": task["kind"], "contents": contents,
        "order": _order(connection, task, contents, person), "version": slot["version"],
        "draft": json.loads(slot["draft"] or "null") or drafts.empty(task["kind"], contents),
    }  # fmt: skip


def save_draft(store: Store, person: str, task_id: str, version: int, sent: object) -> None:
    """Keeps a draft whose version is above the stored one's.

    Raises:
      Refused: as open_task, and 409 with {version, draft} for another draft of this or a later version.
      drafts.Malformed: not a draft of this task.
    """
    with store.write() as connection:
        task = open_task(connection, person, task_id)
        draft = drafts.read(task["kind"], task["contents"], sent)
        if _stored(task, version, draft):
            return
        connection.execute(
            "UPDATE slots SET draft = ?, version = ? WHERE task = ? AND person = ?",
            [json.dumps(draft), version, task["number"], person],
        )


def submit(
    store: Store, person: str, task_id: str, key: str, version: int, sent: object, seconds: float
) -> list[dict]:
    """Stores a submission, once for a key; returns its problems (drafts.problems), with which nothing is stored.

    Raises:
      Refused: as save_draft, so that none replaces a newer draft.
      drafts.Malformed: not a draft of this task.
    """
    with store.write() as connection:
        if _repeated(connection, person, task_id, key):
            return []
        task = open_task(connection, person, task_id)
        draft = drafts.read(task["kind"], task["contents"], sent)
        _stored(task, version, draft)
        found = drafts.problems(task["kind"], task["contents"], draft)
        if not found:
            answer = json.dumps(drafts.to_stored(draft, task["order"]))
            connection.execute(
                "UPDATE slots SET draft = ? WHERE task = ? AND person = ?",
                [json.dumps(draft), task["number"], person],
            )
            _finish(connection, store, person, task["number"], key, answer, None, seconds)
            screening.settle(connection, person)
    return found


def skip(store: Store, person: str, task_id: str, key: str, reason: str) -> None:
    """Passes over a task, which goes to the next person; Refused as open_task."""
    with store.write() as connection:
        if _repeated(connection, person, task_id, key):
            return
        task = open_task(connection, person, task_id)
        _finish(connection, store, person, task["number"], key, None, reason, 0.0)
        assignment.share_out(connection, task["number"])
        screening.settle(connection, person)


def undo(store: Store, person: str) -> str:
    """Reopens the task of this person's last submission or skip, with its draft, and returns its id.

    Raises:
      Refused: 409 where there is nothing to undo, or a researcher has graded it.
    """
    with store.write() as connection:
        last = last_outcome(connection, person)
        if last is None:
            raise Refused(409, "There is nothing to undo.")
        connection.execute("UPDATE outcomes SET undone = ? WHERE number = ?", [store.now(), last["number"]])
        # A draft that is there, even an empty one, keeps the task with this person.
        connection.execute(
            "UPDATE slots SET done = 0, version = version + 1, draft = COALESCE(draft, 'null') WHERE task = ? AND person = ?",
            [last["task"], person],
        )
        if last["answer"] is None:
            assignment.share_out(connection, last["task"])
        return last["id"]


def last_outcome(connection: sqlite3.Connection, person: str) -> sqlite3.Row | None:
    """This person's last submission or skip, where it can still be undone."""
    row = connection.execute(
        "SELECT o.number, o.task, o.answer, o.grade, t.id, t.screening, p.screening AS stage FROM outcomes o "
        "JOIN tasks t ON t.number = o.task JOIN people p ON p.id = o.person "
        "WHERE o.person = ? AND o.undone IS NULL ORDER BY o.number DESC LIMIT 1",
        [person],
    ).fetchone()
    if row is None or row["grade"] is not None or (row["screening"] and row["stage"] != "open"):
        return None
    return row


def progress(connection: sqlite3.Connection, person: str, now: float) -> dict:
    """{today, total, left, skipped, minutes_today, screening}: submissions, open tasks, skips, time; days end at local midnight."""
    midnight = datetime.fromtimestamp(now).replace(hour=0, minute=0, second=0, microsecond=0)
    since = (midnight.timestamp(), (midnight + timedelta(days=1)).timestamp())
    row = connection.execute(
        "SELECT count(answer) AS total, count(*) - count(answer) AS skipped, "
        "count(CASE WHEN at >= ? AND at < ? THEN answer END) AS today, "
        "COALESCE(sum(CASE WHEN at >= ? AND at < ? THEN seconds END), 0) AS seconds "
        "FROM outcomes WHERE person = ? AND undone IS NULL",
        [*since, *since, person],
    ).fetchone()
    left, screening = connection.execute(
        "SELECT count(*), COALESCE(sum(t.screening), 0) FROM slots s JOIN tasks t ON t.number = s.task "
        "WHERE s.person = ? AND s.done = 0",
        [person],
    ).fetchone()
    return {
        "today": row["today"], "total": row["total"], "skipped": row["skipped"], "left": left,
        "minutes_today": round(row["seconds"] / 60, 1), "screening": bool(screening),
    }  # fmt: skip


def position(connection: sqlite3.Connection, person: str) -> dict:
    """{done, total} of this person's tasks."""
    done, total = connection.execute(
        "SELECT COALESCE(sum(done), 0), count(*) FROM slots WHERE person = ?", [person]
    ).fetchone()
    return {"done": done, "total": total}


def _order(connection, task: sqlite3.Row, contents: dict, person: str) -> list[int]:
    if task["kind"] != "rank":
        return []
    seed = int(connection.execute("SELECT value FROM settings WHERE name = 'seed'").fetchone()[0])
    return assignment.shown_order(seed, task["id"], person, len(contents["outputs"]))


def _stored(task: dict, version: int, draft: dict) -> bool:
    """Whether a draft is the stored one, sent again as its answer was lost; Refused for another of the stored or an older version."""
    if version > task["version"]:
        return False
    if version < task["version"] or draft != task["draft"]:
        told = "A newer draft of this task was saved in another tab."
        raise Refused(409, told, version=task["version"], draft=task["draft"])
    return True


def _repeated(connection, person: str, task_id: str, key: str) -> bool:
    """Whether this key was used by this person before; Refused if for another task."""
    row = connection.execute(
        "SELECT t.id FROM outcomes o JOIN tasks t ON t.number = o.task WHERE o.person = ? AND o.key = ?",
        [person, key],
    ).fetchone()
    if row is not None and row["id"] != task_id:
        raise Refused(409, "This key was used for another task; load the page again.")
    return row is not None


def _finish(
    connection, store: Store, person: str, task: int, key: str, answer, reason, seconds: float
) -> None:
    connection.execute(
        "INSERT INTO outcomes (person, task, key, answer, reason, seconds, at) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [person, task, key, answer, reason, seconds, store.now()],
    )
    connection.execute("UPDATE slots SET done = 1 WHERE task = ? AND person = ?", [task, person])
