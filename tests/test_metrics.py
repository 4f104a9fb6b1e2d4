import builtins
import io
import json
import math

import pytest

from instruct_jax.errors import InputError
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


def test_tensorboard_gets_the_same_numbers(tmp_path):
    from tensorboardX.event_file_writer import EventFileWriter  # noqa: F401  (the package must be the installed one)
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import RecordWriter  # noqa: F401

    writer = MetricWriter(tmp_path)
    writer.write(3, {"sft/loss": 0.25})
    writer.close()
    data, found, at = next((tmp_path / "tensorboard").iterdir()).read_bytes(), [], 0
    while at < len(data):  # records: u64 length, u32 crc, bytes, u32 crc
        size = int.from_bytes(data[at : at + 8], "little")
        event = event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        at += 16 + size
    assert found == [(3, "sft/loss", 0.25)]


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
