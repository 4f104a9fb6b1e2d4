"""A stand-in for gcloud with a cloud behind it: folders for workers, on which the far command really runs through bash.

    CLOUD=FOLDER gcloud compute tpus ...      where FOLDER/cloud.json says what there is and what will happen

Every call is appended to FOLDER/calls.jsonl. `cloud.json` holds: state (of the queued resource, None for none), node
(its VM's), workers (how many), coming (the states that describe shows next, one a call), why (it is FAILED), and fail ({words of
a call: [what gcloud says and exits 1 with, "" for nothing wrong, one a call]}).
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

NOT_FOUND = "ERROR: (gcloud.compute.tpus) NOT_FOUND: Resource 'projects/p/locations/z/x' was not found"


def leave(message, status=1):
    print(message, file=sys.stderr)
    sys.exit(status)


def flag(words, name):
    return next((word.partition("=")[2] for word in words if word.startswith(f"--{name}=")), None)


class Cloud:
    def __init__(self, folder):
        self.folder, self.file = folder, folder / "cloud.json"
        self.__dict__.update(json.loads(self.file.read_text()))

    def keep(self):
        kept = {name: getattr(self, name) for name in ("state", "node", "workers", "coming", "why", "fail")}
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps(kept))
        part.rename(self.file)

    def homes(self, which="all"):
        numbers = range(self.workers) if which == "all" else [int(which)]
        return [self.folder / f"worker_{number}" for number in numbers]

    def planned_failure(self, words):
        for call, messages in self.fail.items():
            if call in " ".join(words) and messages:
                message = messages.pop(0)
                self.keep()
                if message:
                    leave(message)

    def describe_request(self):
        if self.coming:
            self.state = self.coming.pop(0)
            self.keep()
        if self.state is None:
            leave(NOT_FOUND)
        print(self.state)

    def create(self):
        if self.state is not None:
            leave("ERROR: ALREADY_EXISTS: the resource exists")
        for home in self.homes():
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
        self.state, self.node = "ACTIVE", "READY"
        self.coming = self.coming or ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]

    def delete(self):
        if self.state is None:
            leave(NOT_FOUND)
        self.state = None

    def describe_node(self):
        if self.state != "ACTIVE":
            leave(NOT_FOUND)
        print(self.node)

    def reach(self, words):
        if self.state is None:
            leave(NOT_FOUND)
        if self.state != "ACTIVE" or self.node != "READY":
            leave(f"ERROR: TPU is in state {self.node}, and cannot be reached")
        return self.homes(flag(words, "worker") or "0")

    def scp(self, words):
        source, target = words[4], words[5].partition(":")[2]
        for home in self.reach(words):
            shutil.copy(source, home / target)

    def ssh(self, words):
        """The far shell gets the command as sshd hands it over: split at blanks by gcloud, joined again by ssh."""
        command = " ".join(flag(words, "command").split(" "))
        statuses = []
        for home in self.reach(words):
            path = f"{self.folder / 'far_bin'}"
            environment = {"HOME": str(home), "PATH": path, "CLOUD": str(self.folder), "STOP_WAIT": "5"}
            environment["HOSTNAME"] = home.name
            far = subprocess.run([f"{path}/bash", "-c", command], cwd=home, env=environment)
            statuses.append(far.returncode)
        if any(statuses):
            leave("ERROR: [/usr/bin/ssh] exited with return code [1].", max(statuses))


def main():
    folder = Path(os.environ["CLOUD"])
    words = [word for word in sys.argv[1:] if word != "alpha"]
    with (folder / "calls.jsonl").open("a") as file:
        file.write(json.dumps(sys.argv[1:]) + "\n")
    cloud = Cloud(folder)
    cloud.planned_failure(words)
    match words[2:4]:
        case ["queued-resources", "describe"] if "failedData" in flag(words, "format"):
            print(cloud.why)
        case ["queued-resources", "describe"]:
            cloud.describe_request()
        case ["queued-resources", "create"]:
            cloud.create()
        case ["queued-resources", "delete"]:
            cloud.delete()
        case ["tpu-vm", "describe"]:
            cloud.describe_node()
        case ["tpu-vm", "scp"]:
            return cloud.scp(words)
        case ["tpu-vm", "ssh"]:
            return cloud.ssh(words)
        case _:
            leave(f"ERROR: Invalid choice: {words}")
    cloud.keep()


if __name__ == "__main__":
    main()
