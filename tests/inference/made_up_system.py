"""A machine whose `/proc` and `/sys` lie in a folder."""

from pathlib import Path


def write_system(root: Path, files: dict[str, str]) -> Path:
    """Write files, given by their paths below `root`, and return `root`."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root
