"""Requests made from the OpenAPI document: the server does what the document says, and no more.

schemathesis writes them: values within and outside the schemas, edges of ranges, missing and
unknown parameters, methods that are not offered. Its checks: only documented statuses, media types
and headers, bodies of the documented form, what is valid taken and what is not refused.
"""

import base64
import io
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from live_server import Server, running_server
from PIL import Image
from schemathesis.checks import negative_data_rejection, positive_data_acceptance
from schemathesis.config import SchemathesisConfig

from app.serve.application import create_app
from app.serve.settings import Settings


def config(**parameters: str) -> SchemathesisConfig:
    """Configure schemathesis.

    Args:
        **parameters: Values in place of generated ones.
    """
    return SchemathesisConfig.from_dict(
        {
            # A timeout of 5e-324 seconds is a valid one, and has passed.
            "checks": {"not_a_server_error": {"expected-statuses": ["2xx", "4xx", "504"]}},
            "parameters": parameters,
        }
    )


CLASSES = "class 1,10"
"""A schema cannot say which classes the checkpoint has."""


BEYOND_SCHEMAS = ("POST /label-studio/predict",)
"""What these take is more than a schema can say: configurations in XML, images as URIs."""


def tiny_photo(file_format: str, width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (width, height, 128)).save(file, file_format)
    return file.getvalue()


PHOTOS = st.builds(
    tiny_photo, st.sampled_from(["PNG", "JPEG", "GIF"]), st.integers(1, 40), st.integers(1, 40)
)

for media_type in ("image/*", "application/octet-stream"):
    schemathesis.openapi.media_type(media_type, PHOTOS)
schemathesis.openapi.format("binary", PHOTOS)  # the field of a form
schemathesis.openapi.format("byte", PHOTOS.map(lambda photo: base64.b64encode(photo).decode()))

DOCUMENT = create_app(Settings()).openapi()
api = schemathesis.openapi.from_dict(DOCUMENT, config=config(classes=CLASSES))
masks_as_json = schemathesis.openapi.from_dict(
    DOCUMENT, config=config(classes=CLASSES, format="rle", **{"X-Request-Timeout": "60"})
).include(path="/segment", method="POST")
run_each = settings(
    max_examples=100,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service around a network that costs nothing."""
    log = tmp_path_factory.mktemp("null") / "log"
    with running_server(log, program=("-m", "app.bench.null")) as server:
        yield server
    assert "Traceback" not in log.read_text()


def test_the_document_served_is_the_one_tested(server: Server) -> None:
    assert server.client.get("/openapi.json").json() == DOCUMENT


@api.parametrize()
@run_each
def test_answers_are_as_documented(case: schemathesis.Case, server: Server) -> None:
    beyond_schemas = case.operation.label in BEYOND_SCHEMAS
    case.call_and_validate(
        base_url=server.url,
        excluded_checks=[positive_data_acceptance] if beyond_schemas else [],
    )


@masks_as_json.parametrize()
@run_each
def test_masks_as_json_are_as_documented(case: schemathesis.Case, server: Server) -> None:
    # What is invalid here is an unknown header, and those are nobody's business.
    case.call_and_validate(base_url=server.url, excluded_checks=[negative_data_rejection])
