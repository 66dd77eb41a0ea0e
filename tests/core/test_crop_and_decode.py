"""Crops, and image files to RGB."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

from augmix_core import decode
from augmix_core.crop import (
    choose_box,
    draw_crops,
    pad_and_crop,
    random_resized_crop,
    resize,
    resize_and_center_crop,
)
from augmix_core.decode import decode_rgb
from tests.conftest import BACKENDS, natural, skip_unless_it_runs

ROOT = str(Path(__file__).resolve().parents[2])


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_crops_are_keyed_by_seed_epoch_and_sample_only():
    drawn = draw_crops([4, 5], epoch=[1, 2], seed=3)
    assert (drawn[1] == draw_crops([5], epoch=2, seed=3)[0]).all()
    assert (drawn[1] != draw_crops([5], epoch=1, seed=3)[0]).any()


def test_pad_and_crop_shifts_by_at_most_the_padding_and_covers_all_offsets(image):
    marked = np.zeros_like(image)
    marked[12, 20] = 255
    offsets = set()
    for drawn in draw_crops(np.arange(2000), epoch=0, seed=0):
        (y,), (x,) = np.nonzero(pad_and_crop(marked, drawn, padding=4, flip=False)[..., 0])
        offsets.add((int(y) - 12, int(x) - 20))
    assert offsets == {(dy, dx) for dy in range(-4, 5) for dx in range(-4, 5)}


def test_half_of_the_images_are_flipped(image):
    drawn = draw_crops(np.arange(1000), epoch=0, seed=0)
    flipped = [(pad_and_crop(image, d, padding=0, flip=True) == image[:, ::-1]).all() for d in drawn]
    assert 430 < sum(flipped) < 570
    assert all((pad_and_crop(image, d, padding=0, flip=False) == image).all() for d in drawn[:20])


@pytest.mark.parametrize("size", [(24, 40), (500, 375), (10, 400), (1, 1)])
def test_random_boxes_lie_inside_and_keep_area_and_aspect(size):
    for drawn in draw_crops(np.arange(200), epoch=0, seed=0):
        left, top, right, bottom = choose_box(*size, drawn[1:])
        assert 0 <= left < right <= size[1]
        assert 0 <= top < bottom <= size[0]
        if size == (500, 375):
            share, aspect = (right - left) * (bottom - top) / (500 * 375), (right - left) / (bottom - top)
            assert 0.078 < share <= 1
            assert 0.74 < aspect < 1.35


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "box_size", [(90, 130), (120, 80), (104, 80), (103, 80), (400, 60), (57, 1), (1, 90), (56, 56)]
)
def test_resizing_has_pillows_bits(backend, box_size):
    """Pillow 13 orders its two passes by how much each leaves to do; older releases have one order."""
    skip_unless_it_runs(backend)
    (image,) = natural(1, box_size[0] + 5, box_size[1] + 7)
    box = (3, 2, 3 + box_size[1], 2 + box_size[0])
    wanted = np.asarray(Image.fromarray(image).crop(box).resize((56, 56), Image.Resampling.BILINEAR)).astype(int)
    resized = resize(image, (56, 56), box=box, backend=backend)
    assert np.abs(resized - wanted).max() <= (0 if int(PIL.__version__.split(".")[0]) >= 13 else 1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [56, 57, 1])
def test_random_resized_crop_is_its_box_resized_and_perhaps_flipped(backend, size):
    skip_unless_it_runs(backend)
    (image,) = natural(1, 90, 130)
    for drawn in draw_crops(np.arange(6), epoch=0, seed=0):
        wanted = resize(image, (size, size), box=choose_box(90, 130, drawn[1:]), backend="reference")
        cropped = random_resized_crop(image, drawn, size=size, flip=True, backend=backend)
        assert (cropped == (wanted[:, ::-1] if drawn[0, 0] & 1 else wanted)).all()


def test_resize_and_center_crop_equals_torchvision():
    transforms = pytest.importorskip("torchvision.transforms")
    (image,) = natural(1, 97, 131)
    both = transforms.Compose([transforms.Resize(64), transforms.CenterCrop(56)])
    assert (resize_and_center_crop(image, resize_to=64, size=56) == np.asarray(both(Image.fromarray(image)))).all()


def test_every_colour_mode_comes_out_as_rgb(image):
    rgb = Image.fromarray(image)
    for kind, mode in [("PNG", "L"), ("PNG", "P"), ("PNG", "RGBA"), ("PNG", "1"), ("JPEG", "L"), ("JPEG", "CMYK")]:
        decoded = decode_rgb(encode(rgb.convert(mode), kind))
        assert decoded.shape == image.shape, (kind, mode)
        assert decoded.dtype == np.uint8
    assert (decode_rgb(encode(rgb, "PNG")) == image).all()


def test_sixteen_bits_are_scaled_to_eight_and_not_cut_off():
    grey = np.arange(24 * 40, dtype=np.uint16).reshape(24, 40) * 68
    decoded = decode_rgb(encode(Image.fromarray(grey), "PNG"))
    assert (decoded == (grey >> 8)[..., None]).all()


def test_the_contents_of_a_file_decide_and_not_its_name(tmp_path, image):
    file = tmp_path / "a.JPEG"
    file.write_bytes(encode(Image.fromarray(image), "PNG"))
    assert (decode_rgb(file.read_bytes()) == image).all()


def test_jpegs_have_pillows_pixels_on_both_paths(image, monkeypatch):
    for options in ({"quality": 75}, {"quality": 95, "subsampling": 0}, {"quality": 30, "progressive": True}):
        encoded = encode(Image.fromarray(image), "JPEG", **options)
        wanted = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
        assert (decode_rgb(encoded) == wanted).all()
        with monkeypatch.context() as without:
            without.setattr(decode, "simplejpeg", None)
            assert (decode_rgb(encoded) == wanted).all()


def test_broken_files_are_refused_with_the_reason(image):
    jpeg = encode(Image.fromarray(natural(1, 64, 64)[0]), "JPEG")
    for broken in (b"", b"no image at all", jpeg[:40], jpeg[: len(jpeg) // 2], encode(Image.fromarray(image), "GIF")):
        with pytest.raises(ValueError, match="not a readable JPEG or PNG or WebP"):
            decode_rgb(broken)


def test_images_above_the_limit_are_refused(image):
    for kind in ("PNG", "JPEG", "WEBP"):
        encoded = encode(Image.fromarray(image), kind)
        assert decode_rgb(encoded, max_pixels=24 * 40).shape == image.shape
        with pytest.raises(ValueError, match="claims 40x24 pixels; the limit is 959"):
            decode_rgb(encoded, max_pixels=24 * 40 - 1)


def claimed_png(width, height):
    """A PNG whose header claims a size and whose data end soon."""
    chunks = {b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT": zlib.compress(bytes(9999))}
    body = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def claimed_jpeg(width, height):
    whole = encode(Image.fromarray(natural(1, 24, 40)[0]), "JPEG")
    at = whole.index(b"\xff\xc0") + 5
    return whole[:at] + struct.pack(">HH", height, width) + whole[at + 4 :]


def claimed_webp(width, height):
    whole = encode(Image.fromarray(natural(1, 24, 40)[0]), "WEBP", lossless=True)
    at = whole.index(b"VP8L") + 9
    return whole[:at] + struct.pack("<I", (width - 1) | (height - 1) << 14) + whole[at + 4 :]


BOMBS = """
import resource, sys, time
sys.path.insert(0, {root!r})
from augmix_core.decode import decode_rgb
from tests.core import test_crop_and_decode as made
bombs = [made.claimed_png(60_000, 60_000), made.claimed_png(9_500, 9_500), made.claimed_jpeg(65_000, 65_000)]
bombs += [made.claimed_jpeg(9_500, 9_500), made.claimed_webp(16_383, 16_383)]
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
for bomb in bombs:
    try:
        decode_rgb(bomb)
        print("decoded")
    except ValueError as error:
        assert "claims" in str(error) or "exceeds limit" in str(error), error
print(time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def in_a_process(code):
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert told.returncode == 0, told.stderr
    return told.stdout.split()


def test_bombs_are_refused_at_once_and_cost_no_memory():
    seconds, kibibytes = in_a_process(BOMBS.format(root=ROOT))
    assert float(seconds) < 2 and int(kibibytes) < 200 * 1024


def test_other_formats_are_refused_whatever_they_are_called(image, tmp_path):
    files = {kind: encode(Image.fromarray(image), kind) for kind in ("TIFF", "EPS", "GIF", "BMP", "PPM", "ICO", "PDF")}
    files["PSD"] = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 24, 40, 8, 3) + bytes(3000)
    files["FITS"] = b"SIMPLE  =                    T".ljust(80) + b"BITPIX  =                    8".ljust(2800)
    for kind, content in files.items():
        (tmp_path / f"{kind}.png").write_bytes(content)
        with pytest.raises(ValueError, match="begin like none"):
            decode_rgb((tmp_path / f"{kind}.png").read_bytes())


def mutated(rng, whole):
    """One of four ways to spoil a file."""
    spoilt = bytearray(whole)
    way = rng.integers(4)
    if way == 0:
        del spoilt[rng.integers(len(spoilt)) :]
    elif way == 1:
        for bit in rng.integers(8 * len(spoilt), size=rng.integers(1, 9)):
            spoilt[bit // 8] ^= 1 << bit % 8
    elif way == 2:
        start = rng.integers(len(spoilt))
        end = min(len(spoilt), start + rng.integers(1, 300))
        spoilt[start:end] = bytes(end - start)
    else:
        spoilt[:4] = rng.bytes(4)
    return bytes(spoilt)


FUZZING = """
import sys
sys.path.insert(0, {root!r})
import numpy as np
from augmix_core.decode import decode_rgb
from tests.core.test_crop_and_decode import encode, mutated
from tests.conftest import natural
from PIL import Image
rng = np.random.default_rng({seed})
picture = Image.fromarray(natural(1, 90, 130)[0])
wholes = [encode(picture, "JPEG"), encode(picture, "JPEG", progressive=True), encode(picture, "PNG"),
          encode(picture.convert("P"), "PNG"), encode(picture, "WEBP")]
pixels = [decode_rgb(whole).tobytes() for whole in wholes]
counts = [0, 0]
for n in range({files}):
    try:
        assert decode_rgb(mutated(rng, wholes[n % len(wholes)])).dtype == np.uint8
        counts[0] += 1
    except ValueError:
        counts[1] += 1
    assert decode_rgb(wholes[n % len(wholes)]).tobytes() == pixels[n % len(wholes)]
print(*counts)
"""


@pytest.mark.parametrize(("files", "seed"), [(500, 0), pytest.param(20_000, 1, marks=pytest.mark.slow)])
def test_spoilt_files_are_decoded_or_refused_and_never_crash_or_hang(files, seed):
    """In a process of its own; the files between the spoilt ones keep their pixels."""
    good, bad = map(int, in_a_process(FUZZING.format(root=ROOT, files=files, seed=seed)))
    assert good + bad == files and good > 0 and bad > files / 2
