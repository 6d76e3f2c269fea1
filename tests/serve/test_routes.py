"""Health, model, metrics, documentation and the errors of the framework."""

import asyncio
import json
import re
import threading

import pytest
from serve_doubles import CLASSES, PATIENCE_S, VERSION, EngineDouble, encode, make_photo

from app.serve.schemas import ModelDocument

pytestmark = pytest.mark.anyio

PNG = encode(make_photo())


async def test_while_the_model_loads_the_process_is_alive_and_not_ready(serving):
    release = threading.Event()
    engine = EngineDouble()

    def load(settings, serving):
        assert release.wait(PATIENCE_S)
        return engine

    async with serving(load=load, ready=False) as served:
        assert (await served.client.get("/health/live")).status_code == 200
        assert (await served.client.get("/health")).json()["status"] == "starting"
        for answer in (
            await served.client.get("/health/ready"),
            await served.client.get("/model"),
            await served.post(PNG),
        ):
            assert answer.status_code == 503
            assert answer.json()["type"] == "urn:fcn:not-ready"
            assert int(answer.headers["retry-after"]) >= 1
            assert "x-model" not in answer.headers
        release.set()
        await served.until(lambda: served.service.phase == "ready")
        assert (await served.client.get("/health/ready")).json() == {"status": "ready"}
        assert (await served.post(PNG)).status_code == 200


async def test_a_model_that_cannot_be_loaded_is_reported(serving):
    def load(settings, serving):
        raise ValueError("truncated")

    async with serving(load=load, ready=False) as served:
        await served.until(lambda: served.failures)
        assert str(served.failures[0]) == "truncated"
        assert (await served.client.get("/health/live")).status_code == 503
        assert (await served.post(PNG)).status_code == 503


@pytest.mark.parametrize(
    "part", ["app.serve.pipeline.Batcher", "app.serve.telemetry.Telemetry.show_model"]
)
async def test_an_error_on_the_way_to_ready_is_reported(serving, monkeypatch, part):
    def fail(*args, **options):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(part, fail)
    async with serving(ready=False) as served:
        await served.until(lambda: served.service.phase != "starting")
        assert [str(error) for error in served.failures] == ["can't start new thread"]
        assert (await served.client.get("/health")).json()["status"] == "failed"
        assert (await served.client.get("/health/live")).status_code == 503
        assert (await served.client.get("/health/ready")).status_code == 503
        assert (await served.post(PNG)).json()["type"] == "urn:fcn:model-dead"


async def test_a_draining_server_refuses_new_work_and_finishes_what_it_took(serving):
    async with serving() as served:
        served.engine.gate.clear()
        taken = asyncio.create_task(served.post(PNG))
        await served.device_busy()
        served.service.drain()
        for answer in (await served.client.get("/health/ready"), await served.post(PNG)):
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.headers["connection"] == "close"
        assert (await served.client.get("/health/live")).status_code == 200
        assert (await served.client.get("/health")).json()["status"] == "draining"
        served.engine.gate.set()
        assert (await taken).status_code == 200


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_dead_device_thread_fails_liveness(serving):
    async with serving() as served:
        served.engine.fails = {make_photo()[0, 0, 0]: SystemExit()}
        assert (await served.post(PNG)).status_code == 503
        await served.until(lambda: not served.service.running_pipeline.alive)
        for path in ("/health/live", "/health/ready"):
            answer = await served.client.get(path)
            assert answer.status_code == 503
            assert answer.json()["type"] == "urn:fcn:model-dead"


async def test_a_gpu_that_lies_idle_is_told(serving, monkeypatch, caplog):
    monkeypatch.setattr("app.serve.service.unused_gpu", lambda: "this machine has a GPU")
    async with serving() as served:
        assert (await served.client.get("/health")).json()["notice"] == "this machine has a GPU"
    assert "this machine has a GPU" in caplog.messages
    async with serving(device="cpu") as served:  # as asked
        assert (await served.client.get("/health")).json()["notice"] is None


async def test_health_is_a_summary(serving):
    async with serving() as served:
        summary = (await served.client.get("/health")).json()
    assert summary["status"] == "ready"
    assert summary["model"] == {"name": "double", "version": VERSION}
    assert (summary["device"], summary["precision"]) == ("cpu", "fp32")
    assert summary["queue"] == {"requests": 0, "pixels": 0, "upload_bytes": 0}
    assert summary["uptime_s"] >= 0


async def test_model_lists_classes_architecture_and_training(serving):
    async with serving() as served:
        document = (await served.client.get("/model")).json()
    ModelDocument.model_validate(document)
    assert document["version"] == VERSION
    assert document["architecture"]["variant"] == "fcn8s"
    assert document["training"] == {"val": {"mean_iu": 0.5}}
    assert document["temperature"] == 1.25
    assert document["classes"][2] == {"index": 2, "name": "car", "color": "#400080"}
    assert len(document["classes"]) == len(CLASSES)


async def test_metrics_count_requests_stages_and_batches(serving):
    async with serving() as served:
        assert (await served.post(PNG)).status_code == 200
        await served.post(b"nonsense")
        await served.client.get("/not/a/route")
        await served.client.get("/not/another")
        text = (await served.client.get("/metrics")).text
    for line in (
        'fcn_requests_total{route="/segment",status="200"} 1.0',
        'fcn_requests_total{route="/segment",status="415"} 1.0',
        'fcn_requests_total{route="unmatched",status="404"} 2.0',
        'fcn_rejects_total{reason="unknown-image-format"} 1.0',
        'fcn_request_seconds_count{route="/segment"} 2.0',
        "fcn_batch_images_sum 1.0",
        "fcn_batch_pixels_sum 48.0",
        "fcn_batch_failures_total 0.0",
        'fcn_batches_total{reason="idle"} 1.0',
        'fcn_batches_total{reason="full"} 0.0',
        "fcn_recent_shapes 1.0",
        "fcn_expected_wait_seconds 0.0",
        "fcn_queue_depth 0.0",
        "fcn_admitted_pixels 0.0",
        "fcn_upload_bytes 0.0",
    ):
        assert line in text.splitlines()
    for stage in ("decode", "queue", "transfer", "forward", "encode"):
        assert f'fcn_stage_seconds_count{{stage="{stage}"}} 1.0' in text.splitlines()
    (info,) = re.findall(r"^fcn_model_info{(.*)} 1.0$", text, re.MULTILINE)
    assert f'version="{VERSION}"' in info
    assert 'device="cpu"' in info


async def test_two_applications_do_not_share_metrics(serving):
    async with serving() as one, serving() as other:
        await one.post(PNG)
        assert await one.metric("fcn_batch_images_count") == 1
        assert await other.metric("fcn_batch_images_count") == 0


@pytest.mark.parametrize(
    ("method", "path", "status", "detail"),
    [
        ("GET", "/nothing", 404, "/nothing"),
        ("POST", "/segment/", 404, "/segment/"),
        ("GET", "/segment", 405, "takes POST"),
        ("DELETE", "/health", 405, "takes GET"),
    ],
)
async def test_the_frameworks_own_errors_are_problems_too(serving, method, path, status, detail):
    async with serving() as served:
        answer = await served.client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert detail in answer.json()["detail"]
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    if status == 405:
        assert answer.headers["allow"] in answer.json()["detail"]


async def test_docs_fetch_nothing_from_elsewhere(serving):
    async with serving() as served:
        page = await served.client.get("/docs")
        assert page.status_code == 200
        links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(links) == 3
        for link in links:
            assert link.startswith("/")
            assert (await served.client.get(link)).status_code == 200


async def test_openapi_documents_bodies_answers_and_every_error(serving):
    async with serving() as served:
        document = (await served.client.get("/openapi.json")).json()
    operation = document["paths"]["/segment"]["post"]
    assert operation["operationId"] == "segment"
    assert {"multipart/form-data", "image/*"} <= set(operation["requestBody"]["content"])
    names = {parameter["name"] for parameter in operation["parameters"]}
    assert {"format", "classes", "rle", "scale", "scores", "X-Request-Timeout"} <= names
    answers = operation["responses"]
    assert {"200", "400", "406", "413", "415", "422", "429", "431", "500", "503", "504"} == set(
        answers
    )
    media_types = {"image/png", "application/json", "application/geo+json", "application/zip"}
    assert media_types | {"application/x-npz"} == set(answers["200"]["content"])
    problem = {"$ref": "#/components/schemas/ProblemDocument"}
    for status, answer in answers.items():
        if status != "200":
            assert answer["content"]["application/problem+json"]["schema"] == problem
    for path in ("/health", "/health/live", "/health/ready", "/metrics", "/model"):
        assert document["paths"][path]["get"]["operationId"]
    schemas = document["components"]["schemas"]
    for reference in re.findall(r"#/components/schemas/(\w+)", json.dumps(document)):
        assert reference in schemas
    assert "HTTPValidationError" not in schemas
    assert "urn:fcn:deadline-exceeded" in document["info"]["description"]


async def test_a_fault_after_the_answer_began_is_left_to_the_server(serving):
    async def half(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("too late for another answer")

    async with serving() as served:
        served.app.mount("/half", half)
        with pytest.raises(RuntimeError, match="too late"):
            await served.client.get("/half/")


async def test_a_request_is_one_log_line_with_its_id(serving, caplog):
    caplog.set_level("INFO")
    async with serving() as served:
        await served.post(PNG, "?format=grey", x_request_id="one")
        await served.post(b"nonsense", x_request_id="two")
    one, two = (
        record.fields
        for record in caplog.records
        if getattr(record, "fields", {}).get("path", "").startswith("/segment")
    )
    assert (one["id"], one["method"], one["status"]) == ("one", "POST", 200)
    assert (one["size"], one["format"], one["batch"]) == ("8x6", "grey", 1)
    assert one["dispatched"] == "idle"
    assert one["bytes_in"] == len(PNG)
    assert one["bytes_out"] > 0
    assert {"decode_ms", "queue_ms", "transfer_ms", "forward_ms"} <= set(one)
    assert {"encode_ms", "total_ms"} <= set(one)
    assert (two["id"], two["status"], two["problem"]) == ("two", 415, "unknown-image-format")


async def test_a_misspelt_setting_is_reported(serving, caplog, monkeypatch):
    monkeypatch.setenv("FCN_MAXPIXELS", "5")
    async with serving():
        pass
    assert "FCN_MAXPIXELS is no setting" in caplog.text


async def test_the_engine_is_loaded_with_the_settings(serving):
    seen = []

    def load(settings, serving):
        seen.append(settings)
        return EngineDouble()

    async with serving(load=load, device="cpu", precision="fp32"):
        pass
    assert (seen[0].device, seen[0].precision) == ("cpu", "fp32")
