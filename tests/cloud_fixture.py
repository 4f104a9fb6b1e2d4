"""What the launchers' tests share: a copy of the scripts, a cloud (tests/cloud_stand_in.py) and tools that only take notes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEAR = "bash cat cksum cut dirname env git grep gzip head mktemp rm sed sleep sort tail tar tr uniq".split()
FAR = "bash cat cksum cp cut date dirname env grep gzip kill ln mkdir mv rm rmdir sleep tail tar touch tee uname".split()

# Each run of "python" on a worker takes that worker's next outcome: a status, "wait" (for SIGTERM, then 143) or "preempt".
FAR_PYTHON = """#!/usr/bin/env bash
if [[ "$1" == -c ]]; then exit 0; fi
printf '%s\\0' "$@" >>"$CLOUD/got_$HOSTNAME"
printf '%s\\0' "$PWD $INSTRUCT_JAX_DATA" >>"$CLOUD/where_$HOSTNAME"
read -r outcome <"$CLOUD/outcomes_$HOSTNAME" || outcome=0
sed -i 1d "$CLOUD/outcomes_$HOSTNAME"
mkdir -p runs/x && echo "$HOSTNAME $outcome" >>runs/x/checkpoints
case "$outcome" in
  wait) trap 'exit 143' TERM; while true; do sleep 0.05; done ;;
  preempt) cp "$CLOUD/preempted.json" "$CLOUD/cloud.json"; sleep 60 ;;
  *) echo "it says $outcome"; exit "$outcome" ;;
esac
"""
FAR_TMUX = """#!/usr/bin/env bash
case "$1" in
  new-session)
    shift 4
    (setsid "$@" >/dev/null 2>&1 </dev/null; rm -f "$HOME/session") >/dev/null 2>&1 &
    echo $! >"$HOME/session" ;;
  has-session) [[ -e "$HOME/session" ]] && kill -0 "$(cat "$HOME/session")" 2>/dev/null ;;
  kill-session) rm -f "$HOME/session" ;;
esac
"""
FAR_SETUP = """echo "setup $* $VENV" >>"$HOME/tools"
mkdir -p "$VENV/bin" && cp "$CLOUD/far_python" "$VENV/bin/python"
"""
NOTES = '#!/usr/bin/env bash\necho "${0##*/} $*" >>"$HOME/tools"\n'
GCSFUSE = NOTES + 'rmdir "${@: -1}" && ln -s "$CLOUD/bucket" "${@: -1}"\n'
START = dict(state=None, node="READY", workers=2, coming=[], why="", fail={})


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def tools(folder, names):
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).symlink_to(shutil.which(name))


class Laptop:
    """A checkout of the scripts with git, its PATH, and the cloud that gcloud stands for."""

    def __init__(self, folder):
        self.folder, self.repo, self.cloud = folder, folder / "repo", folder / "cloud"
        shutil.copytree(ROOT / "launch", self.repo / "launch")
        script(self.repo / "launch/setup.sh", FAR_SETUP)
        tools(folder / "bin", NEAR)
        tools(self.cloud / "far_bin", [*FAR, "sed", "setsid"])
        (self.cloud / "far_bin/python3").symlink_to(sys.executable)
        for name, text in {"tmux": FAR_TMUX, "gcsfuse": GCSFUSE}.items():
            script(self.cloud / "far_bin" / name, text)
        script(self.cloud / "far_bin/mountpoint", '#!/usr/bin/env bash\n[[ -L "$2" ]]\n')
        script(self.cloud / "far_bin/fusermount", '#!/usr/bin/env bash\nrm "$2"\n')
        script(self.cloud / "far_python", FAR_PYTHON)
        (self.cloud / "bucket").mkdir()
        self.outcomes()
        stand_in = ROOT / "tests/cloud_stand_in.py"
        script(
            folder / "bin/gcloud",
            f'#!{shutil.which("bash")}\nexport CLOUD={self.cloud}\nexec {sys.executable} {stand_in} "$@"\n',
        )
        self.git("init", "-q")
        self.git("add", "-A")
        self.git("commit", "-qm", "scripts")
        self.set()

    def git(self, *words):
        who = ["-c", "user.name=x", "-c", "user.email=x@x"]
        subprocess.run(["git", *who, *words], cwd=self.repo, check=True, capture_output=True)

    def set(self, file="cloud.json", **changes):
        (self.cloud / file).write_text(json.dumps({**START, **changes}))

    def outcomes(self, *words, worker=None):
        """What the next runs do, for each worker or one."""
        for number in range(2) if worker is None else [worker]:
            (self.cloud / f"outcomes_worker_{number}").write_text("".join(f"{word}\n" for word in words))

    def environment(self, **more):
        return {"PATH": str(self.folder / "bin"), "HOME": str(self.folder), "TPU_VM_POLL": "0", **more}

    def start(self, *words, script="tpu_vm.sh", **more):
        return subprocess.Popen(
            [shutil.which("bash"), f"launch/{script}", *map(str, words)],
            cwd=self.repo,
            env=self.environment(**more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words, script="tpu_vm.sh", **more):
        """(status, what it said) of a script."""
        process = self.start(*words, script=script, **more)
        said = process.communicate(timeout=60)[0]
        return process.returncode, said

    def calls(self, since=0):
        path = self.cloud / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()][since:] if path.exists() else []

    def verbs(self):
        """Each call as its third and fourth word, with the worker script's verb for ssh."""
        names = []
        for words in self.calls():
            words = [word for word in words if word != "alpha"]
            name = " ".join(words[2:4])
            if name == "tpu-vm ssh":
                command = next(word for word in words if word.startswith("--command="))
                name = "ssh " + (command.partition("worker.sh ")[2].split() or ["?"])[0]
            names.append(name)
        return names

    def far(self, path, worker=0):
        """The file at a path of a worker's home; None where it is not there."""
        file = self.cloud / f"worker_{worker}" / path
        return file.read_text() if file.exists() else None

    def got(self, worker=0):
        """What the far Python was called with, over all its runs."""
        file = self.cloud / f"got_worker_{worker}"
        return file.read_text().split("\0")[:-1] if file.exists() else []
