"""Which checkpoints are whole, which are kept, and which one a training goes on from."""

import json
import shutil

import pytest

from dposcope.training.checkpoints import COMPLETE, any_whole, last_whole, remove_older, seal
from helpers.damage import flip


def write(folder, step, *, best=None, sealed=True):
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir()
    (checkpoint / "trained.safetensors").write_bytes(bytes(range(100)))
    (checkpoint / "trainer_state.json").write_text(json.dumps({"best_global_step": best}))
    if sealed:
        seal(checkpoint)
    return checkpoint


def left(folder):
    return sorted(int(one.name.rpartition("-")[2]) for one in folder.glob("checkpoint-*"))


def test_the_newest_counts_by_number_and_what_is_cut_short_goes(tmp_path):
    for step in (8, 10, 12, 9):
        write(tmp_path, step, sealed=step != 12)
    assert last_whole(tmp_path) == tmp_path / "checkpoint-10"
    assert left(tmp_path) == [8, 9, 10]
    assert last_whole(tmp_path / "none") is None
    assert any_whole(tmp_path)
    assert not any_whole(tmp_path / "none")


@pytest.mark.parametrize("file", ["trained.safetensors", "trainer_state.json", COMPLETE])
@pytest.mark.parametrize("how", ["flipped", "emptied", "gone"])
def test_damage_to_any_file_is_noticed(tmp_path, file, how):
    write(tmp_path, 4)
    path = write(tmp_path, 8) / file
    match how:
        case "flipped":
            flip(path)
        case "emptied":
            path.write_bytes(b"")
        case _:
            path.unlink()
    assert last_whole(tmp_path) == tmp_path / "checkpoint-4"
    assert left(tmp_path) == [4]


def test_what_training_did_not_write_stays(tmp_path):
    checkpoint = write(tmp_path, 10)
    foreign = [tmp_path / f"checkpoint-{name}" for name in ("10.bak", "notes", "old-2", "012")]
    for folder in foreign:
        shutil.copytree(checkpoint, folder)
    (foreign[1] / COMPLETE).unlink()
    (tmp_path / "checkpoint-11").write_text("no folder")
    assert last_whole(tmp_path) == checkpoint
    for step in (20, 30):
        remove_older(write(tmp_path, step), best=None)
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted(
        [*(one.name for one in foreign), "checkpoint-11", "checkpoint-20", "checkpoint-30"]
    )
    assert last_whole(tmp_path) == tmp_path / "checkpoint-30"
    for folder in tmp_path.glob("checkpoint-?0"):
        shutil.rmtree(folder)
    assert not any_whole(tmp_path)
    assert last_whole(tmp_path) is None


def test_a_mark_that_names_nothing_vouches_for_nothing(tmp_path):
    (write(tmp_path, 4) / COMPLETE).write_text("{}")
    assert last_whole(tmp_path) is None


def test_the_one_before_keeps_the_best_of_its_time(tmp_path):
    """The newest one became the best itself; without the earlier best the one before it would be of no use."""
    for step, best in ((10, 10), (20, 10), (30, 30)):
        remove_older(write(tmp_path, step, best=best), best=best)
    assert left(tmp_path) == [10, 20, 30]
    flip(tmp_path / "checkpoint-30/trained.safetensors")
    assert last_whole(tmp_path, needs_best=True) == tmp_path / "checkpoint-20"
    for step in (40, 50):
        remove_older(write(tmp_path, step, best=40), best=40)
    assert left(tmp_path) == [40, 50]
    (tmp_path / "checkpoint-50/trainer_state.json").write_text("{")  # damage to the one before ends no training
    remove_older(write(tmp_path, 60, best=60), best=60)
    assert left(tmp_path) == [50, 60]


def test_without_its_best_a_checkpoint_is_no_use(tmp_path):
    write(tmp_path, 2, best=2)
    write(tmp_path, 4, best=4)
    write(tmp_path, 6, best=4)
    flip(tmp_path / "checkpoint-4/trained.safetensors")
    assert last_whole(tmp_path, needs_best=True) == tmp_path / "checkpoint-2"
    assert last_whole(tmp_path) == tmp_path / "checkpoint-6"


@pytest.mark.parametrize(("best", "kept"), [(None, [8, 10]), (2, [2, 8, 10]), (8, [8, 10]), (10, [8, 10])])
def test_the_newest_the_one_before_and_the_best_are_kept(tmp_path, best, kept):
    for step in (2, 4, 6, 8, 10):
        newest = write(tmp_path, step)
    remove_older(newest, best=best)
    assert left(tmp_path) == kept
