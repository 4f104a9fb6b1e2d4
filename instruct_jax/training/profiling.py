"""The home of profiles: what hosts and devices did in chosen steps, as xprof and Perfetto show it (docs/performance.md)."""

from collections.abc import Callable
from pathlib import Path

import jax

from instruct_jax.errors import InputError


class Profiler:
    """Records `asked` = (first step, how many) of the run `name` of `total` steps that goes on after step `start`, into `folder`; None:
    nothing.

    InputError where there are no such steps. Steps that an earlier session took are recorded no more."""

    def __init__(
        self,
        asked: tuple[int, int] | None,
        folder: Path,
        name: str,
        start: int,
        total: int,
        say: Callable[[str], None],
    ):
        first, count = asked or (0, 0)
        self._first, self._last = max(first, start + 1), first + count - 1
        self._folder, self._say, self._runs = folder, say, False
        if asked and self._last > total:
            raise InputError(
                f"--profile {first}:{count} asks for steps {first} to {self._last}, but {name} has {total}"
            )
        if asked and self._last <= start:
            say(f"steps {first} to {self._last} were taken by an earlier session: nothing is profiled")

    def before(self, step: int, running) -> None:
        """Step `step` comes next, and `running` is what the devices still compute."""
        if step != self._first or self._last < step:
            return
        jax.block_until_ready(running)
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # every call of Python would hide the rest
        # Perfetto's file is made from one process's trace alone.
        alone = jax.process_count() == 1
        jax.profiler.start_trace(self._folder, create_perfetto_trace=alone, profiler_options=options)
        self._runs = True

    def after(self, step: int, running) -> None:
        """Step `step` was sent to the devices, and is done when `running` is there."""
        if self._runs and step == self._last:
            jax.block_until_ready(running)
            self.close()
            self._say(f"steps {self._first} to {self._last} are profiled in {self._folder}")

    def close(self) -> None:
        """Writes what was recorded, if it was not yet."""
        if self._runs:
            self._runs = False
            jax.profiler.stop_trace()
