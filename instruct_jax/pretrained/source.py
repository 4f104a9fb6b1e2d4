"""The home of what an opened foreign checkpoint is, whatever its file format."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Source:
    """A checkpoint whose header has been read and whose tensors have not; names, shapes and layouts are Hugging Face's.

    `config` is what its config.json says. `read(name, rows)` gives those rows of a tensor's first axis, in a floating dtype
    of numpy or ml_dtypes, and holds on to nothing.
    """

    path: Path
    config: dict
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str, slice], np.ndarray]

    @property
    def config_file(self) -> Path:
        """The file that `config` is from."""
        return self.path / "config.json" if self.path.is_dir() else self.path
