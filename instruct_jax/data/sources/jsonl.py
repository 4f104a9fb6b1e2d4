"""Home of other people's JSON lines, gzipped or not: rows with the place they stand at, for messages."""

import gzip
import json
import os
from pathlib import Path

from instruct_jax.errors import InputError


def read_rows(path: str | os.PathLike) -> list[tuple[str, dict]]:
    """[("file:line", row)] of the lines that are not blank; InputError for a file or line that cannot be read."""
    opener = gzip.open if str(path).endswith(".gz") else open
    try:
        with opener(Path(path), "rb") as file:
            text = file.read().decode("utf-8")
    except (gzip.BadGzipFile, EOFError) as error:
        raise InputError(f"{path}: is no whole gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); bash launch/fetch_data.sh gets it, or says how"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 (byte {error.start})") from error
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}:{number}: is not JSON ({error})") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}:{number}: must be a JSON object, not {type(row).__name__}")
        rows.append((f"{path}:{number}", row))
    return rows
