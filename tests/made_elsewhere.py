"""Files as other tools write them: nothing here uses genedge's exporter."""

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import nn

from genedge.runtime.signature import Signature, TensorSpec
from genedge.toolkit.generator import Component, Generator
from genedge.toolkit.programs import example_inputs


class Small(nn.Module):
    """Noise and a style to an RGB picture of 32×32, with blocks of one colour."""

    def __init__(self):
        super().__init__()
        self.style = nn.Linear(2, 32)
        self.entry = nn.Conv2d(4, 32, 3, padding=1)
        self.exit = nn.Conv2d(32, 48, 3, padding=1)
        self.shuffle = nn.PixelShuffle(4)
        with torch.no_grad():
            for p in (self.exit.weight, self.exit.bias):
                p.copy_(3 * p[::16].repeat_interleave(16, 0))

    def forward(self, noise, style):
        x = torch.relu(self.entry(noise) + self.style(style)[:, :, None, None])
        return torch.sigmoid(self.shuffle(self.exit(x)))


def small():
    """A generator of one component, quick to export."""
    torch.manual_seed(0)
    signature = Signature(
        inputs={
            "noise": TensorSpec("float32", (1, 4, 8, 8), -6, 6, "noise"),
            "style": TensorSpec("float32", (1, 2), 0, 1, "style"),
        },
        output_name="picture",
        output=TensorSpec("float32", (1, 3, 32, 32), 0, 1),
        layout="rgb",
        styles=("flat", "soft"),
    )
    return Generator(
        name="small",
        components=(Component("image", Small().eval(), ("noise", "style"), ("picture",)),),
        signature=signature,
        calibration=tuple(f"picture {i}" for i in range(16)),
        golden=tuple(f"golden {i}" for i in range(8)),
    )


class Whole(nn.Module):
    """All components of a generator in one module; `change` is done to the picture."""

    def __init__(self, generator, change=lambda picture: picture):
        super().__init__()
        self.parts = nn.ModuleList(c.module for c in generator.components)
        self.sides = [(c.inputs, c.outputs) for c in generator.components]
        self.names = list(generator.signature.inputs)
        self.last = generator.signature.output_name
        self.change = change

    def forward(self, *given):
        named = dict(zip(self.names, given, strict=True))
        for part, (inputs, outputs) in zip(self.parts, self.sides, strict=True):
            result = part(*(named[n] for n in inputs))
            named |= dict(zip(outputs, (result,), strict=True))
        return self.change(named[self.last])


def feeds(generator, count):
    """Named inputs, as numpy arrays, of the first golden prompts with seeds 1000, 1001, …"""
    pairs = [(p, 1000 + i) for i, p in enumerate(generator.golden[:count])]
    return [generator.prepare(p, s).inputs for p, s in pairs]


def plain_onnx(generator, path, change=lambda picture: picture, **options):
    """torch.onnx.export and nothing else. options: of torch.onnx.export."""
    names = list(generator.signature.inputs)
    example = tuple(torch.from_numpy(v) for v in feeds(generator, 1)[0].values())
    words = {"input_names": names, "output_names": [generator.signature.output_name], **options}
    torch.onnx.export(
        Whole(generator, change).eval(), example, path, dynamo=True, verbose=False, **words
    )
    return path


def component_onnx(generator, index, path, **options):
    """One component by torch.onnx.export."""
    component = generator.components[index]
    words = {"input_names": list(component.inputs), "output_names": list(component.outputs)}
    torch.onnx.export(
        component.module, example_inputs(generator, component), path, dynamo=True, verbose=False,
        **words | options,
    )  # fmt: skip
    return path


class Reader(CalibrationDataReader):
    def __init__(self, generator):
        self.rows = iter(
            generator.prepare(p, i).inputs for i, p in enumerate(generator.calibration)
        )

    def get_next(self):
        return next(self.rows, None)


def quantized_onnx(generator, source, path):
    """ONNX Runtime's own quantize_static: QDQ, int8 weights per channel."""
    quantize_static(
        source, path, Reader(generator), quant_format=QuantFormat.QDQ, per_channel=True,
        reduce_range=True, weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8,
    )  # fmt: skip
    return path


def independent(generator, path):
    """Mean PSNR (dB) and SSIM of an ONNX file of an RGB generator, by scikit-image alone."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    session, whole = onnxruntime.InferenceSession(path), Whole(generator).eval()
    rows = []
    for fed in feeds(generator, len(generator.golden)):
        drawn = session.run(None, fed)[0][0]
        true = whole(*map(torch.from_numpy, fed.values()))[0].detach().numpy()
        a, b = (
            np.rint(x.clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0) for x in (drawn, true)
        )
        ssim = structural_similarity(
            b, a, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        rows.append((100.0 if (a == b).all() else peak_signal_noise_ratio(b, a), ssim))
    return np.mean(rows, axis=0)
