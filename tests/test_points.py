import pickle
import subprocess
import sys

import numpy as np
import pytest

import dynadnn as dn
from dynadnn._points import ChannelSpace, Subnet, fraction_name, point_name


def make(points=(0.25, 0.5, 0.75, 1.0), **options):
    return dn.nets.resnet20((32, 32, 3), 10, points=points, rng=0, **options)


@pytest.mark.parametrize(
    ("full", "fraction", "active"),
    [
        (16, 0.25, 8),
        (16, 0.5, 8),
        (16, 0.75, 16),
        (64, 0.25, 16),
        (64, 0.3, 16),
        (64, 0.32, 24),
        (4, 0.25, 4),
        (10, 1, 10),
    ],
)
def test_fractions_round_to_the_divisor(full, fraction, active):
    assert ChannelSpace("x", full, 1, 8, 1).round(fraction) == active


def test_names_of_points():
    assert [fraction_name(f) for f in (0.25, 0.5, 1, 1 / 3)] == ["0.25", "0.5", "1.0", "0.333333"]
    assert point_name(0.25, 4) == "0.25/4bit"


def test_points_that_come_out_equal_keep_all_their_names():
    net = dn.nets.mlp((4,), 3, width=8, points=(0.25, 0.5, 1.0), rng=0)
    assert list(net.points) == ["0.25", "0.5", "1.0"] and len(set(net.points.values())) == 1


def test_a_point_is_found_by_name_fraction_subnet_and_record():
    net = make()
    subnet = net.subnet(width=0.5)
    record = type("Record", (), {"point": subnet})()
    assert net._find("0.5") == net._find(0.5) == net._find(np.float64(0.5)) == net._find(subnet) == net._find(record)
    assert net._find(None) == net.points["1.0"]
    assert net._find(1) == net.points["1.0"]


def test_an_unknown_point_is_an_error_that_lists_the_known_ones():
    with pytest.raises(dn.PointError, match=r"'0\.25', '0\.5'"):
        make()._find("0.3")
    with pytest.raises(LookupError):
        make()._find("half")
    with pytest.raises(TypeError):
        make()._find([0.5])


def test_widths_that_cannot_be_are_refused_by_the_name_of_the_layer():
    net = make()
    full = list(net.subnet(width=1.0).widths)
    with pytest.raises(dn.PointError, match="17 channels of 'stem': it has 1 to 16"):
        net.subnet(widths=[17, *full[1:]])
    with pytest.raises(dn.PointError, match="2 entries"):
        net.subnet(widths=[8, 8])
    with pytest.raises(TypeError, match="not both"):
        net.subnet(width=0.5, widths=full)


def test_depth_keeps_at_least_the_blocks_that_change_shapes():
    net = make()
    assert net.stages == ((3, 0), (3, 1), (3, 1))
    assert net.macs(net.subnet(depth=(0, 1, 1))) < net.macs()
    with pytest.raises(dn.PointError, match="0 blocks of stage 1: it can keep 1 to 3"):
        net.subnet(depth=(1, 0, 1))


def test_bits_of_a_float_network_are_refused():
    with pytest.raises(dn.PointError, match="not quantised"):
        make().subnet(width=0.5, bits=4)


@pytest.mark.parametrize("points", [(), (0.0,), (1.5,), (-1,)])
def test_points_that_cannot_be_are_refused(points):
    with pytest.raises(dn.PointError):
        make(points=points)


def test_points_may_have_names():
    net = make(points={"small": 0.5, "large": 1.0})
    assert list(net.points) == ["small", "large"] and net._find("small") == net.subnet(width=0.5)


def test_groups_are_the_steps_of_a_grouped_network():
    net = make(groups=4)
    assert len(net.spaces) == 1 and net.points["0.25"].widths == (4,)
    active = net._rules.active((4,))
    assert set(active.tolist()) == {3, 4, 8, 16, 10}


def test_a_group_that_does_not_divide_is_a_graph_error():
    with pytest.raises(dn.GraphError, match="3 groups"):
        make(groups=3)


def test_subnets_hash_alike_in_every_process():
    subnet = Subnet((4, 8), ("fp32", 8), (1,))
    same = "type(s)((4, 8), ('fp32', 8), (1,))"
    code = f"import pickle, sys; s = pickle.loads({pickle.dumps(subnet)!r}); sys.exit(s not in {{{same}}})"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
