"""launch/slurm.sh, launch/xpk.sh and launch/skypilot.yaml against tools that take notes, and run what they are given to run."""

import shutil
import signal
import subprocess
import time

import pytest
from cloud_fixture import ROOT, script

TOOLS = "bash cat date dirname env grep kill mkdir rm sed sleep tail touch uname".split()
NASTY = ["two words", "it's", '"', "$(touch owned)", "a;b;", "*", "", "x\ny", "--config.a=1 # no"]
NOTE = '#!/usr/bin/env bash\nprintf "%s\\x1f" "${0##*/}" "$@" >>"$NOTES"\nprintf "\\x1e" >>"$NOTES"\n'
SRUN = NOTE + 'while [[ "$1" == --* ]]; do shift; done\necho $$ >"$NOTES.srun"\nexec "$@"\n'
SCANCEL = NOTE + 'if [[ "$1" == --signal=TERM ]]; then kill -TERM "$(cat "$NOTES.srun")"; fi\n'
PYTHON = NOTE + (
    'if [[ -e wait ]]; then trap "sleep 0.3; exit 143" TERM; touch waits; while true; do sleep 0.05; done; fi\n'
    'exit "$(cat outcome)"\n'
)


@pytest.fixture
def repo(tmp_path):
    folder = tmp_path / "repo"
    shutil.copytree(ROOT / "launch", folder / "launch")
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    for tool in ("sbatch", "squeue", "scontrol", "xpk", "kubectl"):
        script(tmp_path / "bin" / tool, NOTE)
    script(tmp_path / "bin/srun", SRUN)
    script(tmp_path / "bin/scancel", SCANCEL)
    script(folder / ".venv/bin/python", PYTHON)
    (folder / "outcome").write_text("0")
    return folder


def environment(repo, **more):
    return {"PATH": str(repo.parent / "bin"), "NOTES": str(repo.parent / "notes"), **more}


def start(repo, *words, cwd=None, **more):
    return subprocess.Popen(
        [shutil.which("bash"), *words],
        cwd=cwd or repo,
        env=environment(repo, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(repo, *words, **more):
    process = start(repo, *words, **more)
    said = process.communicate(timeout=60)[0]
    return process.returncode, said


def notes(repo):
    """The calls of the tools so far, each as its words; forgotten once read."""
    path = repo.parent / "notes"
    text = path.read_text() if path.exists() else ""
    path.unlink(missing_ok=True)
    return [call.split("\x1f")[:-1] for call in text.split("\x1e")[:-1]]


# --- slurm.sh


def test_slurm_submits_one_process_a_gpu_with_a_signal_before_the_end(repo):
    flags = ["--nodes=2", "--gpus", "4", "--time=1:00:00", "--partition", "p", "--account=a"]
    status, said = run(repo, "launch/slurm.sh", "run", "mine", *flags, "--", "--workdir", "runs/x", *NASTY)
    assert status == 0, said
    assert notes(repo) == [
        [
            "sbatch",
            "--job-name=mine",
            "--nodes=2",
            "--ntasks-per-node=4",
            "--gpus-per-node=4",
            "--time=1:00:00",
            "--partition=p",
            "--account=a",
            "--signal=B:USR1@120",
            "--requeue",
            "--open-mode=append",
            "--output=runs/slurm/mine.log",
            "launch/slurm.sh",
            "job",
            "--workdir",
            "runs/x",
            *NASTY,
        ]
    ]


JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "mine"}


def job(repo, *words, **more):
    """The batch script as SLURM runs it: a copy elsewhere."""
    copied = repo.parent / "spool/slurm_script"
    copied.parent.mkdir(exist_ok=True)
    shutil.copy(repo / "launch/slurm.sh", copied)
    return start(repo, str(copied), "job", *words, cwd="/", **JOB, SLURM_SUBMIT_DIR=str(repo), **more)


@pytest.mark.parametrize("number, again", [(0, 0), (1, 0), (2, 0), (130, 0), (134, 1), (137, 1), (143, 1)])
def test_a_slurm_job_goes_back_to_the_queue_where_a_restart_helps(repo, number, again):
    (repo / "outcome").write_text(str(number))
    process = job(repo, "--workdir", "runs/x", *NASTY)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == number, said
    first, second, *rest = notes(repo)
    assert second == ["python", "-m", "instruct_jax.main", "--workdir", "runs/x", *NASTY]
    assert first == ["srun", "--kill-on-bad-exit=0", ".venv/bin/python", *second[1:]]
    assert rest == [["scontrol", "requeue", "7"]] * again
    assert not (repo / "owned").exists()


@pytest.mark.parametrize("reason", ["limit", "stop"])
def test_a_slurm_job_leaves_after_twenty_requeues_or_where_it_was_stopped(repo, reason):
    (repo / "outcome").write_text("143")
    if reason == "stop":
        assert run(repo, "launch/slurm.sh", "stop", "mine")[0] == 0
        pending, running = notes(repo)
        assert pending == ["scancel", "--me", "--name=mine", "--state=PENDING"]
        assert running == ["scancel", "--me", "--name=mine", "--state=RUNNING", "--batch", "--signal=USR1"]
    process = job(repo, "x", SLURM_RESTART_COUNT="20" if reason == "limit" else "0")
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 143 and not [call for call in notes(repo) if call[0] == "scontrol"], said
    assert ("gave up after 20 requeues" if reason == "limit" else "stopped, as slurm.sh stop asked") in said


def test_the_warning_before_the_time_limit_saves_and_requeues_and_slurms_own_sigterm_is_not_doubled(repo):
    (repo / "wait").touch()
    process = job(repo, "x")
    for _ in range(200):
        if (repo / "waits").exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None and not [call for call in notes(repo) if call[0] == "scancel"]
    process.send_signal(signal.SIGUSR1)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 143 and "== ended with status 143" in said
    assert notes(repo) == [["scancel", "--signal=TERM", "7.0"], ["scontrol", "requeue", "7"]]


# --- xpk.sh

LIST = "xpk workload list --cluster=c1 --filter-by-job=w1"
PLACE = ["--zone", "us-west4-a", "--project=p1"]
END = ["--zone=us-west4-a", "--project=p1"]


def test_xpk_makes_a_cluster_with_its_bucket(repo):
    flags = ["--type=v5litepod-16", "--slices", "2", "--bucket=b", "--spot", *PLACE]
    status, said = run(repo, "launch/xpk.sh", "create", "c1", *flags)
    assert status == 0, said
    cluster, storage = notes(repo)
    size = ["--cluster=c1", "--tpu-type=v5litepod-16", "--num-slices=2", "--spot"]
    assert cluster == [
        *["xpk", "cluster", "create", *size],
        *["--enable-workload-identity", "--enable-gcsfuse-csi-driver", *END],
    ]
    assert storage[:7] == "xpk storage attach instruct-jax --cluster=c1 --type=gcsfuse --bucket=b".split()


def test_every_argument_arrives_in_the_container_as_it_was_given(repo):
    words = ["--cluster=c1", "--type=v5litepod-16", *PLACE, "--", "--workdir", "runs/x", *NASTY]
    status, said = run(repo, "launch/xpk.sh", "run", "w1", *words)
    assert status == 0, said
    (call,) = notes(repo)
    assert call[:5] == ["xpk", "workload", "create", "--workload=w1", "--cluster=c1"]
    assert "--max-restarts=50" in call and call[-2:] == END
    command = next(word for word in call if word.startswith("--command=")).removeprefix("--command=")
    assert "\n" not in command, "xpk puts it into YAML, where it has to stay one line"
    (repo / "launch/setup.sh").write_text("")
    (repo / "runs/old").mkdir(parents=True)
    for tool in ("mkdir", "ln"):
        (repo.parent / "bin" / tool).unlink(missing_ok=True)
        script(repo.parent / "bin" / tool, NOTE)
    subprocess.run([shutil.which("bash"), "-c", f"({command})"], cwd=repo, env=environment(repo), check=True)
    assert notes(repo) == [
        ["mkdir", "-p", "/bucket/runs", "/bucket/data"],
        ["ln", "-s", "/bucket/runs", "runs"],
        ["python", "-m", "instruct_jax.main", "--workdir", "runs/x", *NASTY],
    ]
    assert not (repo / "owned").exists()
    assert not (repo / "runs").exists(), "in a folder that came along the link would be runs/runs"


def test_the_image_leaves_out_what_git_ignores_and_git_itself():
    def patterns(name):
        lines = (ROOT / name).read_text().splitlines()
        return {line for line in lines if line and not line.startswith("#")}

    # git takes a pattern without a leading slash at any depth, docker from the root.
    ignored = {p.strip("/") if p.startswith("/") else f"**/{p.rstrip('/')}" for p in patterns(".gitignore")}
    assert patterns(".dockerignore") == {".git", *ignored}


@pytest.mark.parametrize(
    "words, wanted",
    [
        (["status", "w1", "--cluster=c1"], LIST),
        (["stop", "w1", "--cluster=c1"], "xpk workload delete --cluster=c1 --workload=w1 --force"),
        (["delete", "c1"], "xpk cluster delete --cluster=c1 --force"),
        # xpk leaves kubectl with the cluster that it was asked about.
        (
            ["logs", "w1", "--cluster=c1"],
            LIST + "\nkubectl logs --selector=jobset.sigs.k8s.io/jobset-name=w1 --tail=100 --prefix",
        ),
    ],
)
def test_the_other_verbs_of_xpk(repo, words, wanted):
    assert run(repo, "launch/xpk.sh", *words)[0] == 0
    assert notes(repo) == [line.split() for line in wanted.splitlines()]


def test_no_log_is_read_from_a_cluster_that_xpk_does_not_reach(repo):
    script(repo.parent / "bin/xpk", NOTE + "exit 1\n")
    status, said = run(repo, "launch/xpk.sh", "logs", "w1", "--cluster=c1")
    assert status == 1 and "xpk workload list failed" in said and notes(repo) == [LIST.split()]


# --- both

SUBMIT = ["--", "--workdir", "runs/x", *NASTY]
DRY = [
    ["slurm.sh", "setup"],
    ["slurm.sh", "run", "mine", *SUBMIT],
    ["slurm.sh", "logs", "mine"],
    ["slurm.sh", "status", "mine"],
    ["slurm.sh", "stop", "mine"],
    ["xpk.sh", "create", "c1", "--type=t", "--bucket=b"],
    ["xpk.sh", "run", "w1", "--cluster=c1", "--type=t", *SUBMIT],
    ["xpk.sh", "logs", "w1", "--cluster=c1"],
    ["xpk.sh", "status", "w1", "--cluster=c1"],
    ["xpk.sh", "stop", "w1", "--cluster=c1"],
    ["xpk.sh", "delete", "c1"],
]


@pytest.mark.parametrize("words", DRY, ids=lambda words: " ".join(words[:2]))
def test_a_dry_run_prints_the_commands_that_the_run_makes_and_makes_none(repo, words):
    (repo / "launch/setup.sh").write_text(NOTE)
    (repo / "runs/slurm").mkdir(parents=True)
    (repo / "runs/slurm/mine.log").touch()
    at = words.index("--") if "--" in words else len(words)
    dry = [f"launch/{words[0]}", *words[1:at], "--dry-run", *words[at:]]
    status, printed = run(repo, *dry)
    assert status == 0 and notes(repo) == [] and printed
    assert run(repo, "-c", printed)[0] == 0
    pasted = notes(repo)
    assert run(repo, f"launch/{words[0]}", *words[1:])[0] == 0
    assert notes(repo) == pasted


@pytest.mark.parametrize(
    "words, message",
    [
        (["slurm.sh", "go"], "unknown verb 'go'; the verbs are setup run logs status stop"),
        (["slurm.sh", "run", "a/b"], "got 'a/b'"),
        (["slurm.sh", "run", "mine"], "run takes the arguments of instruct_jax.main"),
        (["slurm.sh", "run", "mine", "--nodes=two", "--", "x"], "--nodes takes a whole number, got 'two'"),
        (["slurm.sh", "run", "mine", "--gpu=1", "--", "x"], "unknown flag '--gpu=1'"),
        (["xpk.sh", "go", "c1"], "unknown verb 'go'"),
        (["xpk.sh", "create", "C1"], "got 'C1'"),
        (["xpk.sh", "create", "c1", "--type=t"], "create needs --bucket"),
        (["xpk.sh", "run", "w1", "--type=t", "--", "x"], "run needs --cluster"),
        (["xpk.sh", "logs", "w1"], "logs needs --cluster"),
        (["xpk.sh", "run", "w1", "--sopt"], "unknown flag '--sopt'"),
        (["xpk.sh", "run", "w1", "--type"], "--type takes a value"),
        (["xpk.sh", "run", "w1", "--cluster=c1", "--type=t"], "run takes the arguments of instruct_jax.main"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(repo, words, message):
    status, said = run(repo, f"launch/{words[0]}", *words[1:])
    assert status == 2 and said.count("\n") == 1 and message in said, said
    assert notes(repo) == []


@pytest.mark.parametrize(
    "words, tool", [(["slurm.sh", "status", "mine"], "squeue"), (["xpk.sh", "delete", "c1"], "xpk")]
)
def test_a_missing_tool_is_named_with_the_way_on(repo, words, tool):
    (repo.parent / "bin" / tool).unlink()
    status, said = run(repo, f"launch/{words[0]}", *words[1:])
    assert status == 1 and said.count("\n") == 1 and f"there is no {tool} here" in said


# --- skypilot.yaml


def test_skypilots_own_loader_takes_the_file(tmp_path):
    sky = pytest.importorskip(
        "sky", reason="SkyPilot is no requirement: docs/launching.md says how to run this"
    )
    text = (ROOT / "launch/skypilot.yaml").read_text()
    with pytest.raises(ValueError, match="'BUCKET' is None. Please set a value"):
        sky.Task.from_yaml(str(ROOT / "launch/skypilot.yaml"))
    given = text.replace("BUCKET: null", "BUCKET: b").replace("CONFIG: null", "CONFIG: c.py")
    (tmp_path / "task.yaml").write_text(given)
    task = sky.Task.from_yaml(str(tmp_path / "task.yaml"))
    (resources,) = task.resources
    assert resources.use_spot and resources.accelerators == {"tpu-v5litepod-16": 1}


@pytest.mark.parametrize("overrides", ["", "--config.seed=1  --config.ppo.kl_coef=0.05"])
def test_what_skypilot_runs_is_one_main_with_its_overrides(repo, overrides):
    lines = (repo / "launch/skypilot.yaml").read_text().partition("\nrun: |\n")[2].splitlines()
    for tool in ("mkdir", "ln"):
        (repo.parent / "bin" / tool).unlink(missing_ok=True)
        script(repo.parent / "bin" / tool, NOTE)
    given = dict(CONFIG="c $(touch owned).py", WORKDIR="runs/two words", OVERRIDES=overrides)
    status, said = run(repo, "-c", "\n".join(line[2:] for line in lines), **given)
    assert status == 0, said
    told = ["--config", given["CONFIG"], "--workdir", given["WORKDIR"], *overrides.split()]
    assert notes(repo)[-1] == ["python", "-m", "instruct_jax.main", *told]
    assert not (repo / "owned").exists()
