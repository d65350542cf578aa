"""Kinds of files: image formats, companions of images, and the real format of a file."""

from __future__ import annotations

from pathlib import Path

from PIL import features

# decoded by Pillow itself (MPO as JPEG): nothing that runs another program, as for EPS
FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF"]
EXTENSIONS = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".tif",
    ".tiff", ".gif",
}  # fmt: skip
if features.check("avif"):  # Pillow 11.3 and later, as most builds have it
    FORMATS.append("AVIF")
    EXTENSIONS |= {".avif"}
CAPTION_EXTENSIONS = (
    ".txt", ".caption", ".captions", ".cap", ".tags", ".tag", ".text", ".prompt", ".md",
)  # fmt: skip
# files that usually lie next to images: captions, caches, lists, notes
COMPANION_EXTENSIONS = {
    *CAPTION_EXTENSIONS, ".npz", ".npy", ".safetensors", ".json", ".jsonl", ".toml", ".yaml",
    ".yml", ".csv", ".tsv", ".xml", ".xmp", ".aae", ".log", ".db", ".ini", ".html", ".py", ".sh",
    ".bat",
}  # fmt: skip
# signatures of files that are named .jpg or .png but are something else: offset, bytes, kind
SIGNATURES = (
    (4, b"ftyphe", "an HEIC image"),
    (4, b"ftypmif1", "an HEIC image"),
    (4, b"ftypmsf1", "an HEIC image"),
    (4, b"ftypavi", "an AVIF image"),
    (4, b"ftyp", "a video"),
    (0, b"\xff\x0a", "a JPEG XL image"),
    (4, b"JXL ", "a JPEG XL image"),
    (4, b"jP  ", "a JPEG 2000 image"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"%!PS", "PostScript"),
    (0, b"%PDF", "a PDF"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"<", "a web page or an SVG drawing"),
    (0, b"version https://git-lfs", "a pointer of Git LFS and not the file itself"),
)


def extension_of(file: Path) -> str:
    """The extension of a file's name, in lower case: `a.JPG` and `a.jpg ` are both `.jpg`."""
    return file.suffix.strip().lower()


def actual_kind(file: Path) -> str | None:
    """The kind of a file that Pillow does not recognize, by its first bytes; None if unknown.

    Raises:
        OSError: it cannot be read.
    """
    with file.open("rb") as stream:
        head = stream.read(32)
    if not head:
        return "an empty file"
    head = head.lstrip() if head.lstrip().startswith(b"<") else head
    return next((what for at, begins, what in SIGNATURES if head[at:].startswith(begins)), None)
