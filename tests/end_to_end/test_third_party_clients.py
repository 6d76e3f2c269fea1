"""Other people's clients, as they are installed, against the real server: the masks of /segment."""

import base64
import gzip
import io
from collections.abc import Iterator
from urllib.parse import urljoin

import httpx
import huggingface_hub.errors
import numpy as np
import pytest
import supervision as sv
import tritonclient.http as triton
from huggingface_hub import InferenceClient
from label_studio_sdk.converter import brush
from label_studio_sdk.label_interface import LabelInterface
from label_studio_sdk.label_interface.objects import PredictionValue
from live_server import Server
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO
from tritonclient.utils import InferenceServerException

LabelMap = NDArray[np.uint8]


def encode(image: Image.Image, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def small(photo: Image.Image) -> Image.Image:
    """A photo of an odd width: rows of its pixels do not end on whole words."""
    return photo.crop((100, 50, 351, 250))


@pytest.fixture(scope="module")
def labels(server: Server, small: Image.Image) -> LabelMap:
    """What /segment says of it: more than one class, or nothing here would prove much."""
    label_map = server.label_map(encode(small))
    assert len(np.unique(label_map)) > 2
    return label_map


@pytest.fixture(scope="module")
def names(server: Server) -> list[str]:
    return [entry["name"] for entry in server.client.get("/model").json()["classes"]]


class TestHuggingFace:
    @pytest.fixture
    def client(self, server: Server) -> InferenceClient:
        return InferenceClient(model=f"{server.url}/hf")

    @pytest.mark.parametrize("parameters", [{}, {"subtask": "semantic", "mask_threshold": 0.5}])
    def test_masks(
        self,
        client: InferenceClient,
        small: Image.Image,
        labels: LabelMap,
        names: list[str],
        parameters: dict,
    ) -> None:
        elements = client.image_segmentation(encode(small), **parameters)
        painted = np.full(labels.shape, 255, np.uint8)
        for element in elements:
            assert element.mask.mode == "L"
            painted[np.asarray(element.mask) == 255] = names.index(element.label)
            assert 0 < element.score <= 1
        assert np.array_equal(painted, labels)

    def test_a_threshold_leaves_out_what_is_unsure(
        self, client: InferenceClient, small: Image.Image
    ) -> None:
        scores = [element.score for element in client.image_segmentation(encode(small))]
        threshold = sorted(scores)[len(scores) // 2]
        kept = client.image_segmentation(encode(small), threshold=threshold)
        assert [element.score for element in kept] == [s for s in scores if s >= threshold]

    def test_errors_reach_the_caller(self, client: InferenceClient, small: Image.Image) -> None:
        with pytest.raises(huggingface_hub.errors.HfHubHTTPError, match="not an image") as caught:
            client.image_segmentation(b"text")
        assert caught.value.request_id == caught.value.response.headers["x-request-id"]
        with pytest.raises(huggingface_hub.errors.BadRequestError, match="semantic"):
            client.image_segmentation(encode(small), subtask="instance")


class TestTriton:
    @pytest.fixture
    def client(self, server: Server) -> Iterator[triton.InferenceServerClient]:
        with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
            yield client

    @pytest.fixture
    def name(self, server: Server) -> str:
        return server.client.get("/model").json()["name"]

    def test_what_it_says_of_server_and_model(
        self, client: triton.InferenceServerClient, server: Server, name: str, names: list[str]
    ) -> None:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(name)
        assert not client.is_model_ready("another")
        assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
        (listed,) = client.get_model_repository_index()
        assert (listed["name"], listed["state"]) == (name, "READY")
        version = listed["version"]
        assert server.client.get("/model").json()["version"].startswith(version)
        metadata = client.get_model_metadata(name, version)
        assert metadata["versions"] == [version]
        assert [tensor["datatype"] for tensor in metadata["inputs"]] == ["UINT8", "BYTES"]
        config = client.get_model_config(name)
        assert [tensor["data_type"] for tensor in config["output"]] == ["TYPE_UINT8", "TYPE_FP32"]
        assert all(name in config["parameters"]["class_names"]["string_value"] for name in names)

    @pytest.mark.parametrize("binary", [True, False])
    @pytest.mark.parametrize("photos", [0, 1, 3], ids=["HxWx3", "1xHxWx3", "3xHxWx3"])
    def test_pixels(
        self,
        client: triton.InferenceServerClient,
        server: Server,
        small: Image.Image,
        name: str,
        binary: bool,
        photos: int,
    ) -> None:
        turned = [small.transpose(Image.Transpose.ROTATE_180), small, small.convert("L")]
        images = [image.convert("RGB") for image in turned][: photos or 1]
        pixels = np.stack([np.asarray(image) for image in images])
        tensor = pixels if photos else pixels[0]
        given = triton.InferInput("image", tensor.shape, "UINT8")
        given.set_data_from_numpy(tensor, binary_data=binary)
        outputs = [triton.InferRequestedOutput("label_map", binary_data=binary)]
        result = client.infer(name, [given], outputs=outputs, request_id="mine")
        assert result.get_response()["id"] == "mine"
        assert result.as_numpy("scores") is None
        expected = np.stack([server.label_map(encode(image)) for image in images])
        assert np.array_equal(result.as_numpy("label_map"), expected)

    def test_files_and_scores(
        self,
        client: triton.InferenceServerClient,
        server: Server,
        small: Image.Image,
        labels: LabelMap,
        name: str,
    ) -> None:
        files = np.array([encode(small), encode(small, "BMP")], np.object_)
        given = triton.InferInput("file", files.shape, "BYTES")
        given.set_data_from_numpy(files)
        result = client.infer(name, [given])
        assert np.array_equal(result.as_numpy("label_map"), np.stack([labels, labels]))
        document = server.post(encode(small), format="rle", scores=True).json()
        for entry in document["masks"]:
            scores = result.as_numpy("scores")[:, entry["class_id"]]
            assert scores == pytest.approx(entry["score"], abs=1e-5)

    @pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
    def test_compressed_bodies(
        self,
        client: triton.InferenceServerClient,
        small: Image.Image,
        labels: LabelMap,
        name: str,
        algorithm: str,
    ) -> None:
        given = triton.InferInput("image", (1, *labels.shape, 3), "UINT8")
        given.set_data_from_numpy(np.asarray(small)[None])
        result = client.infer(
            name,
            [given],
            request_compression_algorithm=algorithm,
            response_compression_algorithm=algorithm,
        )
        assert np.array_equal(result.as_numpy("label_map")[0], labels)

    def test_parameters_of_segment(
        self, client: triton.InferenceServerClient, server: Server, small: Image.Image, name: str
    ) -> None:
        given = triton.InferInput("file", [1], "BYTES")
        given.set_data_from_numpy(np.array([encode(small)], np.object_))
        result = client.infer(name, [given], parameters={"scale": 0.5, "classes": "0,1"})
        expected = server.label_map(encode(small), scale=0.5, classes="0,1")
        assert np.array_equal(result.as_numpy("label_map")[0], expected)

    def test_errors_reach_the_caller(self, client: triton.InferenceServerClient, name: str) -> None:
        given = triton.InferInput("file", [1], "BYTES")
        given.set_data_from_numpy(np.array([b"text"], np.object_))
        with pytest.raises(InferenceServerException, match="not an image") as caught:
            client.infer(name, [given])
        assert caught.value.status() == "415"
        with pytest.raises(InferenceServerException, match="is not served here") as caught:
            client.infer("another", [given])
        assert caught.value.status() == "404"

    def test_a_body_that_unpacks_without_end_is_refused(self, server: Server, name: str) -> None:
        bomb = gzip.compress(bytes(64 << 20))
        assert len(bomb) < 100_000
        path = f"/v2/models/{name}/infer"
        answer = server.client.post(path, content=bomb, headers={"Content-Encoding": "gzip"})
        assert answer.status_code == 413
        assert "33,554,432 bytes" in answer.json()["error"]


class TestLabelStudio:
    @pytest.fixture
    def config(self, names: list[str]) -> str:
        labels = "".join(f'<Label value="{name}"/>' for name in names)
        return (
            '<View><Image name="photo" value="$picture"/>'
            f'<BrushLabels name="tag" toName="photo">{labels}</BrushLabels></View>'
        )

    def call(self, server: Server, path: str, **document: object) -> dict:
        """Call a backend as Label Studio does (label_studio/ml/api_connector.py)."""
        base = f"{server.url}/label-studio"
        response = httpx.post(urljoin(base + "/", path), json=document, timeout=100)
        response.raise_for_status()
        return response.json()

    def test_connecting(self, server: Server, config: str) -> None:
        response = httpx.get(f"{server.url}/label-studio/health", timeout=10)
        response.raise_for_status()
        assert response.json()["status"] == "UP"
        setup = self.call(
            server,
            "setup",
            project="1.1700000000",
            schema=config,
            hostname="http://localhost:8080",
            access_token="0" * 40,
        )
        assert setup["model_version"] == server.client.get("/health/ready").headers["x-model"]

    def test_masks(
        self,
        server: Server,
        small: Image.Image,
        labels: LabelMap,
        names: list[str],
        config: str,
    ) -> None:
        uri = "data:image/png;base64," + base64.b64encode(encode(small)).decode()
        answer = self.call(
            server,
            "predict",
            tasks=[{"id": 7, "data": {"picture": uri}}, {"id": 8, "data": {"picture": uri}}],
            model_version="",
            project="1.1700000000",
            label_config=config,
            params={"login": None, "password": None, "context": None},
        )
        assert len(answer["results"]) == 2
        interface = LabelInterface(config)
        for prediction in answer["results"]:
            PredictionValue.model_validate(prediction)
            assert interface.validate_prediction(prediction, return_errors=True) == []
            painted = np.full(labels.shape, 255, np.uint8)
            for region in prediction["result"]:
                # Label Studio's exports say of a region what stands in its value.
                exported = {**region, **region["value"]}
                ((layer, mask),) = brush.decode_from_annotation("tag", [exported]).items()
                painted[mask == 255] = names.index(layer.split("-")[1])
            assert np.array_equal(painted, labels)


class TestSupervision:
    def test_detections(
        self, server: Server, small: Image.Image, labels: LabelMap, names: list[str]
    ) -> None:
        answer = server.post(encode(small), format="rle", scores=True).json()
        size = (answer["image"]["width"], answer["image"]["height"])
        masks = answer["masks"]
        detections = sv.Detections(
            xyxy=sv.xywh_to_xyxy(np.array([mask["bbox"] for mask in masks])),
            mask=np.stack([sv.rle_to_mask(mask["rle"]["counts"], size) for mask in masks]),
            confidence=np.array([mask["score"] for mask in masks]),
            class_id=np.array([mask["class_id"] for mask in masks]),
            data={"class_name": np.array([mask["class_name"] for mask in masks])},
        )
        painted = np.full(labels.shape, 255, np.uint8)
        for mask, class_id in zip(detections.mask, detections.class_id, strict=True):
            painted[mask] = class_id
        assert np.array_equal(painted, labels)
        assert detections.area.tolist() == [mask["area"] for mask in masks]
        inclusive = np.array([0, 0, 1, 1])
        assert np.array_equal(sv.mask_to_xyxy(detections.mask) + inclusive, detections.xyxy)
        annotated = sv.MaskAnnotator().annotate(np.array(small), detections)
        assert not np.array_equal(annotated, small)


class TestPycocotools:
    @pytest.mark.parametrize("rle", ["compressed", "uncompressed"])
    def test_masks(self, server: Server, small: Image.Image, labels: LabelMap, rle: str) -> None:
        answer = server.post(encode(small), format="rle", rle=rle).json()
        dataset = COCO()
        dataset.dataset = {
            "images": [{"id": 1, **answer["image"]}],
            "categories": [
                {"id": mask["class_id"], "name": mask["class_name"]} for mask in answer["masks"]
            ],
            "annotations": [
                {
                    "id": number,
                    "image_id": 1,
                    "category_id": mask["class_id"],
                    "segmentation": mask["rle"],
                    "area": mask["area"],
                    "bbox": mask["bbox"],
                    "iscrowd": 1,
                }
                for number, mask in enumerate(answer["masks"], start=1)
            ],
        }
        dataset.createIndex()
        painted = np.full(labels.shape, 255, np.uint8)
        for annotation in dataset.loadAnns(dataset.getAnnIds()):
            mask = dataset.annToMask(annotation)
            painted[mask == 1] = annotation["category_id"]
            assert coco.area(dataset.annToRLE(annotation)) == annotation["area"]
        assert np.array_equal(painted, labels)
