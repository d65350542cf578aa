"""Folders of users: kohya's trees, numbers in names, files of operating systems, special files."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.train.data.test_layouts import captions_and_repeats, load, write_images
from train.config.schema import DataConfig, TrialConfig
from train.data.dataset import load_dataset
from train.data.folders.folder_names import folder_name
from train.data.images.image import DataError
from train.data.regularization import balance_regularization


@pytest.mark.parametrize("images", ["img", "images", "IMG", "image"])
def test_kohyas_folder_trees_are_read(tmp_path: Path, images: str) -> None:
    write_images(tmp_path / images / "10_sks dog", "a", "b")
    write_images(tmp_path / images / "3_sks dog in snow", "c")
    write_images(tmp_path / "reg" / "1_dog", "r")
    for empty in ("log", "model"):
        (tmp_path / empty).mkdir()
    dataset = load(tmp_path, trigger="sks dog", repeats=7)
    assert captions_and_repeats(dataset) == {
        "a": ("sks dog", 10), "b": ("sks dog", 10), "c": ("sks dog in snow", 3)
    }  # fmt: skip
    assert "data.regularization_path=" in dataset.report(), "what is not read is named"


def test_captions_may_mirror_the_numbered_folders(tmp_path: Path) -> None:
    for folder in ("2_sks dog", "3_sks cat"):
        write_images(tmp_path / "images" / folder, folder[2:])
    (tmp_path / "captions" / "2_sks dog").mkdir(parents=True)
    (tmp_path / "captions" / "2_sks dog" / "sks dog.txt").write_text("sks dog, mirrored")
    (tmp_path / "images" / "3_sks cat" / "sks cat.txt").write_text("sks cat, beside")
    assert captions_and_repeats(load(tmp_path)) == {
        "sks dog": ("sks dog, mirrored", 2), "sks cat": ("sks cat, beside", 3)
    }  # fmt: skip


def test_numbered_folder_given_directly_keeps_repeats_and_class_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_images(tmp_path / "6_sks dog", "a", "b")
    for path in (folder, f"{folder}/", "."):
        monkeypatch.chdir(folder)
        dataset = load_dataset(
            DataConfig(path=str(path), repeats=10, trigger="zwx cat", validation_fraction=0)
        )
        assert captions_and_repeats(dataset) == {"a": ("sks dog", 6), "b": ("sks dog", 6)}
        assert "6_sks dog: its name sets 6 repeats" in dataset.report()


def test_number_is_repeats_only_if_plausible(tmp_path: Path) -> None:
    for name in ("20240101_birthday", "2023_trip", "200_sks dog", "5_sks dog", "9" * 60 + "_x"):
        write_images(tmp_path / name, name[:8])
    dataset = load(tmp_path, repeats=2)
    assert [p.repeats for p in dataset.training] == [200, 2, 2, 5, 2]
    assert [p.caption for p in dataset.training] == ["sks dog"] * 5, "no number, no class words"
    message = dataset.report()
    assert (
        "20240101_birthday: 20240101 is more than 1000 and therefore not a number of repeats"
        in message
    )
    assert "200_sks dog: its name says that an epoch shows each of its images 200 times" in message
    assert "5_sks dog: by" not in message
    single = load(tmp_path / "20240101_birthday", repeats=2)
    assert captions_and_repeats(single) == {"20240101": ("sks dog", 2)}


def test_files_left_by_operating_systems_are_ignored(tmp_path: Path) -> None:
    write_images(tmp_path, "a", "b")
    for name in ("._a.png", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/._a.png",
                 ".ipynb_checkpoints/a-checkpoint.png", "@eaDir/a.png", "._a.txt"):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\5\x16\7 no picture")
    dataset = load(tmp_path)
    assert [p.path.name for p in dataset.training] == ["a.png", "b.png"]
    assert not any(name in dataset.report() for name in ("DS_Store", "MACOSX", "eaDir", "not read"))


def test_unpacked_archive_and_link_loops(tmp_path: Path) -> None:
    write_images(tmp_path / "dogs" / "dogs", "a")
    (tmp_path / "dogs" / "__MACOSX").mkdir()
    assert [p.path.stem for p in load(tmp_path / "dogs").training] == ["a"]
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / "again").symlink_to(tmp_path / "loop")
    with pytest.raises(DataError, match="no image"):
        load(tmp_path / "loop")


def test_folder_without_images_says_what_it_has(tmp_path: Path) -> None:
    write_images(tmp_path / "several" / "old", "a")
    write_images(tmp_path / "several" / "new", "a")
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "IMG_1.HEIC").write_bytes(b"heic")
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("several", r"itself; there are some in its subfolders \(new, old\)"),
        ("phone", r"1 \.heic \(IMG_1\.HEIC\) cannot be read: save them as png or jpg"),
        ("empty", "which is empty"),
        ("phon", r"there is no folder .*; did you mean phone\?"),
        ("puppets_obj", r"there is no folder .*; did you mean puppets_object\?"),
        ("phone/IMG_1.HEIC", "is not a folder; give the folder of the images"),
    ):
        with pytest.raises(DataError, match=message) as error:
            load(tmp_path / name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["path", "regularization_path", "validation_path"])
@pytest.mark.parametrize(
    ("path", "output"),
    [
        ("/" + "a" * 5000, "cannot be read (File name too long)"),
        ("~nobody-of-that-name/x", "there is no folder ~nobody-of-that-name/x"),
        ("a\0b", "cannot be read (embedded null byte)"),
        (" ", "names no folder"),
    ],
)
def test_impossible_paths_are_named(image_folder: Path, key: str, path: str, output: str) -> None:
    with pytest.raises(DataError) as error:
        load_dataset(replace(DataConfig(path=str(image_folder)), **{key: path}))  # type: ignore[arg-type]
    message = str(error.value)
    assert message.startswith(f"data.{key}: ")
    assert output in message
    assert len(message) < 400


def test_unreadable_folder_is_named(tmp_path: Path) -> None:
    """As another user, since root may read everything; in a process, as it cannot switch back."""
    if not hasattr(os, "geteuid") or os.geteuid():
        pytest.skip("needs root, to become another user")
    write_images(tmp_path / "all" / "10_sks dog", "a")
    write_images(tmp_path / "all" / "5_sks cat", "b")
    (tmp_path / "all" / "5_sks cat").chmod(0o700)
    write_images(tmp_path / "closed", "c").chmod(0o700)
    for folder in (tmp_path, *tmp_path.parents):
        if Path(tempfile.gettempdir()) in folder.parents:
            folder.chmod(0o755)
    code = (
        "import os, sys\nfrom PIL import Image\nImage.init()\n"
        "from train.config.schema import DataConfig\nfrom train.data.dataset import *\n"
        "os.seteuid(65534)\n"
        "for path in sys.argv[1:]:\n"
        "    try: load_dataset(DataConfig(path=path))\n"
        "    except DataError as error: print(error)"
    )
    paths = [str(tmp_path / "all"), str(tmp_path / "closed")]
    created = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True
    )
    lines = created.stdout.splitlines()
    assert len(lines) == 2
    for line, name in zip(lines, ("all/5_sks cat", "closed"), strict=True):
        message = f"data.path: the folder {tmp_path / name} cannot be read (Permission denied)"
        assert line == message


def test_special_folder_entries_neither_hang_nor_fail(tmp_path: Path) -> None:
    write_images(tmp_path, "a", "b")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "a.txt").mkdir()
    os.mkfifo(tmp_path / "b.txt")
    dataset = load(tmp_path)
    assert captions_and_repeats(dataset) == {"a": ("sks dog", 1), "b": ("sks dog", 1)}
    assert "1 .jpg (pipe.jpg)" in dataset.report()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"gone\.png: cannot be read .*No such file"):
        load(tmp_path)
    assert len(load(tmp_path, on_error="skip").training) == 2


def test_too_many_repeats_are_rejected_early(tmp_path: Path) -> None:
    write_images(tmp_path / "x", "a", "b")
    with pytest.raises(DataError, match=r"an epoch would show 2,000,000,000 images \(2 images"):
        load(tmp_path / "x", repeats=10**9)
    assert load(tmp_path / "x", repeats=100).images_per_epoch == 200


def test_regularization_is_balanced_by_arithmetic(tmp_path: Path) -> None:
    """The result of adding one repeat at a time, without the time that takes."""
    items = load(write_images(tmp_path / "x", *"abcde")).training
    for shown_ in (0, 1, 4, 5, 6, 12, 999_999):
        created = balance_regularization(items, shown_)
        expected = [1] * min(len(items), shown_)
        if expected:
            full, rest = divmod(shown_, len(expected))
            expected = [full + (place < rest) for place in range(len(expected))]
        assert [image.repeats for image in created] == expected


def test_single_image_warnings_and_singular_forms(tmp_path: Path) -> None:
    dataset = load(write_images(tmp_path, "a"))
    message = dataset.report(TrialConfig(data=DataConfig(resolution=64)))
    assert "only one image to train on, so likeness (subject_fidelity) has no scale" in message
    assert "only 1 image" in message
    assert "size 64x64: 1 image, 1 per epoch" in message
    assert "1 images" not in message
    assert "1 training image x 1 repeat, 1 different caption" in message
    config = TrialConfig(data=DataConfig(resolution=64))
    config.training.max_steps = 1
    many = load(write_images(tmp_path / "more", *"abcdef"), repeats=9)
    assert "an image is seen less than once (100 to 200 are usual)" in many.report(config)
    assert "has no scale" not in many.report()


def test_held_out_image_without_a_bucket_fails_at_the_start(tmp_path: Path) -> None:
    write_images(tmp_path, "a", size=(600, 600))
    (tmp_path / "validation").mkdir()
    Image.new("RGB", (8000, 60)).save(tmp_path / "validation" / "thin.png")
    data = DataConfig(path=str(tmp_path), buckets=True, bucket_upscale=False)
    with pytest.raises(DataError, match=r"thin\.png: 8000x60 pixels are too small or too narrow"):
        load_dataset(data).report(TrialConfig(data=data))


def test_image_without_a_bucket_is_skipped_like_broken_ones(tmp_path: Path) -> None:
    write_images(tmp_path, "a", "b", size=(600, 600))
    Image.new("RGB", (8000, 60)).save(tmp_path / "thin.png")
    data = DataConfig(
        path=str(tmp_path), buckets=True, bucket_upscale=False, validation_fraction=0,
        on_error="skip",
    )  # fmt: skip
    dataset = load_dataset(data)
    assert [image.path.stem for image in dataset.training] == ["a", "b"]
    assert "skipped: " in (message := dataset.report(TrialConfig(data=data)))
    assert "thin.png: 8000x60 pixels are too small or too narrow" in message


@pytest.mark.parametrize(
    ("name", "repeats", "words"),
    [
        ("10_sks dog", True, "sks dog"),
        ("20240101_birthday", False, "birthday"),
        ("1000_sks", True, "sks"),
        ("1001_sks", False, "sks"),
        ("0_sks", False, "sks"),
        ("5", True, ""),
    ],
)
def test_folder_name_distinguishes_repeats_from_other_numbers(
    name: str, repeats: bool, words: str
) -> None:
    result = folder_name(name)
    assert result
    assert (result.has_repeats, result.words) == (repeats, words)
    assert not folder_name(f"x{name}")
