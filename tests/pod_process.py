"""One process of a run: several command lines of instruct_jax.main, one after another, as test_distributed.py starts it.

    python tests/pod_process.py NOTES END '[["--config", ...], ...]'

NOTES gets a line for every batch that the program reads: [step, the share it asked for, rows of each array it got, rows of each array
of the whole]. END is how it ends at a step of the last command, such as killed:5, error:5 or bad_input:5; "": it does not.
"""

import json
import os
import sys

import jax

from instruct_jax import devices
from instruct_jax.data.streams import WHOLE
from instruct_jax.errors import InputError
from instruct_jax.main import main
from instruct_jax.stages import setup

devices.HEARTBEAT_SECONDS = 10  # a test's time is short


class Noted:
    """Batches whose every reading is noted, as the program asked for it."""

    def __init__(self, batches, notes):
        self.batches, self.notes = batches, notes

    def at(self, step, share=WHOLE):
        made, whole = self.batches.at(step, share), self.batches.at(step)
        rows, of = ([leaf.shape[0] for leaf in jax.tree.leaves(tree)] for tree in (made, whole))
        self.notes.write(json.dumps([step, share, rows, of]) + "\n")
        self.notes.flush()
        return made


def note_batches(notes) -> None:
    """Have what put_step reads noted."""
    made = setup.put_step
    setup.put_step = lambda batches, step, mesh: made(Noted(batches, notes), step, mesh)


def end_at(last: int, how: str) -> None:
    """Have the process end where it would make the batch of a step."""
    made = setup.put_step

    def put_step(batches, step, mesh):
        if step == last and how == "killed":
            os._exit(9)
        if step == last:
            raise {"error": RuntimeError, "bad_input": InputError}[how]("this process alone")
        return made(batches, step, mesh)

    setup.put_step = put_step


if __name__ == "__main__":
    note_batches(open(sys.argv[1], "w"))
    commands = json.loads(sys.argv[3])
    for words in commands:
        if words is commands[-1] and sys.argv[2]:
            how, step = sys.argv[2].split(":")
            end_at(int(step), how)
        status = main(["main", *words])
        if status:
            sys.exit(status)
