"""One virtual environment for us and one for each peer, made from the package index where they are missing or changed."""

import os
import shutil
import subprocess
from pathlib import Path

from instruct_jax.errors import InputError

# Ours comes from the project's own locks, by launch/setup.sh.
TORCH = ("torch==2.15.0", "transformers==5.23.0", "accelerate==1.15.0")
PACKAGES = {
    "trl": ("trl==1.16.0", *TORCH),
    "trl_ppo": ("trl==1.12.0", *TORCH),
    "tunix": ("google-tunix==0.1.7", "jax==0.12.0.1", "flax==0.12.12"),
}


def find_python(asked: str | None) -> str:
    """The interpreter that environments are made with: the one asked for, or a python3.12; InputError where there is none."""
    found = shutil.which(asked or "python3.12")
    if found is None:
        raise InputError(
            f"--python: found no {asked or 'python3.12'}; name an interpreter of Python 3.11 to 3.13, such as --python python3.13"
        )
    return found


def make(name: str, folder: Path, python: str) -> Path:
    """The interpreter of the environment `name` ("ours" or a key of PACKAGES) under `folder`; InputError where pip fails."""
    where = folder.absolute() / name
    where.parent.mkdir(parents=True, exist_ok=True)
    if name == "ours":
        _run(["bash", "launch/setup.sh"], name, {"PYTHON": python, "VENV": str(where)})
        return where / "bin" / "python"
    stamp, wanted = where / "installed.txt", "\n".join((python, *PACKAGES[name]))
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"making the environment {name}: {', '.join(PACKAGES[name])}", flush=True)
        _run([python, "-m", "venv", "--clear", str(where)], name, {})
        _run([str(where / "bin" / "python"), "-m", "pip", "install", "--quiet", *PACKAGES[name]], name, {})
        stamp.write_text(wanted)
    return where / "bin" / "python"


def _run(command: list[str], name: str, variables: dict[str, str]) -> None:
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **variables}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()][-3:]
        raise InputError(
            f"the environment {name} could not be made by {' '.join(command)}: {' | '.join(last)}"
        )
