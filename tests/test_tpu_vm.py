"""launch/tpu_vm.sh and launch/worker.sh against a cloud of folders (tests/cloud_stand_in.py): calls, quoting, failures."""

import json
import shlex
import shutil
import subprocess

import pytest
from cloud_fixture import Laptop

SHAPE = ["--type", "v5litepod-16", "--version", "v2-alpha-tpuv5-lite"]
PLACE = ["--zone=us-west4-a", "--project", "mine-1"]
END = ["--zone=us-west4-a", "--project=mine-1", "--quiet"]
HINT, THERE = "bash launch/tpu_vm.sh", "--zone=us-west4-a --project=mine-1"
NASTY = [
    "two words",
    "it's",
    '"',
    "$(touch owned)",
    "`touch owned`",
    "a;b;",
    "*",
    "",
    "x\ny",
    "\\",
    "--config.a=1 # no",
]


@pytest.fixture
def laptop(tmp_path):
    return Laptop(tmp_path)


def ready(laptop):
    """A TPU that is there and set up."""
    assert laptop.run("create", "mine", *SHAPE)[0] == 0
    assert laptop.run("setup", "mine")[0] == 0


def test_create_asks_for_a_queued_resource_and_waits_until_it_is_there(laptop):
    status, said = laptop.run("create", "mine", *SHAPE, *PLACE, "--spot", "--valid-until=6h")
    assert status == 0, said
    shape = ["--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite"]
    queue = ["compute", "tpus", "queued-resources"]
    asked = [*queue, "describe", "mine", "--format=value(state.state)", *END]
    assert laptop.calls() == [
        [*queue, "create", "mine", "--node-id=mine", *shape, "--spot", "--valid-until-duration=6h", *END],
        *[asked] * 3,
        ["compute", "tpus", "tpu-vm", "describe", "mine", "--format=value(state)", *END],
    ]
    states = ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    assert said.splitlines() == [f"tpu_vm: mine is {state}" for state in states]


@pytest.mark.parametrize("kind, track", [("v4", []), ("v5p", ["alpha"])])
def test_a_topology_goes_with_the_chips_kind_and_gcloud_alpha_knows_the_later_ones(laptop, kind, track):
    assert laptop.run("create", "mine", "--type", kind, "--topology=2x2x4", "--version=v")[0] == 0
    first = laptop.calls()[0]
    assert first[: len(track) + 1] == [*track, "compute"]
    assert f"--type={kind}" in first and "--topology=2x2x4" in first
    assert not any(word.startswith("--accelerator-type") for word in first)


def test_settings_of_a_file_are_flags(laptop):
    text = "# where\nzone=us-west4-a\nproject=mine-1\n\ntype=v5litepod-16\nversion=v\nspot=true"
    (laptop.repo / "tpu.txt").write_text(text)
    assert laptop.run("create", "mine", "--settings", "tpu.txt", "--version=w")[0] == 0
    first = laptop.calls()[0]
    assert first[-5:] == ["--runtime-version=w", "--spot", *END]


def test_setup_ships_the_working_tree_or_a_commit_to_every_worker(laptop):
    (laptop.repo / "configs").mkdir()
    (laptop.repo / "configs/new file.py").write_text("new")
    (laptop.repo / "launch/lock.sh").unlink()
    laptop.run("create", "mine", *SHAPE)
    status, said = laptop.run("setup", "mine")
    assert status == 0 and "worker_0: set up" in said and "worker_1: set up" in said, said
    for worker in (0, 1):
        assert laptop.far("instruct_jax/code/configs/new file.py", worker) == "new"
        assert laptop.far("instruct_jax/code/launch/lock.sh", worker) is None
        home = laptop.cloud / f"worker_{worker}"
        assert laptop.far("tools", worker) == f"setup --tpu {home}/instruct_jax/venv\n"
    status, said = laptop.run("setup", "mine", "--commit", "HEAD")
    assert status == 0, said
    assert laptop.far("instruct_jax/code/configs/new file.py") is None
    assert laptop.far("instruct_jax/code/launch/lock.sh") is not None
    assert laptop.verbs()[-2:] == ["tpu-vm scp", "ssh setup"]


def test_every_argument_arrives_on_every_worker_as_it_was_given(laptop):
    ready(laptop)
    status, said = laptop.run("run", "mine", "--", "--workdir", "runs/x", *NASTY)
    assert status == 0 and "worker_1: started" in said, said
    wait_for_end(laptop)
    for worker in (0, 1):
        assert laptop.got(worker) == ["-m", "instruct_jax.main", "--workdir", "runs/x", *NASTY]
    assert not [*laptop.folder.rglob("owned")]


def wait_for_end(laptop, wanted="ended", tries=100):
    for _ in range(tries):
        said = laptop.run("status", "mine")[1]
        if said.count(wanted) == 2:
            return said
    raise AssertionError(said)


def test_a_run_outlives_its_ssh_and_status_logs_and_stop_reach_it(laptop):
    assert laptop.run("run", "mine", "--", "--workdir", "runs/x")[0] == 1, "there is no TPU yet"
    ready(laptop)
    assert "worker_0: no run" in laptop.run("status", "mine")[1]
    laptop.outcomes("wait", "7", "134")
    assert laptop.run("run", "mine", "--", "--workdir", "runs/x")[0] == 0
    wait_for_end(laptop, "running")
    assert "already running" in laptop.run("run", "mine", "--", "--workdir", "runs/x")[1]
    status, said = laptop.run("run", "mine", "--", "--workdir", "runs/y")
    assert status == 1 and "another run is going on" in said
    status, said = laptop.run("setup", "mine")
    assert status == 1 and "stop it first" in said
    status, said = laptop.run("stop", "mine")
    assert status == 0 and said.count("stopped") == 2, said
    assert "ended 143 stopped" in laptop.run("status", "mine")[1]
    assert laptop.run("run", "mine", "--", "--workdir", "runs/y")[0] == 0
    assert "ended 7" in wait_for_end(laptop)
    status, said = laptop.run("logs", "mine", "--worker", "1")
    assert status == 0 and "it says 7" in said and "== ended with status 7\n" in said
    assert laptop.run("run", "mine", "--", "--workdir", "runs/y")[0] == 0
    assert "ended 134" in wait_for_end(laptop)
    assert "status 134: another process died" in laptop.run("logs", "mine", "--worker", "0")[1]


def test_with_a_bucket_runs_and_data_lie_there(laptop):
    laptop.run("create", "mine", *SHAPE)
    assert laptop.run("setup", "mine", "--bucket", "my-bucket")[0] == 0
    mounted = f"{laptop.cloud}/worker_0/instruct_jax/bucket"
    options = "--implicit-dirs --rename-dir-limit=1000000 --metadata-cache-ttl-secs=0"
    assert f"gcsfuse {options} my-bucket {mounted}\n" in laptop.far("tools")
    laptop.run("run", "mine", "--", "--workdir", "runs/x")
    wait_for_end(laptop)
    assert (laptop.cloud / "bucket/runs/x/checkpoints").read_text().count("worker_") == 2
    assert (laptop.cloud / "where_worker_0").read_text().split("\0")[0].endswith(f" {mounted}/data")
    assert laptop.run("setup", "mine")[0] == 0, "and back to the VM's disk"
    assert not (laptop.cloud / "worker_0/instruct_jax/bucket").is_symlink()


def test_delete_gives_all_back_and_is_content_where_there_is_nothing(laptop):
    ready(laptop)
    assert laptop.run("delete", "mine")[0] == 0
    assert laptop.calls()[-1] == "compute tpus queued-resources delete mine --force --quiet".split()
    status, said = laptop.run("delete", "mine")
    assert status == 0 and "there is no mine in gcloud's own default zone\n" in said
    status, said = laptop.run("delete", "mine", *PLACE)
    assert status == 0 and "there is no mine in us-west4-a of project mine-1\n" in said
    assert "mine is NONE in us-west4-a\n" in laptop.run("status", "mine", "--zone=us-west4-a")[1]


# --- --dry-run


FOUR = [
    "--until-done",
    "--dry-run",
    *SHAPE,
    *PLACE,
    "--bucket=b",
    "--spot",
    "--",
    "--workdir",
    "runs/x",
    *NASTY,
]


@pytest.mark.parametrize(
    "words",
    [
        ["create", *SHAPE],
        ["setup"],
        ["run", "--", "x"],
        ["logs"],
        ["status"],
        ["stop"],
        ["delete"],
        ["run", *FOUR],
    ],
)
def test_a_dry_run_prints_what_the_shell_reads_back_and_calls_nothing(laptop, words):
    (laptop.folder / "bin/gcloud").rename(laptop.folder / "gcloud")
    words = [words[0], "mine", "--dry-run", *words[1:]]
    status, said = laptop.run(*words)
    assert status == 0 and not laptop.calls(), said
    (laptop.folder / "gcloud").rename(laptop.folder / "bin/gcloud")
    laptop.set(state="ACTIVE", workers=0)
    pasted = subprocess.run(
        [shutil.which("bash"), "-c", said], cwd=laptop.repo, env=laptop.environment(), capture_output=True
    )
    assert laptop.calls(), pasted
    assert len(laptop.calls()) == sum(line.startswith("gcloud ") for line in said.splitlines())


def test_a_dry_run_of_until_done_has_every_step_and_the_very_arguments(laptop):
    said = laptop.run("run", "mine", *FOUR)[1]
    lines = [shlex.split(line, comments=True) for line in said.splitlines() if not line.startswith("git ")]
    assert [line[3:5] for line in lines if line] == [
        ["queued-resources", "describe"],
        ["tpu-vm", "describe"],
        ["queued-resources", "delete"],
        ["queued-resources", "create"],
        ["queued-resources", "describe"],
        ["tpu-vm", "describe"],
        ["tpu-vm", "scp"],
        *[["tpu-vm", "ssh"]] * 3,
    ]


# --- what goes wrong


def test_without_gcloud_every_verb_says_where_it_comes_from(laptop):
    (laptop.folder / "bin/gcloud").unlink()
    status, said = laptop.run("status", "mine")
    assert status == 1 and said.count("\n") == 1 and "cloud.google.com/sdk" in said


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "unknown verb ''; the verbs are create setup run logs status stop delete"),
        (["crate", "mine"], "unknown verb 'crate'"),
        (["create"], "after create comes the TPU's name"),
        (["create", "--zone=z"], "got '--zone=z'"),
        (["create", "a;b", *SHAPE], "got 'a;b'"),
        (["create", "mine"], "needs --type, such as v5litepod-16"),
        (["create", "mine", *SHAPE, "--sopt"], "unknown flag '--sopt'"),
        (["create", "mine", "--type"], "--type takes a value"),
        (["create", "mine", *SHAPE, "--spot=no"], "--spot takes no value"),
        (["create", "mine", *SHAPE, "stray"], "'stray' belongs to no flag"),
        (["create", "mine", "--settings", "none.txt"], "--settings: no file"),
        (["setup", "mine", "--commit", "nope"], "no commit 'nope'"),
        (["setup", "mine", "--bucket", "gs://b"], "bare name: b"),
        (["setup", "mine", "--bucket", "$(id)"], "is no bucket's name"),
        (["logs", "mine", "--worker", "one"], "--worker takes a number or all"),
        (["run", "mine"], "run takes the arguments of instruct_jax.main after --"),
        (
            ["run", "mine", "--until-done", *SHAPE, "--spot", "--", "x"],
            "--until-done on --spot needs --bucket",
        ),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(laptop, words, message):
    status, said = laptop.run(*words)
    assert status == 2 and said.count("\n") == 1 and message in said, said
    assert not laptop.calls()


LOGIN = "ERROR: (gcloud.x) You do not currently have an active account selected.\nPlease run:\n\n  $ gcloud auth login"
QUOTA = "ERROR: (gcloud.x) Quota 'TPUV5s' exhausted. Limit 0 in zone us-west4-a"
ASIDE = "WARNING: Your active project does not match the quota project, which might exceed nothing.\n"


@pytest.mark.parametrize(
    "error, message",
    [
        (LOGIN, "not logged in; run: gcloud auth login"),
        (
            "ERROR: PERMISSION_DENIED: Cloud TPU API has not been used",
            "gcloud services enable tpu.googleapis.com",
        ),
        (QUOTA, "over the project's quota (" + QUOTA),
        ('ERROR: There is no more capacity in the zone "us-west4-a"', "no capacity there now; try later"),
        ("ERROR: RESOURCE_EXHAUSTED", "no capacity there now; try later, another --zone, or --spot"),
        ("ERROR: INVALID_ARGUMENT: no v9", "gcloud refuses: ERROR: INVALID_ARGUMENT: no v9"),
        (ASIDE + "ERROR: ALREADY_EXISTS", "a TPU of that name already"),
        (
            "ERROR: ALREADY_EXISTS",
            f"{HINT} status mine {THERE} or give it back: {HINT} delete mine {THERE}\n",
        ),
        ("ERROR: something else", f"ERROR: something else; see: {HINT} status mine {THERE}\n"),
    ],
)
def test_a_create_that_fails_says_why_in_one_line_with_the_next_step(laptop, error, message):
    laptop.set(fail={"queued-resources create": [error]})
    status, said = laptop.run("create", "mine", *SHAPE, *PLACE)
    assert status == 1 and said.count("\n") == 1 and message in said, said
    assert laptop.verbs() == ["queued-resources create"]


@pytest.mark.parametrize(
    "state, message",
    [
        ("FAILED", "the request failed: no such thing; clear"),
        ("SUSPENDED", "mine is SUSPENDED, and does not come back"),
    ],
)
def test_create_ends_where_the_request_does(laptop, state, message):
    laptop.set(coming=["WAITING_FOR_RESOURCES", state], why="no such thing")
    status, said = laptop.run("create", "mine", *SHAPE, *PLACE)
    assert status == 1 and message in said and f"{HINT} delete mine {THERE}" in said


RETURNED_255 = "[/usr/bin/ssh] exited with return code [255]."
TRY = "SSH: Attempting to connect to worker {}...\n"
RETRY = f"Retrying: SSH command error: {RETURNED_255}\n" + TRY


@pytest.mark.parametrize(
    "told, who, number",
    [
        (f"ERROR: (gcloud.x) {RETURNED_255}", "a worker", 0),
        (TRY.format(3) + RETRY.format(3) + f"ERROR: (gcloud.x) {RETURNED_255}", "worker 3", 3),
        ("".join(map(TRY.format, range(4))) + RETRY.format(2) + RETRY.format(1) + RETRY.format(2), "workers 1 2", 1),
    ],
    ids=["unnamed", "one", "two of four"],
)  # fmt: skip
def test_an_unreachable_worker_is_named_with_a_next_step_that_is_another(laptop, told, who, number):
    """The words are those of gcloud 528, which goes on with the workers that it reaches."""
    ready(laptop)
    cloud = json.loads((laptop.cloud / "cloud.json").read_text())
    laptop.set(**{**cloud, "fail": {"tpu-vm ssh": [told]}})
    status, said = laptop.run("status", "mine", "--zone=z z")
    assert status == 1 and said.splitlines()[0] == "tpu_vm: mine is ACTIVE in z z"
    assert said.splitlines()[1:] == [
        f"tpu_vm.sh: tpu-vm ssh: {who} cannot be reached; try again; if that does not help, go there: "
        rf"gcloud compute tpus tpu-vm ssh mine --worker={number} --zone=z\ z or get another TPU: {HINT} delete mine --zone=z\ z, "
        "then create"
    ]
