"""What ONNX Runtime returns for sums of int8 products; run by itself on an emulated CPU, too."""

import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

SIZES = [(4, 64, 16), (8, 63, 24), (1, 1024, 32), (16, 9, 8), (3, 130, 70)]


def returned_by_onnxruntime(activations, weights):
    shapes = [list(activations.shape), [activations.shape[0], weights.shape[0]]]
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, shapes[0])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, shapes[1])],
        [numpy_helper.from_array(np.ascontiguousarray(weights.T), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {"a": activations})[0]


def cases():
    random = np.random.default_rng(0)
    for m, k, n in SIZES:
        a = random.integers(150, 256, (m, k)).astype(np.uint8)
        yield a, random.integers(-127, 128, (n, k)).astype(np.int8)


if __name__ == "__main__":
    np.savez(sys.argv[1], *[returned_by_onnxruntime(a, w) for a, w in cases()])
