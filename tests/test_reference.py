"""The oracle against exact rational arithmetic, against PyTorch's definitions and against itself."""

from __future__ import annotations

from fractions import Fraction

import networks
import numpy as np
import pytest
import reference


def nearest_float32(x: Fraction) -> float:
    """Round a number in float32's normal range to nearest even."""
    if x == 0:
        return 0.0
    size = abs(x)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= Fraction(2) ** exponent > size
    unit = Fraction(2) ** (exponent - 23)
    whole, rest = divmod(size, unit)
    whole += rest * 2 > unit or (rest * 2 == unit and whole % 2 == 1)
    return float(whole * unit) * (1 if x > 0 else -1)


def test_fma_rounds_once() -> None:
    rng = np.random.default_rng(1)
    rows = []
    for _ in range(3000):
        a, b = (np.float32(rng.integers(-(2**24), 2**24) * 2.0 ** rng.integers(-30, 5)) for _ in range(2))
        c = np.float32(float(a) * float(b) * 2.0 ** rng.integers(-26, 30) * rng.choice([-1, 1]))
        rows.append((a, b, c))
    # 1 + ulp + half an ulp - 2**-70: just below a tie that float64 cannot tell from the tie
    tricky = (np.float32((1 + 2.0**-23) * 2.0**-12), np.float32((1 - 2.0**-23) * 2.0**-12), np.float32(1 + 2.0**-23))
    a, b, c = (float(x) for x in tricky)
    assert np.float32(a * b + c) != nearest_float32(Fraction(a) * Fraction(b) + Fraction(c))
    rows.append(tricky)
    for a, b, c in rows:
        exact = nearest_float32(Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c)))
        assert reference.fma32(a, b, c) == exact, (a, b, c)


def test_views_stay_on_the_coarse_grid_and_keep_the_sign_of_large_codes() -> None:
    codes = np.arange(-127, 128)
    for bits in (4, 3, 2):
        view = reference.view(codes, bits)
        assert set(view % 2 ** (8 - bits)) == {0}
        allowed = codes[codes <= networks.CODE_LIMIT[bits]]
        step = 2 ** (8 - bits)
        assert (np.abs(reference.view(allowed, bits) - allowed) <= step // 2).all()
        assert reference.view(networks.CODE_LIMIT[bits], bits) == reference.view(networks.CODE_LIMIT[bits] + 1, bits)


def test_convolutions_and_pools_are_pytorchs() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    x = rng.normal(size=(2, 9, 7, 12))
    nchw = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    for kernel, stride, padding, dilation, groups in [
        ((1, 1), (1, 1), (0, 0), (1, 1), 1),
        ((3, 5), (2, 1), (1, 2), (1, 1), 1),
        ((3, 3), (2, 2), (2, 1), (2, 1), 3),
        ((3, 3), (1, 2), (1, 1), (1, 1), 12),
    ]:
        w = rng.normal(size=(12, *kernel, 12 // groups))
        node = {"stride": stride, "pad": (padding[0], padding[0], padding[1], padding[1]), "dilation": dilation}
        want = torch.nn.functional.conv2d(
            nchw, torch.from_numpy(w.transpose(0, 3, 1, 2).copy()), None, stride, padding, dilation, groups
        )
        got = reference.convolve(x, w, node, groups, 0)
        np.testing.assert_allclose(got, want.numpy().transpose(0, 2, 3, 1), rtol=0, atol=1e-12)

    def pooled(op: str, **fields: object) -> np.ndarray:
        nodes = [
            {"op": "input", "height": 9, "width": 7, "channels": 12},
            {"op": op, "inputs": (0,), **fields},
        ]
        net = reference.Network(nodes)
        empty = [reference.Params(), reference.Params()]
        tables = reference.Tables(None, None, None)
        return reference.run_float(net, empty, tables, reference.Subnet([12]), x).values[1].transpose(0, 3, 1, 2)

    f = torch.nn.functional
    window = {"kernel": (3, 2), "stride": (2, 2), "pad": (1, 1, 1, 1)}
    same = {"rtol": 0, "atol": 1e-12}
    np.testing.assert_allclose(pooled("max_pool", **window), f.max_pool2d(nchw, (3, 2), 2, 1), **same)
    mean = f.avg_pool2d(nchw, (3, 2), 2, 1, count_include_pad=False)
    np.testing.assert_allclose(pooled("avg_pool", **window), mean, **same)
    adaptive = pooled("adaptive_avg_pool", height=4, width=3)
    np.testing.assert_allclose(adaptive, f.adaptive_avg_pool2d(nchw, (4, 3)), **same)


def test_integer_inference_is_close_to_real_inference() -> None:
    for seed in range(30):
        for make in (networks.random_network, networks.random_grouped_network):
            case = make(seed, subnets=2)
            for subnet in case.subnets:
                subnet.bits = None
                tables = reference.calibrate(case.net, case.params, subnet, case.images, case.input_table)
                got = reference.run_int8(case.net, case.params, tables, subnet, case.images, case.input_table)
                want = reference.run_float(case.net, case.params, tables, subnet, case.images, case.input_table)
                # Before batch norms of few values amplify the noise, every tensor agrees to a few quantisation steps.
                early = [t for t in sorted(got.codes) if case.net.tensors[t].height > 2][:3]
                for tensor in early:
                    real = want.values[got.bound.alias[tensor]]
                    error = np.abs(got.real(tensor) - real).max() / np.abs(real).max()
                    assert error < 0.15, (seed, make.__name__, tensor, case.nodes[tensor]["op"], error)


def test_a_narrow_point_equals_the_network_sliced_to_it() -> None:
    """Zero weights outside the active prefix change nothing, so the oracle reads nothing outside it."""
    for seed in range(20):
        case = networks.random_network(seed)
        for subnet, tables in zip(case.subnets, case.tables, strict=True):
            bound = reference.Bound(case.net, subnet)
            poisoned = []
            for number, p in enumerate(case.params):
                if p.codes is None:
                    poisoned.append(p)
                    continue
                codes = np.full_like(p.codes, 99)
                source = case.net.nodes[number]["inputs"][0]
                if case.net.nodes[number]["op"] == "linear":
                    codes = codes.reshape(len(codes), -1)
                    index = np.ix_(bound.kept[number], bound.kept[source])
                    codes[index] = p.codes.reshape(codes.shape)[index]
                    codes = codes.reshape(p.codes.shape)
                elif case.net.nodes[number]["groups"] == 1:
                    index = np.ix_(bound.kept[number], range(codes.shape[1]), range(codes.shape[2]), bound.kept[source])
                    codes[index] = p.codes[index]
                else:
                    codes[bound.kept[number]] = p.codes[bound.kept[number]]
                poisoned.append(reference.Params(codes=codes, code_scale=p.code_scale, bias=p.bias))
            args = (tables, subnet, case.images, case.input_table)
            want = reference.run_int8(case.net, case.params, *args).logits
            assert (reference.run_int8(case.net, poisoned, *args).logits == want).all(), seed
