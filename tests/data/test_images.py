"""Images of any mode as RGB, and what is no image."""

import io

import numpy as np
import pytest
from PIL import Image

from hf_cb.data.images import UnreadableImageError, read_image
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


def test_floating_point_grey_values_are_shares_of_white():
    found = pixels(read_image(stored(Image.fromarray((RAMP / 95).astype(np.float32)), format="tiff")))
    assert np.array_equal(found[..., 0], np.rint(RAMP / 95 * 255))


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
