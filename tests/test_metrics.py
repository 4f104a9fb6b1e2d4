import builtins
import io
import json
import math

import pytest

from instruct_jax.errors import InputError
from instruct_jax.training.guard import SaveError
from instruct_jax.training.metrics import MetricWriter, Progress, duration, read_metrics


def test_a_resumed_run_doubles_no_row(tmp_path):
    writer = MetricWriter(tmp_path, tensorboard=False)
    for step in (10, 20, 30):
        writer.write(step, {"loss": 1.0 / step})
    writer.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "lo')  # killed while writing
    writer = MetricWriter(tmp_path, step=20, tensorboard=False)
    writer.write(30, {"loss": 5.0})
    writer.close()
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path)] == [
        (10, 0.1),
        (20, 0.05),
        (30, 5.0),
    ]


def test_a_number_that_is_not_finite_is_still_json(tmp_path):
    writer = MetricWriter(tmp_path, tensorboard=False)
    writer.write(1, {"a": math.nan, "b": 2.0})
    writer.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"step": 1, "a": None, "b": 2.0}


def events(workdir):
    """What TensorBoard reads of a run: records of a u64 length, its checksum, an event and its checksum."""
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import masked_crc32c

    (path,) = (workdir / "tensorboard").iterdir()
    data, found = path.read_bytes(), []
    while data:
        end = 12 + int.from_bytes(data[:8], "little")
        for part, checksum in ((data[:8], data[8:12]), (data[12:end], data[end : end + 4])):
            assert masked_crc32c(part) == int.from_bytes(checksum, "little")
        found.append(event_pb2.Event.FromString(data[12:end]))
        data = data[end + 4 :]
    return found


def scalars(found):
    return [(event.step, value.tag, value.simple_value) for event in found for value in event.summary.value]


def test_tensorboard_gets_the_same_numbers(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.write(3, {"sft/loss": 0.25, "sft/norm": 2.0})
    writer.close()
    assert scalars(events(tmp_path)) == [(3, "sft/loss", 0.25), (3, "sft/norm", 2.0)]


def test_tensorboard_drops_what_a_resumed_run_makes_again(tmp_path):
    MetricWriter(tmp_path, step=20).close()
    version, start = events(tmp_path)
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (21, start.session_log.START)


def test_what_a_full_disk_did_not_take_is_written_once_there_is_room(tmp_path, file_limit):
    writer = MetricWriter(tmp_path)
    writer.write(1, {"loss": 1.0})
    file_limit((tmp_path / "metrics.jsonl").stat().st_size + 9)  # a part of the next row
    for step in (2, 3):
        with pytest.raises(SaveError, match="metrics.jsonl could not be written .*: make room"):
            writer.write(step, {"loss": 1.0 / step})
    with pytest.raises(SaveError):
        writer.sync()
    file_limit(None)
    writer.write(4, {"loss": 0.25})
    writer.close()
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path)] == [
        (n, 1.0 / n) for n in (1, 2, 3, 4)
    ]
    assert [step for step, _, _ in scalars(events(tmp_path))] == [1, 2, 3, 4]


def test_wandb_is_refused_when_it_is_not_installed(tmp_path, monkeypatch):
    plain = builtins.__import__

    def without_wandb(name, *arguments, **options):
        if name == "wandb":
            raise ImportError(name)
        return plain(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_wandb)
    with pytest.raises(InputError, match="config.wandb is 'project'.*pip install wandb"):
        MetricWriter(tmp_path, tensorboard=False, wandb="project")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_progress_is_plain_lines_a_few_seconds_apart_with_compiling_stated_apart():
    clock, stream = Clock(), io.StringIO()
    progress = Progress("sft", 0, 100, ("loss",), stream, every=5.0, clock=clock)
    clock.now = 30.0
    progress.compiled(1, 30.0)
    for step in range(1, 101):
        progress.update(step, {"loss": 0.5, "other": 1.0})
        clock.now += 0.5
    progress.close()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "sft: first step took 30.0s, compiling included"
    assert lines[1] == "sft: step 1/100, loss 0.5"
    assert lines[2] == "sft: step 11/100, 2.00 steps/s, 44.5s left, loss 0.5"
    assert lines[-1].startswith("sft: step 100/100")
    assert len(lines) == 12


def test_progress_on_a_terminal_is_one_live_line_that_leaves_the_last():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    progress = Progress("rm", 0, 2, ("rm/loss",), stream)
    progress.update(1, {"rm/loss": 0.5})
    progress.update(2, {"rm/loss": 0.25})
    progress.close()
    assert "step 2/2" in stream.getvalue() and "rm/loss 0.25" in stream.getvalue()


def test_durations_read_as_people_say_them():
    assert [duration(s) for s in (0.04, 9.12, 59.99, 200, 7500)] == [
        "0.0s",
        "9.1s",
        "1m00s",
        "3m20s",
        "2h05m",
    ]


def test_a_run_without_metrics_is_named(tmp_path):
    with pytest.raises(InputError, match="no metrics.jsonl in"):
        read_metrics(tmp_path)
