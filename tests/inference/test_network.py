"""What is computed besides label maps, from logits that are given."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from app.inference.network import Extras, label

LOGITS = arrays(
    np.float32,
    array_shapes(min_dims=4, max_dims=4, max_side=5),
    # Equal ones, ones that only 16 bits make equal, and very different ones.
    elements=st.one_of(
        st.sampled_from([0.0, 1e-5, 2e-5, 3.0]), st.floats(-80, 80, allow_nan=False, width=32)
    ),
)


def found(logits, temperature=1.0, **extras):
    """Return what becomes of logits, BxCxHxW."""
    logits = torch.from_numpy(logits.copy())
    return label(lambda batch: logits, None, None, temperature=temperature, extras=Extras(**extras))


@settings(deadline=None)
@given(LOGITS, st.data())
def test_the_label_has_the_highest_probability(logits, data):
    classes = range(logits.shape[1])
    result = found(logits, probabilities=tuple(classes))
    labels = logits.argmax(1)
    assert np.array_equal(result.labels, labels)
    assert np.array_equal(result.probabilities.numpy().argmax(1), labels)

    chosen = data.draw(st.sets(st.sampled_from(classes), min_size=1).map(sorted))
    some = found(logits, probabilities=tuple(chosen)).probabilities.numpy()
    best = np.array(chosen)[some.argmax(1)]
    assert np.array_equal(best[np.isin(labels, chosen)], labels[np.isin(labels, chosen)])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_probabilities_and_confidence_are_softmax_at_the_temperature(temperature):
    logits = np.random.default_rng(0).normal(0, 4, (2, 5, 6, 7)).astype(np.float32)
    expected = torch.from_numpy(logits / temperature).softmax(1).numpy()
    result = found(logits, temperature, scores=True, confidence=True, probabilities=(4, 1))
    assert result.probabilities.dtype == torch.float16
    np.testing.assert_allclose(result.probabilities, expected[:, [4, 1]], atol=1e-3)
    np.testing.assert_allclose(result.confidence / 255, expected.max(1), atol=0.51 / 255)
    labels = expected.argmax(1)
    assert result.scores[1, 3] == pytest.approx(expected[1, 3][labels[1] == 3].mean(), abs=1e-5)


def test_nothing_is_computed_that_is_not_wanted():
    assert found(np.zeros((1, 2, 3, 4), np.float32))[1:] == (None, None, None)
