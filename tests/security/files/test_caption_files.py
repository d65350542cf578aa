"""Untrusted caption files: only files in the image folder are read, and nothing hangs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from train.config.schema import DataConfig
from train.data.dataset import Dataset, load_dataset
from train.data.images.image import DataError
from train.files import permissions

SECRET = "the password is tulip"


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Creates an image folder next to a secret in the working folder; no path is allowed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.txt").write_text(SECRET)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "a.txt").write_text(SECRET)
    return draw_images(tmp_path / "data")


def draw_images(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for number, name in enumerate("ab"):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(folder / f"{name}.png")
    return folder


def load(folder: Path, **settings: Any) -> Dataset:
    return load_dataset(DataConfig(path=str(folder), trigger="sks dog", **settings))


@pytest.mark.parametrize(
    "target", ["../secret.txt", "/etc/passwd", "chain", "../data/../secret.txt", "up/secret.txt",
               "/proc/self/environ", "../secrets/a.txt"],
)  # fmt: skip
def test_link_out_of_the_folder_is_refused_unless_allowed(data: Path, target: str) -> None:
    (data / "chain").symlink_to(data.parent / "secret.txt")
    (data / "up").symlink_to("..")
    (data / "a.txt").symlink_to(target)
    with pytest.raises(DataError, match="--allow-path=") as error:
        load(data)
    assert "a.txt" in str(error.value)
    assert "\n" not in str(error.value)
    assert [p.path.stem for p in load(data, on_error="skip").training] == ["b"]
    if "secret" in os.path.realpath(data / "a.txt"):
        permissions.allow([Path(os.path.realpath(data / "a.txt")).parent])
        assert load(data).training[0].caption == SECRET


def test_link_inside_the_folder_is_read(data: Path) -> None:
    (data / "words.md").write_text("sks dog, shared")
    (data / "a.txt").symlink_to("words.md")
    (data / "b.txt").symlink_to(data / "words.md")
    assert {p.caption for p in load(data).training} == {"sks dog, shared"}
    linked = data.parent / "linked"
    linked.symlink_to(data)
    assert {p.caption for p in load(linked).training} == {"sks dog, shared"}


@pytest.mark.parametrize("layout", ["captions", "numbered"])
def test_linked_caption_folder_is_refused(tmp_path: Path, layout: str) -> None:
    root = tmp_path / "theirs"
    draw_images(root / "images" / "10_sks dog" if layout == "numbered" else root / "images")
    (root / "captions").symlink_to(tmp_path / "secrets")
    with pytest.raises(DataError, match="--allow-path="):
        load(root)


@pytest.mark.parametrize("linked", ["images", "10_sks dog", "inner", "validation", "up"])
def test_captions_in_a_linked_image_folder_are_not_read(tmp_path: Path, linked: str) -> None:
    """The images themselves are read."""
    private, root = draw_images(tmp_path / "private"), tmp_path / "theirs"
    root.mkdir()
    if linked == "validation":
        Image.new("RGB", (32, 32), (9, 9, 9)).save(draw_images(root / "images") / "c.png")
    if linked == "up":
        (root / "to").symlink_to("..")
        (root / "images").symlink_to("to/private")
    else:
        (root / linked).symlink_to(private)
    assert load(root).training
    for name in "ab":
        (private / f"{name}.txt").write_text(SECRET)
    with pytest.raises(DataError, match=f"--allow-path={private}"):
        load(root)
    assert load(private).training[0].caption == SECRET
    permissions.allow([private])
    assert load(root).training


@pytest.mark.parametrize("image_dir", ["link", "here", "here/sub"])
def test_linked_subset_of_a_dataset_config_is_refused(tmp_path: Path, image_dir: str) -> None:
    draw_images(tmp_path / "private" / "sub")
    (tmp_path / "private" / "sub" / "a.txt").write_text(SECRET)
    root = tmp_path / "theirs"
    (root / "started").mkdir(parents=True)
    (root / "link").symlink_to(tmp_path / "private" / "sub")
    (root / "here").symlink_to(tmp_path / "private")
    os.chdir(root / "started")
    file = root / "data.toml"
    file.write_text(
        f'[[datasets]]\nresolution = 32\n[[datasets.subsets]]\nimage_dir = "{image_dir}"\n'
    )
    with pytest.raises(DataError, match="--allow-path="):
        load_dataset(DataConfig(dataset_config=str(file), trigger="x"))


@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "folder", "large"])
def test_special_caption_file_never_hangs(data: Path, kind: str) -> None:
    file = data / "a.txt"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "large":
        with file.open("wb") as stream:
            stream.truncate(50_000_000_000)
    else:
        file.symlink_to("/dev/zero" if kind == "device" else "a.txt")
    if kind in ("loop", "large"):
        with pytest.raises(DataError, match=r"a\.txt: is"):
            load(data)
    else:  # special files are ignored like other unrelated files
        assert load(data).training[0].caption == "sks dog"


@pytest.mark.parametrize(
    "extension",
    ["/../../secret.txt", "/../secret.txt", "../secret.txt", "/etc/passwd", "\0",
     ".txt/../../secret.txt", "~/x"],
)  # fmt: skip
def test_extension_cannot_be_a_path(data: Path, extension: str) -> None:
    output = ""
    try:
        output = load(data, caption_extension=extension).report()
    except DataError as error:
        output = str(error)
    assert SECRET not in output
    assert "root:" not in output


def test_links_among_images_never_hang(data: Path) -> None:
    (data / "10_x").mkdir()
    for name, target in (("c.png", "c.png"), ("d.png", "/dev/zero"), ("e", ".."), ("f", "f")):
        (data / name).symlink_to(target)
    os.mkfifo(data / "g.png")
    os.mkfifo(data / "10_x" / "h.png")
    assert [p.path.stem for p in load(data, on_error="skip").training] == ["a", "b"]
    (data / "c.png").unlink()
    (data / "c.png").symlink_to("../secret.txt")
    with pytest.raises(DataError, match=r"c\.png: cannot be read as an image"):
        load(data)
