"""What a hostile sender, a hostile page or a hostile text can not do to the labeling application."""

import json
import logging
import socket
import threading
import time

import pytest
from labeling_site import Person, filled, make_store, once, rank_task, serving, state_of

from instruct_jax.labeling import auth
from instruct_jax.labeling.app import LOCAL_HOSTS
from instruct_jax.labeling.tasks import Task

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'</script>{{ 7 * 7 }}\u202e&amp;"
SQL = "'; DROP TABLE outcomes; --"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def site(tmp_path):
    """(store, url, ann, bob, a researcher): ann and bob each have tasks, and none of the other's."""
    work = [rank_task(f"p{i}", (MARKUP, SQL, "plain text")) for i in range(6)]
    work.append(Task("demonstrate", MARKUP, {"prompt": MARKUP}))
    work.append(Task("write_prompt", SQL, {"brief": MARKUP, "style": "few_shot"}))
    store, tokens = make_store(tmp_path, work, ["ann", "bob"])
    tokens["boss"] = auth.add_person(store, "boss", "researcher", name=MARKUP)
    with serving(store) as url:
        yield store, url, *(Person(url, token) for token in tokens.values())
    store.close()


def outcomes(store):
    with store.read() as connection:
        return [
            tuple(row) for row in connection.execute("SELECT person, answer FROM outcomes ORDER BY number")
        ]


def pages_of(person):
    """Every page of every task a labeler has, submitting each on the way."""
    found = [person.get("/").text]
    while task := person.task():
        address, state = task
        found.append(person.get(address).text)
        if "outputs" in state["draft"]:
            found += [person.get(f"{address}?output={n}").text for n in (2, 3)]
            found.append(person.get(f"{address}?stage=rank").text)
        answer = person.submit(address, filled(state["draft"]) | {"notes": MARKUP, "response": MARKUP})
        found.append(answer.text)
    return found


def test_markup_is_shown_as_text_and_no_page_of_a_labeler_names_a_model(site):
    _, url, ann, _, boss = site
    pages = pages_of(ann)
    assert len(pages) > 12
    shown = [
        ann.get("/nothing/" + MARKUP).text,
        *(boss.get(f"/researcher{p}").text for p in ("", "/people", "/screening")),
    ]
    for html in pages + shown:
        assert "<script>alert" not in html and "<img src=x" not in html
    assert any("{{ 7 * 7 }}" in html for html in pages)
    assert any("&lt;script&gt;alert(1)&lt;/script&gt;" in html for html in pages)
    assert not [html for html in pages if "secret" in html]


def test_what_labelers_write_is_text_on_the_researchers_pages_too(tmp_path):
    store, tokens = make_store(
        tmp_path, [rank_task("p", (MARKUP, "b"), model=MARKUP)], ["ann", "bob"], overlap=1.0
    )
    tokens["boss"] = auth.add_person(store, "boss", "researcher")
    with serving(store) as url:
        for person, ranks in (("ann", [1, 2]), ("bob", [2, 1])):
            labeler = Person(url, tokens[person])
            address, state = labeler.task()
            draft = filled(state["draft"], ranks)
            draft["outputs"][0]["notes"] = MARKUP
            labeler.submit(address, draft)
        boss = Person(url, tokens["boss"])
        html = boss.get("/researcher/disagreements").text
        rows = boss.get("/researcher/export/rankings.train.jsonl")
    assert "<script>alert" not in html and "<img src=x" not in html
    assert [json.loads(line)["completions"][0] for line in rows.text.split("\n")[:-1]] == [MARKUP] * 2
    assert rows.headers["content-type"].startswith("application/x-ndjson")


def test_sql_in_any_field_is_a_value_like_any_other(site):
    store, _, ann, _, boss = site
    address, state = ann.task()
    assert ann.post(f"{address}/skip", key=SQL, reason=SQL).status_code == 200
    assert ann.get(f"/task/{SQL}").status_code == 404
    for name in ("id", "name", "role", "pool"):
        fields = {"id": "new", "role": "labeler"} | {name: SQL}
        assert boss.send("/researcher/people", **fields).status_code == (200 if name == "name" else 422)
    assert boss.get(f"/researcher/export/{SQL}.jsonl").status_code == 404
    assert once("POST", f"{ann.http.base_url}/login", data={"token": SQL}).status_code == 401
    assert len(outcomes(store)) == 1


def test_nobody_submits_for_another_or_to_a_task_they_were_not_given(site):
    store, _, ann, bob, boss = site
    address, state = ann.task()
    draft = filled(state["draft"])
    assert bob.get(address).status_code == 403
    sent = {"draft": draft, "version": 1}
    for path, more in (("submit", sent), ("draft", sent), ("skip", {})):
        assert (
            bob.post(f"{address}/{path}", key="k" * 10, person="ann", labeler="ann", **more).status_code
            == 403
        )
        assert boss.post(f"{address}/{path}", key="k" * 10, **more).status_code == 403
        assert ann.post(f"/task/none/{path}", key="k" * 10, **more).status_code == 404
    assert not outcomes(store)
    for path in ("", "/people", "/screening", "/disagreements", "/export/rankings.train.jsonl"):
        assert ann.get(f"/researcher{path}").status_code == 403
    for path in ("/people", "/people/bob/disable", "/people/ann/waive", "/screening/1/grade"):
        assert ann.send(f"/researcher{path}", id="x", role="researcher", grade="7").status_code == 403


def test_without_the_sessions_own_csrf_token_nothing_is_done(site):
    store, url, ann, bob, boss = site
    address, state = ann.task()
    body = {"key": "k" * 10, "draft": filled(state["draft"]), "version": 1}
    posts = [f"{address}/submit", f"{address}/draft", f"{address}/skip", "/undo", "/logout"]
    for token in (bob.csrf, "", None, 0, "é", [ann.csrf], ann.csrf[:-1], ann.http.cookies["session"]):
        for path in posts:
            assert ann.http.post(path, json=body | {"csrf": token}).status_code == 403
    for path in posts:
        assert ann.http.post(path, json=body).status_code == 403
    for path in ("/people", "/people/ann/disable", "/screening/1/grade", "/people/ann/waive"):
        assert boss.http.post(f"/researcher{path}", data={"id": "x", "csrf": ann.csrf}).status_code == 403
    assert not outcomes(store) and ann.get(address).status_code == 200
    assert once("POST", f"{url}{address}/submit", json=body | {"csrf": ann.csrf}).status_code == 401


def test_what_a_page_of_another_site_sends_is_refused(site):
    _, url, ann, _, _ = site
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert ann.http.post("/undo", json={"csrf": ann.csrf}, headers=headers).status_code == 403
        assert once("POST", f"{url}/login", data={"token": "x"}, headers=headers).status_code == 403
    same = {"Origin": url, "Sec-Fetch-Site": "same-origin"}
    assert ann.http.post("/undo", json={"csrf": ann.csrf}, headers=same).status_code == 409


def test_another_host_name_is_refused_as_dns_rebinding_needs_one(site):
    url = site[1]
    port = url.rpartition(":")[2]
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "127.0.0.1.evil.example",
        "",
        "localhost@evil",
        "[::2]",
    ):
        assert once("GET", f"{url}/login", headers={"Host": host}).status_code == 400
    for host in (f"localhost:{port}", "LOCALHOST", f"[::1]:{port}", "127.0.0.1"):
        assert once("GET", f"{url}/login", headers={"Host": host}).status_code == 200
    assert "0.0.0.0" not in LOCAL_HOSTS


def raw(url, request):
    """The status that the server answers these bytes with."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        for part in request:
            try:
                connection.sendall(part)
            except OSError:
                break  # it has hung up, with its answer on the way
        return int(connection.makefile("rb").readline().split()[1])


def test_a_body_over_a_mebibyte_is_refused_whatever_its_length_is_said_to_be(site):
    store, url, ann, _, _ = site
    address, state = ann.task()
    draft = filled(state["draft"])
    draft["outputs"][0]["notes"] = "x" * (2**20 - 4000)
    assert ann.post(f"{address}/draft", version=1, draft=draft).status_code == 200
    draft["outputs"][0]["notes"] = "x" * 2**20
    assert ann.post(f"{address}/draft", version=2, draft=draft).status_code == 413
    head = f"POST {address}/draft HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode()
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    chunked = [head, b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 20, b"0\r\n\r\n"]
    assert raw(url, chunked) == 413
    assert raw(url, [head, b"Content-Length: 99999999999999999999\r\n\r\n"]) in (400, 413)
    assert raw(url, [head, b"Content-Length: 2000000\r\n\r\n"]) == 413  # before any of it was sent
    assert raw(url, [head, b"Content-Length: -1\r\n\r\n"]) == 400
    assert raw(url, [head, b"Content-Length: 5\r\n\r\n", b"{}   and a megabyte more" * 50000]) in (400, 401)
    assert state_of(ann.get(address).text)["version"] == 1


def test_what_is_not_json_or_not_a_form_is_a_clear_refusal(site):
    _, _, ann, _, _ = site
    address, _ = ann.task()
    bad = [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"a": NaN}',
        b'{"a": ' + b"9" * 5000 + b"}",
    ]
    for body in bad:
        assert ann.http.post(f"{address}/submit", content=body, headers=JSON).status_code == 400, body[:20]
    for kind in ("text/plain", "multipart/form-data; boundary=x", ""):
        assert (
            ann.http.post(f"{address}/submit", content=b"{}", headers={"Content-Type": kind}).status_code
            == 415
        )
    for fields in (
        {"key": 7},
        {"key": "short"},
        {"key": "k" * 101},
        {"key": "\ud800" * 10},
        {"key": "k" * 10, "seconds": "1"},
        {"key": "k" * 10, "seconds": -1},
    ):
        assert ann.post(f"{address}/submit", draft={}, **fields).status_code == 422
    for version in (None, "1", 1.5, True, -1, 2**60):
        assert ann.post(f"{address}/draft", draft={}, version=version).status_code == 422
        assert ann.submit(address, filled({"outputs": [{}] * 3}), version=version).status_code == 422
    for output in ("0", "4", "-1", "x", "1e3", "9" * 5000, "%00", "٣"):
        assert ann.get(f"{address}?output={output}").status_code == 404
    assert ann.post(f"{address}/skip", key="k" * 10, reason="x" * 1001).status_code == 422


def test_other_methods_are_405_and_nothing_outside_static_is_served(site):
    url, ann = site[1], site[2]
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "GET"):
        assert ann.http.request(method, "/undo").status_code == 405
    assert ann.http.post("/task").status_code == 405
    for path in (
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static//etc/passwd",
        "/static/.",
        "/static/..%5capp.py",
        "/static/%00",
    ):
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        assert raw(url, [request]) in (404, 405), path
    assert once("GET", f"{url}/static/app.css").status_code == 200


def test_every_answer_forbids_scripts_of_others_framing_and_guessing(site):
    _, url, ann, _, _ = site
    for answer in (
        ann.get("/"),
        once("GET", f"{url}/nothing"),
        once("GET", f"{url}/static/app.css"),
        once("GET", url, headers={"Host": "evil"}),
        ann.post("/undo"),
    ):
        policy = answer.headers["content-security-policy"]
        assert (
            "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        )
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "server" not in answer.headers or "uvicorn" in answer.headers["server"]
    assert ann.get("/").headers["cache-control"] == "no-store"
    assert "strict-transport-security" not in ann.get("/").headers


def test_the_session_cookie_is_for_this_site_alone_and_a_secret(site, tmp_path):
    store, url, ann, _, _ = site
    token = auth.add_person(store, "eve", "labeler")
    assert len(token) >= 43  # 256 bits
    answer = once("POST", f"{url}/login", data={"token": token})
    cookie = answer.headers["set-cookie"].lower()
    assert (
        "httponly" in cookie and "samesite=strict" in cookie and "path=/" in cookie and "secure" not in cookie
    )
    secret = answer.cookies["session"]
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("labels.db*"))
    assert (
        token.encode() not in stored
        and secret.encode() not in stored
        and auth.csrf_of(secret).encode() not in stored
    )
    folder = tmp_path / "https"
    folder.mkdir()
    other, tokens = make_store(folder)
    with serving(other, https=True) as secure:
        answer = once("POST", f"{secure}/login", data={"token": tokens["ann"]})
    assert (
        answer.headers["set-cookie"].startswith("__Host-session=")
        and "; secure" in answer.headers["set-cookie"].lower()
    )
    assert "max-age" in answer.headers["strict-transport-security"]


def test_a_session_ends_by_time_logout_or_a_locked_person(site):
    store, url, ann, bob, boss = site
    cookie = {"session": ann.http.cookies["session"]}
    assert ann.send("/logout").status_code == 303
    token = auth.add_person(store, "eve", "labeler")
    eve = Person(url, token)
    before = {"session": eve.http.cookies["session"]}
    assert eve.http.post("/login", data={"token": token}).status_code == 303
    assert once("GET", f"{url}/", cookies=before).headers["location"] == "/login"
    assert eve.get("/").status_code == 200
    assert once("GET", f"{url}/", cookies=cookie).headers["location"] == "/login"
    assert boss.send("/researcher/people/bob/disable").status_code == 303
    assert bob.get("/").headers["location"] == "/login"
    assert bob.get("/task").headers["location"] == "/login?next=%2Ftask"
    assert bob.get("/task", headers={"Accept": "application/json"}).status_code == 401
    store.now = lambda: time.time() + auth.SESSION_SECONDS + 1
    assert boss.get("/researcher").status_code == 303


def test_failed_logins_of_an_address_are_limited_and_good_ones_are_not(site):
    store, url, *_ = site
    token = auth.add_person(store, "eve", "labeler")
    tries = [once("POST", f"{url}/login", data={"token": f"guess {i}"}).status_code for i in range(12)]
    assert tries == [401] * 10 + [429] * 2
    assert once("POST", f"{url}/login", data={"token": token}).status_code == 429
    store.now = lambda: time.time() + 301
    assert [once("POST", f"{url}/login", data={"token": token}).status_code for _ in range(15)] == [303] * 15


def test_a_login_goes_on_to_this_site_only(site):
    store, url, *_ = site
    token = auth.add_person(store, "eve", "labeler")
    for address in (
        "//evil.example",
        "/\\evil.example",
        "http://evil.example",
        "/task\r\nX: y",
        "javascript:alert(1)",
        "/\t/evil.example",
    ):
        answer = once("POST", f"{url}/login", data={"token": token, "next": address})
        assert answer.headers["location"] == "/"
        assert "evil" not in once("GET", f"{url}/login", params={"next": address}).text
    answer = once("POST", f"{url}/login", data={"token": token, "next": "/task/7?output=2"})
    assert answer.headers["location"] == "/task/7?output=2"


def test_no_token_is_written_to_a_log(site, caplog, capfd):
    store, url, *_ = site
    token = auth.add_person(store, "eve", "labeler")
    with caplog.at_level(logging.DEBUG):
        eve = Person(url, token)
        eve.get("/")
    ours = [
        record.getMessage() for record in caplog.records if not record.name.startswith("http")
    ]  # the client's
    text = "".join([*ours, *capfd.readouterr()])
    assert token not in text and eve.http.cookies["session"] not in text and eve.csrf not in text


def test_a_write_that_waits_for_the_disk_keeps_nobody_from_reading(site):
    store, _, ann, bob, _ = site
    address, state = ann.task()
    answers = []
    with store.write():
        thread = threading.Thread(
            target=lambda: answers.append(
                ann.post(f"{address}/draft", version=1, draft=filled(state["draft"]))
            )
        )
        thread.start()
        time.sleep(0.2)
        assert bob.get("/").status_code == 200 and bob.task() and not answers
    thread.join()
    assert answers[0].status_code == 200
