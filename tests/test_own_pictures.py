"""Folders of pictures as people keep them: parts by any usual name, and what else lies there; pictures of any kind."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hcdc_jax.data import load_dataset, read_dataset, read_image_stream
from hcdc_jax.data.pictures import Cut
from tests.errors import error_of

SIZE = (6, 4)


def draw(path, grey=0, mode="L", size=SIZE, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, grey).convert(mode).save(path, **options)


@pytest.fixture
def tree(tmp_path):
    """Two classes with three pictures each in one folder per class."""
    for k, name in enumerate(("a", "b")):
        for number in range(3):
            draw(tmp_path / "pets" / name / f"{number}.png", 10 * k + number)
    return tmp_path / "pets"


def both(folder, **options):
    """The data in memory, and whether the stream has the same labels, parts and notes."""
    data, stream = read_dataset(folder), read_image_stream(folder, **options)
    for name in ("labels", "train_idx", "val_idx", "test_idx", "notes"):
        np.testing.assert_array_equal(getattr(stream, name), getattr(data, name))
    return data


@pytest.mark.parametrize(
    "names",
    [
        ("train", "val", "test"), ("Train", "Valid", "Test"), ("training", "validation", "testing"),
        ("TRAIN", "DEV", "TEST"),
    ],
)  # fmt: skip
def test_no_name_of_a_part_is_overlooked(tmp_path, names):
    for name, count in zip(names, (4, 2, 3), strict=True):
        for number in range(count):
            draw(tmp_path / "tree" / name / "x" / f"{number}.png", number)
            draw(tmp_path / "tree" / name / "y" / f"{number}.png", 100 + number)
        images = np.full((2 * count, 4, 6), count, np.uint8)
        np.savez(tmp_path / f"mine_{name}.npz", images=images, labels=np.arange(2 * count)[:, None] % 2)
    for data in (both(tmp_path / "tree"), read_dataset(tmp_path)):
        assert [len(part) for part in (data.train_idx, data.val_idx, data.test_idx)] == [8, 4, 6]
        assert data.num_images == 18
        assert data.notes == ()


def test_folders_beside_the_parts_are_named(tmp_path, tree):
    for part in ("train", "test"):
        for name in ("a", "b"):
            draw(tmp_path / part / name / "0.png", 5)
            draw(tmp_path / part / name / "1.png", 5)
    tree.rename(tmp_path / "unlabelled")
    draw(tmp_path / "example.png")
    assert both(tmp_path).notes == (
        f"{tmp_path}: left out: 1 folder 'unlabelled', 1 pictures outside of class folders",
    )
    (tmp_path / "unlabelled").rename(tmp_path / "validaton")
    assert error_of(lambda: read_dataset(tmp_path)).startswith(
        f"{tmp_path}: folder 'validaton' is not read; did you mean 'validation'"
    )
    (tmp_path / "validaton").rename(tmp_path / "dev")
    (tmp_path / "val").mkdir()
    assert error_of(lambda: read_dataset(tmp_path)) == f"{tmp_path} has two folders of val, 'dev' and 'val'; join them"


def test_arrays_of_parts_are_read_under_their_names(tmp_path):
    for part in ("train", "test"):
        images = np.full((4, 4, 6), 9, np.uint8)
        np.savez(tmp_path / f"{part}.npz", image=images, label=np.arange(4)[:, None] % 2, source=np.ones(4))
    assert read_dataset(tmp_path).notes == tuple(
        f"{tmp_path}/{part}.npz: not read: source" for part in ("test", "train")
    )
    np.savez(tmp_path / "test.npz", images=images, labels=np.arange(4) % 2, sample_weight=np.ones(4))
    assert "'sample_weight' looks like one that decides" in error_of(lambda: read_dataset(tmp_path))


def test_what_systems_leave_behind_is_no_class_and_no_picture(tree):
    expected = read_dataset(tree)
    draw(tree / "__MACOSX" / "a" / "._0.png")
    draw(tree / "@eaDir" / "0.png")
    draw(tree / ".thumbnails" / "0.png")
    for place in (tree, tree / "a"):
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png"):
            (place / name).write_bytes(b"\x00")
    data = both(tree)
    assert (data.class_names, data.checksum, data.notes) == (("a", "b"), expected.checksum, ())


def test_what_is_left_out_is_counted_in_one_line(tree):
    (tree / "README").write_text("hello")
    (tree / "labels.csv").write_text("a,b")
    draw(tree / "loose.jpg")
    draw(tree / "a" / "more" / "7.png")
    for name in ("0.svg", "1.SVG", "2.heic"):
        (tree / "b" / name).write_bytes(b"x")
    line = (
        f"{tree}: left out: 1 .csv files, 1 .heic files, 2 .svg files, 1 folders inside of classes, 1 nameless files, "
        "1 pictures outside of class folders"
    )
    assert both(tree).notes == (line,)
    with pytest.warns(UserWarning, match=r"left out: 1 \.csv files"):
        load_dataset(tree)


def test_a_link_to_nothing_is_named(tree):
    (tree / "a" / "9.png").symlink_to(tree / "gone.png")
    for read in (read_dataset, read_image_stream):
        line = error_of(lambda read=read: read(tree))
        assert line == f"{tree}/a/9.png is a link to nothing, or no file; mend or remove it"
    (tree / "gone.png").write_bytes((tree / "a" / "0.png").read_bytes())
    assert read_dataset(tree).num_images == 7


def as_seen(tree, image, suffix="png", **options):
    """What is read of an image that is put into class b, [4, 6, c] from 0 to 255, and the lines about it."""
    image.save(tree / "b" / f"2.{suffix}", **options)
    if suffix != "png":
        (tree / "b" / "2.png").unlink(missing_ok=True)
    data, stream = read_dataset(tree), read_image_stream(tree)
    square = read_image_stream(tree, cut=Cut(4, 4)).images[np.array([5])][0]
    seen = data.images[5]
    np.testing.assert_array_equal(stream.images[np.array([5])][0], np.broadcast_to(seen, (4, 6, 3)))
    np.testing.assert_array_equal(square, np.broadcast_to(seen[:, 1:5], (4, 4, 3)))
    return np.rint(255 * seen).astype(int), [note.removeprefix(f"{tree}: ") for note in data.notes]


COLOURS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)


def test_transparent_pixels_are_shown_on_white(tree):
    """Whatever colour stands below them; as many viewers do."""
    alpha = np.full((4, 6, 1), 255, np.uint8)
    whole, notes = as_seen(tree, Image.fromarray(np.concatenate([COLOURS, alpha], -1)))
    np.testing.assert_array_equal(whole, COLOURS)
    assert notes == []
    alpha[1, 2], alpha[3, 3] = 0, 51
    seen, notes = as_seen(tree, Image.fromarray(np.concatenate([COLOURS, alpha], -1)))
    share = alpha / 255.0
    np.testing.assert_allclose(seen, share * COLOURS + (1 - share) * 255, atol=1)
    assert notes == ["1 pictures have transparent pixels, which are shown on white"]
    grey, notes = as_seen(tree, Image.fromarray(np.concatenate([COLOURS[..., :1], alpha], -1)))
    np.testing.assert_allclose(grey, share * COLOURS[..., :1] + (1 - share) * 255, atol=1)
    assert len(notes) == 1
    seen, notes = as_seen(tree, Image.fromarray(COLOURS), transparency=tuple(int(c) for c in COLOURS[2, 2]))
    assert (seen[2, 2] == 255).all()
    assert len(notes) == 1


@pytest.mark.parametrize("tag", range(1, 9))
def test_rotation_tags_are_followed(tree, tag):
    """Stored pixels are made from the upright picture by what EXIF's table says of the tag."""
    stored = {
        1: COLOURS, 2: COLOURS[:, ::-1], 3: COLOURS[::-1, ::-1], 4: COLOURS[::-1], 5: COLOURS.transpose(1, 0, 2),
        6: np.rot90(COLOURS), 7: COLOURS[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(COLOURS, -1),
    }[tag]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = tag
    seen, notes = as_seen(tree, Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    np.testing.assert_array_equal(seen, COLOURS)
    assert notes == ([] if tag == 1 else ["1 pictures are turned as their rotation tag says"])


def test_other_kinds_of_pixels(tree):
    bits = COLOURS[..., 0] > 127
    seen, _ = as_seen(tree, Image.fromarray(bits))
    np.testing.assert_array_equal(seen[..., 0], 255 * bits)
    palette = Image.fromarray(COLOURS).quantize(64)
    for suffix in ("png", "gif"):
        seen, notes = as_seen(tree, palette, suffix)
        np.testing.assert_array_equal(seen, np.asarray(palette.convert("RGB")))
        assert notes == []
    (tree / "b" / "2.gif").unlink()
    seen, notes = as_seen(tree, Image.fromarray(COLOURS).convert("CMYK"), "tif")
    np.testing.assert_array_equal(seen, COLOURS)
    assert notes == ["1 pictures are CMYK and become RGB without a colour profile"]


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_more_than_8_bits_are_refused(tree, mode):
    (tree / "b" / "2.png").unlink()
    Image.new("F", SIZE, 300.0).convert(mode if mode == "F" else "I").convert(mode).save(tree / "b" / "2.tif")
    for read in (read_dataset, lambda folder: read_image_stream(folder).images[np.array([5])]):
        line = error_of(lambda read=read: read(tree))
        assert line == f"{tree}/b/2.tif has pixels of mode {mode}; save it as 8-bit grey or RGB"


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_moving_pictures_are_refused(tree, suffix):
    (tree / "b" / "2.png").unlink()
    first, *rest = (Image.fromarray(np.roll(COLOURS, k, 0)) for k in range(3))
    first.save(tree / "b" / f"2.{suffix}", save_all=True, append_images=rest)
    assert error_of(lambda: read_dataset(tree)) == (
        f"{tree}/b/2.{suffix} holds 3 pictures; save the one that is meant, or remove it"
    )
