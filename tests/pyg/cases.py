"""Cases: code that has to end the same on the pristine and on the patched tree of a release.

    python cases.py FILE ...    runs the cases of these files, and prints one line of JSON

A case is a class or a function with the decorator `case`. The class of a layer is built and
called in each of the ways below; a function is called, and returns what is compared. It all
runs in forks of a process that has imported the files and built nothing: from 2.5.1 on, PyG
compiles parts of a class when its first layer is built, so that the order matters.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import importlib
import inspect
import json
import os
import pickle
import random
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from digests import VERSION, observed
from patched_layers import LAYERS

# In seconds, for one fork.
TIME_LIMIT = 500

# What the classes of PyG are built with, where one is built beside a user's.
ARGUMENTS = {layer.cls: {**layer.arguments, **layer.keywords} for layer in LAYERS.values()}

NUM_NODES, NUM_EDGES, CHANNELS, EDGE_DIM, RELATIONS = 9, 40, 8, 3, 3

# Pickles of whole modules are read by default up to torch 2.5 only, which has the argument
# from 1.13 on.
LOAD_ANY = {"weights_only": False} if "weights_only" in str(inspect.signature(torch.load)) else {}


@dataclass
class Case:
    """A class or a function to run.

    Attributes:
        target: The class or function.
        arguments: What the class is built with.
        keywords: The same, by name.
        compilers: Whether TorchScript and `torch.compile` are to take it.
        each: What the function is called with, one after the other.
    """

    target: Any
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    compilers: bool
    each: tuple[Any, ...]

    def build(self, cls: Any = None) -> Any:
        """Builds the layer, or one of another class, with weights that depend on nothing else."""
        seed(12345)
        conv = (cls or self.target)(*self.arguments, **self.keywords)
        for parameter in conv.parameters():  # `RGATConv` leaves some of them uninitialised.
            torch.nn.init.normal_(parameter)
        return conv.eval()


def seed(number: int) -> None:
    """Seeds all random numbers; `negative_sampling()` took some of Python's own up to 2.0.0."""
    random.seed(number)
    numpy.random.seed(number)
    torch.manual_seed(number)


CASES: dict[str, Case] = {}


def case(
    *arguments: Any,
    since: tuple[int, ...] = (0,),
    until: tuple[int, ...] = (99,),
    compilers: bool = False,
    each: tuple[Any, ...] = (),
    **keywords: Any,
) -> Callable[[Any], Any]:
    """Makes a case of a class or function.

    Args:
        *arguments: What the class is built with.
        since: The first release, as (major, minor), that has what the case uses.
        until: The last one.
        compilers: Whether TorchScript and `torch.compile` are tried.
        each: What the function is called with, one after the other; nothing if it is empty.
        **keywords: What the class is built with, by name.

    Returns:
        The decorator, which leaves the class or function as it is.
    """

    def add(target: Any) -> Any:
        if since <= VERSION <= until:
            name = f"{target.__module__.rpartition('.')[2]}.{target.__name__}"
            CASES[name] = Case(target, arguments, keywords, compilers, each)
        return target

    return add


# The graph ####################################################################


def graph() -> dict[str, torch.Tensor]:
    """Whatever a layer takes, by the names that PyG gives to arguments."""
    seed(54321)
    edge_index = torch.randint(NUM_NODES, (2, NUM_EDGES))
    return {
        "x": torch.randn(NUM_NODES, CHANNELS),
        "edge_index": edge_index,
        "edge_attr": torch.randn(NUM_EDGES, EDGE_DIM),
        "edge_type": torch.randint(RELATIONS, (NUM_EDGES,)),
        "hyperedge_index": edge_index,
        "x_0": torch.randn(NUM_NODES, CHANNELS),
        "edge_feats": torch.randn(NUM_NODES, 2 * CHANNELS),
        "node_feats": torch.randn(NUM_NODES, CHANNELS),
        "ppr_rpes": torch.randn(NUM_EDGES, CHANNELS),
    }


def parameters_of(conv: Any) -> dict[str, inspect.Parameter]:
    """The arguments of `forward()`, and of what it hands `**kwargs` to."""
    taken: dict[str, inspect.Parameter] = {}
    for cls in type(conv).__mro__:
        if forward := vars(cls).get("forward"):
            taken.update(inspect.signature(forward).parameters)
            if all(p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in taken.values()):
                break
    return taken


def inputs_of(conv: Any) -> dict[str, torch.Tensor]:
    """What the `forward()` of a layer takes; edge features only where they are used."""
    inputs = graph()
    if getattr(conv, "edge_dim", None) is None:
        del inputs["edge_attr"]
    return {name: value for name, value in inputs.items() if name in parameters_of(conv)}


# How a layer is used ##########################################################


def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """How a call ends: its result, to be compared bit for bit, or its error."""
    return observed(lambda: function(*args, **kwargs))


@torch.no_grad()
def infer(conv: Any, **kwargs: Any) -> Any:
    """Two calls of a layer."""
    return [conv(**inputs_of(conv), **kwargs) for _ in range(2)]


def train(conv: Any) -> Any:
    """A step of training: outputs, gradients, and what random numbers it took."""
    conv.train()
    seed(12345)
    out = conv(**inputs_of(conv))
    tensor = out[0] if isinstance(out, tuple) else out
    grads = torch.autograd.grad(tensor.square().sum(), list(conv.parameters()), allow_unused=True)
    return out, list(grads), torch.get_rng_state()


def use(conv: Any) -> dict[str, Any]:
    """Inference, with attention weights where there are any, and training."""
    ended = {"infer": call(infer, conv)}
    if "return_attention_weights" in parameters_of(conv):
        ended["weights"] = call(infer, conv, return_attention_weights=True)
    return {**ended, "train": call(train, conv)}


def build_or_error(case: Case) -> Any:
    """A layer, or how building it fails."""
    built: list[Any] = []
    ended = call(lambda: built.append(case.build()))
    return built[0] if built else ended


def build_bases(case: Case) -> list[Any]:
    """Builds a layer of each class that the class derives from."""
    layers = []
    user_classes = [other.target for other in CASES.values()]
    for cls in reversed(case.target.__mro__[1:]):
        with contextlib.suppress(Exception):
            if cls in user_classes:
                layers.append(case.build(cls))
            elif cls.__name__ in ARGUMENTS:
                seed(12345)
                layers.append(cls(**ARGUMENTS[cls.__name__]).eval())
    return layers


# The ways, of which each case has a process of its own.


def first(case: Case) -> dict[str, Any]:
    """The first layer of the process; and its copies, pickles and files."""
    if isinstance(conv := build_or_error(case), dict):
        return {"build": conv}
    return {**use(conv), **copies(case, conv.eval())}


def after_its_bases(case: Case) -> dict[str, Any]:
    """Built after layers of the classes that it derives from; these are called last."""
    bases = build_bases(case)
    if isinstance(conv := build_or_error(case), dict):
        return {"build": conv}
    return {**use(conv), **{type(base).__name__: call(infer, base) for base in bases}}


def copies(case: Case, conv: Any) -> dict[str, Any]:
    """What copies of a layer do that has been used."""

    def saved(value: Any) -> Any:
        with tempfile.TemporaryFile() as file:
            torch.save(value, file)
            file.seek(0)
            return torch.load(file, **LOAD_ANY)

    def from_state() -> Any:
        loaded = case.build()
        for parameter in loaded.parameters():
            torch.nn.init.zeros_(parameter)
        loaded.load_state_dict(saved(conv.state_dict()))
        return loaded

    return {
        "deepcopy": call(lambda: infer(copy.deepcopy(conv))),
        "copy": call(lambda: infer(copy.copy(conv))),
        "pickle": call(lambda: infer(pickle.loads(pickle.dumps(conv)))),
        "torch.save": call(lambda: infer(saved(conv))),
        "state dict": call(lambda: infer(from_state())),
        "names": call(lambda: [repr(conv), sorted(conv.state_dict())]),
    }


# The ways, of which all cases of a file are in one process.


def in_order(cases: list[Case]) -> Iterator[Any]:
    """Each layer is built and called before the next one."""
    for case in cases:
        yield call(lambda: infer(case.build()))  # noqa: B023


def in_reverse_order(cases: list[Case]) -> Iterator[Any]:
    """Subclasses come before their bases, and all layers are built before one is called."""
    layers: list[Any] = []
    for case in reversed(cases):
        with contextlib.suppress(Exception):
            layers.insert(0, case.build())
            continue
        layers.insert(0, None)
    for case in cases:
        build_bases(case)
    for conv in layers:
        yield call(infer, conv)


class Model(torch.nn.Module):
    """A layer in a model, as TorchScript takes it from 2.5.0 on."""

    def __init__(self, conv: Any) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        return self.conv(x, edge_index)


def script(cases: list[Case]) -> Iterator[Any]:
    """TorchScript."""
    inputs = graph()

    def scripted(case: Case) -> Any:
        build_bases(case)
        conv = case.build()
        module = torch.jit.script(Model(conv) if VERSION >= (2, 5) else conv.jittable())
        with torch.no_grad():
            return [module(inputs["x"], inputs["edge_index"]) for _ in range(2)]

    for case in cases:
        yield call(scripted, case)


def compiled(cases: list[Case]) -> Iterator[Any]:
    """`torch.compile` without graph breaks. A torch before 2.0 has none."""
    for case in cases:

        def run(case: Case = case) -> Any:
            torch._dynamo.reset()
            conv = case.build()
            module = torch.compile(conv, backend="eager", fullgraph=True)
            with torch.no_grad():
                return module(**inputs_of(conv))

        yield call(run)


# Running them #################################################################


def in_fork(function: Callable[[], Any], where_it_dies: Callable[[Any], Any]) -> Any:
    """Calls a function in a fork of this process, and returns what it returns."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            signal.alarm(TIME_LIMIT)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Some exporters print graphs.
            with os.fdopen(writer, "w") as pipe:
                json.dump(function(), pipe)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    _, status = os.waitpid(process, 0)
    if status:
        return where_it_dies({"error": f"the process ended with status {status}"})
    return json.loads(answer)


def run_function(case: Case) -> dict[str, Any]:
    """How the calls of a function end."""

    def seeded(*args: Any) -> Any:
        seed(12345)
        return case.target(*args)

    if not case.each:
        return {"call": call(seeded)}
    return {getattr(one, "__name__", str(one)): call(seeded, one) for one in case.each}


def run_file(cases: dict[str, Case]) -> dict[str, dict[str, Any]]:
    """How the cases of a file end, in each way."""
    ended: dict[str, dict[str, Any]] = {name: {} for name in cases}
    layers = {name: case for name, case in cases.items() if inspect.isclass(case.target)}
    for name, case in cases.items():
        if name not in layers:
            ended[name] = in_fork(lambda: run_function(case), lambda end: {"process": end})  # noqa: B023
            continue
        for alone in (first, after_its_bases):
            parts = in_fork(lambda: alone(case), lambda end: {"process": end})  # noqa: B023
            ended[name].update({f"{alone.__name__}: {part}": end for part, end in parts.items()})
    for_compilers = {name: case for name, case in layers.items() if case.compilers}
    for together, chosen in (
        (in_order, layers),
        (in_reverse_order, layers),
        (script, for_compilers),
        (compiled, for_compilers),
    ):
        ends = in_fork(
            lambda: list(together(list(chosen.values()))),  # noqa: B023
            lambda end: [end] * len(chosen),  # noqa: B023
        )
        for name, end in zip(chosen, ends):
            ended[name][together.__name__] = end
    return ended


def keep_templates() -> None:
    """Compiles PyG's templates once, for all forks: that takes longer than most cases.

    From 2.5.0 on, PyG makes a fresh `Environment`, with default settings, for each class.
    """
    import jinja2
    from torch_geometric.nn.conv import message_passing

    compile_any = jinja2.Environment.compile
    compile_once = functools.lru_cache(maxsize=None)(
        functools.partial(compile_any, jinja2.Environment())
    )
    directory = Path(message_passing.__file__).parent

    def compile_template(self: Any, source: Any, name: Any = None, file: Any = None, *rest: Any):
        if file is not None and Path(file).parent == directory:
            return compile_once(source, name, file)
        return compile_any(self, source, name, file, *rest)

    jinja2.Environment.compile = compile_template  # type: ignore[assignment, method-assign]
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(directory))
    for name in environment.list_templates(extensions=["jinja"]):
        environment.get_template(name)


def main(*files: str) -> None:
    warnings.simplefilter("ignore")
    # With more threads, sums may differ in the last bit from run to run.
    torch.set_num_threads(1)
    # TorchScript rounds in another way once it has seen a function often enough.
    torch._C._jit_set_texpr_fuser_enabled(False)
    # Imported once: the forks start with it.
    with contextlib.suppress(ImportError):
        importlib.import_module("torch._dynamo")
    if VERSION >= (2, 5):
        keep_templates()
    modules = [importlib.import_module(f"user_code.{Path(file).stem}") for file in files]
    gc.collect()
    gc.freeze()
    ended: dict[str, Any] = {}
    for module in modules:
        cases = {name: case for name, case in CASES.items() if name in names_of(module)}
        ended.update(run_file(cases))
    print(json.dumps(ended))


def names_of(module: Any) -> list[str]:
    stem = module.__name__.rpartition(".")[2]
    return [name for name in CASES if name.startswith(f"{stem}.")]


if __name__ == "__main__":
    # The files import this module by its name: there must not be two of it.
    sys.modules["cases"] = sys.modules["__main__"]
    main(*sys.argv[1:])
