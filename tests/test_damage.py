"""What a checkpoint survives: files cut short, changed or lost, a disk that fills, and who is kept beside the latest."""

import errno
import os
import random
import shutil
import subprocess
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_loop import STEPS, batch_at, bits, losses, run

from instruct_jax.errors import InputError
from instruct_jax.training import guard, manifest
from instruct_jax.training.checkpoint import Checkpoints, SaveError, Saving, load_params, read_meta
from instruct_jax.training.metrics import MetricWriter


def state_of(step, size=8):
    return {"params": {"w": jnp.full(size, float(step)), "b": jnp.float32(step)}}


def steps_in(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with checkpoints of steps 3 and 5."""
    folder = tmp_path_factory.mktemp("two") / "checkpoints"
    checkpoints = Checkpoints(folder)
    for step in (3, 5):
        checkpoints.save(step, state_of(step), {"stage": "toy"})
    checkpoints.close()
    return folder


def guarded_files(checkpoint):
    """What a bit may flip in: all files but two of orbax's own in the checkpoint's root, which nothing reads."""
    inner = [path for path in checkpoint.rglob("*") if path.is_file() and path.parent != checkpoint]
    return [*sorted(inner), checkpoint / "manifest.json"]


def largest(checkpoint):
    return max(guarded_files(checkpoint)[:-1], key=lambda path: path.stat().st_size)


def cut(path, draw):
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(len(content))])


def flip(path, draw):
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(bytes(content))


def lose(path, _):
    path.unlink()


def lose_half(path, draw):
    files = [file for file in path.parents[path.parts[::-1].index("5") - 1].rglob("*") if file.is_file()]
    for file in draw.sample(files, len(files) // 2) + [path]:
        file.unlink(missing_ok=True)


@given(damage=st.sampled_from([cut, flip, lose, lose_half]), seed=st.integers(0, 10**6))
def test_a_damaged_newest_checkpoint_is_found_said_and_the_one_before_used(
    tmp_path_factory, two, damage, seed
):
    folder, draw, said = tmp_path_factory.mktemp("damaged") / "checkpoints", random.Random(seed), []
    shutil.copytree(two, folder)
    files = [path for path in guarded_files(folder / "5") if path.stat().st_size]
    damage(draw.choice(files), draw)
    checkpoints = Checkpoints(folder)
    assert checkpoints.newest_whole(said.append) == 3
    assert len(said) == 1 and "step 5 is damaged" in said[0] and "the one before is used" in said[0]
    restored = checkpoints.restore(state_of(0), 3)
    assert all(jax.tree.leaves(jax.tree.map(jnp.array_equal, restored, state_of(3))))
    assert sorted(path.name for path in folder.iterdir()) == ["3", "5.damaged"]
    checkpoints.close()


def test_where_all_are_damaged_nothing_is_started_over(two, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two, folder)
    for step in ("3", "5"):
        (folder / step / "state" / "manifest.ocdbt").unlink()
    checkpoints = Checkpoints(folder)
    with pytest.raises(InputError, match="every checkpoint in .*5: state/manifest.ocdbt is missing; 3: "):
        checkpoints.newest_whole(lambda text: None)
    checkpoints.close()
    assert (folder / "3").exists()


def test_parameters_of_a_damaged_checkpoint_are_refused_not_replaced_by_an_earlier_models(two, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two, folder)
    wanted = state_of(0)["params"]
    assert float(load_params(folder, wanted)["b"]) == 5.0
    flip(largest(folder / "5"), random.Random(0))
    with pytest.raises(InputError, match="5 is damaged: state/.* has another sha256 .*goes on from step 3"):
        load_params(folder, wanted)
    assert float(load_params(folder, wanted, step=3)["b"]) == 3.0


def test_a_checkpoint_of_a_version_without_manifests_still_loads(two, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two, folder)
    (folder / "5" / "manifest.json").unlink()
    metadata = folder / "5" / "meta" / "metadata"
    metadata.write_text(metadata.read_text().replace('"checksums"', '"without"'))
    assert float(load_params(folder, state_of(0)["params"])["b"]) == 5.0


def test_a_manifest_lists_every_file_with_its_sha256(tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "a").write_bytes(b"abc")
    manifest.write(tmp_path)
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert manifest.damage(tmp_path) is None
    content = (tmp_path / "manifest.json").read_text()
    assert abc in content and '"sha256"' in content
    (tmp_path / "manifest.json").write_text(content.replace("sha256", "sha255"))
    assert "unknown algorithm 'sha255'" in manifest.damage(tmp_path)


def test_the_latest_every_third_and_the_best_stay(tmp_path):
    losses_of = {1: 0.9, 2: 0.1, 3: 0.5, 4: 0.1, 5: 0.3, 6: 0.8, 7: None, 8: 0.7}
    for best_is, best in (("lowest", 4), ("highest", 1)):
        folder = tmp_path / best_is
        saving = Saving(keep_every=3, keep_best="valid/loss", best_is=best_is)
        for step, loss in losses_of.items():
            checkpoints = Checkpoints(folder, 2, saving)  # a process each: what was best is read back
            metrics = {} if loss is None else {"valid/loss": loss}
            checkpoints.save(step, state_of(step), {"metrics": metrics})
            checkpoints.close()
        assert steps_in(folder) == sorted({best, 3, 6, 7, 8})


def told(checkpoints):
    """The error of the write in the background, asked for as the loop does: after each step, without waiting."""
    for _ in range(400):
        try:
            checkpoints.check()
        except SaveError as error:
            return str(error)
        time.sleep(0.05)
    pytest.fail("a failed write was never told")


def noise(size):
    return {"params": {"w": np.random.default_rng(0).standard_normal(size, np.float32)}}


def test_a_write_that_fails_in_the_background_is_told_and_leaves_the_old_ones(tmp_path, file_limit):
    file_limit(65536)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, jax.tree.map(jnp.asarray, noise(100)), {}, wait=True)
    big = jax.tree.map(jnp.asarray, noise(200_000))
    for step in (2, 3):
        checkpoints.save(step, big, {})
        assert f"step {step} could not be written" in told(checkpoints)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["1"]
    file_limit(None)
    checkpoints.save(4, big, {}, wait=True)
    assert checkpoints.newest_whole(pytest.fail) == 4 and steps_in(tmp_path) == [1, 4]
    checkpoints.close()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte; skipped where this user may not mount."""
    (tmp_path / "disk").mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path / "disk"], capture_output=True
    )
    if done.returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield tmp_path / "disk"
    subprocess.run(["umount", "-l", tmp_path / "disk"], check=True)


def test_a_full_disk_leaves_the_old_checkpoint_and_room_for_the_next(small_disk):
    checkpoints = Checkpoints(small_disk / "checkpoints")
    checkpoints.save(1, jax.tree.map(jnp.asarray, noise(1000)), {}, wait=True)
    checkpoints.save(2, jax.tree.map(jnp.asarray, noise(400_000)), {})
    assert "No space left" in told(checkpoints)
    assert [path.name for path in (small_disk / "checkpoints").iterdir()] == ["1"]
    checkpoints.save(3, jax.tree.map(jnp.asarray, noise(1000)), {}, wait=True)
    assert steps_in(small_disk / "checkpoints") == [1, 3] and checkpoints.newest_whole(pytest.fail) == 3
    checkpoints.close()


def full_at(monkeypatch, *steps):
    """The disk is full while the checkpoints of these steps are written; the event is set when one has failed."""
    plain, failed = manifest.write, threading.Event()

    def write(folder):
        if int(folder.name.partition(".")[0]) in steps:
            failed.set()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        plain(folder)

    monkeypatch.setattr(manifest, "write", write)
    return failed


def test_a_run_stops_after_the_step_in_which_a_save_failed(tmp_path, monkeypatch):
    failed, begun = full_at(monkeypatch, 5), []

    def slow_batch_at(i):
        begun.append(i)
        if i == 7:
            assert failed.wait(60)
            time.sleep(1)  # for the error to get from the thread that wrote to where it is asked for
        return batch_at(i)

    with pytest.raises(guard.TrainingError, match="step 5 could not be written .*No space left"):
        run(tmp_path, batch_at=slow_batch_at, total_steps=100, save_every=5)
    assert begun[-1] == 7  # the next save would have been after step 10
    assert steps_in(tmp_path / "checkpoints") == []
    assert not (tmp_path / "done.json").exists()


def test_or_goes_on_as_the_config_says_but_never_past_the_last(tmp_path, monkeypatch, capsys):
    whole = bits(run(tmp_path / "whole"))
    full_at(monkeypatch, 5)
    saving = Saving(on_error="continue")
    assert bits(run(tmp_path / "run", saving=saving)) == whole
    assert steps_in(tmp_path / "run" / "checkpoints") == [10, STEPS]
    assert "step 5 could not be written" in capsys.readouterr().err
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    full_at(monkeypatch, STEPS)
    with pytest.raises(SaveError, match=f"step {STEPS} could not"):
        run(tmp_path / "last", saving=saving)
    assert not (tmp_path / "last" / "done.json").exists()


@pytest.mark.parametrize("on_error", ["continue", "stop"])
def test_a_run_on_a_disk_that_is_full_for_a_while_goes_on_and_lacks_no_row_or_stops_as_the_config_says(
    tmp_path, file_limit, capsys, on_error
):
    whole = bits(run(tmp_path / "whole", log_every=1, tensorboard=True))

    def full_for_a_while(i):
        if i in (3, 8):
            file_limit({3: 16, 8: None}[i])
        return batch_at(i)

    options = dict(log_every=1, tensorboard=True, saving=Saving(on_error=on_error), batch_at=full_for_a_while)
    if on_error == "stop":
        with pytest.raises(SaveError, match="metrics.jsonl could not be written"):
            run(tmp_path / "run", **options)
        file_limit(None)
        options["batch_at"] = batch_at
    assert bits(run(tmp_path / "run", **options)) == whole
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert steps_in(tmp_path / "run" / "checkpoints") == (
        [10, STEPS] if on_error == "continue" else [5, 10, STEPS][-2:]
    )
    assert ("going on" in capsys.readouterr().err) == (on_error == "continue")


def test_no_checkpoint_outlives_the_rows_before_it(tmp_path, monkeypatch):
    plain, full, found = MetricWriter.sync, threading.Event(), []

    def sync(writer):
        if full.is_set():
            raise SaveError("metrics.jsonl could not be written")
        plain(writer)

    def full_at_the_first_save(i):
        (full.set if i == 5 else full.clear)()
        if i == 9:
            found.extend((tmp_path / "checkpoints").glob("[0-9]*"))
        return batch_at(i)

    monkeypatch.setattr(MetricWriter, "sync", sync)
    run(tmp_path, saving=Saving(on_error="continue"), batch_at=full_at_the_first_save)
    assert not found and steps_in(tmp_path / "checkpoints") == [10, STEPS]


def test_going_on_without_a_checkpoint_is_for_one_process(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(
        InputError, match="saving.on_error is 'continue', which is for one process, and here are 2"
    ):
        Checkpoints(tmp_path / "checkpoints", saving=Saving(on_error="continue"))
    assert not (tmp_path / "checkpoints").exists()


def test_a_run_whose_newest_checkpoint_is_damaged_redoes_its_steps_and_ends_equal(tmp_path, capsys):
    whole = bits(run(tmp_path / "whole"))
    run(tmp_path / "run")
    flip(largest(tmp_path / "run" / "checkpoints" / "12"), random.Random(1))
    assert bits(run(tmp_path / "run")) == whole
    assert "the checkpoint of step 12 is damaged" in capsys.readouterr().err
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert steps_in(tmp_path / "run" / "checkpoints") == [10, 12]


def test_the_best_by_a_metric_of_the_evaluation_stays_and_a_metric_that_is_none_is_refused(tmp_path):
    valid = {3: 0.5, 6: 0.2, 9: 0.4, 12: 0.3}

    def evaluate(state, done):
        return {"valid/loss": valid[done]}

    options = dict(save_every=3, eval_every=3, evaluate=evaluate, keep=1)
    run(tmp_path / "best", saving=Saving(keep_best="valid/loss"), **options)
    assert steps_in(tmp_path / "best" / "checkpoints") == [6, 12]
    assert read_meta(tmp_path / "best", 6)["metrics"]["valid/loss"] == 0.2
    with pytest.raises(InputError, match="saving.keep_best is 'valid/los', which is no metric"):
        run(tmp_path / "typo", saving=Saving(keep_best="valid/los"), **options)


@pytest.mark.parametrize("wrong", [dict(keep_every=0), dict(best_is="low"), dict(on_error="ignore")])
def test_numbers_and_words_of_saving_are_checked(wrong):
    with pytest.raises(InputError, match=f"saving.{next(iter(wrong))}"):
        Saving(**wrong)
