"""Trees of tiny images, from a few words."""

from pathlib import Path

from PIL import Image


def tree(root: Path, *words: str) -> Path:
    """`cat/night:2` is two images in that folder, `notes/a.txt` a file of one byte; a word may hold several."""
    for word in " ".join(words).split():
        path, _, count = word.partition(":")
        path = root / path
        (path if count else path.parent).mkdir(parents=True, exist_ok=True)
        for i in range(int(count or 0)):
            image(path / f"{i}.png")
        if not count:
            image(path) if path.suffix == ".png" else path.write_bytes(b"x")
    return root


def image(path: Path) -> Path:
    """An image of 4x4 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)
    return path


def classes(*folders: str, n: int = 2, names: tuple[str, ...] = ("cat", "dog")) -> str:
    """Words for `tree`: folders of those classes, n images each."""
    return " ".join(f"{folder}/{name}:{n}" for folder in folders for name in names)
