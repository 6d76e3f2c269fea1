"""The answers that say more than which class: outlines, probabilities, confidence."""

import io
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.client.answers import Reply, read_json
from app.client.errors import ProtocolError

NOT_DECODED: Final = (
    *(AttributeError, EOFError, KeyError, OSError, SyntaxError, ValueError),
    *(NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error),
    Image.DecompressionBombError,
)
"""What NumPy, zipfile and Pillow raise of damaged files."""


@dataclass(frozen=True, eq=False)
class Probabilities:
    """How probable each class is at each pixel.

    Attributes:
        values: KxHxW float16, 0 to 1; over all classes of the model a pixel's add up to 1.
        class_ids: Index of each of the K classes.
        class_names: Name of each.
    """

    values: NDArray[np.float16]
    class_ids: tuple[int, ...]
    class_names: tuple[str, ...]

    def of(self, class_name: str | int) -> NDArray[np.float16]:
        """Return the probabilities of a class, HxW float16.

        Args:
            class_name: Its name, or its index.

        Raises:
            KeyError: If the model has no such class, or it was not asked for.
        """
        for plane, known in enumerate(zip(self.class_names, self.class_ids, strict=True)):
            if class_name in known:
                one: NDArray[np.float16] = self.values[plane]
                return one
        raise KeyError(f"no class {class_name!r} here; there are {', '.join(self.class_names)}")


def probabilities(reply: Reply) -> Probabilities:
    """Read the answer of `POST /segment?format=probabilities`.

    Raises:
        ProtocolError: If it is none.
    """
    try:
        with np.load(io.BytesIO(reply.body), allow_pickle=False) as arrays:
            values = arrays["probabilities"]
            ids, names = arrays["class_ids"].tolist(), arrays["class_names"].tolist()
    except NOT_DECODED as error:
        raise _not_it(reply, "probabilities", str(error)) from None
    if values.ndim != 3 or values.dtype != np.float16 or not len(values) == len(ids) == len(names):
        raise _not_it(reply, "probabilities", f"{values.dtype} of shape {values.shape}")
    return Probabilities(values, tuple(ids), tuple(names))


def confidence(reply: Reply) -> NDArray[np.float32]:
    """Read the answer of `POST /segment?format=confidence`: HxW float32, 0 to 1.

    Raises:
        ProtocolError: If it is none.
    """
    try:
        with Image.open(io.BytesIO(reply.body)) as image:
            mode, levels = image.mode, np.asarray(image)
    except NOT_DECODED as error:
        raise _not_it(reply, "confidence", str(error)) from None
    if mode != "L":
        raise _not_it(reply, "confidence", f"a PNG of mode {mode}")
    return levels.astype(np.float32) / np.float32(255)


def polygons(reply: Reply) -> dict[str, Any]:
    """Read the answer of `POST /segment?format=polygons`, GeoJSON.

    Raises:
        ProtocolError: If it is none.
    """
    try:
        document = read_json(reply)
    except ValueError as error:
        raise _not_it(reply, "polygons", str(error)) from None
    if not isinstance(document, dict) or document.get("type") != "FeatureCollection":
        raise _not_it(reply, "polygons", "no FeatureCollection")
    return document


def _not_it(reply: Reply, what: str, reason: str) -> ProtocolError:
    return ProtocolError(
        f"the answer does not tell {what}: {reason}",
        status=reply.status,
        request_id=reply.headers.get("x-request-id"),
    )
