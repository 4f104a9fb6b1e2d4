"""Home of the TFDS data sets: JSON-lines records in, array_record files out, read back as record dataclasses
by row number.

Works without TensorFlow, which TFDS imports only for `tfds build` and tf.data. Row i of a split is line i of
its file. The paper publishes no data sets; the kinds are its section 3.2's: prompts, demonstrations,
rankings, and the pretraining documents.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from instruct_jax.errors import InputError
from instruct_jax.records import Demonstration, Document, Prompt, Ranking, get_hints, read_jsonl

KINDS = {"prompts": Prompt, "demonstrations": Demonstration, "rankings": Ranking, "documents": Document}

_VERSION = "1.0.0"
_CHUNK = 1024
_CITATION = """@article{ouyang2022training,
  title={Training language models to follow instructions with human feedback},
  author={Ouyang, Long and Wu, Jeffrey and Jiang, Xu and Almeida, Diogo and Wainwright, Carroll L. and
    Mishkin, Pamela and Zhang, Chong and Agarwal, Sandhini and Slama, Katarina and Ray, Alex and others},
  journal={arXiv preprint arXiv:2203.02155},
  year={2022}
}"""
_FEATURES = {
    str: tfds.features.Text(),
    list[str]: tfds.features.Sequence(tfds.features.Text()),
    list[int]: tfds.features.Sequence(np.int32),
    list[bool]: tfds.features.Sequence(np.bool_),
}
_log = logging.getLogger(__name__)


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """One kind of record; subclasses name it and describe it."""

    VERSION = tfds.core.Version(_VERSION)
    kind: str

    def __init__(self, rows: dict[str, list], data_dir: Path, digest: str):
        self._rows = rows
        self._digest = digest
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        hints = get_hints(KINDS[self.kind])
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            citation=_CITATION,
            features=tfds.features.FeaturesDict({name: _FEATURES[hint] for name, hint in hints.items()}),
            metadata=tfds.core.MetadataDict({"records": self._digest}),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(rows) for split, rows in self._rows.items()}

    def _generate_examples(self, rows: list):
        return ((number, vars(row)) for number, row in enumerate(rows))


class Prompts(_Builder):
    """What people asked, with source, user, organization, use case and language; no answers."""

    kind = "prompts"


class Demonstrations(_Builder):
    """Prompts with an answer written by a labeler, for supervised fine-tuning."""

    kind = "demonstrations"


class Rankings(_Builder):
    """Prompts with K sampled completions and one labeler's ranks (1 is best, equal ranks tie), for the reward
    model.
    """

    kind = "rankings"


class Documents(_Builder):
    """Texts of the pretraining distribution."""

    kind = "documents"


def build(records_dir: str | os.PathLike, data_dir: str | os.PathLike) -> dict[str, dict[str, int]]:
    """Makes a TFDS data set of each kind that has files `<kind>.<split>.jsonl`; returns rows by kind and
    split.

    A data set whose records have not changed since it was made is left as it is. InputError names a bad row
    or an empty directory.
    """
    records_dir, data_dir = Path(records_dir), Path(data_dir)
    counts = {}
    for builder_class in (Prompts, Demonstrations, Rankings, Documents):
        files = _find_files(records_dir, builder_class.kind)
        if files:
            counts[builder_class.kind] = _build_kind(builder_class, files, data_dir)
    if not counts:
        raise InputError(
            f"{records_dir}: has no records; expected files <kind>.<split>.jsonl, "
            f"kind one of {', '.join(KINDS)}"
        )
    return counts


class Source:
    """Random access to the records of one split: `len()`, `[i]`, iteration in file order."""

    def __init__(self, rows: Any, cls: type):
        self._rows = rows
        self._cls = cls
        self._hints = get_hints(cls)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int):
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self._decode(self._rows[index % len(self)])

    def __iter__(self) -> Iterator:
        for start in range(0, len(self), _CHUNK):
            indices = list(range(start, min(start + _CHUNK, len(self))))
            yield from map(self._decode, self._rows.__getitems__(indices))

    def _decode(self, row: dict):
        return self._cls(**{name: _plain(row[name], hint) for name, hint in self._hints.items()})


def open_source(data_dir: str | os.PathLike, kind: str, split: str) -> Source:
    """Opens a split that `build` made; InputError says which kinds or splits there are."""
    if kind not in KINDS:
        raise InputError(f"data set kind '{kind}' is none of {', '.join(KINDS)}")
    directory = Path(data_dir) / kind / _VERSION
    if not (directory / "dataset_info.json").exists():
        raise InputError(f"{directory}: holds no data set; build it from records first")
    builder = tfds.builder_from_directory(directory)
    if split not in builder.info.splits:
        raise InputError(f"{directory}: has no split '{split}'; it has {', '.join(builder.info.splits)}")
    return Source(builder.as_data_source(split=split), KINDS[kind])


def _find_files(records_dir: Path, kind: str) -> dict[str, Path]:
    matches = {
        path: re.fullmatch(rf"{kind}\.([A-Za-z0-9_]+)\.jsonl", path.name)
        for path in sorted(records_dir.glob("*.jsonl"))
    }
    return {match[1]: path for path, match in matches.items() if match}


def _build_kind(builder_class: type[_Builder], files: dict[str, Path], data_dir: Path) -> dict[str, int]:
    kind = builder_class.kind
    directory = data_dir / kind / _VERSION
    digest = _digest(kind, files)
    if not _is_current(directory, digest):
        rows = {split: read_jsonl(path, KINDS[kind]) for split, path in files.items()}
        for split, path in files.items():
            if not rows[split]:
                raise InputError(f"{path}: holds no records; fill it or remove it")
        # TFDS never overwrites; it builds beside and renames, so a half-made data set is never read.
        shutil.rmtree(directory, ignore_errors=True)
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):
            builder_class(rows, data_dir, digest).download_and_prepare()
        _log.info("%s: built %s", directory, ", ".join(files))
    splits = tfds.builder_from_directory(directory).info.splits
    return {split: splits[split].num_examples for split in files}


def _digest(kind: str, files: dict[str, Path]) -> str:
    """Changes with the records, the splits and the schema."""
    schema = [(item.name, str(item.type)) for item in fields(KINDS[kind])]
    content = {split: hashlib.sha256(path.read_bytes()).hexdigest() for split, path in files.items()}
    return hashlib.sha256(json.dumps([_VERSION, schema, content]).encode()).hexdigest()


def _is_current(directory: Path, digest: str) -> bool:
    try:
        return json.loads((directory / "metadata.json").read_text())["records"] == digest
    except (OSError, ValueError, KeyError):
        return False


def _plain(value, hint):
    """A TFDS value (bytes, numpy scalars) as the record's own type."""
    if hint is str:
        return value.decode("utf-8")
    if hint == list[str]:
        return [item.decode("utf-8") for item in value]
    return [item.item() for item in value]
