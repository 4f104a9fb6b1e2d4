"""Home of reading from what may be slow, shaky or gone, such as a remote mount: read again after longer and longer waits, and no
wait for ever.

What ends all tries is an OSError; the caller, who knows the file, names it. A read that hangs cannot be ended: it is left to a thread
that nobody waits for.
"""

import errno
import io
import logging
import os
import queue
import stat
import threading
import time
from collections.abc import Callable
from typing import TypeVar

TRIES = 5
FIRST_WAIT = 1.0  # seconds; each further wait is 4 times as long
SECONDS = 120.0  # that one read may take

# What another try does not mend.
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)

Value = TypeVar("Value")
_log = logging.getLogger(__name__)


def steadily(read: Callable[[], Value], what: object) -> Value:
    """read(), tried again where it raises an OSError that may pass or gives no answer in time (TimeoutError); the last one is raised.

    `read` runs in a thread of its own, and may go on there after it was given up: it must change nothing.
    """
    for attempt in range(TRIES):
        try:
            return _in_time(read)
        except _LASTING:
            raise
        except OSError as error:
            if attempt == TRIES - 1:
                raise
            wait = FIRST_WAIT * 4**attempt
            _log.warning("%s: %s; trying again in %g s", what, error.strerror or error, wait)
            time.sleep(wait)
    raise AssertionError("not reached")


def _in_time(read: Callable[[], Value]) -> Value:
    answers: queue.SimpleQueue = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put((read(), None))
        except BaseException as error:  # raised again below, whatever it is
            answers.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        value, error = answers.get(timeout=SECONDS)
    except queue.Empty:
        raise TimeoutError(errno.ETIMEDOUT, f"no answer for {SECONDS:g} s") from None
    if error is not None:
        raise error
    return value


def open_file(path: str | os.PathLike) -> io.BufferedReader:
    """The bytes of a file, read steadily; OSError where it is not there. A pipe has no second try and is read as it comes."""
    try:
        mode = steadily(lambda: os.stat(path), path).st_mode
    except ValueError as error:  # a null byte in the name
        raise OSError(errno.EINVAL, str(error), path) from error
    if not stat.S_ISREG(mode):
        return open(path, "rb")
    return io.BufferedReader(_SteadyFile(path), 1 << 18)


def read_file(path: str | os.PathLike) -> bytes:
    """All bytes of a file, as `open_file` reads them."""
    with open_file(path) as file:
        return file.read()


class Part:
    """Reads of `size` bytes at an offset of a file, as a function for `steadily`: one that fails or hangs leaves its handle behind."""

    def __init__(self, path: str | os.PathLike):
        self.path = path
        self._handle: int | None = None

    def read(self, size: int, offset: int) -> bytes:
        """The bytes there, fewer at the file's end; OSError."""
        handle, self._handle = self._handle, None
        handle = os.open(self.path, os.O_RDONLY) if handle is None else handle
        try:
            found = os.pread(handle, size, offset)
        except OSError:
            os.close(handle)
            raise
        self._handle = handle
        return found

    def close(self) -> None:
        """Lets the file go."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


class _SteadyFile(io.RawIOBase):
    def __init__(self, path: str | os.PathLike):
        self.name = os.fspath(path)
        self._part = Part(path)
        self._at = 0
        self._read(0)  # what cannot be opened is known now

    def _read(self, size: int) -> bytes:
        found = steadily(lambda: self._part.read(size, self._at), self.name)
        self._at += len(found)
        return found

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        found = self._read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def readall(self) -> bytes:
        pieces = []
        while piece := self._read(1 << 24):
            pieces.append(piece)
        return b"".join(pieces)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at}
        self._at = offset + (start[whence] if whence in start else os.stat(self.name).st_size)
        return self._at

    def close(self) -> None:
        if not self.closed:
            self._part.close()
        super().close()
