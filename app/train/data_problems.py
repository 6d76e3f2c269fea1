"""What can be wrong with labelled images, kind by kind, and what becomes of it.

Opening a dataset and reading its samples raises the first error. `--check` collects instead.
"""

from collections.abc import Callable, Iterator
from typing import ClassVar, Final

from app.errors import UsageError

SHOWN_OF_A_KIND: Final = 10
"""Lines of one kind that are shown: what is wrong with every file should not hide the rest."""


class DataError(UsageError):
    """Training cannot use the data; the message is one line that names the file.

    Attributes:
        several: What several errors of this kind are called.
    """

    several: ClassVar[str]


class PairingError(DataError):
    """A photo, its label map or its line in a list lacks the others."""

    several = "photos, masks or lines of lists that lack the others"


class UnreadablePhotoError(DataError):
    """A photo is missing, damaged or cut short."""

    several = "photos that cannot be read"


class UnreadableLabelsError(DataError):
    """A label map is missing, damaged or of another kind than it must be."""

    several = "label maps that cannot be read"


class UnknownLabelError(DataError):
    """A label map holds a value or a colour that stands for no class."""

    several = "label maps with values or colours that stand for no class"


class SizeMismatchError(DataError):
    """A photo and its label map differ in size."""

    several = "photos that differ from their label maps in size"


class AnnotationError(DataError):
    """An entry of a COCO file cannot be used."""

    several = "images or annotations that cannot be used"


class NothingLabelledError(DataError):
    """A split has no labelled pixel."""

    several = "splits without labels"


class OneClassError(DataError):
    """There are several classes, and a split to train on has pixels of one."""

    several = "splits with one class"


class DataWarning(UserWarning):
    """Training can use the data, but its user may have meant something else.

    Attributes:
        several: What several warnings of this kind are called.
    """

    several: ClassVar[str]


class UnusedFileWarning(DataWarning):
    """A label map that no photo has, or a photo that nobody has labelled."""

    several = "files that are not used"


class SharedPhotoWarning(DataWarning):
    """A photo is in two splits: validation will look better than it is."""

    several = "photos in two splits"


class RepeatedPhotoWarning(DataWarning):
    """A split holds a photo twice."""

    several = "photos that are there twice"


class MissingClassWarning(DataWarning):
    """A split has no pixel of a class, or of several."""

    several = "splits that lack classes"


class NearEmptyWarning(DataWarning):
    """A label map says next to nothing."""

    several = "nearly empty label maps"


Problem = DataError | DataWarning
Report = Callable[[Problem], None]
"""What is called with each problem; it returns if the rest should be looked at."""


def refuse(problem: Problem) -> None:
    """Raise errors and pass over warnings, as whoever wants to use the data does."""
    if isinstance(problem, DataError):
        raise problem


class Problems:
    """Problems as they are found, each once."""

    def __init__(self) -> None:
        self._texts: dict[type[Problem], dict[str, None]] = {}

    def add(self, problem: Problem) -> None:
        """Keep a problem; it is a `Report`."""
        self._texts.setdefault(type(problem), {})[str(problem)] = None

    def count(self, what: type[Problem]) -> int:
        """Return how many are of a kind, `DataError` and `DataWarning` being kinds of kinds."""
        return sum(len(texts) for kind, texts in self._texts.items() if issubclass(kind, what))

    def lines(self) -> Iterator[str]:
        """Yield a line for each, errors first, of each kind no more than can be read."""
        for base, word in ((DataError, "error"), (DataWarning, "warning")):
            for kind, texts in self._texts.items():
                if not issubclass(kind, base):
                    continue
                for text in list(texts)[:SHOWN_OF_A_KIND]:
                    yield f"{word}: {text}"
                if len(texts) > SHOWN_OF_A_KIND:
                    yield f"{word}: and {len(texts) - SHOWN_OF_A_KIND} more {kind.several}"
