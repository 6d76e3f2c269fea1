import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from label_studio_sdk.converter import brush

from app.inference.brush_rle import encode_brush_masks
from model.classes import VOID


def assert_equals_label_studio(label_map):
    found = encode_brush_masks(label_map)
    assert [mask.class_id for mask in found] == [c for c in np.unique(label_map) if c != VOID]
    for mask in found:
        expected = np.where(label_map == mask.class_id, 255, 0).astype(np.uint8)
        assert list(mask.rle) == brush.mask2rle(expected)
        assert mask.area == (expected > 0).sum()


@st.composite
def label_maps(draw):
    """Noise, or blocks of it, so that every length of run and every alignment of bits occurs."""
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    labels = st.sampled_from(draw(st.sampled_from([[0], [0, 1], [1, 3, VOID], [*range(9), VOID]])))
    noise = draw(arrays(np.uint8, (height, width), elements=labels))
    return noise.repeat(draw(st.integers(1, 3)), 0).repeat(draw(st.integers(1, 20)), 1)


@settings(max_examples=100, deadline=None)
@given(label_map=label_maps())
def test_every_class_is_as_label_studio_packs_it(label_map):
    assert_equals_label_studio(label_map)


@pytest.mark.parametrize("pixels", [16_383, 16_384, 16_385, 32_768, 40_000])
def test_runs_longer_than_the_format_counts_are_cut_alike(pixels):
    assert_equals_label_studio(np.zeros((1, pixels), np.uint8))
    assert_equals_label_studio(np.append(np.zeros(pixels), [1, 0, 0])[None].astype(np.uint8))


def test_label_maps_of_more_runs_than_a_block():
    noise = np.random.default_rng(0).integers(0, 2, (300, 300)).astype(np.uint8)
    assert_equals_label_studio(noise)


def test_label_studio_reads_the_mask_back():
    label_map = np.random.default_rng(0).integers(0, 3, (5, 7)).astype(np.uint8)
    label_map = label_map.repeat(9, 0).repeat(6, 1)
    for mask in encode_brush_masks(label_map):
        decoded = brush.decode_rle(list(mask.rle)).reshape(*label_map.shape, 4)
        expected = np.where(label_map == mask.class_id, 255, 0)
        assert np.array_equal(decoded, np.repeat(expected[..., None], 4, axis=2))


def test_selected_classes_only():
    label_map = np.array([[0, 1], [2, VOID]], np.uint8)
    assert [mask.class_id for mask in encode_brush_masks(label_map, classes={0, 2, 9})] == [0, 2]


@pytest.mark.parametrize(
    "label_map", [np.zeros((2, 2), np.int64), np.zeros((2, 2, 1), np.uint8), np.zeros((0, 2), "u1")]
)
def test_what_is_no_label_map_is_refused(label_map):
    with pytest.raises(ValueError, match="expected a label map"):
        encode_brush_masks(label_map)
