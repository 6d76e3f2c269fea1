"""Photos of every size and kind through the real server on the default checkpoint."""

import io
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from live_server import Server, decode_png, label_map_from_rle, running_server
from PIL import Image, ImageOps

from app.inference.engine import Engine


def encode(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(1, 1), (37, 211), (211, 37), (640, 480), (1280, 720)])
def test_png_rle_and_grey_say_the_same_at_the_photos_own_size(
    server: Server, photo: Image.Image, size: tuple[int, int]
) -> None:
    body = encode(photo.resize(size), "JPEG")
    palette = Image.open(io.BytesIO(server.post(body).content))
    assert (palette.format, palette.mode, palette.size) == ("PNG", "P", size)
    labels = np.array(palette)
    assert np.array_equal(labels, server.label_map(body))
    assert np.array_equal(labels, label_map_from_rle(server.post(body, format="rle").json()))
    uncompressed = server.post(body, format="rle", rle="uncompressed").json()
    assert np.array_equal(labels, label_map_from_rle(uncompressed))


def test_palette_has_the_colours_of_the_classes(server: Server, photo: Image.Image) -> None:
    answer = Image.open(io.BytesIO(server.post(encode(photo)).content))
    colors = answer.getpalette()
    assert colors is not None
    for entry in server.client.get("/model").json()["classes"]:
        index = entry["index"]
        expected = tuple(bytes.fromhex(entry["color"][1:]))
        assert tuple(colors[3 * index : 3 * index + 3]) == expected


def test_zip_has_one_binary_png_for_each_class(server: Server, photo: Image.Image) -> None:
    body = encode(photo)
    labels = server.label_map(body)
    archive = zipfile.ZipFile(io.BytesIO(server.post(body, format="zip").content))
    found = {int(name[:2]): decode_png(archive.read(name)) for name in archive.namelist()}
    assert set(found) == set(np.unique(labels).tolist())
    for index, mask in found.items():
        assert np.array_equal(mask, np.where(labels == index, 255, 0))


def test_overlay_shows_the_photo_under_the_colours(server: Server, photo: Image.Image) -> None:
    overlay = decode_png(server.post(encode(photo), format="overlay").content)
    assert overlay.shape == (600, 512, 3)
    difference = np.abs(overlay.astype(int) - np.asarray(photo)).mean()
    assert 5 < difference < 128


def as_16_bit(image: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(image.convert("L")).astype(np.uint16)) * 257)


def on_white(image: Image.Image) -> Image.Image:
    return Image.composite(image, Image.new("RGB", image.size, "white"), half_mask(image))


def half_mask(image: Image.Image) -> Image.Image:
    mask = Image.new("L", image.size, 255)
    mask.paste(0, (0, 0, image.width // 2, image.height))
    return mask


def with_alpha(image: Image.Image) -> Image.Image:
    return Image.merge("RGBA", (*image.split(), half_mask(image)))


def cmyk_as_shown(image: Image.Image) -> Image.Image:
    return Image.open(io.BytesIO(encode(image.convert("CMYK"), "TIFF"))).convert("RGB")


@pytest.mark.parametrize(
    ("sent", "shown", "format"),
    [
        (lambda i: i.convert("L"), lambda i: i.convert("L").convert("RGB"), "PNG"),
        (lambda i: i.quantize(32), lambda i: i.quantize(32).convert("RGB"), "PNG"),
        (with_alpha, on_white, "PNG"),
        (lambda i: i.convert("CMYK"), cmyk_as_shown, "TIFF"),
        (as_16_bit, lambda i: i.convert("L").convert("RGB"), "PNG"),
        (lambda i: i, lambda i: i, "BMP"),
        (lambda i: i, lambda i: i, "TIFF"),
    ],
    ids=["grey", "palette", "rgba", "cmyk", "16-bit", "bmp", "tiff"],
)
def test_every_kind_of_image_gives_the_mask_of_what_it_shows(
    server: Server, photo: Image.Image, sent, shown, format: str
) -> None:
    photo = photo.resize((256, 192))
    answer = server.label_map(encode(sent(photo), format))
    assert np.array_equal(answer, server.label_map(encode(shown(photo))))


@pytest.mark.parametrize("orientation", range(2, 9))
def test_exif_orientation_is_applied(server: Server, photo: Image.Image, orientation: int) -> None:
    photo = photo.resize((192, 128))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = encode(photo, "PNG", exif=exif)
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(stored)))
    answer = server.label_map(stored)
    assert answer.shape == (shown.height, shown.width)
    assert np.array_equal(answer, server.label_map(encode(shown)))


@pytest.mark.parametrize("scale", [0.25, 0.5, 2])
def test_scale_keeps_the_photos_own_size(server: Server, photo: Image.Image, scale: float) -> None:
    assert server.label_map(encode(photo), scale=scale).shape == (600, 512)


def test_selected_classes_are_those_of_the_whole_mask(server: Server, photo: Image.Image) -> None:
    body = encode(photo)
    labels = server.label_map(body)
    kept = np.unique(labels)[:2].tolist()
    selected = server.label_map(body, classes=",".join(map(str, kept)))
    assert np.array_equal(selected, np.where(np.isin(labels, kept), labels, 255))


def test_raw_bodies_and_accept(server: Server, photo: Image.Image) -> None:
    body = encode(photo, "JPEG")
    headers = {"Content-Type": "image/jpeg", "Accept": "application/json"}
    document = server.client.post("/segment", content=body, headers=headers).json()
    assert np.array_equal(label_map_from_rle(document), server.label_map(body))


@pytest.mark.parametrize(("precision", "share"), [("bf16", 0.999), ("fp32", 0.99999)])
def test_a_busy_server_gives_the_masks_of_an_idle_one(
    tmp_path: Path, checkpoint: Path, photo: Image.Image, precision: str, share: float
) -> None:
    sizes = [(96, 96), (128, 96), (64, 80), (200, 150)]
    bodies = [
        encode(photo.crop((n, 2 * n, n + 300, 2 * n + 300)).resize(sizes[n % 4])) for n in range(16)
    ]
    # Without a warm-up nothing is measured: whether batches pay is the machine's business, what
    # they do to masks is what this is about.
    arguments = ["--checkpoint", str(checkpoint), "--precision", precision]
    # Processors without bf16 take long over it, and whoever would wait too long is refused.
    patient = {"warm_up_sizes": "", "request_timeout_s": "600"}
    with running_server(tmp_path / "log", *arguments, **patient) as server:
        alone = [server.label_map(body) for body in bodies]
        batches = server.metric("fcn_batch_images_count")
        assert server.metric("fcn_batch_images_sum") == batches
        with ThreadPoolExecutor(16) as clients:
            together = list(clients.map(server.label_map, bodies))
        # Fewer batches than photos: some photos shared a forward.
        assert server.metric("fcn_batch_images_count") - batches < 16
    for first, second in zip(alone, together, strict=True):
        assert np.mean(first == second) >= share


def test_served_masks_are_the_engines(server: Server, checkpoint: Path, photo: Image.Image) -> None:
    engine = Engine.load(checkpoint)
    expected = engine.segment([np.asarray(photo)])[0].label_map
    assert np.mean(server.label_map(encode(photo)) == expected) >= 0.999
