"""Precision of a pipeline, component by component: what becomes int8, what is calibrated on what.

Text encoders keep float arithmetic and store their weights as int8: they run once a picture, and an
error of theirs is in every step. The denoiser is static int8, calibrated on the latents of the real
float walk at every one of its timesteps, with guidance's second run beside the first. The decoder is
int8 where the picture allows it. First and last convolution and the time embedding stay float.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torchao.quantization.pt2e import HistogramObserver, ObserverBase
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation

from genedge.runtime.errors import BadInput
from genedge.runtime.metrics import picture_psnr
from genedge.runtime.picture import to_pixels
from genedge.runtime.run import Feed
from genedge.runtime.sampler import FINAL

from .bias import round_biases
from .generator import Component
from .pipeline import SampledGenerator, with_components
from .programs import example_inputs, export_module
from .quantize import OBSERVERS, Int8Embedding, Quantized, used_tensors
from .quantizer import CommonQuantizer

FLOAT, INT8, WEIGHTS, AUTO = "float", "int8", "weights-int8", "auto"
PLANS = (FLOAT, INT8, WEIGHTS, AUTO)
# dB of the picture that the decoder alone may cost: Apple's rule for a convolution that goes int8.
DECODER_PSNR = 38.0
WAYS = ("histogram", "minmax")
COMPARED = 2  # prompts that choose between ways, and whether the decoder is int8
_KEY = "quantization_annotation"
# Modules that stay float, by name behind the wrapper's own: first and last layers, time embedding.
EDGES = (
    "conv_in", "conv_out", "time_proj", "time_embedding", "add_time_proj", "add_embedding",
    "pos_embed", "time_text_embed", "norm_out", "proj_out",
    "decoder.conv_in", "decoder.conv_out", "post_quant_conv",
)  # fmt: skip
Report = Callable[[str, int, int], None]


class WeightQuantizer(CommonQuantizer):
    """Annotates the weights of linear layers and convolutions alone."""

    def annotate(self, model: GraphModule) -> GraphModule:
        for node in model.graph.nodes:
            layer = node.target in (
                torch.ops.aten.linear.default,
                torch.ops.aten.conv2d.default,
            )
            if layer and not self._kept(node):
                node.meta[_KEY] = QuantizationAnnotation({node.args[1]: self.weight}, None, True)
        return model


def usual_plan(generator: SampledGenerator) -> dict[str, str]:
    """Precision by component where nobody says otherwise."""
    spec = generator.sampler
    assert spec is not None
    plan = dict.fromkeys(spec.encoders, WEIGHTS)
    return plan | {spec.denoiser: INT8, spec.decoder: AUTO}


def checked_plan(generator: SampledGenerator, plan: Mapping[str, str] | None) -> dict[str, str]:
    """The usual plan with `plan` over it. Raises BadInput for an unknown component or word."""
    chosen = usual_plan(generator)
    for name, word in (plan or {}).items():
        if name not in chosen:
            raise BadInput(f"component {name!r} is unknown; known: {', '.join(chosen)}")
        if word not in PLANS or (word == AUTO and chosen[name] != AUTO):
            raise BadInput(f"{name}={word}: unknown; known: {', '.join(PLANS[:3])}")
        chosen[name] = word
    return chosen


def edges_of(component: Component) -> list[str]:
    """Names of the component's modules that stay float, as component.module."""
    names = [n for n, _ in component.module.named_modules()]
    found = [f"model.{e}" for e in EDGES if f"model.{e}" in names]
    layers = [n for n in names if n.startswith("model.decoder.layers.") and n.count(".") == 3]
    found += [layers[0], layers[-1]] if layers else []  # of a tiny autoencoder
    return [f"{component.name}.{n}" for n in found]


def quantize_pipeline(
    generator: SampledGenerator,
    *,
    cpu: str = "portable",
    keep: Iterable[str] = (),
    plan: Mapping[str, str] | None = None,
    report: Report = lambda what, done, total: None,
) -> Quantized:
    """int8 programs as planned, calibrated on the generator's own walks.

    keep: layers more that stay float. The observers watch each calibration prompt's walk while it
    is walked: no latents are kept. Raises BadInput for a plan that names what is
    not there.
    """
    chosen = checked_plan(generator, plan)
    keep = tuple(keep)
    by_name = {c.name: c for c in generator.components}
    static = [n for n, word in chosen.items() if word in (INT8, AUTO)]
    first = generator.example()
    examples = {n: example_inputs(generator, c, first) for n, c in by_name.items()}
    floats = {n: export_module(c.module, examples[n]) for n, c in by_name.items()}
    prepared = {
        (n, way): prepare_pt2e(
            floats[n].module(),
            CommonQuantizer(
                cpu == "portable", _of(n, (*edges_of(by_name[n]), *keep)), OBSERVERS[way]
            ),
        )
        for n in static
        for way in WAYS
    }
    _calibrate(generator, {n: prepared[n, WAYS[0]] for n in static}, report)
    for name in static:
        _same_ranges(prepared[name, "histogram"], prepared[name, "minmax"])
    graphs = {key: _late_weights(convert_pt2e(graph)) for key, graph in prepared.items()}
    for graph in graphs.values():
        round_biases(graph)
    programs: dict[str, ExportedProgram] = dict(floats)
    modules: dict[str, nn.Module] = {}
    for name, word in chosen.items():
        if word == WEIGHTS:
            graph = _weights_int8(by_name[name], examples[name], cpu, _of(name, keep))
            programs[name] = export_module(graph, examples[name])
            modules[name] = programs[name].module()
    ways: dict[str, str] = {}
    converted: dict[str, GraphModule] = {}
    walks = _walks(generator) if static else []
    for name in static:
        way, psnr = _better(generator, name, {w: graphs[name, w] for w in WAYS}, walks)
        if chosen[name] == AUTO:
            chosen[name] = INT8 if psnr >= DECODER_PSNR else FLOAT
        if chosen[name] == INT8:
            ways[name], converted[name] = way, graphs[name, way]
            programs[name] = export_module(graphs[name, way], examples[name])
            modules[name] = programs[name].module()
    small = large = 0
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for name, program in programs.items():
        used = used_tensors(program).values()
        shapes[name] = [tuple(t.shape) for t in used if t.dtype == torch.int8]
        small += sum(t.numel() for t in used if t.dtype == torch.int8)
        large += sum(t.numel() * t.element_size() for t in used if t.dtype != torch.int8)
    all_modules = {n: modules.get(n, c.module) for n, c in by_name.items()}
    return Quantized(programs, all_modules, ways, small, large, converted, {}, shapes, plan=chosen)


def _of(component: str, names: Iterable[str]) -> list[str]:
    front = f"{component}."
    return [n.removeprefix(front) for n in names if n.startswith(front)]


def _calibrate(
    generator: SampledGenerator, prepared: Mapping[str, nn.Module], report: Report
) -> None:
    """Each prompt's walk, taken by the prepared graphs: observers change nothing, so that it is the
    float walk, and each component runs once a step."""
    watched = with_components(generator, prepared)
    for i, prompt in enumerate(generator.calibration):
        watched.walked(watched.prepare(prompt, seed=i), lambda name, tensors: None)
        report("calibrate", i + 1, len(generator.calibration))


def _same_ranges(histogram: nn.Module, minmax: nn.Module) -> None:
    """Gives the graph that takes whole ranges what the other one, of the same layers, has seen."""
    for name, seen in histogram.named_children():
        if isinstance(seen, HistogramObserver):
            other = minmax.get_submodule(name)
            other.min_val, other.max_val = seen.min_val.clone(), seen.max_val.clone()
        elif isinstance(seen, ObserverBase):  # of weights: they are the same
            setattr(minmax, name, seen)


def _late_weights(graph: GraphModule) -> GraphModule:
    """Converts each int8 weight where it is first read: PT2E converts all of them before the first
    layer runs, and the simulation would hold a whole float model besides."""
    order = {node: i for i, node in enumerate(graph.graph.nodes)}
    for node in list(graph.graph.nodes):
        if node.target is torch.ops.quantized_decomposed.dequantize_per_channel.default:
            min(node.users, key=lambda user: order[user]).prepend(node)
    graph.recompile()
    return graph


def _weights_int8(
    component: Component, example: tuple[Tensor, ...], cpu: str, keep: list[str]
) -> GraphModule:
    """The component with int8 weights and float arithmetic."""
    module = copy.deepcopy(component.module)
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            # A table of positions is read whole, and its width asked for: it stays.
            if isinstance(child, nn.Embedding) and "token" in name:
                setattr(parent, name, Int8Embedding(child.weight.detach()))
    # Products are summed in float: no CPU profile asks for coarser weights.
    graph = prepare_pt2e(export_module(module, example).module(), WeightQuantizer(False, keep))
    with torch.no_grad():
        graph(*example)
    return _late_weights(convert_pt2e(graph))


@torch.no_grad()
def _walks(generator: SampledGenerator) -> list[tuple[Feed, Tensor, np.ndarray]]:
    """Of prompts with seeds that were not calibrated on: the feed, final latents, float picture."""

    def walk(feed: Feed) -> tuple[Feed, Tensor, np.ndarray]:
        last: dict[str, Tensor] = {}
        values = generator.walked(feed, lambda name, tensors: last.update(tensors))
        return feed, last[FINAL], to_pixels(values, generator.signature)

    prompts = generator.calibration[:COMPARED]
    return [walk(generator.prepare(p, 500 + i)) for i, p in enumerate(prompts)]


@torch.no_grad()
def _better(
    generator: SampledGenerator,
    name: str,
    graphs: Mapping[str, GraphModule],
    walks: Sequence[tuple[Feed, Tensor, np.ndarray]],
) -> tuple[str, float]:
    """Which way's pictures are nearer to float's where this component alone is int8, and their PSNR.

    The decoder is given the float walk's latents: nothing before it changes.
    """
    assert generator.sampler is not None
    found = {}
    for way, graph in graphs.items():
        one = with_components(generator, {name: graph})
        psnrs = []
        for feed, latents, true in walks:
            if name == generator.sampler.decoder:
                values = graph(latents).numpy()
            else:
                values = one.walked(feed, lambda name, tensors: None)
            psnrs.append(picture_psnr(to_pixels(values, generator.signature), true))
        found[way] = float(np.mean(psnrs))
    best = max(found, key=lambda way: found[way])
    return best, found[best]
