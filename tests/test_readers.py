"""Readers of data sets whose files these tests write themselves, small."""

import doctest
import gzip
import struct
import sys
import wave

import numpy as np
import pytest

import dynadnn as dn
from dynadnn import _readers_audio, datasets
from dynadnn._readers_signals import SIGNALS


def rows_of(data):
    return [len(split) for split in (data.train, data.val, data.test)]


# ---- CIFAR-100 ----


def write_cifar100(folder, rows=200):
    draw = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for name in ("train.bin", "test.bin"):
        x = draw.integers(0, 256, (rows, 3074), np.uint8)
        x[:, 0], x[:, 1] = np.arange(rows) % 20, np.arange(rows) % 100
        (folder / name).write_bytes(x.tobytes())
    (folder / "fine_label_names.txt").write_text("".join(f"thing_{k}\n" for k in range(100)))


def test_cifar100_reads_fine_labels_and_names_from_the_folder_or_its_parent(tmp_path):
    folder = tmp_path / "cifar-100-binary"
    write_cifar100(folder)
    data = datasets.cifar100(tmp_path, val=0)
    raw = np.frombuffer((folder / "train.bin").read_bytes(), np.uint8).reshape(-1, 3074)
    assert data.shape == (32, 32, 3) and data.outputs == 100 and data.names[7] == "thing_7"
    assert np.array_equal(data.train.y, raw[:, 1]) and rows_of(data) == [200, 0, 200]
    assert data.train.x[3, 5, 7, 2] == raw[3, 2 + 2 * 1024 + 5 * 32 + 7]
    assert data.augment == dn.Augment(flip=True, crop=4)
    assert rows_of(datasets.cifar100(folder)) == [180, 20, 200]


def test_cifar100_refuses_truncated_files_wrong_labels_and_missing_names(tmp_path):
    write_cifar100(tmp_path)
    path, names = tmp_path / "test.bin", tmp_path / "fine_label_names.txt"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(dn.FormatError, match=r"test\.bin has 614799 bytes: CIFAR-100's .* multiples of 3074"):
        datasets.cifar100(tmp_path)
    path.write_bytes(bytes([0, 100]) + whole[2:])
    with pytest.raises(dn.FormatError, match="label 100: CIFAR-100 has 0 to 99"):
        datasets.cifar100(tmp_path)
    path.write_bytes(whole)
    names.write_text("apple\n")
    with pytest.raises(dn.FormatError, match=r"fine_label_names\.txt .* holds 1 names"):
        datasets.cifar100(tmp_path)
    names.unlink()
    with pytest.raises(FileNotFoundError, match=r"fine_label_names\.txt missing in"):
        datasets.cifar100(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no train\.bin in .*empty"):
        datasets.cifar100(tmp_path / "empty")


# ---- Fashion-MNIST ----


def test_fashion_mnist_is_read_as_mnist_is_with_its_own_names_and_augmentation(tmp_path):
    draw = np.random.default_rng(0)
    for part, n in (("train", 60), ("t10k", 20)):
        for stem, array in (
            ("images-idx3", draw.integers(0, 256, (n, 28, 28), np.uint8)),
            ("labels-idx1", (np.arange(n) % 10).astype(np.uint8)),
        ):
            head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (tmp_path / f"{part}-{stem}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
    data = datasets.fashion_mnist(tmp_path)
    assert data.shape == (28, 28, 1) and rows_of(data) == [54, 6, 20] and data.outputs == 10
    assert data.names == datasets.fashion_mnist(tmp_path, val=0).names and data.names[9] == "ankle boot"
    assert data.augment == dn.Augment(flip=True, shift=2) and data.train.y[11] == data.train.index[11] % 10
    with pytest.raises(FileNotFoundError, match="no train-images in"):
        (tmp_path / "empty").mkdir()
        datasets.fashion_mnist(tmp_path / "empty")


# ---- folders of images ----


def write_images(folder, names=("cat", "dog"), n=10, size=(12, 16), kind="png"):
    pillow = pytest.importorskip("PIL.Image")
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for k in range(n):
            x = np.full((*size, 3), 40 * label + k, np.uint8)
            x[:, :, 1] = np.arange(size[1])
            pillow.fromarray(x).save(folder / name / f"{k:02}.{kind}")


def test_image_folder_makes_a_class_of_each_folder_and_splits_in_proportion(tmp_path):
    write_images(tmp_path)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    data = datasets.image_folder(tmp_path, (12, 12), val=0.2, test=0.2)
    assert data.shape == (12, 12, 3) and data.names == ("cat", "dog") and rows_of(data) == [12, 4, 4]
    assert np.bincount(data.val.y).tolist() == np.bincount(data.test.y).tolist() == [2, 2]
    red = data.train.x[:, 0, 0, 0]
    assert np.array_equal(red // 40, data.train.y) and data.train.x.dtype == np.uint8 and data.augment is None
    assert data.train.x[0, 0, :, 1].tolist() == list(range(2, 14))  # the middle
    assert data.fingerprint == datasets.image_folder(tmp_path, 12, val=0.2, test=0.2).fingerprint
    assert data.fingerprint != datasets.image_folder(tmp_path, 12, val=0.2, test=0.2, rng=1).fingerprint


@pytest.mark.parametrize(
    ("given", "rows"), [((), [16, 2, 2]), (("test",), [18, 2, 4]), (("valid", "test"), [20, 4, 4])]
)
def test_image_folder_honours_folders_of_splits(tmp_path, given, rows):
    write_images(tmp_path / "train")
    for name in given:
        write_images(tmp_path / name, n=2)
    assert rows_of(datasets.image_folder(tmp_path, 8)) == rows


def test_a_class_may_be_called_train(tmp_path):
    write_images(tmp_path, ("bus", "train"))
    assert datasets.image_folder(tmp_path, 8).names == ("bus", "train")


def test_image_folder_reads_grey_palette_and_turned_images(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    write_images(tmp_path, n=5)
    pillow.fromarray(np.full((9, 9), 77, np.uint8)).save(tmp_path / "cat" / "00.png")
    pillow.fromarray(np.full((9, 9, 3), 78, np.uint8)).quantize(4).save(tmp_path / "cat" / "01.png")
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 8:] = 200
    exif = pillow.Exif()
    exif[0x0112] = 3  # upside down
    pillow.fromarray(wide).save(tmp_path / "cat" / "02.png", exif=exif)
    x = datasets.image_folder(tmp_path, (8, 16), val=0, test=0).train.x
    assert (x[0] == 77).all() and (x[1] == 78).all() and x[2, 4, 0, 0] == 200 and x[2, 4, 15, 0] == 0


def test_image_folder_refuses_what_it_cannot_read(tmp_path, monkeypatch):
    pillow = pytest.importorskip("PIL.Image")
    with pytest.raises(FileNotFoundError, match="is no folder"):
        datasets.image_folder(tmp_path / "nowhere", 8)
    with pytest.raises(FileNotFoundError, match="holds 0 folders: image_folder needs one per class"):
        datasets.image_folder(tmp_path, 8)
    write_images(tmp_path, n=4)
    for size, kind in ((0, ValueError), ((8, 8, 3), ValueError), (8.0, TypeError)):
        with pytest.raises(kind, match="size"):
            datasets.image_folder(tmp_path, size)
    path = tmp_path / "dog" / "03.png"
    whole = path.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", b"GIF89a"):
        path.write_bytes(damage)
        with pytest.raises(dn.FormatError, match=r"03\.png' cannot be read as an image"):
            datasets.image_folder(tmp_path, 8)
    pillow.fromarray(np.zeros((8, 8), np.uint16)).save(path)
    with pytest.raises(dn.FormatError, match="more than 8 bits per channel"):
        datasets.image_folder(tmp_path, 8)
    path.write_bytes(whole)
    (tmp_path / "emu").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no image in .*emu.*\.jpg"):
        datasets.image_folder(tmp_path, 8)
    write_images(tmp_path / "deep" / "train", n=3)
    write_images(tmp_path / "deep" / "test", ("cat", "fox"), n=3)
    with pytest.raises(dn.FormatError, match=r"holds \['fox'\]: the training folder has cat, dog"):
        datasets.image_folder(tmp_path / "deep", 8)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match="pip install pillow"):
        datasets.image_folder(tmp_path, 8)


# ---- UCI HAR ----


def write_har(folder, people=((1, 2, 3, 4, 5), (6, 7)), each=6):
    draw = np.random.default_rng(0)
    (folder / "activity_labels.txt").parent.mkdir(exist_ok=True)
    names = ("WALKING", "WALKING_UPSTAIRS", "WALKING_DOWNSTAIRS", "SITTING", "STANDING", "LAYING")
    (folder / "activity_labels.txt").write_text("".join(f"{k + 1} {name}\n" for k, name in enumerate(names)))
    made = {}
    for part, subjects in zip(("train", "test"), people, strict=True):
        inside = folder / part / "Inertial Signals"
        inside.mkdir(parents=True)
        n = each * len(subjects)
        made[part] = draw.normal(0, 1, (n, 128, 9))
        for k, signal in enumerate(SIGNALS):
            lines = ["".join(f" {v: .7e}" for v in row) + "\n" for row in made[part][..., k]]
            (inside / f"{signal}_{part}.txt").write_text("".join(lines))
        (folder / part / f"y_{part}.txt").write_text("".join(f"{k % 6 + 1}\n" for k in range(n)))
        (folder / part / f"subject_{part}.txt").write_text("".join(f"{subjects[k // each]}\n" for k in range(n)))
    return made


def test_har_reads_nine_signals_and_keeps_people_in_one_split(tmp_path):
    made = write_har(tmp_path / "UCI HAR Dataset")
    data = datasets.har(tmp_path, val=0.2)
    assert data.shape == (128, 9) and data.outputs == 6 and data.names[0] == "walking"
    assert rows_of(data) == [24, 6, 12] and set(data.val.index // 6) & set(data.train.index // 6) == set()
    assert np.allclose(data.train.x, made["train"][data.train.index], rtol=1e-6)
    assert np.allclose(data.test.x, made["test"], rtol=1e-6) and np.array_equal(data.test.y, np.arange(12) % 6)
    assert data.train.x.dtype == np.float32 and data.preprocess is None
    assert rows_of(datasets.har(tmp_path / "UCI HAR Dataset", val=0)) == [30, 0, 12]


HAR_DAMAGE = {
    "a file that is not there": (
        "train/Inertial Signals/body_gyro_y_train.txt",
        None,
        FileNotFoundError,
        r"body_gyro_y_train\.txt missing in .*Inertial Signals",
    ),
    "a file cut off in a line": (
        "train/Inertial Signals/body_acc_x_train.txt",
        lambda t: t[: len(t) // 2 - 7],
        dn.FormatError,
        "truncated",
    ),
    "rows that are missing": (
        "test/Inertial Signals/total_acc_z_test.txt",
        lambda t: t[: t.index("\n") + 1],
        dn.FormatError,
        r"has 1 rows, y_test\.txt has 12",
    ),
    "short rows": (
        "test/Inertial Signals/total_acc_z_test.txt",
        lambda t: "".join(line[:-16] + "\n" for line in t.splitlines()),
        dn.FormatError,
        "12 rows of 127 numbers: rows must have 128",
    ),
    "uneven rows": (
        "test/Inertial Signals/total_acc_z_test.txt",
        lambda t: t[:-17] + "\n",
        dn.FormatError,
        "is no table of numbers",
    ),
    "NaN": (
        "test/Inertial Signals/total_acc_z_test.txt",
        lambda t: " nan" + t[15:],
        dn.FormatError,
        "NaN or infinity",
    ),
    "a label beyond 6": ("train/y_train.txt", lambda t: "7" + t[1:], dn.FormatError, "labels other than 1 to 6"),
    "empty lines alone": ("train/y_train.txt", lambda t: "\n\n", dn.FormatError, "0 rows"),
    "no labels": ("train/y_train.txt", lambda t: "", dn.FormatError, "empty or truncated"),
    "a person in both parts": ("test/subject_test.txt", lambda t: "3" + t[1:], dn.FormatError, r"subjects \[3\]"),
    "people that are missing": ("test/subject_test.txt", lambda t: t[2:], dn.FormatError, "11 subjects but 12 labels"),
    "names that are missing": ("activity_labels.txt", lambda t: t[10:], dn.FormatError, "numbers 1 to 6"),
}


@pytest.mark.parametrize("name", HAR_DAMAGE)
def test_har_refuses(tmp_path, name):
    write_har(tmp_path)
    where, damage, kind, text = HAR_DAMAGE[name]
    path = tmp_path / where
    if damage is None:
        path.unlink()
    else:
        path.write_text(damage(path.read_text()))
    with pytest.raises(kind, match=text):
        datasets.har(tmp_path)


def test_har_says_what_it_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match="no 'train/Inertial Signals' in"):
        datasets.har(tmp_path)
    with pytest.raises(FileNotFoundError, match="is no folder"):
        datasets.har(tmp_path / "nowhere")


# ---- Speech Commands ----


def write_wav(path, samples, rate=16000, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples, "<i2").tobytes())


def tone(hertz, samples=16000, loud=8000):
    return loud * np.sin(2 * np.pi * hertz * np.arange(samples) / 16000)


def write_speech(folder, words=(*_readers_audio.WORDS, "bed", "cat"), each=4):
    listed = {"validation": [], "testing": []}
    for k, word in enumerate(words):
        for take in range(each):
            write_wav(folder / word / f"{take}_nohash_0.wav", tone(300 + 250 * k, 16000 - 1000 * take))
        listed["validation"].append(f"{word}/0_nohash_0.wav")
        listed["testing"].append(f"{word}/1_nohash_0.wav")
    for name, lines in listed.items():
        (folder / f"{name}_list.txt").write_text("\n".join(lines) + "\n")
    write_wav(folder / "_background_noise_" / "hum.wav", np.random.default_rng(0).normal(0, 3000, 40000))


def test_speech_commands_has_ten_words_silence_and_unknown_in_the_published_splits(tmp_path):
    write_speech(tmp_path / "speech")
    data = datasets.speech_commands(tmp_path)
    assert data.shape == (49, 40) and data.outputs == 12 and data.names[:3] == ("silence", "unknown", "yes")
    assert rows_of(data) == [2 + 2 + 20, 1 + 1 + 10, 1 + 1 + 10]
    assert np.bincount(data.train.y).tolist() == [2, 2] + [2] * 10 and np.bincount(data.test.y).min() == 1
    assert data.train.x.dtype == np.float32 and np.isfinite(data.train.x).all() and data.preprocess is None
    assert data.fingerprint == datasets.speech_commands(tmp_path).fingerprint
    assert data.fingerprint != datasets.speech_commands(tmp_path, rng=1).fingerprint


def test_speech_commands_takes_every_word_as_a_class(tmp_path):
    write_speech(tmp_path, ("up", "bed", "cat"))
    data = datasets.speech_commands(tmp_path, classes="all")
    assert data.names == ("bed", "cat", "up") and rows_of(data) == [6, 3, 3]
    louder = data.test.x.mean(axis=1).argmax(axis=1)
    filters = _readers_audio.mel_filters()
    for label, hertz in zip(data.test.y, (550, 800, 300), strict=True):  # bed, cat and up as they were written
        assert abs(louder[label] - filters[round(hertz * 1024 / 16000)].argmax()) <= 1
    assert (data.train.x[:, -3:] < -1.9).all()  # what recordings lack at the end is silence
    with pytest.raises(FileNotFoundError, match="no folder yes, no, down"):
        datasets.speech_commands(tmp_path)
    with pytest.raises(ValueError, match="12 or 'all'"):
        datasets.speech_commands(tmp_path, classes=35)


def test_log_mel_is_the_formula_computed_one_frame_at_a_time():
    sound = np.random.default_rng(0).normal(0, 0.1, (2, 16000))
    made = _readers_audio.log_mel(sound)
    filters = _readers_audio.mel_filters()
    k = np.arange(640)
    for row, frame in ((0, 0), (1, 7), (1, 48)):
        part = sound[row, 320 * frame : 320 * frame + 640] * np.sin(np.pi * k / 640) ** 2
        turned = np.exp(-2j * np.pi * np.outer(np.arange(513), k) / 1024) @ part
        wanted = (np.log(np.abs(turned) ** 2 @ filters + 1e-6) + 6) / 4
        assert np.allclose(made[row, frame], wanted, atol=1e-5)
    mel = 1127 * np.log1p(np.array([20, 4000]) / 700)
    centres = 700 * np.expm1(np.linspace(*mel, 42)[1:-1] / 1127)
    assert np.all(np.abs(filters.argmax(axis=0) * 16000 / 1024 - centres) <= 16000 / 1024)
    assert filters.shape == (513, 40) and (filters.sum(axis=0) > 0).all() and filters.max() <= 1


SPEECH_DAMAGE = {
    "another rate": (lambda p: write_wav(p, tone(300), rate=8000), dn.FormatError, "at 8000 Hz: it must be mono"),
    "two channels": (lambda p: write_wav(p, tone(300), channels=2), dn.FormatError, "2 channels of 16 bits"),
    "no samples": (lambda p: write_wav(p, []), dn.FormatError, "empty or truncated"),
    "a truncated file": (lambda p: p.write_bytes(p.read_bytes()[:-100]), dn.FormatError, r"claims|truncated"),
    "half a head": (lambda p: p.write_bytes(p.read_bytes()[:20]), dn.FormatError, "no complete WAV file"),
    "text": (lambda p: p.write_text("RIFF of nothing"), dn.FormatError, "no complete WAV file"),
    "a listed file that is not there": (lambda p: p.unlink(), FileNotFoundError, "'bed/0_nohash_0.wav' is in the list"),
}


@pytest.mark.parametrize("name", SPEECH_DAMAGE)
def test_speech_commands_refuses(tmp_path, name):
    write_speech(tmp_path, ("bed", "cat"))
    damage, kind, text = SPEECH_DAMAGE[name]
    damage(tmp_path / "bed" / "0_nohash_0.wav")
    with pytest.raises(kind, match=text):
        datasets.speech_commands(tmp_path, classes="all")


def test_speech_commands_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no validation_list\.txt in"):
        datasets.speech_commands(tmp_path)
    write_speech(tmp_path)
    (tmp_path / "testing_list.txt").rename(tmp_path / "kept")
    with pytest.raises(FileNotFoundError, match=r"testing_list\.txt missing"):
        datasets.speech_commands(tmp_path)
    (tmp_path / "testing_list.txt").write_text("bed/0_nohash_0.wav\n")
    with pytest.raises(dn.FormatError, match=r"is in validation_list\.txt and in testing_list\.txt"):
        datasets.speech_commands(tmp_path)
    (tmp_path / "kept").rename(tmp_path / "testing_list.txt")
    noise = tmp_path / "_background_noise_" / "hum.wav"
    write_wav(noise, tone(50, 900))
    with pytest.raises(dn.FormatError, match="background noise needs 16000"):
        datasets.speech_commands(tmp_path)
    noise.unlink()
    with pytest.raises(FileNotFoundError, match="'silence' is cut from them"):
        datasets.speech_commands(tmp_path)


# ---- arrays ----


def test_memory_maps_of_signals_and_targets_train(tmp_path):
    draw = np.random.default_rng(0)
    x = draw.standard_normal((120, 16, 2), np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", x.mean(axis=1))
    mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "xy"]
    data = datasets.from_arrays(*mapped, val=0.2, test=0, rng=0)
    assert np.array_equal(data.train.x, x[data.train.index]) and data.outputs == 2
    net = dn.nets.cnn1d(data, width=8, rng=0)
    assert dn.fit(net, data, epochs=1, batch=32, progress=False, rng=0).steps == 3
    assert net.evaluate((mapped[0], mapped[1]))["loss"] > 0


def test_examples_of_data_sets_are_right():
    for module in (datasets, _readers_audio):
        found = doctest.testmod(module, extraglobs={"np": np})
        assert found.attempted > 0 and found.failed == 0
