"""The graph as the C core sees it against the graph as the oracle sees it: shapes, channel spaces, signs, stages."""

from __future__ import annotations

import networks
import pytest
import reference
from conftest import Seeds
from engines import space_map, structure

core = pytest.importorskip("dynadnn._core", exc_type=ImportError)
MAKERS = (networks.random_network, networks.random_grouped_network)


def test_core_infers_the_shapes_and_spaces_of_the_oracle(seeds: Seeds) -> None:
    for seed in seeds.range(60):
        for make in MAKERS:
            case = make(seed, subnets=1)
            net = case.net
            graph = core.Graph(case.nodes, net.output, net.groups)
            for number, (t, info) in enumerate(zip(net.tensors, graph.tensors, strict=True)):
                label = f"node {number}: {case.nodes[number]['op']}"
                assert (info["height"], info["width"]) == ((1, 1) if t.flat else (t.height, t.width)), label
                assert info["channels"] == t.features, label
                assert bool(info["signed"]) == t.signed, label
                assert info["norm_offset"] == t.norm_offset, label
                root = number
                while net.tensors[root].scale_from != root:
                    root = net.tensors[root].scale_from
                theirs = number
                while graph.tensors[theirs]["scale_from"] != theirs:
                    theirs = graph.tensors[theirs]["scale_from"]
                assert theirs == root, label
                p = case.float_params[number]
                assert info["weights"] == (0 if p.weight is None else p.weight.size), label
                assert info["biases"] == (0 if p.bias is None else p.bias.size), label
            assert graph.norm_channels == net.norm_channels
            assert graph.groups == net.groups
            where = space_map(case, graph)
            assert len(graph.spaces) == len(net.full)
            for mine, theirs in where.items():
                full, elastic, lead, unit = graph.spaces[theirs]
                assert full == net.full[mine]
                assert bool(elastic) == net.elastic[mine], f"space {theirs}"
                if elastic:
                    assert lead == where[net.lead[mine]], f"space {theirs}"
                    if lead == theirs:
                        assert unit == net.unit[mine], f"space {theirs}"


def test_core_accepts_every_random_point_and_counts_its_work(seeds: Seeds) -> None:
    for seed in seeds.range(40):
        for make in MAKERS:
            case = make(seed)
            graph = core.Graph(case.nodes, case.net.output, case.net.groups)
            for subnet in case.subnets:
                active, bits, depth = structure(case, graph, subnet)
                graph.check(active, bits, depth)
                macs, _ = graph.cost(active, bits, depth)
                bound = reference.Bound(case.net, subnet)
                for number, node in enumerate(case.net.nodes):
                    if node["op"] not in ("conv2d", "linear") or bound.skip[number]:
                        assert macs[number] == 0
                        continue
                    w, _ = bound.weights(number, case.params[number].codes)
                    t = case.net.tensors[number]
                    pixels = 1 if node["op"] == "linear" else t.height * t.width
                    assert macs[number] == w.size * pixels, f"node {number}: {node['op']}"
