"""One run of instruct_jax.main that says on standard output which phase it is in, for soak.py to choose when to kill it.

Lines are "@ WORD": +phase and -phase for the phases of soak.PHASES, "resumed N" and "done N" for steps of the PPO stage. Nothing
else about the run is changed, but that each program is waited for, so that a phase is where it says.
"""

import sys
import threading
import time

import jax

from instruct_jax.main import main
from instruct_jax.stages import recipe, states, train_ppo
from instruct_jax.training.checkpoint import Checkpoints

PROGRAMS = {"rollout": "rollout", "update_and_adapt": "update"}


def say(word):
    sys.stdout.write(f"@ {word}\n")
    sys.stdout.flush()


class Watched:
    """The module jax as train_ppo sees it, with programs that say when they run."""

    steps = 0

    def __getattr__(self, name):
        return getattr(jax, name)

    def jit(self, function, **options):
        jitted, phase, calls = jax.jit(function, **options), PROGRAMS.get(function.__name__), []

        def call(*arguments):
            if isinstance(arguments[-1], jax.core.Tracer):  # only traced, to count its operations
                return jitted(*arguments)
            now = phase if calls else "compile"
            calls.append(phase)
            say(f"+{now}")
            out = jax.block_until_ready(jitted(*arguments))
            say(f"-{now}")
            if phase == "update":
                Watched.steps += 1
                say(f"done {Watched.steps}")
            return out

        return call if phase else jitted


def around(owner, name, phase):
    plain = getattr(owner, name)

    def watched(*arguments, **options):
        say(f"+{phase}")
        out = plain(*arguments, **options)
        say(f"-{phase}")
        return out

    setattr(owner, name, watched)


def watch_checkpoints():
    save, newest, watchers = Checkpoints.save, Checkpoints.newest_whole, []

    def watched_save(self, step, *arguments, **options):
        def until_renamed():
            while not (self._path / str(step)).exists():
                time.sleep(0.001)
            say("-checkpoint")

        if self._path.parent.name != "ppo_ptx":
            return save(self, step, *arguments, **options)
        for thread in watchers:  # the write before ends before this one is said to begin
            thread.join()
        say("+checkpoint")
        watchers[:] = [threading.Thread(target=until_renamed, daemon=True)]
        watchers[0].start()
        save(self, step, *arguments, **options)

    def watched_newest(self, *arguments):
        step = newest(self, *arguments)
        if self._path.parent.name == "ppo_ptx":
            Watched.steps = step or 0
            say(f"resumed {Watched.steps}")
        return step

    Checkpoints.save, Checkpoints.newest_whole = watched_save, watched_newest


if __name__ == "__main__":
    train_ppo.jax = states.jax = Watched()  # the rollout is compiled in the one, the update in the other
    watch_checkpoints()
    around(recipe, "report", "report")
    around(recipe.evaluate, "run", "evaluate")
    sys.exit(main(sys.argv))
