import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from app.inference.rle import compress, compress_each, decode_runs, decompress, encode_runs
from model.classes import VOID

# pycocotools' own, with numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def assert_equals_pycocotools(label_map):
    height, width = label_map.shape
    found = encode_runs(label_map)
    assert [runs.class_id for runs in found] == [c for c in np.unique(label_map) if c != VOID]
    for runs in found:
        mask = label_map == runs.class_id
        theirs = coco.encode(np.asfortranarray(mask, dtype=np.uint8))

        assert compress(runs.counts) == theirs["counts"].decode()
        assert runs.area == coco.area(theirs)
        assert runs.bbox == tuple(coco.toBbox(theirs).astype(int).tolist())
        assert np.array_equal(decompress(theirs["counts"].decode()), runs.counts)
        assert np.array_equal(decode_runs(runs.counts, height, width), mask)
        as_list = {"size": [height, width], "counts": runs.counts.tolist()}
        listed = coco.frPyObjects(as_list, height, width)
        assert np.array_equal(coco.decode(listed).astype(bool), mask)


@st.composite
def label_maps(draw):
    """Noise, or blocks of it; also one row and one column; with and without void."""
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    labels = st.sampled_from(draw(st.sampled_from([[0], [0, 1], [0, 3, VOID], [*range(12), VOID]])))
    noise = draw(arrays(np.uint8, (height, width), elements=labels))
    return noise.repeat(draw(st.integers(1, 40)), 0).repeat(draw(st.integers(1, 5)), 1)


@settings(max_examples=200, deadline=None)
@given(label_map=label_maps())
def test_every_class_is_as_pycocotools_has_it(label_map):
    assert_equals_pycocotools(label_map)


def test_large_label_maps():
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 12, (18, 24)).astype(np.uint8).repeat(80, 0).repeat(80, 1)
    noise = rng.integers(0, 12, (300, 400)).astype(np.uint8)

    assert blocks.shape == (1440, 1920)
    assert_equals_pycocotools(blocks)
    assert_equals_pycocotools(noise)
    assert_equals_pycocotools(np.zeros((2000, 3000), np.uint8))


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1)])
def test_thin_label_maps(shape):
    rng = np.random.default_rng(1)
    for _ in range(20):
        assert_equals_pycocotools(rng.integers(0, 3, shape).astype(np.uint8))


@pytest.mark.parametrize("width", [255, 256, 257, 65_535, 65_537])
def test_wide_label_maps(width):
    # Columns are sorted as numbers of 8, 16 or 32 bits.
    label_map = np.random.default_rng(3).integers(0, 3, (2, width)).astype(np.uint8)

    assert_equals_pycocotools(label_map)
    assert_equals_pycocotools(label_map.T)


def test_views_are_read_as_they_are_indexed():
    label_map = np.random.default_rng(2).integers(0, 4, (30, 40)).astype(np.uint8)

    for view in (label_map[::2, ::-3], label_map.T, np.asfortranarray(label_map)):
        assert_equals_pycocotools(view)


def test_an_example_by_hand():
    label_map = np.array([[0, 5, 5], [5, 5, VOID]], np.uint8)

    zero, five = encode_runs(label_map)

    # Down the columns: 0 5, 5 5, 5 void.
    assert zero.counts.tolist() == [0, 1, 5]
    assert five.counts.tolist() == [1, 4, 1]
    assert (five.class_id, five.area, five.bbox) == (5, 4, (0, 0, 3, 2))


def test_void_is_no_class():
    assert encode_runs(np.full((3, 4), VOID, np.uint8)) == []
    assert encode_runs(np.full((3, 4), VOID, np.uint8), classes={VOID}) == []


def test_only_chosen_classes():
    label_map = np.array([[0, 1, 2, 3]], np.uint8)

    assert [runs.class_id for runs in encode_runs(label_map, classes=[3, 1, 9])] == [1, 3]
    assert encode_runs(label_map, classes=[]) == []
    alone = encode_runs(label_map, classes=[2])[0]
    assert np.array_equal(alone.counts, encode_runs(label_map)[2].counts)


@pytest.mark.parametrize(
    "label_map",
    [np.zeros((3, 3), np.int64), np.zeros(9, np.uint8), np.zeros((0, 3), np.uint8)],
)
def test_what_is_no_label_map_is_refused(label_map):
    with pytest.raises(ValueError, match="HxW uint8"):
        encode_runs(label_map)


@settings(max_examples=200, deadline=None)
@given(counts=st.lists(st.integers(0, 2**31), max_size=30))
def test_strings_come_back_as_the_same_counts(counts):
    assert decompress(compress(np.array(counts, np.int64))).tolist() == counts


@settings(max_examples=60, deadline=None)
@given(masks=st.lists(st.lists(st.integers(0, 2**33), max_size=9), max_size=6))
def test_masks_compressed_together_are_as_alone(masks):
    arrays_ = [np.array(counts, np.int64) for counts in masks]

    assert compress_each(arrays_) == [compress(counts) for counts in arrays_]
    assert [decompress(text).tolist() for text in compress_each(arrays_)] == masks


@settings(max_examples=200, deadline=None)
@given(counts=st.lists(st.integers(0, 5000), min_size=1, max_size=30))
def test_any_counts_compress_to_pycocotools_string(counts):
    size = [1, sum(counts)]
    theirs = coco.frPyObjects({"size": size, "counts": counts}, *size)

    assert compress(np.array(counts)) == theirs["counts"].decode()


@settings(max_examples=200, deadline=None)
@given(text=st.one_of(st.text(max_size=30), st.text("0123456789:PQXYZ_`abno", max_size=30)))
def test_strings_of_any_kind_are_counts_or_refused(text):
    try:
        counts = decompress(text)
    except ValueError:
        return
    assert (counts >= 0).all()


@pytest.mark.parametrize("text", ["/", "p", "é", "0\0", "P", "0P", "PPPPPPPPPPPPPPPP0", "O"])
def test_broken_strings_are_refused(text):
    with pytest.raises(ValueError, match="COCO RLE"):
        decompress(text)


@pytest.mark.parametrize("counts", [[], [5], [5, 8], [13], [-1, 13], [20, -8]])
def test_counts_of_another_size_are_refused(counts):
    with pytest.raises(ValueError, match="run length"):
        decode_runs(counts, 3, 4)


def test_decoded_masks_are_contiguous_booleans():
    mask = decode_runs([1, 4, 1], 2, 3)

    assert mask.tolist() == [[False, True, True], [True, True, False]]
    assert mask.dtype == bool
    assert mask.flags.c_contiguous
