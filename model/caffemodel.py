"""Reads `.caffemodel` files: the weights of Caffe networks, without Caffe or protobuf.

A `.caffemodel` is one `NetParameter` message of `caffe.proto` (BVLC/caffe) in protobuf's wire
format: fields one after the other, each a key (field number and wire type) and a value. Only the
fields that lead to the weights are looked at, everything else is stepped over.
"""

import math
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

# caffe.proto's field numbers. "V1" is how layers were written before 2015.
NET_LAYER: Final = 100
NET_V1_LAYER: Final = 2
LAYER_NAME: Final = 1
LAYER_BLOBS: Final = 7
V1_LAYER_NAME: Final = 4
V1_LAYER_BLOBS: Final = 6
BLOB_LEGACY_SHAPE: Final = (1, 2, 3, 4)  # num, channels, height, width
BLOB_DATA: Final = 5
BLOB_SHAPE: Final = 7
BLOB_DOUBLE_DATA: Final = 8
SHAPE_DIM: Final = 1

MAX_AXES: Final = 32
"""Of a blob, in Caffe (`kMaxBlobAxes`)."""

# protobuf's wire types.
VARINT: Final = 0
LENGTH_DELIMITED: Final = 2
FIXED_WIDTHS: Final = {1: 8, 5: 4}
"""Wire type -> bytes of its value."""

MAX_VARINT_BYTES: Final = 10


class PublishedWeightsError(ValueError):
    """A file does not hold weights that can be used; the message is one line."""


def read_caffemodel(path: Path | str) -> dict[str, list[Tensor]]:
    """Read the weights of every layer that has any.

    The file is mapped, not loaded, and what it claims is held against its length before anything
    is allocated: memory is bounded by the size of the file.

    Returns:
        Layer name -> its blobs in Caffe's order (a convolution's weight, then its bias), fp32 or
        fp64. Shapes are as written: files from before 2015 pad each to four dimensions, so that a
        bias of N numbers is 1x1x1xN.

    Raises:
        PublishedWeightsError: If the file is no `.caffemodel`, is truncated inside of a layer or
            contradicts itself; the message begins with the path.
        OSError: If the file cannot be read at all.
    """
    path = Path(path)
    with open(path, "rb") as file:
        if path.stat().st_size == 0:
            raise PublishedWeightsError(f"{path}: the file is empty")
        # Closed by the last view of it that goes; an error's traceback may hold one for a while.
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    try:
        layers = _read_net(data)
    except PublishedWeightsError as error:
        raise PublishedWeightsError(f"{path}: not a .caffemodel, or damaged: {error}") from None
    if not layers:
        raise PublishedWeightsError(f"{path}: not a .caffemodel, or one without any weights")
    return layers


def _read_net(message: memoryview) -> dict[str, list[Tensor]]:
    layers: dict[str, list[Tensor]] = {}
    for number, value in _fields(message):
        if number == NET_LAYER:
            name, blobs = _read_layer(_bytes(value), LAYER_NAME, LAYER_BLOBS)
        elif number == NET_V1_LAYER:
            name, blobs = _read_layer(_bytes(value), V1_LAYER_NAME, V1_LAYER_BLOBS)
        else:
            continue
        if not blobs:
            continue
        if not name:
            raise PublishedWeightsError("a layer with weights has no name")
        if name in layers:
            raise PublishedWeightsError(f"two layers are called {name}")
        layers[name] = blobs
    return layers


def _read_layer(message: memoryview, name_field: int, blobs_field: int) -> tuple[str, list[Tensor]]:
    name = ""
    blobs = []
    for number, value in _fields(message):
        if number == name_field:
            name = _text(_bytes(value))
        elif number == blobs_field:
            blobs.append(_bytes(value))
    try:
        return name, [_read_blob(blob) for blob in blobs]
    except PublishedWeightsError as error:
        raise PublishedWeightsError(f"layer {name}: {error}") from None


def _read_blob(message: memoryview) -> Tensor:
    shape: list[int] = []
    legacy: dict[int, int] = {}
    # Copied out of the map: a tensor must not lie at odd addresses, nor change with the file.
    floats, doubles = bytearray(), bytearray()
    for number, value in _fields(message):
        # Packed or one number a field: either way the bytes of the numbers, end to end.
        if number == BLOB_DATA:
            floats += _bytes(value)
        elif number == BLOB_DOUBLE_DATA:
            doubles += _bytes(value)
        elif number == BLOB_SHAPE:
            shape += _read_shape(_bytes(value))
        elif number in BLOB_LEGACY_SHAPE:
            legacy[number] = _integer(value)
    if legacy:  # Caffe, too, prefers it where both are given
        shape = [legacy.get(number, 0) for number in BLOB_LEGACY_SHAPE]
    if len(shape) > MAX_AXES:
        raise PublishedWeightsError(f"a blob has {len(shape)} dimensions")
    data, dtype = (doubles, np.dtype("<f8")) if doubles else (floats, np.dtype("<f4"))
    if not data:
        raise PublishedWeightsError(f"a blob of shape {shape} holds no numbers")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise PublishedWeightsError(f"a blob of shape {shape} holds {len(data)} bytes of numbers")
    values = np.frombuffer(data, dtype).astype(dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(values).view(shape)


def _read_shape(message: memoryview) -> list[int]:
    dims: list[int] = []
    for number, value in _fields(message):
        if number != SHAPE_DIM:
            continue
        if isinstance(value, int):
            dims.append(value)
            continue
        position = 0
        while position < len(value):
            dim, position = _varint(value, position)
            dims.append(dim)
    return dims


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, value): an integer for a varint, the value's bytes for the others."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire_type = key >> 3, key & 7
        if number == 0:
            raise PublishedWeightsError("a field has the number 0")
        if wire_type == VARINT:
            integer, position = _varint(message, position)
            yield number, integer
            continue
        if wire_type == LENGTH_DELIMITED:
            length, position = _varint(message, position)
        elif wire_type in FIXED_WIDTHS:
            length = FIXED_WIDTHS[wire_type]
        else:
            raise PublishedWeightsError(f"a field has the unknown wire type {wire_type}")
        end = position + length
        if end > len(message):
            raise PublishedWeightsError(
                f"it ends {end - len(message)} bytes too early for one of its fields"
            )
        yield number, message[position:end]
        position = end


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return an integer, 7 bits a byte and the lowest first, and the position behind it."""
    value = 0
    for index, byte in enumerate(message[position : position + MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise PublishedWeightsError("an integer has no end")


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise PublishedWeightsError("a field holds an integer where bytes belong")
    return value


def _integer(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise PublishedWeightsError("a field holds bytes where an integer belongs")
    return value


def _text(value: memoryview) -> str:
    try:
        name = str(value, "utf-8")
    except UnicodeDecodeError:
        name = ""
    if not name.isprintable() or not name:
        raise PublishedWeightsError("a layer's name is no text")
    return name
