"""The same networks in other engines: a PyTorch module of a network's weights, and through ONNX what runs it.

Every engine is given its input in the layout it likes best, made beforehand: OpenVINO the NHWC array that dynadnn gets,
ONNX Runtime NCHW, PyTorch channels_last.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import dynadnn as dn

F32 = NDArray[np.float32]
Call = Callable[[], F32]
PEERS = ("openvino", "onnxruntime", "torch")


def missing(name: str) -> bool:
    return importlib.util.find_spec(name) is None


def torch_twin(net: dn.Network) -> Any:
    """A network's widest point as a PyTorch module on NCHW, for the operations that ``dn.nets`` use."""
    import torch
    from torch import nn

    tables, spec = net.tables[net.subnet(width=1.0)], net._spec
    layers: dict[str, nn.Module] = {}
    for node, info in zip(spec.nodes, net._tensors, strict=True):
        weight, bias = (net.weights.get(f"{node.name}.{kind}") for kind in ("weight", "bias"))
        if node.op == "conv2d":
            assert weight is not None
            inputs = weight.shape[3] * node.groups
            pad = (node.pad[0], node.pad[2])
            assert node.pad == (pad[0], pad[0], pad[1], pad[1]), "padding differs from side to side"
            made: nn.Module = nn.Conv2d(
                inputs, node.channels, node.kernel, node.stride, pad, node.dilation, node.groups, node.bias
            )
            state = {"weight": weight.transpose(0, 3, 1, 2)}
        elif node.op == "linear":
            assert weight is not None
            source = spec.nodes[node.inputs[0]]
            if source.op == "flatten":  # features are in the order h, w, c here and c, h, w there
                shape = [net._tensors[source.inputs[0]][k] for k in ("height", "width", "channels")]
                weight = weight.reshape(-1, *shape).transpose(0, 3, 1, 2).reshape(len(weight), -1)
            made, state = nn.Linear(weight.shape[1], node.channels, node.bias), {"weight": weight}
        elif node.op == "batchnorm":
            assert weight is not None
            at = slice(info["norm_offset"], info["norm_offset"] + info["channels"])
            made = nn.BatchNorm2d(info["channels"], node.value)
            if info["height"] * info["width"] == 1 and spec.nodes[node.inputs[0]].op == "linear":
                made = nn.BatchNorm1d(info["channels"], node.value)
            state = {"weight": weight, "running_mean": tables.mean[at], "running_var": tables.variance[at]}
        else:
            continue
        if bias is not None:
            state["bias"] = bias
        values = {key: torch.from_numpy(np.array(value)) for key, value in state.items()}
        made.load_state_dict(values, strict=False)
        layers[node.name.replace(".", "_")] = made
    return _module(spec, layers).eval()


def _module(spec: Any, layers: dict[str, Any]) -> Any:
    from torch import nn
    from torch.nn import functional

    def shortcut(x: Any, node: Any) -> Any:
        before = next(i for i, source in enumerate(node.map) if source == 0)
        used = tuple(range(x.shape[1]))
        assert node.map[before : before + len(used)] == used, "a shortcut that is no shift"
        x = x[:, :, :: node.stride[0], :: node.stride[1]]
        return functional.pad(x, (0, 0, 0, 0, before, len(node.map) - before - len(used)))

    apply: dict[str, Callable[..., Any]] = {
        "relu": lambda node, x: functional.relu(x),
        "relu6": lambda node, x: functional.relu6(x),
        "add": lambda node, a, b: a + b,
        "max_pool": lambda node, x: functional.max_pool2d(x, node.kernel, node.stride, (node.pad[0], node.pad[2])),
        "global_avg_pool": lambda node, x: functional.adaptive_avg_pool2d(x, 1).flatten(1),
        "flatten": lambda node, x: x.flatten(1),
        "shortcut": lambda node, x: shortcut(x, node),
    }

    class Twin(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleDict(layers)

        def forward(self, x: Any) -> Any:
            values: list[Any] = [x]
            for node in spec.nodes[1:]:
                inputs = [values[i] for i in node.inputs]
                name = node.name.replace(".", "_")
                if name in self.layers:
                    values.append(self.layers[name](*inputs))
                else:
                    values.append(apply[node.op](node, *inputs))
            return values[spec.output]

    return Twin()


class Exported:
    """A network as ONNX files in a folder: float, and quantised by ONNX Runtime with the same calibration images."""

    def __init__(self, net: dn.Network, calibration: F32, folder: Path) -> None:
        import torch

        self.module, self.calibration = torch_twin(net), calibration
        self.float_path, self.int8_path = folder / "net.onnx", folder / "net.int8.onnx"
        x = torch.from_numpy(calibration[:1].transpose(0, 3, 1, 2).copy())
        axes = {"x": {0: "n"}, "y": {0: "n"}}
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                self.module, (x,), str(self.float_path), input_names=["x"], output_names=["y"], dynamic_axes=axes,
                opset_version=17, dynamo=False,
            )  # fmt: skip

    def quantised(self) -> Path:
        """Path of the int8 file, one scale per output channel; made when first asked for."""
        if self.int8_path.exists():
            return self.int8_path
        from onnxruntime import quantization as q

        images = self.calibration.transpose(0, 3, 1, 2)

        class Reader(q.CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self.left = iter([{"x": np.ascontiguousarray(image[None])} for image in images])

            def get_next(self) -> Any:
                return next(self.left, None)

        prepared = self.float_path.with_suffix(".prepared.onnx")
        q.quant_pre_process(str(self.float_path), str(prepared))
        q.quantize_static(
            str(prepared), str(self.int8_path), Reader(), quant_format=q.QuantFormat.QDQ, per_channel=True,
            activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8,
        )  # fmt: skip
        return self.int8_path


def openvino_call(exported: Exported, x: F32, precision: str, threads: int) -> Call:
    import openvino as ov

    core = ov.Core()
    model = core.read_model(str(exported.quantised() if precision == "int8" else exported.float_path))
    model.reshape({"x": [len(x), x.shape[3], x.shape[1], x.shape[2]]})
    steps = ov.preprocess.PrePostProcessor(model)
    steps.input().tensor().set_layout(ov.Layout("NHWC"))
    steps.input().model().set_layout(ov.Layout("NCHW"))
    hint = "bf16" if precision == "bf16" else "f32"
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": hint}
    request = core.compile_model(steps.build(), "CPU", options).create_infer_request()

    def run() -> F32:
        request.infer({0: x}, share_inputs=True)
        result: F32 = request.get_output_tensor(0).data
        return result

    return run


def onnxruntime_call(exported: Exported, x: F32, precision: str, threads: int) -> Call:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    path = exported.quantised() if precision == "int8" else exported.float_path
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    images = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    return lambda: session.run(None, {"x": images})[0]  # type: ignore[no-any-return]


def torch_call(exported: Exported, x: F32, precision: str, threads: int) -> Call:
    import torch

    torch.set_num_threads(threads)
    module = exported.module.to(memory_format=torch.channels_last)
    images = torch.from_numpy(x).permute(0, 3, 1, 2)
    if precision == "bf16":
        module, images = copy.deepcopy(exported.module).bfloat16(), images.bfloat16()

    def run() -> F32:
        with torch.inference_mode():
            result: F32 = module(images).float().numpy()
            return result

    return run


CALLS = {"openvino": openvino_call, "onnxruntime": onnxruntime_call, "torch": torch_call}
OFFERED = {"int8": ("openvino", "onnxruntime"), "fp32": PEERS, "bf16": ("openvino", "torch")}
