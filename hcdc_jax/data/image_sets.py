"""The image sets of the condensation literature by name, and where their files come from.

Each is looked for, in this order, as .npz parts in the user's folder of data, as .npz parts in the download cache,
among the sets that tensorflow-datasets has prepared, and at its public source; from the last two it goes into the cache
as .npz parts. TensorFlow is not needed on any of these ways (tensorflow-datasets would need it to prepare these sets).
"""

from __future__ import annotations

import functools
import gzip
import io
import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hcdc_jax.data.download import DATA_DIR_VARIABLE, cache_dir, download
from hcdc_jax.data.image_files import has_parts, read_image_folder
from hcdc_jax.data.images import ImageData, Part
from hcdc_jax.data.prepared import read_prepared
from hcdc_jax.errors import UserError
from hcdc_jax.storage.files import write_npz

Files = Mapping[str, bytes]
"""Content of downloaded files by their names."""


class Source(NamedTuple):
    """Where an image set comes from.

    Attributes:
      url: address of the folder of its files.
      sha256: digests of the files by their names.
      parse: `parse(files) -> {"train": Part, "test": Part}`.
      prepared: its name among tensorflow-datasets.
      class_names: in the order of the labels.
    """

    url: str
    sha256: Mapping[str, str]
    parse: Callable[[Files], Mapping[str, Part]]
    prepared: str
    class_names: tuple[str, ...] = ()


def load_image_set(
    name: str, *, split: int = 0, seed: int = 0, data_dir: Path | None = None, url: str | None = None
) -> ImageData:
    """Reads a named image set; its training images give a tenth of each class to the validation part.

    Args:
      name: a key of `SOURCES`.
      split: number of the draw of the validation part.
      seed: of that draw.
      data_dir: folder that may hold `<name>/` with .npz parts as in `image_files.read_image_folder`; read first.
      url: where to download from instead of the public source.

    Raises:
      UserError: the data cannot be had, or a file of it is damaged.
    """
    own = data_dir / name if data_dir else None
    folder = own if own and has_parts(own) else cache_dir() / name
    if not has_parts(folder):
        source = SOURCES[name]
        parts = read_prepared(source.prepared) or _download(name, source, url or source.url)
        names = {"class_names": np.array(source.class_names)} if source.class_names else {}
        for part, (images, labels) in parts.items():
            write_npz(folder / f"{name}_{part}.npz", {"images": images, "labels": labels} | names)
    return read_image_folder(folder, name=name, split=split, seed=seed)


def _download(name: str, source: Source, url: str) -> Mapping[str, Part]:
    mend = (
        f"check the network connection, or put {name}/{name}_train.npz and {name}/{name}_test.npz (images, labels) "
        f"into a folder that {DATA_DIR_VARIABLE} names"
    )
    files = {file: download(f"{url}/{file}", digest, mend=mend) for file, digest in source.sha256.items()}
    try:
        return source.parse(files)
    except (KeyError, ValueError, OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise UserError(f"{url}: the files are not those of {name} ({error})") from error


def parse_cifar(files: Files, *, train: tuple[str, ...], test: tuple[str, ...], label_bytes: int) -> dict[str, Part]:
    """CIFAR's binary archive: records of `label_bytes` labels, the last one the class, and of 3 x 32 x 32 bytes."""
    (content,) = files.values()
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        members = {Path(member.name).name: member for member in archive.getmembers() if member.isfile()}

        def part(names):
            records = []
            for file in names:
                reader = archive.extractfile(members[file])
                records.append(np.frombuffer(reader.read() if reader else b"", np.uint8))
            records = np.concatenate(records).reshape(-1, label_bytes + 3 * 32 * 32)
            images = records[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            return Part(np.ascontiguousarray(images), records[:, label_bytes - 1].copy())

        return {"train": part(train), "test": part(test)}


def parse_mnist(files: Files) -> dict[str, Part]:
    """The four gzipped IDX files of MNIST and of the sets in its form."""

    def array(name):
        content = gzip.decompress(files[name])
        rank = content[3]
        shape = np.frombuffer(content, ">i4", rank, 4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)

    return {
        part: Part(array(f"{prefix}-images-idx3-ubyte.gz")[..., None], array(f"{prefix}-labels-idx1-ubyte.gz"))
        for part, prefix in (("train", "train"), ("test", "t10k"))
    }


def parse_svhn(files: Files) -> dict[str, Part]:
    """The MATLAB files of SVHN's cropped digits: X [32, 32, 3, n], y [n, 1] where 10 stands for the digit 0."""
    from scipy.io import loadmat

    parts = {}
    for part in ("train", "test"):
        content = loadmat(io.BytesIO(files[f"{part}_32x32.mat"]))
        labels = content["y"].reshape(-1) % 10
        parts[part] = Part(np.ascontiguousarray(np.moveaxis(content["X"], -1, 0)), labels.astype(np.uint8))
    return parts


_DIGITS = tuple("0123456789")
_BATCHES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))

SOURCES: Mapping[str, Source] = {
    "cifar10": Source(
        "https://www.cs.toronto.edu/~kriz",
        {"cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
        functools.partial(parse_cifar, train=_BATCHES, test=("test_batch.bin",), label_bytes=1),
        "cifar10",
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    ),
    "cifar100": Source(
        "https://www.cs.toronto.edu/~kriz",
        {"cifar-100-binary.tar.gz": "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"},
        functools.partial(parse_cifar, train=("train.bin",), test=("test.bin",), label_bytes=2),
        "cifar100",
    ),
    "fashion_mnist": Source(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        {
            "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
        parse_mnist,
        "fashion_mnist",
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "mnist": Source(
        "https://storage.googleapis.com/cvdf-datasets/mnist",
        {
            "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
        parse_mnist,
        "mnist",
        _DIGITS,
    ),
    "svhn": Source(
        "http://ufldl.stanford.edu/housenumbers",
        {
            "train_32x32.mat": "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
            "test_32x32.mat": "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
        },
        parse_svhn,
        "svhn_cropped",
        _DIGITS,
    ),
}
