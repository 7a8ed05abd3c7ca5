"""Measured tiles: the same bits whatever the tile, read only when asked for, and no harm from a damaged cache."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dynadnn as dn
from dynadnn import _tune
from dynadnn._documents import load_document, save_document
from dynadnn._machine import cpu_name, version

SHAPE = (10, 9, 3)
X = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache file of this CPU in a folder of the test's own; it does not exist yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return _tune.cache_file()


def make_net(**options: Any) -> dn.Network:
    net = dn.nets.dscnn(SHAPE, 5, width=48, points=(0.5, 1.0), rng=0, **options)
    net.recalibrate(X)
    return net


@pytest.fixture(scope="module")
def net() -> dn.Network:
    return make_net()


@pytest.fixture(scope="module")
def model(net: dn.Network) -> dn.Network:
    return dn.quantize(net, X, bits=(8, 4))


def write(path: Path, tiles: Any, **changes: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_document(path, _tune.KIND, _tune.VERSION, {"cpu": cpu_name(), "package": version(), "tiles": tiles, **changes})


def read(path: Path) -> dict[str, str]:
    return load_document(path, _tune.KIND, _tune.VERSION, _tune.TilesDoc).tiles


def offers(engine: dn.Engine) -> dict[str, list[str]]:
    """Tiles by shape at all points, the engine's own first."""
    points = [engine.points[name] for name in engine._net.points]
    return {shape: [name for name, _, _ in names] for p in points for shape, names in p.tiles if names}


def own_tiles(engine: dn.Engine) -> list[str]:
    return [names[0][0] for name in engine._net.points for _, names in engine.points[name].tiles if names]


# ---- the same bits ----


@pytest.mark.parametrize("kind", ["fp32", "bf16", "int8"])
def test_every_tile_gives_the_same_bits(kind: str, net: dn.Network, model: dn.Network, cache: Path) -> None:
    used = model if kind == "int8" else net
    precision = "bf16" if kind == "bf16" else None
    plain = used.compile(threads=2, precision=precision)
    offered = offers(plain)
    draw = random.Random(0)
    changed = 0
    for _ in range(12):
        write(cache, {shape: draw.choice(names) for shape, names in offered.items()})
        tuned = used.compile(threads=2, precision=precision, tuned=True)
        changed += own_tiles(tuned) != own_tiles(plain)
        for point in used.points:
            assert tuned(X, point).tobytes() == plain(X, point).tobytes()
    assert changed > 6


def test_tuning_a_network_changes_no_output_and_is_kept(net: dn.Network, model: dn.Network, cache: Path) -> None:
    for used in (net, model):
        table = dn.tune(used, rounds=2)
        assert table.columns == ("layer", "point", "tile_before", "tile_after", "ms_before", "ms_after")
        assert set(table["point"]) == set(used.points) and len(table) > len(used.points)
        assert all(ms > 0 for ms in table["ms_before"] + table["ms_after"])
        tuned, plain = used.compile(tuned=True), used.compile()
        names = [node.name for node in used._spec.nodes]
        rows = {(row["layer"], row["point"]): row["tile_after"] for row in table}
        for point in used.points:
            for step, (_, tiles) in zip(tuned.points[point].steps, tuned.points[point].tiles, strict=True):
                assert len(tiles) < 2 or rows[names[step["node"]], point] == tiles[0][0]
            assert tuned(X, point).tobytes() == plain(X, point).tobytes()
    assert cache.exists()


def test_tuned_points_of_groups_are_extended_from_untuned_bits(cache: Path) -> None:
    grouped = dn.nets.lenet(SHAPE, 5, width=16, divisor=8, groups=2, points=(0.5, 1.0), rng=0)
    grouped.recalibrate(X)
    write(cache, {shape: names[-1] for shape, names in offers(grouped.compile()).items()})
    engine = grouped.compile(tuned=True)
    engine(X, 0.5)
    assert engine.extend(X, 1.0).tobytes() == grouped.compile()(X, 1.0).tobytes()


def test_clones_and_points_bound_later_have_the_measured_tiles(net: dn.Network, cache: Path) -> None:
    mixed = net.copy()
    later = mixed.subnet(widths=[s.full if i % 2 else s.step for i, s in enumerate(mixed.spaces)])
    mixed.recalibrate(X, points=[later])
    plain = mixed.compile()
    plain.select(later)
    shape, names = next((shape, names) for shape, names in plain.points[later].tiles if len(names) > 1)
    write(cache, {shape: names[-1][0]})
    engine = mixed.compile(tuned=True)
    cache.unlink()
    for own in (engine, engine.clone()):
        own.select(later)
        assert names[-1][0] in [tiles[0][0] for found, tiles in own.points[later].tiles if found == shape]


# ---- what is chosen ----


class Fake:
    """Stands in for `Bench.time`: the wanted tile takes half the time; the confirming measurement may disagree."""

    def __init__(self, fast: dict[str, str], confirms: bool = True) -> None:
        self.fast, self.confirms, self.calls = fast, confirms, 0

    def __call__(self, bench: Any, points: Sequence[Any], rounds: int) -> Any:
        confirming = rounds == 16
        factor = 0.5 if self.confirms or not confirming else 2.0
        rows = [[factor if tiles and self.fast.get(s) == tiles[0][0] else 1.0 for s, tiles in p.tiles] for p in points]
        return np.array(rows)


@pytest.mark.parametrize("confirms", [True, False])
def test_the_fastest_tile_of_a_shape_is_kept_if_a_second_measurement_agrees(
    confirms: bool, model: dn.Network, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = offers(model.compile())
    fast = {shape: names[len(names) // 2] for shape, names in offered.items() if len(names) > 4}
    fake = Fake(fast, confirms)
    monkeypatch.setattr(_tune.Bench, "time", lambda bench, points, rounds: fake(bench, points, rounds))
    table = dn.tune(model)
    assert read(cache) == (fast if confirms else {})
    assert len(fast) > 3 and (table["tile_before"] != table["tile_after"]) == confirms
    assert sum(table["ms_after"]) < sum(table["ms_before"]) or not confirms


def test_shapes_of_other_networks_stay_and_measured_ones_are_replaced(
    net: dn.Network, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = next(iter(offers(net.compile())))
    write(cache, {"s8 avx9 of another network": "1x16/1", shape: "7x7/7"})
    fake = Fake({})
    monkeypatch.setattr(_tune.Bench, "time", lambda bench, points, rounds: fake(bench, points, rounds))
    dn.tune(net)
    assert read(cache) == {"s8 avx9 of another network": "1x16/1"}


# ---- the cache ----


def test_nothing_is_read_or_written_unless_asked_for(net: dn.Network, cache: Path) -> None:
    net.compile()(X)
    net(X)
    assert not cache.parent.exists()
    cache.parent.mkdir(parents=True)
    cache.write_text("nonsense")
    net.compile()(X)  # a warning would be an error here
    net.compile(tuned=False)


def test_without_a_cache_a_tuned_engine_is_a_plain_one(net: dn.Network, cache: Path) -> None:
    assert own_tiles(net.compile(tuned=True)) == own_tiles(net.compile())
    assert not cache.parent.exists()


def damage(kind: str, cache: Path, tiles: dict[str, str]) -> None:
    write(cache, tiles)
    raw = cache.read_bytes()
    if kind == "truncated":
        cache.write_bytes(raw[: len(raw) // 2])
    elif kind == "changed":
        cache.write_bytes(raw.replace(b"x16", b"x32", 1))
    elif kind == "empty":
        cache.write_bytes(b"")
    elif kind == "bytes":
        cache.write_bytes(bytes(range(256)))
    elif kind == "nested":
        cache.write_bytes(b"[" * 100_000)
    elif kind == "huge":
        cache.write_bytes(raw + b" " * _tune.MOST_BYTES)
    elif kind == "folder":
        cache.unlink()
        cache.mkdir()
    elif kind == "types":
        write(cache, [1, 2])
    elif kind == "another kind":
        save_document(cache, "dynadnn-front", 1, {})
    elif kind == "another CPU":
        write(cache, tiles, cpu="abacus")
    else:
        write(cache, tiles, package="0.0.1")


KINDS = ["truncated", "changed", "empty", "bytes", "nested", "huge", "folder", "types", "another kind", "another CPU"]


@pytest.mark.parametrize("kind", [*KINDS, "another version"])
def test_a_damaged_or_foreign_cache_is_ignored_with_a_warning(kind: str, net: dn.Network, cache: Path) -> None:
    plain = net.compile()
    damage(kind, cache, {shape: names[-1] for shape, names in offers(plain).items()})
    with pytest.warns(RuntimeWarning, match="measured tiles are ignored"):
        engine = net.compile(tuned=True)
    assert own_tiles(engine) == own_tiles(plain)
    assert engine(X).tobytes() == plain(X).tobytes()


def test_tuning_replaces_a_damaged_cache(net: dn.Network, cache: Path) -> None:
    damage("truncated", cache, {})
    with pytest.warns(RuntimeWarning, match="ignored"):
        dn.tune(net, rounds=1)
    net.compile(tuned=True)
    assert read(cache) is not None


def test_tiles_that_a_shape_cannot_have_are_ignored(net: dn.Network, cache: Path) -> None:
    plain = net.compile()
    write(cache, dict.fromkeys(offers(plain), "99x99/9"))
    assert own_tiles(net.compile(tuned=True)) == own_tiles(plain)


def test_an_interrupt_leaves_what_was_there(net: dn.Network, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(cache, {"shape": "1x16/1"})
    before = cache.read_bytes()
    time, calls = _tune.Bench.time, []

    def stop(bench: Any, points: Any, rounds: int) -> Any:
        calls.append(rounds)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return time(bench, points, rounds)

    monkeypatch.setattr(_tune.Bench, "time", stop)
    with pytest.raises(KeyboardInterrupt):
        dn.tune(net, rounds=1)
    assert cache.read_bytes() == before and list(cache.parent.iterdir()) == [cache]


@pytest.mark.skipif(os.name == "posix" and os.getuid() == 0, reason="nothing is read-only to root")
def test_a_folder_that_cannot_be_written_is_an_error(net: dn.Network, cache: Path) -> None:
    cache.parent.mkdir(parents=True, mode=0o500)
    with pytest.raises(OSError, match=cache.name):
        dn.tune(net, rounds=1)


def test_the_folder_follows_the_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert _tune.cache_folder() == Path("/somewhere/dynadnn")
    for given in ("relative/cache", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        monkeypatch.setattr(sys, "platform", "linux")
        assert _tune.cache_folder() == tmp_path / ".cache" / "dynadnn"
        monkeypatch.setattr(sys, "platform", "darwin")
        assert _tune.cache_folder() == tmp_path / "Library/Caches/dynadnn"


# ---- arguments ----


def test_points_without_statistics_and_bad_rounds_are_refused(cache: Path) -> None:
    fresh = dn.nets.lenet(SHAPE, 5, width=16, rng=0)
    with pytest.raises(dn.PointError, match="no statistics"):
        dn.tune(fresh)
    with pytest.raises(ValueError, match="rounds"):
        dn.tune(fresh, rounds=0)
    assert not cache.exists()


def test_the_core_refuses_tiles_that_do_not_exist(net: dn.Network) -> None:
    engine = net.compile()
    binding = net._binding(net.points["1.0"])
    nodes = len(net._spec.nodes)
    engine.plan.bind(*binding, np.full((nodes, 2), -1, np.int8))  # the plan's own choice
    with pytest.raises(ValueError, match="there is no tile of variants 100 and -1"):
        engine.plan.bind(*binding, np.tile(np.array([100, -1], np.int8), (nodes, 1)))
    with pytest.raises(ValueError, match="there is no tile of variants 0 and 100"):
        engine.plan.bind(*binding, np.tile(np.array([0, 100], np.int8), (nodes, 1)))
    with pytest.raises(ValueError, match="shape"):
        engine.plan.bind(*binding, np.full((nodes + 1, 2), -1, np.int8))
    with pytest.raises(TypeError):
        engine.plan.bind(*binding, [[1, 2]] * nodes)  # type: ignore[arg-type]
