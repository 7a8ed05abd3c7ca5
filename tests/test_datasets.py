import gzip
import struct

import numpy as np
import pytest

import dynadnn as dn

IMAGES = np.arange(40 * 6 * 6, dtype=np.uint8).reshape(40, 6, 6, 1)
LABELS = np.arange(40) % 4


def write_idx(folder, stem, array, packed=False):
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    kind = f"idx{array.ndim}-ubyte"
    if packed:
        (folder / f"{stem}-{kind}.gz").write_bytes(gzip.compress(head + array.tobytes()))
    else:
        (folder / f"{stem}-{kind}").write_bytes(head + array.tobytes())


def write_mnist(folder, packed=False):
    draw = np.random.default_rng(0)
    for part, n in (("train", 60), ("t10k", 20)):
        write_idx(folder, f"{part}-images", draw.integers(0, 256, (n, 9, 9), np.uint8), packed)
        write_idx(folder, f"{part}-labels", (np.arange(n) % 10).astype(np.uint8), packed)


def write_cifar10(folder, rows=20):
    draw = np.random.default_rng(0)
    for name in (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"):
        x = draw.integers(0, 256, (rows, 3073), np.uint8)
        x[:, 0] = np.arange(rows) % 10
        (folder / name).write_bytes(x.tobytes())


def test_digits_has_the_documented_splits_with_every_class_in_proportion():
    data = dn.datasets.digits(rng=0)
    assert [len(s) for s in (data.train, data.val, data.test, data.calibration)] == [1097, 200, 500, 256]
    assert data.shape == (8, 8, 1) and data.outputs == 10 and data.train.x.dtype == np.uint8
    assert np.ptp(np.bincount(data.test.y)) <= 4
    rows = np.concatenate([data.train.index, data.val.index, data.test.index])
    assert np.array_equal(np.sort(rows), np.arange(1797))


def test_the_seed_decides_the_split():
    assert dn.datasets.digits(rng=3).fingerprint == dn.datasets.digits(rng=3).fingerprint
    assert dn.datasets.digits(rng=3).fingerprint != dn.datasets.digits(rng=4).fingerprint


def test_calibration_images_come_from_the_training_split():
    data = dn.datasets.digits(rng=0)
    assert set(data.calibration.index) <= set(data.train.index)


def test_preprocessing_has_mean_zero_and_deviation_one_on_the_training_split():
    data = dn.datasets.digits(rng=0)
    x = data.preprocess(data.train.x).astype(np.float64)
    assert abs(x.mean()) < 1e-4 and abs(x.std() - 1) < 1e-4


def test_preprocess_table_is_rounded_once_from_double():
    table = dn.Preprocess(mean=(0.1, 0.5), std=(0.3, 0.2)).table(2)
    wanted = ((np.arange(256) / 255.0 - np.array([[0.1], [0.5]])) / np.array([[0.3], [0.2]])).astype(np.float32)
    assert table.dtype == np.float32 and np.array_equal(table, wanted)


@pytest.mark.parametrize("arguments", [(0.5, 0.0), (np.nan, 1.0), ((0.1, 0.2), (1, 1, 1)), (0.5, 1.0, 0.0)])
def test_preprocess_refuses_numbers_that_cannot_be(arguments):
    with pytest.raises(ValueError):
        dn.Preprocess(*arguments)


def test_cifar10_reads_pixels_channels_last_from_the_folder_or_its_parent(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    write_cifar10(folder)
    data = dn.datasets.cifar10(tmp_path, val=0)
    assert len(data.train) == 100 and len(data.val) == 0 and data.shape == (32, 32, 3)
    raw = np.frombuffer((folder / "data_batch_1.bin").read_bytes(), np.uint8).reshape(-1, 3073)
    assert data.train.x[3, 5, 7, 2] == raw[3, 1 + 2 * 1024 + 5 * 32 + 7] and data.train.y[3] == raw[3, 0]
    assert data.augment == dn.Augment(flip=True, crop=4)
    assert len(dn.datasets.cifar10(folder, val=0.1).val) == 10


def test_cifar10_refuses_truncated_files_and_wrong_labels(tmp_path):
    write_cifar10(tmp_path)
    path = tmp_path / "data_batch_2.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(dn.FormatError, match=r"data_batch_2\.bin has 61459 bytes"):
        dn.datasets.cifar10(tmp_path)
    path.write_bytes(bytes([10]) + whole[1:])
    with pytest.raises(dn.FormatError, match="label 10"):
        dn.datasets.cifar10(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_2\.bin missing"):
        dn.datasets.cifar10(tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_reads_idx_files_plain_and_packed(tmp_path, packed):
    write_mnist(tmp_path, packed)
    data = dn.datasets.mnist(tmp_path)
    assert data.shape == (9, 9, 1) and [len(data.train), len(data.val), len(data.test)] == [54, 6, 20]
    assert dn.datasets.fashion_mnist(tmp_path).names[0] == "T-shirt"


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b"\1" + b[1:], lambda b: b[:6], lambda b: b""]
)
@pytest.mark.parametrize("packed", [False, True])
def test_mnist_refuses_damaged_files(tmp_path, damage, packed):
    write_mnist(tmp_path, packed)
    path = next(tmp_path.glob("train-images*"))
    whole = path.read_bytes()
    path.write_bytes(gzip.compress(damage(gzip.decompress(whole))) if packed else damage(whole))
    with pytest.raises(dn.FormatError):
        dn.datasets.mnist(tmp_path)


def test_a_claim_of_huge_axes_is_refused_before_memory_is_taken(tmp_path):
    write_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**31, 2**31, 2**31) + b"abc")
    with pytest.raises(dn.FormatError, match="claims axes"):
        dn.datasets.mnist(tmp_path)


def test_from_arrays_keeps_rows_and_labels_together():
    data = dn.datasets.from_arrays(IMAGES, LABELS, rng=0)
    for split in (data.train, data.val, data.test):
        assert np.array_equal(split.x, IMAGES[split.index]) and np.array_equal(split.y, LABELS[split.index])
    assert data.augment is None and data.outputs == 4


def test_from_arrays_takes_memory_maps(tmp_path):
    np.save(tmp_path / "x.npy", IMAGES)
    data = dn.datasets.from_arrays(np.load(tmp_path / "x.npy", mmap_mode="r"), LABELS, val=0, test=0, rng=0)
    assert np.array_equal(data.train.x, IMAGES)


def test_groups_stay_in_one_split():
    groups = np.arange(40) // 5
    data = dn.datasets.from_arrays(IMAGES, LABELS, groups=groups, rng=0)
    found = [set(groups[s.index]) for s in (data.train, data.val, data.test)]
    assert len(data.val) and len(data.test)
    assert not (found[0] & found[1] or found[0] & found[2] or found[1] & found[2])


def test_val_and_test_may_be_arrays_of_their_own():
    data = dn.datasets.from_arrays(IMAGES, LABELS, val=(IMAGES[:5], LABELS[:5]), test=0, rng=0)
    assert len(data.val) == 5 and len(data.train) == 40 and len(data.test) == 0


def test_subset_is_the_same_every_time_and_keeps_preprocessing():
    data = dn.datasets.digits(rng=0)
    small = data.subset(50)
    assert len(small.train) == 50 and small.preprocess == data.preprocess
    assert small.fingerprint == data.subset(50).fingerprint
    assert np.bincount(small.train.y).min() >= 3


BAD = {
    "wrong dtype": (IMAGES.astype(np.float64), LABELS, TypeError, r"float64: pass x.astype\(np.float32\)"),
    "wrong rank": (IMAGES[:, None], LABELS, ValueError, r"not \(40, 1, 6, 6, 1\)"),
    "channels first": (np.zeros((40, 3, 6, 6), np.uint8), LABELS, ValueError, "NCHW"),
    "no images": (IMAGES[:0], LABELS[:0], ValueError, "no images"),
    "an empty axis": (np.zeros((4, 0, 6, 1), np.uint8), LABELS[:4], ValueError, "no axis may be empty"),
    "NaN": (np.full((40, 6, 6, 1), np.nan, np.float32), LABELS, dn.NonFiniteError, "NaN or infinity, first in row 0"),
    "labels below zero": (IMAGES, LABELS - 1, ValueError, "label -1"),
    "labels of another length": (IMAGES, LABELS[:3], ValueError, "y has 3 rows, x has 40"),
    "labels that are floats": (IMAGES, LABELS * 1.0, TypeError, "integers of shape"),
    "labels as a column": (IMAGES, LABELS[:, None], ValueError, r"y\[:, 0\]"),
    "text": ("images.npy", LABELS, TypeError, "must be an array"),
}


@pytest.mark.parametrize("name", BAD)
def test_from_arrays_refuses(name):
    x, y, kind, text = BAD[name]
    with pytest.raises(kind, match=text):
        dn.datasets.from_arrays(x, y, rng=0)


@pytest.mark.parametrize("options", [{"val": 1.0}, {"val": -0.1}, {"val": 0.6, "test": 0.4}, {"names": ["a"]}])
def test_from_arrays_refuses_options_that_leave_nothing(options):
    with pytest.raises(ValueError):
        dn.datasets.from_arrays(IMAGES, LABELS, rng=0, **options)


def test_generated_sets_are_reproducible_and_have_their_shapes():
    a, b = dn.datasets.shapes(100, 12, 3, rng=1), dn.datasets.shapes(100, 12, 3, rng=1)
    assert a.shape == (12, 12, 1) and a.fingerprint == b.fingerprint
    signal = dn.datasets.waves(100, 32, 2, 3, rng=1)
    assert signal.shape == (32, 2) and signal.preprocess is None and signal.train.x.dtype == np.float32
