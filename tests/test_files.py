import hashlib
import json
import os
import stat
import struct

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save

import dynadnn as dn
from dynadnn import _container, _files

DATA = dn.datasets.digits(rng=0)


@pytest.fixture(scope="module")
def net():
    made = dn.nets.resnet20(DATA, points=(0.5, 1.0), rng=0)
    made.recalibrate(DATA.calibration.x)
    return made


@pytest.fixture(scope="module")
def small():
    made = dn.nets.mlp((3,), 2, width=8, preprocess=dn.Preprocess(0.5, 0.25), rng=0)
    made.recalibrate(np.eye(3, dtype=np.float32))
    return made


def parts(path):
    """Header document, dynadnn's document and the raw tensor bytes of a file."""
    raw = path.read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + n])
    return header, json.loads(header["__metadata__"]["dynadnn"]), raw[8 + n :]


def forge(path, change, net):
    """Write a file whose document is changed and whose seal is right."""
    net.save(path)
    document, tensors = _container.read_container(path, "network", _files.NetworkDoc)
    raw = json.loads(msgspec.json.encode(document))
    tensors = {k: v.copy() for k, v in tensors.items()}
    change(raw, tensors)

    text = json.dumps(raw, separators=(",", ":")).encode()
    sealed = text[:-1] + b',"sha256":"' + _container._digest(text, tensors).encode() + b'"}'
    path.write_bytes(save(tensors, {"dynadnn": sealed.decode()}))


def test_a_loaded_network_gives_the_same_bits_at_every_point(net, tmp_path):
    path = tmp_path / "net.safetensors"
    net.save(path)
    again = dn.load(path)
    assert list(again.points) == list(net.points) and again.seed == net.seed
    for point in net.points:
        assert np.array_equal(again(DATA.test.x[:5], point), net(DATA.test.x[:5], point))


def test_saving_is_reproducible_to_the_byte(net, tmp_path):
    net.save(tmp_path / "a")
    dn.load(tmp_path / "a").save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_quantised_networks_and_their_slices_come_back_bit_for_bit(net, tmp_path):
    model = dn.quantize(net, DATA, bits=(8, 4))
    for made in (model, model.slice("0.5/4bit"), model.slice(1.0)):
        made.save(tmp_path / "q")
        again = dn.load(tmp_path / "q")
        for point in made.points:
            assert np.array_equal(again(DATA.test.x[:9], point), made(DATA.test.x[:9], point))


def test_a_network_of_four_bits_alone_takes_half_the_bytes(net, tmp_path):
    model = dn.quantize(net, DATA, bits=(8, 4))
    model.slice("1.0").save(tmp_path / "eight")
    model.slice("1.0/4bit").save(tmp_path / "four")
    codes = sum(v.nbytes for k, v in model.weights.items() if k.endswith(".codes"))
    saved = (tmp_path / "eight").stat().st_size - (tmp_path / "four").stat().st_size
    assert abs(saved - codes / 2) < 0.02 * codes


def test_odd_counts_of_packed_codes_come_back():
    for bits in (4, 2):
        for count in (1, 2, 3, 7, 8):
            codes = np.arange(-count * 9, count * 9, 18).astype(np.int8)
            once = _files._unpack(_files._pack(codes, bits), codes.shape, bits)
            assert np.array_equal(_files._unpack(_files._pack(once, bits), codes.shape, bits), once)
            assert np.abs(once.astype(int) - codes).max() <= 1 << (8 - bits)


def test_calibration_images_are_only_stored_on_request(net, tmp_path):
    model = dn.quantize(net, DATA)
    model.save(tmp_path / "without")
    model.save(tmp_path / "with", calibration=True)
    with pytest.raises(ValueError, match="images is missing"):
        dn.load(tmp_path / "without").recalibrate()
    dn.load(tmp_path / "with").recalibrate()
    with pytest.raises(ValueError, match="keeps no calibration images"):
        dn.nets.mlp((3,), 2, rng=0).save(tmp_path / "x", calibration=True)


def test_a_golden_document_is_still_what_is_written(small, tmp_path):
    small.save(tmp_path / "net")
    header, document, _ = parts(tmp_path / "net")
    assert sorted(header) == [
        "@point/0/mean", "@point/0/variance", "__metadata__", "fc1.bn.bias", "fc1.bn.weight", "fc1.weight",
        "fc2.bn.bias", "fc2.bn.weight", "fc2.weight", "head.bias", "head.weight",
    ]  # fmt: skip
    assert list(document) == [
        "format", "kind", "version", "graph", "divisor", "views", "calibrate", "preprocess", "subnets", "points",
        "packed_bits", "calibration", "seed", "provenance", "sha256",
    ]  # fmt: skip
    assert document["format"] == 1 and document["graph"]["nodes"][1] == {
        "op": "linear", "name": "fc1", "inputs": [0], "channels": 8,
    }  # fmt: skip
    assert document["preprocess"] == {"mean": [0.5], "std": [0.25], "scale": 255.0}
    assert document["points"] == [["1.0", 0]] and document["subnets"][0]["widths"] == [8, 8]


def test_every_truncation_is_refused(small, tmp_path):
    small.save(tmp_path / "net")
    raw = (tmp_path / "net").read_bytes()
    for n in [*range(0, 64), *range(64, len(raw), 97), len(raw) - 1]:
        (tmp_path / "cut").write_bytes(raw[:n])
        with pytest.raises(dn.FormatError):
            dn.load(tmp_path / "cut")


def test_every_flipped_bit_is_noticed(small, tmp_path, seeds):
    small.save(tmp_path / "net")
    raw = (tmp_path / "net").read_bytes()
    draw = seeds.rng()
    for at in [*range(8), *draw.integers(8, len(raw), 250)]:
        bad = bytearray(raw)
        bad[at] ^= 1 << int(draw.integers(8))
        (tmp_path / "bad").write_bytes(bad)
        with pytest.raises(dn.FormatError):
            dn.load(tmp_path / "bad")


def test_foreign_files_are_refused(tmp_path):
    files = {
        "empty": b"",
        "text": b"hello, this is no network at all",
        "zip": b"PK\3\4" + bytes(100),
        "huge header": struct.pack("<Q", 2**62) + b"{}",
        "other safetensors": save({"a": np.zeros(3, np.float32)}),
        "another's metadata": save({"a": np.zeros(3, np.float32)}, {"dynadnn": "[]"}),
        "deep": save({"a": np.zeros(3, np.float32)}, {"dynadnn": "[" * 100_000 + ',"sha256":"' + "0" * 64 + '"}'}),
    }
    for name, raw in files.items():
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(dn.FormatError):
            dn.load(tmp_path / name)
    with pytest.raises((dn.FormatError, IsADirectoryError)):
        dn.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        dn.load(tmp_path / "nothing")


def test_a_newer_format_says_so(small, tmp_path):
    forge(tmp_path / "net", lambda d, t: d.update(format=2), small)
    with pytest.raises(dn.FormatError, match="update dynadnn"):
        dn.load(tmp_path / "net")


def _node(i, **fields):
    return lambda d, t: d["graph"]["nodes"][i].update(fields)


FORGED = {
    "an operation nobody knows": _node(1, op="exec"),
    "an input that comes later": _node(1, inputs=[5]),
    "a negative input": _node(1, inputs=[-1]),
    "more channels than weights": _node(1, channels=16),
    "channels beyond 32 bits": _node(1, channels=2**40),
    "an enormous input": _node(0, channels=1 << 20, height=60000, width=60000),
    "a name with a line break": _node(1, name="fc\n1"),
    "a reserved name": _node(1, name="@point"),
    "two nodes of one name": _node(1, name="fc2"),
    "a field nobody knows": lambda d, t: d.update(more=1),
    "a missing field": lambda d, t: d.pop("divisor"),
    "an output that is not there": lambda d, t: d["graph"].update(output=99),
    "another kind": lambda d, t: d.update(kind="checkpoint"),
    "a divisor of zero": lambda d, t: d.update(divisor=0),
    "views of nothing quantised": lambda d, t: d.update(views=[8]),
    "widths of another network": lambda d, t: d["subnets"][0].update(widths=[8]),
    "widths that are too large": lambda d, t: d["subnets"][0].update(widths=[8, 9]),
    "a point that leads nowhere": lambda d, t: d.update(points=[["1.0", 7]]),
    "no points": lambda d, t: d.update(points=[]),
    "a preprocess that divides by zero": lambda d, t: d["preprocess"].update(std=[0.0]),
    "a missing tensor": lambda d, t: t.pop("fc1.weight"),
    "a tensor too many": lambda d, t: t.update(extra=np.zeros(1, np.float32)),
    "a point's tensor too many": lambda d, t: t.update({"@point/9/mean": np.zeros(1, np.float32)}),
    "weights of another type": lambda d, t: t.update({"fc1.weight": t["fc1.weight"].astype(np.float64)}),
    "weights of another shape": lambda d, t: t.update({"fc1.weight": t["fc1.weight"].T.copy()}),
    "a weight that is NaN": lambda d, t: t["fc1.weight"].fill(np.nan),
    "a variance below zero": lambda d, t: t["@point/0/variance"].fill(-1),
    "statistics of another length": lambda d, t: t.update({"@point/0/mean": np.zeros(3, np.float32)}),
    "codes without scales": lambda d, t: t.update({"fc1.codes": t.pop("fc1.weight").astype(np.int8)}),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_well_sealed_file_is_refused_if_it_holds(name, small, tmp_path):
    forge(tmp_path / "net", FORGED[name], small)
    with pytest.raises(dn.FormatError):
        dn.load(tmp_path / "net")


def test_a_forger_who_changes_nothing_is_believed(small, tmp_path):
    forge(tmp_path / "net", lambda d, t: None, small)
    assert dn.load(tmp_path / "net").outputs == 2


def test_the_expected_hash_is_checked(small, tmp_path):
    small.save(tmp_path / "net")
    right = hashlib.sha256((tmp_path / "net").read_bytes()).hexdigest()
    assert dn.load(tmp_path / "net", sha256=right).outputs == 2
    with pytest.raises(dn.FormatError, match="not 0000"):
        dn.load(tmp_path / "net", sha256="0" * 64)


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace", "close", "fchmod"])
def test_after_a_failure_the_old_file_is_still_there(call, small, tmp_path, monkeypatch):
    path = tmp_path / "net"
    small.save(path)
    before = path.read_bytes()
    made = small.with_weights({"head.bias": np.ones(2, np.float32)})
    real = getattr(os, call)

    def fail(*args, **kwargs):
        if call == "close":
            real(*args)
        raise OSError(28, "No space left on device")

    target = "dynadnn._container.os." + call if call != "open" else "dynadnn._container.tempfile.mkstemp"
    with monkeypatch.context() as patch:
        patch.setattr(target, fail)
        with pytest.raises(OSError, match="No space left"):
            made.save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["net"]


def test_a_short_write_is_completed(small, tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr("dynadnn._container.os.write", lambda handle, data: real(handle, bytes(data[:1000])))
    small.save(tmp_path / "net")
    monkeypatch.undo()
    assert dn.load(tmp_path / "net").outputs == 2


def test_a_folder_that_is_not_there_or_cannot_be_written_is_an_oserror(small, tmp_path):
    with pytest.raises(FileNotFoundError):
        small.save(tmp_path / "nothing" / "net")
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        small.save(tmp_path / "net")


def test_a_saved_file_keeps_its_mode_and_links_are_followed(small, tmp_path):
    path, link = tmp_path / "net", tmp_path / "link"
    small.save(path)
    path.chmod(0o640)
    link.symlink_to(path)
    small.save(link)
    assert link.is_symlink() and stat.S_IMODE(path.stat().st_mode) == 0o640
