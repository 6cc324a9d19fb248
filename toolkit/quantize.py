"""One static int8 graph per component, made from the float generator, for all three targets.

PT2E of torchao: our quantizer (quantizer.py) annotates what XNNPACK, ONNX Runtime and OpenVINO all
fuse, so that the same integers are computed everywhere. Weights are symmetric per output channel,
activations asymmetric per tensor. x86 without VNNI adds pairs of products in 16 bits; under the CPU
profile `portable` those output channels whose weights could overflow that get a coarser step, just
as coarse as needed (see saturation.py).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import FixedQParamsObserver, HistogramObserver, MinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e
from torchao.quantization.pt2e.quantizer import QuantizationSpec

from .equalize import equalize
from .finish import Compared, corrected, finish
from .generator import Component, Generator
from .observers import PortableWeightObserver, forget_clamped
from .programs import example_inputs, export_module
from .quantizer import GREY_LEVELS, MOVES, CommonQuantizer
from .replace import float_graph
from .rewriting import tensor_of
from .rounding import learn_rounding
from .weights import LARGEST

Module = TypeVar("Module", bound=nn.Module)
Train = Callable[[Component, GraphModule], GraphModule]
_aten = torch.ops.aten
_READ = torch.ops.quantized_decomposed.dequantize_per_tensor.default
# Ways to set the range of an activation; each component takes the one that serves it better.
OBSERVERS: dict[str, Any] = {
    "histogram": HistogramObserver,
    "minmax": MinMaxObserver,
    "histogram-equalized": HistogramObserver,
}
# Ways that first equalize channels across layers, and the share of it that they take: of a chain of
# PReLU more. Of 0.5, 0.6, 0.75 and 1 tried on `upscale`, 0.75 came nearest to float (41.6 dB; none
# 39.2, 0.5 40.8, 1 40.3).
EQUALIZED = {"histogram-equalized": 0.5}
_OF_PRELU = 0.75
COMPARED_PROMPTS = 64
NOISES = 64  # that calibrate a generator which takes no text and lists no prompts
# What makes int8 better than min-max and can be left out (`without`); docs/quantization.md has what
# each buys.
PARTS = (
    "histogram",
    "equalization",
    "rounding",
    "floors",
    "flat",
    "bias",
    "whole-biases",
    "handed-on",
    "ties",
)


@dataclass(frozen=True)
class Quantized:
    """int8 programs by component, and how many tensors of which kind the plan stores.

    ranges: by component, which of OBSERVERS set the ranges. planned_int8, planned_float: bytes of
    the weights that become int8, and of those that do not. graphs: PT2E's converted graphs, of
    which the programs were made. floats: the float graphs that they were made of, equalized where
    that served better. int8_shapes: by component, of the tensors that become int8. plan: of a
    pipeline, the precision of each component.
    """

    programs: dict[str, ExportedProgram]
    modules: dict[str, nn.Module]
    ranges: dict[str, str]
    planned_int8: int
    planned_float: int
    graphs: dict[str, GraphModule] = field(default_factory=dict)
    floats: dict[str, GraphModule] = field(default_factory=dict)
    int8_shapes: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)
    plan: dict[str, str] = field(default_factory=dict)


class Int8Embedding(nn.Module):
    """A token table of int8 values and one scale: gathers, then converts. Otherwise it is asked as
    nn.Embedding is."""

    def __init__(self, weight: Tensor, padding_idx: int | None = None) -> None:
        super().__init__()
        self.table: Tensor
        self.num_embeddings, self.embedding_dim = weight.shape
        self.padding_idx = padding_idx
        self.scale = float(weight.abs().max()) / 127
        self.register_buffer("table", (weight / self.scale).round().clamp(-127, 127).to(torch.int8))

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.table).to(torch.float32) * self.scale

    @property
    def weight(self) -> Tensor:
        """All rows, float32, as they are gathered."""
        return self.table.to(torch.float32) * self.scale


def with_int8_tables(module: nn.Module) -> nn.Module:
    """A copy whose tables are int8, but for those of classes with a forward of their own."""
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            gathers = getattr(type(child), "forward", None) is nn.Embedding.forward
            if isinstance(child, nn.Embedding) and gathers and child.max_norm is None:
                setattr(parent, name, Int8Embedding(child.weight.detach(), child.padding_idx))
    return module


@torch.no_grad()
def on_grid(module: Module) -> Module:
    """A copy whose weights lie on the grid that `portable` takes: int8 then costs them nothing, and a
    file of theirs has half the bytes of float16. Convolutions, linear layers and tables."""
    module = copy.deepcopy(module)
    for layer in module.modules():
        if isinstance(layer, nn.Embedding):
            table = Int8Embedding(layer.weight.detach())
            layer.weight.copy_(table.table.float() * table.scale)
        elif isinstance(layer, (nn.Conv2d, nn.Linear)):
            observer = PortableWeightObserver(
                dtype=torch.int8,
                quant_min=-LARGEST,
                quant_max=LARGEST,
                qscheme=torch.per_channel_symmetric,
                ch_axis=0,
                eps=2**-16,
            )
            observer(layer.weight)
            steps = observer.calculate_qparams()[0].view(-1, *[1] * (layer.weight.dim() - 1))
            layer.weight.copy_((layer.weight / steps).round().clamp(-LARGEST, LARGEST) * steps)
    return module


def calibrate(
    generator: Generator,
    ways: Mapping[str, Iterable[str]],
    cpu: str,
    keep: Iterable[str],
    calibration: int,
    report: Callable[[str, int, int], None] = lambda what, done, total: None,
    without: Collection[str] = (),
) -> tuple[dict[tuple[str, str], Any], dict[tuple[str, str], GraphModule]]:
    """Prepared graphs by component and way, after `calibration` prompts went through their observers.

    ways: by component, which of OBSERVERS. without: some of PARTS. Also returns the float graphs that
    they were made of.
    """
    untold = ("",) * (1 if generator.signature.takes_text else NOISES)
    prompts = generator.calibration[:calibration] or untold
    few = [
        generator.tensors(generator.prepare(prompt, seed=i))
        for i, prompt in enumerate(prompts[:COMPARED_PROMPTS])
    ]
    prepared: dict[tuple[str, str], Any] = {}
    floats: dict[tuple[str, str], GraphModule] = {}
    for component in generator.components:
        mine = [
            k.removeprefix(component.name).removeprefix(".")
            for k in keep
            if _within(k, component.name)
        ]
        example = example_inputs(generator, component)
        for way in ways[component.name]:
            # A module for each way: graphs share its parameters, and equalization changes them.
            graph = float_graph(with_int8_tables(component.module), example)
            fed = [tuple(t[n] for n in component.inputs) for t in few]
            if way in EQUALIZED:
                chain = any(n.target is _aten.prelu.default for n in graph.graph.nodes)
                equalize(graph, fed, _OF_PRELU if chain else EQUALIZED[way])
            floats[component.name, way] = copy.deepcopy(graph)
            levels = known_levels(generator, component, graph)
            observer = MinMaxObserver if "histogram" in without else OBSERVERS[way]
            quantizer = CommonQuantizer(cpu == "portable", mine, observer, levels)
            prepared[component.name, way] = prepare_pt2e(graph, quantizer)
    for i, prompt in enumerate(prompts):
        tensors = generator.tensors(generator.prepare(prompt, seed=i))
        for component in generator.components:
            inputs = tuple(tensors[n] for n in component.inputs)
            for way in ways[component.name]:
                with torch.no_grad():
                    prepared[component.name, way](*inputs)
        report("calibrate", i + 1, len(prompts))
    looked = {c.name: [tuple(t[n] for n in c.inputs) for t in few] for c in generator.components}
    for i, ((name, way), graph) in enumerate(prepared.items()):
        if "floors" not in without:
            forget_clamped(graph)
        if "rounding" not in without:
            learn_rounding(graph, floats[name, way], looked[name], portable=cpu == "portable")
        report("round", i + 1, len(prepared))
    return prepared, floats


def ends_of(component: Component, graph: GraphModule) -> list[tuple[str, Any]]:
    """Name and node of each output of a component's graph."""
    results: Any = next(n for n in graph.graph.nodes if n.op == "output").args[0]
    results = results if isinstance(results, (tuple, list)) else (results,)
    return list(zip(component.outputs, results, strict=True))


def handed_on(component: Component, graph: GraphModule) -> dict[str, tuple[float, int]]:
    """By output of a converted component: scale and zero point of the grid that it ends on."""
    return {
        name: (float(node.args[1]), int(node.args[2]))
        for name, node in ends_of(component, graph)
        if getattr(node, "target", None) is _READ
    }


def take_levels(
    prepared: GraphModule, component: Component, levels: Mapping[str, tuple[float, int]]
) -> None:
    """Inputs that come from another component keep the grid that they come on, in place.

    A grid of their own would round them a second time.
    """
    places = [n for n in prepared.graph.nodes if n.op == "placeholder"]
    for place, name in zip(places, component.inputs, strict=True):
        if name not in levels:
            continue
        scale, zero = levels[name]
        left, seen = [place], set()
        while left:  # the place, and what only moves its numbers
            for user in left.pop().users:
                if user.op == "call_module":
                    _fix(prepared, str(user.target), scale, zero)
                if user not in seen and (user.op == "call_module" or user.target in MOVES):
                    seen.add(user)
                    left.append(user)


def _fix(prepared: GraphModule, target: str, scale: float, zero: int) -> None:
    """Gives an observer this grid, wherever it is used; leaves the guards of an exported module."""
    known = prepared.get_submodule(target)
    if not hasattr(known, "calculate_qparams"):
        return
    fixed = FixedQParamsObserver(scale, zero, torch.int8, torch.per_tensor_affine, -128, 127)
    for name, module in list(prepared.named_modules(remove_duplicate=False)):
        if module is known:
            setattr(prepared, name, fixed)


def known_levels(
    generator: Generator, component: Component, graph: GraphModule
) -> dict[str, QuantizationSpec]:
    """By node: the grid of what has known levels already, on which rounding is exact.

    The 256 levels of image inputs, where zero is one of them, and the whole numbers of int8 tables.
    A range set by observation would round a table's words once more, many of them at ties, which
    runtimes break in different ways.
    """
    places = [n.name for n in graph.graph.nodes if n.op == "placeholder"]
    found = {}
    for place, name in zip(places, component.inputs, strict=True):
        spec = generator.signature.images.get(name)
        step = (spec.high - spec.low) / 255 if spec else 0.0
        zero = -128 - round(spec.low / step) if spec else 0
        if spec and -128 <= zero <= 127 and abs(spec.low / step - round(spec.low / step)) < 1e-6:
            found[place] = replace(GREY_LEVELS, scale=step, zero_point=zero)
    for node in graph.graph.nodes:
        step = _step_of_table(node, graph)
        if step:
            found[node.name] = replace(GREY_LEVELS, scale=step, zero_point=0)
    return found


def _step_of_table(node: Node, graph: GraphModule) -> float:
    """The step of a table whose words this node is: that of `Int8Embedding`, or that which a float
    table will have as one. 0 of any other node."""
    if node.target is _aten.embedding.default and node.meta["val"].dtype == torch.float32:
        table: Any = node.args[0]
        return float(tensor_of(graph, table).detach().abs().max()) / 127
    if node.target is not _aten.mul.Tensor or not isinstance(node.args[1], float):
        return 0.0
    cast: Any = node.args[0]
    if cast.target is not _aten.to.dtype or cast.args[0].target is not _aten.embedding.default:
        return 0.0
    return node.args[1] if cast.args[0].meta["val"].dtype == torch.int8 else 0.0


def _compared(generator: Generator, calibration: int) -> list[dict[str, Tensor]]:
    """Float tensors of prompts that were not calibrated on, where the generator lists enough."""
    prompts = generator.calibration[calibration : calibration + COMPARED_PROMPTS]
    prompts = prompts or generator.calibration[:COMPARED_PROMPTS] or ("",)
    return [generator.tensors(generator.prepare(p, seed=500 + i)) for i, p in enumerate(prompts)]


def _within(kept: str, component: str) -> bool:
    return kept.startswith((f"{component}.", f"{component}:"))


def quantize(
    generator: Generator,
    *,
    cpu: str = "portable",
    keep: Iterable[str] = (),
    calibration: int = 128,
    report: Callable[[str, int, int], None] = lambda what, done, total: None,
    without: Collection[str] = (),
    train: Train | None = None,
) -> Quantized:
    """Calibrates on `calibration` of the generator's prompts, one at a time, and converts.

    keep: names of layers, as "component.module" (or a sum's or product's own name, see layer_name),
    that stay float. Each component is calibrated on what the float components before it give, once
    for each way to set ranges; the way whose output is nearer to float on prompts that were not
    calibrated on is taken. without: some of PARTS, left out. train: makes a better graph of the last
    component's calibrated one (`qat.train_grids`); taken where it is nearer to float. report(what,
    done, total) is called on the way.
    """
    keep = tuple(keep)
    left_out = {"histogram": "histogram", "equalization": "histogram-equalized"}
    chosen = [w for w in OBSERVERS if w not in {left_out.get(part) for part in without}]
    examples = {c.name: example_inputs(generator, c) for c in generator.components}
    everywhere = {c.name: chosen for c in generator.components}
    prepared, floats = calibrate(generator, everywhere, cpu, keep, calibration, report, without)
    first = _compared(generator, calibration)
    programs: dict[str, ExportedProgram] = {}
    modules: dict[str, nn.Module] = {}
    ways: dict[str, str] = {}
    converted: dict[str, GraphModule] = {}
    exact: dict[str, GraphModule] = {}
    small = large = 0
    shapes: dict[str, list[tuple[int, ...]]] = {}
    chained = [{n: t[n] for n in generator.signature.inputs} for t in first]
    levels: dict[str, tuple[float, int]] = {}
    for component in generator.components:
        name = component.name
        for way in chosen if "handed-on" not in without else ():
            take_levels(prepared[name, way], component, levels)
        fed = [tuple(t[n] for n in component.inputs) for t in chained]
        shown = generator.signature.output
        span = (shown.low, shown.high) if _draws(generator, component) else None
        compared = Compared(component, fed, first, without, span)
        tried = {way: finish(prepared[name, way], compared) for way in chosen}
        ways[name] = min(tried, key=lambda way: tried[way].error)
        best = corrected(prepared[name, ways[name]], compared)
        if train is not None and component is generator.components[-1]:
            trained = train(component, prepared[name, ways[name]])
            after = corrected(trained, compared)
            if after.error < best.error:
                best, ways[name] = after, f"{ways[name]}, trained"
        for tensors, outputs in zip(chained, best.outputs, strict=True):
            tensors |= dict(zip(component.outputs, outputs, strict=True))
        converted[name] = best.graph
        levels |= handed_on(component, best.graph)
        exact[name] = floats[name, ways[name].removesuffix(", trained")]
        programs[name] = export_module(best.graph, examples[name])
        modules[name] = programs[name].module()
        used = used_tensors(programs[name]).values()
        shapes[name] = [tuple(t.shape) for t in used if t.dtype == torch.int8]
        for tensor in used:
            size = tensor.numel() * tensor.element_size()
            small += size if tensor.dtype == torch.int8 else 0
            large += size if tensor.dtype != torch.int8 else 0
    return Quantized(programs, modules, ways, small, large, converted, exact, shapes)


def _draws(generator: Generator, component: Component) -> bool:
    """Whether the component's one output is the picture."""
    return component.outputs == (generator.signature.output_name,)


def used_tensors(program: ExportedProgram) -> dict[str, Tensor]:
    """The weights and constants that the program's graph reads, by name."""
    signature = program.graph_signature
    placeholders = {n.name: n for n in program.graph.nodes if n.op == "placeholder"}
    named = signature.inputs_to_parameters | signature.inputs_to_buffers
    named |= signature.inputs_to_lifted_tensor_constants
    stored = {**program.state_dict, **program.constants}
    return {
        target: stored[target]
        for name, target in named.items()
        if placeholders[name].users and isinstance(stored.get(target), Tensor)
    }


def simulated(generator: Generator, quantized: Quantized) -> Generator:
    """The generator with its int8 graphs in place: PT2E's own simulation, in float arithmetic."""
    note = {"pass": "quantize", "int8_bytes": quantized.planned_int8}
    components = tuple(replace(c, module=quantized.modules[c.name]) for c in generator.components)
    return replace(generator, components=components, history=(*generator.history, note))
