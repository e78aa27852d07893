"""Images of any mode as RGB, and what is no image."""

import io

import numpy as np
import pytest
from PIL import Image
from transformers.image_utils import load_image

from hf_cb.data.images import UnreadableImageError, read_image, to_rgb
from runs import crops


RAMP = np.arange(96, dtype=np.uint16).reshape(8, 12)


def stored(image, **options):
    """As `datasets` gives an undecoded image."""
    file = io.BytesIO()
    image.save(file, **options)
    return {"bytes": file.getvalue(), "path": None}


@pytest.fixture(scope="module")
def photo():
    return crops(1)["flower"][0]


def pixels(image):
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_images_have_three_equal_channels(mode, photo):
    expected = np.asarray(photo.convert(mode).convert("L"))
    assert np.array_equal(
        pixels(read_image(stored(photo.convert(mode), format="png"))), expected[..., None] + [0, 0, 0]
    )


def test_colours_of_a_palette_stay(photo):
    palette = photo.convert("P", palette=Image.Palette.ADAPTIVE, colors=200)
    assert np.array_equal(pixels(read_image(stored(palette, format="png"))), pixels(palette.convert("RGB")))


def test_transparency_is_dropped(photo):
    alpha = Image.fromarray(np.tile(np.arange(48, dtype=np.uint8), (48, 1)))
    clear = photo.copy()
    clear.putalpha(alpha)
    assert np.array_equal(pixels(read_image(stored(clear, format="png"))), pixels(photo))


def test_a_transparent_palette_colour_keeps_its_colour():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    assert np.array_equal(pixels(read_image(stored(image, format="png", transparency=1)))[0, 0], [0, 0, 255])


def test_cmyk_jpegs_have_their_colours(photo):
    found = pixels(read_image(stored(photo.convert("CMYK"), format="jpeg", quality=95)))
    assert np.abs(found - pixels(photo)).mean() < 4
    assert np.abs(found - (255 - pixels(photo))).mean() > 40


def test_16_bit_grey_values_are_scaled_and_not_cut_off():
    found = pixels(read_image(stored(Image.fromarray(RAMP * 689), format="png")))
    assert np.array_equal(found[..., 0], np.rint(RAMP * 689 / 257))
    assert found.max() == 255 and len(np.unique(found)) > 90


# greatest value, kind of number, and what is white
SCALES = {
    "shares": (1.0, np.float32, 1.0),
    "8 bits in floating point": (250.0, np.float32, 255),
    "16 bits in floating point": (65000.0, np.float32, 65535),
    "8 bits in 16": (250, np.uint16, 255),
    "12 bits in 16": (4000, np.uint16, 4095),
    "16 bits": (65000, np.uint16, 65535),
    "8 bits in 32": (250, np.int32, 255),
    "16 bits in 32": (65000, np.int32, 65535),
    "24 bits in 32": (16_000_000, np.int32, 2**24 - 1),
    "31 bits in 32": (2_000_000_000, np.int32, 2**32 - 1),
}


@pytest.mark.parametrize(("greatest", "kind", "white"), SCALES.values(), ids=SCALES)
def test_grey_values_of_many_bits_keep_their_contrast(greatest, kind, white):
    values = (RAMP / 95 * greatest).astype(kind)
    found = pixels(read_image(stored(Image.fromarray(values), format="tiff")))
    assert np.abs(found[..., 0] - values / white * 255).max() <= 0.51
    assert len(np.unique(found)) > 60 and np.array_equal(found[..., 0], found[..., 2])


def test_dark_images_of_16_bits_stay_darker_than_light_ones():
    dark, light = (pixels(to_rgb(Image.fromarray(np.full((4, 4), level, np.uint16)))).mean() for level in (9000, 40000))
    assert (dark, light) == (35, 156)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_values_below_zero_are_spread_over_the_range_of_the_image(kind):
    values = (RAMP.astype(kind) - 40) * 10
    found = pixels(read_image(stored(Image.fromarray(values), format="tiff")))
    assert (found.min(), found.max()) == (0, 255) and len(np.unique(found)) == 96


def test_values_that_are_no_numbers_are_black_or_white_and_an_image_of_them_alone_is_none():
    values = (RAMP / 95).astype(np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    found = pixels(read_image(stored(Image.fromarray(values), format="tiff")))
    assert found[0, :3, 0].tolist() == [0, 255, 0] and len(np.unique(found)) > 80
    with pytest.raises(UnreadableImageError, match="no pixel has a finite value"):
        read_image(stored(Image.fromarray(np.full((4, 4), np.nan, np.float32)), format="tiff"))


def test_both_orders_of_bytes_are_read_alike():
    little = Image.fromarray(RAMP * 689)
    big = Image.frombytes("I;16B", little.size, (RAMP * 689).astype(">u2").tobytes())
    assert np.array_equal(pixels(to_rgb(little)), pixels(to_rgb(big)))


@pytest.mark.parametrize("mode", "1 L LA P PA RGB RGBA RGBX RGBa CMYK YCbCr LAB HSV".split())
def test_images_of_8_bits_are_what_the_pipeline_makes_of_them(mode, photo):
    # by way of a mode that leads there
    image = photo.convert("P").convert("PA") if mode == "PA" else photo.convert("RGBA" if mode == "RGBa" else "RGB")
    image = image.convert(mode)
    assert np.array_equal(pixels(to_rgb(image)), pixels(load_image(image)))


def test_premultiplied_grey_is_read_too(photo):
    assert np.array_equal(pixels(to_rgb(photo.convert("LA").convert("La"))), pixels(photo.convert("L").convert("RGB")))


@pytest.mark.parametrize("kind", ["gif", "tiff", "webp", "png"])
def test_of_several_frames_the_first_is_read(kind, photo):
    other = Image.new("RGB", photo.size)
    found = pixels(read_image(stored(photo, format=kind, save_all=True, append_images=[other, other])))
    assert np.abs(found - pixels(photo)).mean() < 15


def test_a_decompression_bomb_is_left_out_by_name(photo, monkeypatch, tmp_path):
    photo.save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableImageError, match=r"bomb\.png: DecompressionBombError"):
        read_image({"path": str(tmp_path / "bomb.png"), "bytes": None})


@pytest.mark.parametrize("name", ["std::vector.png", "a*b[c].png", "100 %#1?.png", "line\nbreak.png"])
def test_the_names_of_files_may_hold_any_sign(name, photo, tmp_path):
    photo.save(tmp_path / name)
    assert np.array_equal(pixels(read_image({"path": str(tmp_path / name), "bytes": None})), pixels(photo))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_exif_is_applied(orientation, photo):
    turns = {
        1: [], 2: ["FLIP_LEFT_RIGHT"], 3: ["ROTATE_180"], 4: ["FLIP_TOP_BOTTOM"],
        5: ["TRANSPOSE"], 6: ["ROTATE_270"], 7: ["TRANSVERSE"], 8: ["ROTATE_90"],
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    wide = photo.resize((48, 32))
    expected = wide
    for turn in turns[orientation]:
        expected = expected.transpose(Image.Transpose[turn])
    file = stored(wide, format="png", exif=exif)
    assert np.array_equal(pixels(read_image(file)), pixels(expected))
    # as PIL images come
    assert np.array_equal(pixels(read_image(Image.open(io.BytesIO(file["bytes"])))), pixels(expected))


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0no such header", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"])
def test_broken_exif_does_not_make_an_image_unreadable(exif, photo):
    assert read_image(stored(photo, format="jpeg", exif=exif)).size == (48, 48)


@pytest.mark.parametrize("kind", ["gif", "webp", "bmp", "tiff", "jpeg"])
def test_usual_kinds_of_files_are_read(kind, photo):
    assert np.abs(pixels(read_image(stored(photo, format=kind))) - pixels(photo)).mean() < 15


def truncated(photo):
    content = stored(photo, format="jpeg")["bytes"]
    return {"bytes": content[: len(content) // 2], "path": None}


UNREADABLE = {
    "truncated": (truncated, "(?i)truncated"),
    "text": (lambda _: {"bytes": b"no picture", "path": "a/cat.jpg"}, "a/cat.jpg"),
    "empty": (lambda _: {"bytes": b"", "path": "b.jpg"}, "b.jpg"),
    "gone": (lambda _: {"bytes": None, "path": "/no/such/c.jpg"}, "c.jpg"),
    "nothing": (lambda _: None, "without a file name"),
}


@pytest.mark.parametrize(("make", "named"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_no_image_is_an_error_that_names_it(make, named, photo):
    with pytest.raises(UnreadableImageError, match=named):
        read_image(make(photo))


def test_images_without_names_are_told_apart_and_named_the_same_each_time():
    contents = [b"first", b"first", b"second"]
    messages = []
    for content in contents:
        with pytest.raises(UnreadableImageError) as error:
            read_image({"bytes": content, "path": None})
        messages.append(str(error.value))
    assert messages[0] == messages[1] != messages[2]
