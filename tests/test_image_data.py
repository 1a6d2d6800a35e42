"""Readers of image data: what they give, and what they say about images that cannot be used."""

from __future__ import annotations

import gzip
import io
import os
import struct
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import scipy.io
from PIL import Image
from sklearn.datasets import load_digits

from hcdc_jax.batches.images import PUBLISHED
from hcdc_jax.data import ImageData, image_sets, load_dataset
from hcdc_jax.data.images import Part, build_images, mislabelled, subset, summary
from hcdc_jax.data.prepared import read_prepared
from hcdc_jax.storage.files import sha256
from tests.errors import error_of

NUM_TRAIN, NUM_TEST, NUM_CLASSES = 40, 8, 2
DATA_DIR = os.environ.get("HCDC_DATA_DIR", "")


@pytest.fixture(autouse=True)
def no_data_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("HCDC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "prepared"))
    monkeypatch.delenv("HCDC_DATA_DIR", raising=False)


def own_images(seed=0, size=(3, 5, 1)) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    arrays = {}
    for part, count in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, *size), np.uint8)
        arrays[f"{part}_labels"] = np.arange(count) % NUM_CLASSES
    return arrays


def save(folder, arrays, name="mine.npz"):
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / name, **arrays)
    return folder / name


def parts(data: ImageData) -> list[np.ndarray]:
    return [data.train_idx, data.val_idx, data.test_idx]


class TestDigits:
    def test_pixels_and_parts(self):
        data = load_dataset("digits_images")
        pixels, labels = load_digits(return_X_y=True)
        np.testing.assert_array_equal(data.images.reshape(-1, 64), (pixels / 16).astype(np.float32))
        np.testing.assert_array_equal(data.labels, labels)
        assert (data.image_shape, data.num_classes, data.images.dtype) == ((8, 8, 1), 10, np.float32)
        assert np.array_equal(np.sort(np.concatenate(parts(data))), np.arange(1797))
        for part, share in zip(parts(data), (1 / 2, 1 / 4, 1 / 4), strict=True):
            np.testing.assert_allclose(np.bincount(labels[part]) / np.bincount(labels), share, atol=0.01)

    def test_parts_are_drawn_by_split_and_seed(self):
        checksums = [
            load_dataset("digits_images", split=s, seed=k).checksum for s, k in ((0, 0), (0, 0), (1, 0), (0, 1))
        ]
        assert checksums[0] == checksums[1]
        assert len(set(checksums)) == 3
        message = error_of(lambda: load_dataset("digits_images", split=-1))
        assert message == "digits_images: split -1 does not exist; splits count from 0"


class TestOwnFile:
    def test_bytes_become_numbers_from_0_to_1(self, tmp_path):
        arrays = own_images()
        data = load_dataset(save(tmp_path, arrays | {"class_names": np.array([b"cat", b"dog"])}))
        expected = np.concatenate([arrays["train_images"], arrays["test_images"]]).astype(np.float64) / 255
        np.testing.assert_allclose(data.images, expected, rtol=1e-7)
        assert (data.name, data.image_shape, data.num_classes) == ("mine", (3, 5, 1), 2)
        assert data.class_names == ("cat", "dog")
        np.testing.assert_array_equal(data.test_idx, np.arange(NUM_TRAIN, NUM_TRAIN + NUM_TEST))

    def test_floats_are_kept_and_grey_images_get_a_channel(self, tmp_path):
        arrays = {name: np.squeeze(a) / 255 if "images" in name else a for name, a in own_images().items()}
        data = load_dataset(save(tmp_path, arrays))
        np.testing.assert_array_equal(data.images[:NUM_TRAIN, ..., 0], arrays["train_images"].astype(np.float32))

    def test_missing_validation_part_is_a_tenth_of_each_class(self, tmp_path):
        path = save(tmp_path, own_images())
        data, again, other = load_dataset(path), load_dataset(path), load_dataset(path, split=3)
        assert np.bincount(data.labels[data.val_idx]).tolist() == [2, 2]
        assert data.val_idx.max() < NUM_TRAIN
        assert np.array_equal(np.sort(np.concatenate(parts(data))), np.arange(NUM_TRAIN + NUM_TEST))
        assert data.checksum == again.checksum
        assert data.val_idx.tolist() != other.val_idx.tolist()

    def test_own_validation_part_is_used(self, tmp_path):
        arrays = own_images()
        val = {"val_images": arrays["train_images"][:6] // 2, "val_labels": arrays["train_labels"][:6]}
        path = save(tmp_path, arrays | val)
        data = load_dataset("cifar10", path=path)
        np.testing.assert_allclose(data.images[data.val_idx], val["val_images"] / 255, rtol=1e-6)
        assert len(data.train_idx) == NUM_TRAIN
        message = error_of(lambda: load_dataset(path, split=1))
        assert message == f"{path}: split 1 does not exist; the data has its own parts, which are split 0"

    def test_checksum_tells_data_apart(self, tmp_path):
        arrays = own_images()
        first = load_dataset(save(tmp_path, arrays)).checksum
        arrays["train_images"][7, 0, 0, 0] ^= 1
        assert load_dataset(save(tmp_path, arrays)).checksum != first


BROKEN = {
    "no test images": (
        lambda a: a.pop("test_images"),
        "array 'test_images' is missing; the file holds test_labels, train_images, train_labels",
    ),
    "mixed sizes": (
        lambda a: a.update(test_images=np.zeros((NUM_TEST, 4, 5, 1), np.uint8)),
        "images must have one size, but those of train have 3 x 5 x 1 and those of test 4 x 5 x 1 (height x width x "
        "channels); resize them",
    ),
    "flat images": (
        lambda a: a.update(train_images=np.zeros((NUM_TRAIN, 15))),
        "train images must have shape [images, height, width, channels], got [40, 15]",
    ),
    "no images": (
        lambda a: a.update(test_images=np.zeros((0, 3, 5, 1), np.uint8), test_labels=np.zeros(0, int)),
        "test holds no image",
    ),
    "NaN": (
        lambda a: a.update(
            train_images=np.where(np.arange(NUM_TRAIN) == 9, np.nan, 0.0)[:, None, None, None] * np.ones((3, 5, 1)),
            test_images=np.zeros((NUM_TEST, 3, 5, 1)),
        ),
        "image 9 of train holds NaN or infinite numbers",
    ),
    "bytes and floats": (
        lambda a: a.update(test_images=a["test_images"] / 255),
        "images of train are uint8, those of test float64; give all as bytes (0 to 255) or all as floats",
    ),
    "large integers": (
        lambda a: a.update(train_images=a["train_images"].astype(int) * 3 + 1),
        "train images hold integers from 1 to ",
    ),
    "words": (
        lambda a: a.update(train_images=a["train_images"].astype("U3")),
        "train images must be bytes or floats, got dtype <U3",
    ),
    "too few labels": (
        lambda a: a.update(train_labels=np.zeros(3, int)),
        "train labels must have shape [40], one per image, got [3]",
    ),
    "one-hot labels": (
        lambda a: a.update(train_labels=np.eye(2)[a["train_labels"]]),
        "train labels must have shape [40], one per image, got [40, 2]",
    ),
    "fractional labels": (
        lambda a: a.update(test_labels=a["test_labels"] / 2),
        "test labels must be integers, got dtype float64",
    ),
    "labels below 0": (
        lambda a: a.update(train_labels=a["train_labels"] - 1),
        "train has the label -1; classes count from 0",
    ),
    "labels from 1": (
        lambda a: a.update(train_labels=a["train_labels"] + 1, test_labels=a["test_labels"] + 1),
        "class 0 of 0 to 2 has no training image; renumber the labels",
    ),
    "a gap": (
        lambda a: a.update(train_labels=a["train_labels"] * 2),
        "class 1 of 0 to 2 has no training image; renumber the labels",
    ),
    "huge labels": (
        lambda a: a.update(train_labels=a["train_labels"] + 10**9),
        "train has the label 1000000001, but only 40 images; renumber the labels",
    ),
    "a class of the test part": (
        lambda a: a.update(test_labels=a["test_labels"] + 1),
        "test has the label 2, but the classes of train are 0 to 1",
    ),
    "one class": (
        lambda a: a.update(train_labels=np.zeros(NUM_TRAIN, int), test_labels=np.zeros(NUM_TEST, int)),
        "the labels name fewer than two classes",
    ),
    "a class of one image": (
        lambda a: a.update(train_labels=(np.arange(NUM_TRAIN) == 0).astype(int)),
        "class 1 has too few training images (1 left) to draw another part from; add images, or a part of its own",
    ),
    "names": (
        lambda a: a.update(class_names=np.array(["cat"])),
        "class_names has 1 names, the labels name 2 classes",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_images_are_named(case, tmp_path):
    damage, message = BROKEN[case]
    arrays = own_images()
    damage(arrays)
    path = save(tmp_path, arrays)
    assert error_of(lambda: load_dataset(path)).startswith(f"{path}: {message}")


class TestParts:
    def test_parts_are_joined_in_their_order(self, tmp_path):
        for number in (0, 2, 10):
            images = np.full((4, 2, 2, 3), number, np.uint8)
            save(tmp_path, {"images": images, "labels": [0, 1, 0, 1]}, f"my_train_{number}.npz")
        save(tmp_path, {"images": np.zeros((2, 2, 2, 3), np.uint8), "labels": [0, 1]}, "my_test.npz")
        save(tmp_path, {"anything": np.ones(3)}, "trained.npz")  # "train" is no word of its name
        with pytest.warns(UserWarning, match=r"left out: trained\.npz, which names no part"):
            data = load_dataset(tmp_path)
        np.testing.assert_allclose(data.images[:12, 0, 0, 0] * 255, np.repeat([0, 2, 10], 4), rtol=1e-6)
        assert len(data.test_idx) == 2

    def test_what_is_missing_is_named(self, tmp_path):
        train = save(tmp_path, {"images": np.zeros((2, 2, 2, 3), np.uint8)}, "train.npz")
        assert error_of(lambda: load_dataset(tmp_path)) == (
            f"{train} is a part of {tmp_path} and must hold images and labels; it holds images"
        )
        save(tmp_path, {"images": np.zeros((2, 2, 2, 3), np.uint8), "labels": [0, 1]}, "train.npz")
        assert error_of(lambda: load_dataset(tmp_path)).startswith(f"{tmp_path} holds no test part; add a file such as")
        save(tmp_path, {"images": np.zeros((2, 3, 2, 3), np.uint8), "labels": [0, 1]}, "train_2.npz")
        save(tmp_path, {"images": np.zeros((2, 2, 2, 3), np.uint8), "labels": [0, 1]}, "test.npz")
        assert error_of(lambda: load_dataset(tmp_path)) == (
            f"{tmp_path}: the files of train hold images of several sizes or types; give all the same"
        )


def draw_picture(path, grey, mode="L", size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, grey).convert(mode).save(path)


class TestPictures:
    def test_a_folder_for_each_class(self, tmp_path):
        for name, base in (("dog", 100), ("cat", 0)):
            for number in range(10):
                draw_picture(tmp_path / "pets" / name / f"{number}.png", base + number)
        (tmp_path / "pets" / "cat" / "notes.txt").write_text("not a picture")
        with pytest.warns(UserWarning, match=r"left out: 1 \.txt files$"):
            data = load_dataset(tmp_path / "pets")
        assert (data.name, data.class_names, data.image_shape) == ("pets", ("cat", "dog"), (4, 6, 1))
        np.testing.assert_allclose(data.images[:, 0, 0, 0] * 255, np.r_[0:10, 100:110], atol=1e-4)
        assert [np.bincount(data.labels[part]).tolist() for part in parts(data)] == [[7, 7], [1, 1], [2, 2]]

    def test_parts_and_colours(self, tmp_path):
        for part, count in (("train", 5), ("test", 2)):
            for number in range(count):
                draw_picture(tmp_path / part / "a" / f"{number}.png", number)
                draw_picture(tmp_path / part / "b" / f"{number}.bmp", 50 + number)
        draw_picture(tmp_path / "test" / "a" / "1.png", 1, "RGB")
        data = load_dataset(tmp_path)
        assert data.image_shape == (4, 6, 3)
        assert (len(data.train_idx), len(data.val_idx), len(data.test_idx)) == (8, 2, 4)
        np.testing.assert_array_equal(data.images[..., 0], data.images[..., 2])

    def test_what_is_wrong_is_named(self, tmp_path):
        assert error_of(lambda: load_dataset(tmp_path)).startswith(
            f"{tmp_path} holds no images; expected are .npz parts"
        )
        for name in ("a", "b"):
            for number in range(3):
                draw_picture(tmp_path / name / f"{number}.png", number)
        draw_picture(tmp_path / "b" / "2.png", 2, size=(6, 5))
        assert error_of(lambda: load_dataset(tmp_path)) == (
            f"{tmp_path}: pictures must have one size, but a/0.png has 4 x 6 pixels and b/2.png 5 x 6; resize them"
        )
        draw_picture(tmp_path / "b" / "2.png", 2, "I;16")
        assert error_of(lambda: load_dataset(tmp_path)) == (
            f"{tmp_path}/b/2.png has pixels of mode I;16; save it as 8-bit grey or RGB"
        )
        (tmp_path / "b" / "2.png").write_bytes(b"nothing")
        assert error_of(lambda: load_dataset(tmp_path)) == (
            f"{tmp_path}/b/2.png cannot be read as a picture; replace or remove it"
        )
        (tmp_path / "c").mkdir()
        (tmp_path / "b" / "2.png").unlink()
        assert error_of(lambda: load_dataset(tmp_path)).startswith(f"{tmp_path}/c holds no picture")

    def test_what_is_missing_is_named(self, tmp_path):
        draw_picture(tmp_path / "train" / "a" / "0.png", 0)
        draw_picture(tmp_path / "train" / "b" / "0.png", 0)
        assert error_of(lambda: load_dataset(tmp_path)) == f"{tmp_path} has no folder 'test' beside 'train'; add it"
        draw_picture(tmp_path / "test" / "x" / "0.png", 0)
        assert error_of(lambda: load_dataset(tmp_path)) == (
            f"{tmp_path}/test has a class 'x', which the training part does not have; add it there"
        )

    def test_pillow_may_be_missing(self, tmp_path, monkeypatch):
        draw_picture(tmp_path / "a" / "0.png", 0)
        monkeypatch.setitem(sys.modules, "PIL", None)
        assert error_of(lambda: load_dataset(tmp_path)) == (
            f"reading {tmp_path}/a/0.png needs Pillow; install it with: pip install pillow"
        )


# Named sets -----------------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(5)
CONTENT = {
    part: (RNG.integers(0, 256, (n, 32, 32, 3), np.uint8), np.arange(n) % 10)
    for part, n in (("train", 50), ("test", 10))
}
GREY = {part: (images[:, :28, :28, :1], labels) for part, (images, labels) in CONTENT.items()}


def cifar_archive(folder: str, names: dict[str, list[str]], coarse: bool) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for part, (images, labels) in CONTENT.items():
            channels_first = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
            first = [np.full(len(labels), 7)] if coarse else []
            records = np.column_stack([*first, labels, channels_first]).astype(np.uint8)
            for name, some in zip(names[part], np.split(records, len(names[part])), strict=True):
                entry = tarfile.TarInfo(f"{folder}/{name}")
                entry.size = some.nbytes
                archive.addfile(entry, io.BytesIO(some.tobytes()))
    return file.getvalue()


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}i", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes())


def matlab(images: np.ndarray, labels: np.ndarray) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, {"X": images.transpose(1, 2, 3, 0), "y": np.where(labels == 0, 10, labels)[:, None]})
    return file.getvalue()


def public_files(name: str) -> dict[str, bytes]:
    if name == "cifar10":
        batches = [f"data_batch_{number}.bin" for number in range(1, 6)]
        names = {"train": batches, "test": ["test_batch.bin"]}
        return {"cifar-10-binary.tar.gz": cifar_archive("cifar-10-batches-bin", names, coarse=False)}
    if name == "cifar100":
        names = {"train": ["train.bin"], "test": ["test.bin"]}
        return {"cifar-100-binary.tar.gz": cifar_archive("cifar-100-binary", names, coarse=True)}
    if name == "svhn":
        return {f"{part}_32x32.mat": matlab(*content) for part, content in CONTENT.items()}
    files = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = GREY[part]
        files |= {f"{prefix}-images-idx3-ubyte.gz": idx(images[..., 0]), f"{prefix}-labels-idx1-ubyte.gz": idx(labels)}
    return files


class TestNamedSets:
    @pytest.mark.parametrize("name", image_sets.SOURCES)
    def test_public_source_is_read_and_kept(self, name, tmp_path, monkeypatch):
        files = public_files(name)
        source = image_sets.SOURCES[name]
        assert files.keys() == source.sha256.keys()
        (tmp_path / "public").mkdir()
        for file, content in files.items():
            (tmp_path / "public" / file).write_bytes(content)
        digests = {file: sha256(content) for file, content in files.items()}
        monkeypatch.setitem(image_sets.SOURCES, name, source._replace(sha256=digests))
        url = (tmp_path / "public").as_uri()
        data = image_sets.load_image_set(name, url=url)
        expected = GREY if "mnist" in name else CONTENT
        for part, index in (("train", np.arange(50)), ("test", np.arange(50, 60))):
            images, labels = expected[part]
            np.testing.assert_allclose(data.images[index], images / 255, rtol=1e-6)
            np.testing.assert_array_equal(data.labels[index], labels)
        for file in files:
            (tmp_path / "public" / file).unlink()
        assert load_dataset(name).checksum == data.checksum

    def test_no_network_is_one_line(self, tmp_path):
        message = error_of(lambda: image_sets.load_image_set("cifar10", url=(tmp_path / "gone").as_uri()))
        assert "cannot download" in message
        assert message.endswith(
            "put cifar10/cifar10_train.npz and cifar10/cifar10_test.npz (images, labels) into a folder that "
            "HCDC_DATA_DIR names"
        )

    def test_files_of_another_form_are_refused(self, tmp_path, monkeypatch):
        content = b"<html>moved</html>"
        (tmp_path / "cifar-10-binary.tar.gz").write_bytes(content)
        digests = {"cifar-10-binary.tar.gz": sha256(content)}
        source = image_sets.SOURCES["cifar10"]._replace(sha256=digests)
        monkeypatch.setitem(image_sets.SOURCES, "cifar10", source)
        message = error_of(lambda: image_sets.load_image_set("cifar10", url=tmp_path.as_uri()))
        assert message.startswith(f"{tmp_path.as_uri()}: the files are not those of cifar10")

    def test_digests_are_as_long_as_they_should_be(self):
        digests = [digest for source in image_sets.SOURCES.values() for digest in source.sha256.values()]
        assert len(set(digests)) == 12
        assert all(len(digest) == 64 for digest in digests)

    def test_own_folder_wins(self, tmp_path):
        for part, (images, labels) in CONTENT.items():
            save(tmp_path / "data" / "svhn", {"images": images, "labels": labels}, f"svhn_{part}.npz")
        data = load_dataset("svhn", data_dir=tmp_path / "data")
        assert (data.name, data.num_images) == ("svhn", 60)


BUILDER = """
import io
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

class Builder(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        image, label = tfds.features.Image(shape=(8, 8, 1)), tfds.features.ClassLabel(num_classes=10)
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({"image": image, "label": label}))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(30), "test": self._generate_examples(10)}

    def _generate_examples(self, count):
        for i in range(count):
            file = io.BytesIO()
            Image.fromarray(np.full((8, 8), i, np.uint8)).save(file, "PNG")
            file.seek(0)
            yield i, {"image": file, "label": i % 10}
"""
PREPARE = (
    "from made.mnist.mnist_dataset_builder import Builder; "
    "Builder(data_dir={!r}, file_format='array_record').download_and_prepare()"
)
READ = "import sys; from hcdc_jax import data; print(data.load_dataset('mnist').checksum, 'tensorflow' in sys.modules)"


def test_sets_of_tensorflow_datasets_are_read_without_tensorflow(tmp_path):
    """In processes of their own: whether TensorFlow is imported is a question about a process."""
    package = tmp_path / "code" / "made" / "mnist"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package / "mnist_dataset_builder.py").write_text(BUILDER)
    prepared = str(tmp_path / "prepared")
    path = os.pathsep.join([str(tmp_path / "code"), os.getcwd(), os.environ.get("PYTHONPATH", "")])

    def python(code):
        environment = os.environ | {"PYTHONPATH": path, "TFDS_DATA_DIR": prepared, "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    python(PREPARE.format(prepared))
    checksum, tensorflow = python(READ).split()[-2:]
    assert tensorflow == "False"
    data = load_dataset("mnist")  # from the cache now
    assert data.checksum == checksum
    greys = np.round(data.images[:, 0, 0, 0] * 255).astype(int)
    np.testing.assert_array_equal(greys % 10, data.labels)
    np.testing.assert_array_equal(np.sort(greys[:30]), np.arange(30))
    np.testing.assert_array_equal(data.test_idx, np.arange(30, 40))
    # Sets in the usual TFRecord files, which only TensorFlow reads, count as absent.
    (card,) = (tmp_path / "prepared").glob("mnist/*/dataset_info.json")
    card.write_text(card.read_text().replace("array_record", "tfrecord"))
    assert read_prepared("mnist") is None


# Parts and counts -----------------------------------------------------------------------------------------------------


def test_subset_keeps_the_shares_of_the_classes():
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1, 2], [100, 50, 4])
    images = rng.random((len(labels), 2, 2, 1))
    data = build_images("x", {"train": Part(images, labels), "test": Part(images, labels)}, where="x")
    small = subset(data, train=31, val=7, seed=1)
    assert np.bincount(small.labels[small.train_idx]).tolist() == [20, 10, 1]
    assert (len(small.val_idx), len(small.test_idx), small.num_images) == (7, 154, 31 + 7 + 154)
    assert small.checksum == subset(data, train=31, val=7, seed=1).checksum
    assert small.checksum != subset(data, train=31, val=7, seed=2).checksum
    rows = {
        row.tobytes(): label
        for row, label in zip(data.images[data.train_idx], data.labels[data.train_idx], strict=True)
    }
    for row, label in zip(small.images[small.train_idx], small.labels[small.train_idx], strict=True):
        assert rows[row.tobytes()] == label
    assert error_of(lambda: subset(data, val=2)) == "x: 2 images of val are too few for 3 classes"


def test_label_noise_is_in_training_alone_and_never_the_own_class():
    labels = np.repeat([0, 1, 2], 100)
    images = np.random.default_rng(3).random((300, 2, 2, 1))
    parts = {"train": Part(images, labels), "val": Part(images, labels), "test": Part(images, labels)}
    data = build_images("x", parts, where="x")
    noisy = mislabelled(data, 0.3, seed=1)
    changed = np.flatnonzero(noisy.labels != data.labels)
    assert len(changed) == 90, "the share is of images whose label is wrong, not drawn anew"
    assert set(changed) <= set(data.train_idx.tolist())
    assert set(zip(data.labels[changed], noisy.labels[changed], strict=True)) == {
        (a, b) for a in range(3) for b in range(3) if a != b
    }
    assert mislabelled(data, 0.3, seed=1).checksum == noisy.checksum != data.checksum
    assert mislabelled(data, 0.0).checksum == data.checksum
    few = build_images("x", {name: Part(images[::100], labels[::100]) for name in parts}, where="x")
    assert "data.label_noise = 1.0 leaves class" in error_of(
        lambda: [mislabelled(few, 1.0, seed=seed) for seed in range(9)]
    )


def test_summary_counts(tmp_path):
    found = summary(load_dataset(save(tmp_path, own_images())))
    assert (found["images"], found["height"], found["width"], found["channels"]) == (48, 3, 5, 1)
    assert (found["train"], found["val"], found["test"], found["smallest_class"]) == (36, 4, 8, 18)


# The real files, where there are any ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mean", "std", "checksum"),
    [
        ("fashion_mnist", [0.2860], [0.3530], "42518084ce7dad3dba7ca4cd2a310fda9a157afdeb9fed241d4cc658bce8cd7f"),
        pytest.param(
            "cifar10", [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616],
            "e296e18d6f81cb07679c52b3e73e192fc635a5687eaa40d17ed529efffe55ada", marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_real_images(name, mean, std, checksum):
    if not os.path.exists(os.path.join(DATA_DIR, name)):
        pytest.skip(f"HCDC_DATA_DIR holds no {name}")
    data = load_dataset(name, data_dir=DATA_DIR)
    original = data.images[: data.num_images - 10_000]
    np.testing.assert_allclose(original.mean((0, 1, 2), np.float64), mean, atol=6e-5)
    np.testing.assert_allclose(original.std((0, 1, 2), np.float64), std, atol=6e-5)
    np.testing.assert_allclose(PUBLISHED[name].mean, mean, atol=2e-4)
    assert np.unique(np.bincount(data.labels[data.val_idx])).tolist() == [len(original) // 100]
    assert len(data.test_idx) == 10_000
    assert data.checksum == checksum
