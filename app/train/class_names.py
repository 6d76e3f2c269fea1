"""Names of classes, and the file in which people list their own."""

from pathlib import Path
from typing import Final

from app.errors import UsageError
from model import ClassInfo, named_classes
from model.classes import MAX_CLASSES

VOID_NAMES: Final = frozenset({"__ignore__", "ignore", "ignored", "void"})
"""What labelling tools and people call pixels that belong to no class, in lower case.

`__ignore__` is labelme's, `ignored` is what CVAT calls VOC's void; CamVid has `Void`.
"""


def read_lines(path: Path, what: str) -> list[str]:
    """Return a text file's lines.

    Args:
        path: The file.
        what: What it should hold, for the message if it is missing.

    Raises:
        UsageError: If the file is missing or not UTF-8.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file; it has {what}")
    try:
        # Windows' editor begins files with a mark.
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text: {error}") from None


def class_name(text: str, where: str) -> str:
    """Return a class name, with single spaces between its words.

    Args:
        text: The name as somebody wrote it.
        where: The place that the message names.

    Raises:
        UsageError: If it could not be asked for in `classes=...`.
    """
    name = " ".join(text.split())
    if not name or "," in name or name.isdecimal():
        raise UsageError(f"{where}: {name!r} cannot be told from a list or an index in classes=...")
    return name


def check_classes(classes: list[ClassInfo], path: Path) -> tuple[ClassInfo, ...]:
    """Return the classes that a file lists.

    Raises:
        UsageError: If there are none or too many, or two have one name.
    """
    if not 1 <= len(classes) <= MAX_CLASSES:
        raise UsageError(f"{path}: {len(classes)} classes; 1 to {MAX_CLASSES} are possible")
    if len({info.name for info in classes}) < len(classes):
        raise UsageError(f"{path}: two classes have the same name")
    return tuple(classes)


def read_classes(path: Path) -> tuple[ClassInfo, ...]:
    """Read `classes.txt`: a name a line in index order, optionally followed by `R G B`.

    Classes without a colour get one from the VOC palette.

    Raises:
        UsageError: If the file is missing or a line is wrong.
    """
    lines = read_lines(path, "a class name a line, optionally R G B")
    rows = [(number, line.split()) for number, line in enumerate(lines, start=1) if line.strip()]
    defaults = named_classes([str(index) for index in range(len(rows))])
    classes = []
    for (number, words), default in zip(rows, defaults, strict=True):
        where, color = f"{path}, line {number}", default.color
        if len(words) >= 4 and all(word.isdecimal() for word in words[-3:]):
            red, green, blue = (int(word) for word in words[-3:])
            if max(red, green, blue) > 255:
                raise UsageError(f"{where}: colours are 0 to 255")
            words, color = words[:-3], (red, green, blue)
        classes.append(ClassInfo(class_name(" ".join(words), where), color))
    return check_classes(classes, path)
