"""Home of other people's packed folders: the files of a .tar or .tgz, read in place; nothing is unpacked to disk."""

import os
import tarfile
from collections.abc import Iterator

from instruct_jax.errors import InputError


def read_members(path: str | os.PathLike, wanted) -> Iterator[tuple[str, str]]:
    """(name, text) of the archive's files whose name `wanted` says yes to, in the archive's order.

    UTF-8, with or without a byte-order mark. InputError where the archive or such a file cannot be read.
    """
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and wanted(member.name):
                    yield member.name, archive.extractfile(member).read().decode("utf-8-sig")
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}); bash launch/fetch_data.sh gets it"
        ) from error
    except (tarfile.TarError, EOFError) as error:
        raise InputError(f"{path}: is no whole archive ({error}); fetch it again") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: a file in it is not UTF-8 (byte {error.start}); fetch it again") from error
