"""Compiles a traced step for the CPU: all tensors become inputs, and fused optimizers are written out as plain
operations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

INDUCTOR_SETTINGS = {
    # a small network's step takes half a millisecond, and calls from Python would take a quarter of that
    "cpp_wrapper": True,
    "size_asserts": False,
}

Replay = Callable[[list[Tensor]], list[Any]]


def lifted(graph: fx.GraphModule) -> tuple[fx.GraphModule, list[Tensor]]:
    """Return the graph with every tensor that it holds turned into an input, and these tensors.

    A tensor that occurs twice, as itself and as an alias of the same memory, becomes one input.
    """
    nodes = graph.graph
    first = next(node for node in nodes.nodes if node.op != "get_attr")
    inputs: dict[Any, fx.Node] = {}
    live: list[Tensor] = []
    for node in list(nodes.nodes):
        if node.op == "get_attr":
            tensor = getattr(graph, str(node.target)).detach()
            key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
            if key not in inputs:
                with nodes.inserting_before(first):
                    inputs[key] = nodes.placeholder(f"live_{len(live)}")
                live.append(tensor)
            node.replace_all_uses_with(inputs[key])
            nodes.erase_node(node)
    for node in reversed(list(nodes.nodes)):
        if node.op == "call_function" and "profiler" in str(node.target):
            nodes.erase_node(node)
    lifted = fx.GraphModule(torch.nn.Module(), nodes)
    nodes.lint()
    return lifted, live


def compiled(graph: fx.GraphModule, live: list[Tensor]) -> Replay:
    """Compile the graph with inductor. `live` are its inputs."""
    from torch._inductor.compile_fx import compile_fx

    _write_out(graph)
    with torch.no_grad():
        call: Any = compile_fx(graph, live, config_patches=INDUCTOR_SETTINGS)

    def run(live: list[Tensor]) -> list[Any]:
        with torch.no_grad():
            values: list[Any] = call(*live)
        return values

    return run


def _write_out(graph: fx.GraphModule) -> None:
    """Replace fused optimizers and operations on lists, which inductor cannot fuse with the rest, by operations that it
    can.
    """
    aten = torch.ops.aten
    map_arg: Any = fx.node.map_arg
    formulas: dict[Any, Callable[..., None]] = {
        aten._fused_adam_.default: _adam,
        aten._fused_adam_.tensor_lr: _adam,
        aten._fused_adamw_.default: _adamw,
        aten._fused_adamw_.tensor_lr: _adamw,
        aten._fused_sgd_.default: _sgd,
        aten._fused_sgd_.tensor_lr: _sgd,
        aten._foreach_lerp_.List: _lerp,
    }
    tracer = fx.proxy.GraphAppendingTracer(graph.graph)

    def proxy(node: fx.Node) -> Any:
        return fx.Proxy(node, tracer)

    for node in list(graph.graph.nodes):
        if node.target is aten.view.default:
            node.target = aten.reshape.default  # a compiler can lay a tensor out so that there is no such view
        if node.target is aten._foreach_norm.Scalar:
            _open_norms(node)
        if node.target in formulas:
            with graph.graph.inserting_before(node):
                args, kwargs = map_arg((node.args, node.kwargs), proxy)
                formulas[node.target](*args, **kwargs)
            graph.graph.erase_node(node)
    graph.recompile()


def _open_norms(node: fx.Node) -> None:
    """Replace the norms of a list of tensors by one norm for each, which can be fused with later operations."""
    graph, tensors = node.graph, node.args[0]
    order = node.args[1] if len(node.args) > 1 else 2
    assert isinstance(tensors, list | tuple)
    for item in list(node.users):
        with graph.inserting_before(node):
            norm = graph.call_function(torch.ops.aten.linalg_vector_norm.default, (tensors[item.args[1]], order))  # type: ignore[index]
        item.replace_all_uses_with(norm)
        graph.erase_node(item)
    graph.erase_node(node)


def _lerp(starts: Any, ends: Any, weights: Any) -> None:
    for start, end, weight in zip(starts, ends, weights, strict=True):
        start.lerp_(end, weight)


def _update(held: Any, *pairs: tuple[Any, Any]) -> None:
    for old, new in pairs:
        old.copy_(torch.where(held > 0, old, new))


def _adam(
    parameters: Any, gradients: Any, means: Any, squares: Any, _: Any, steps: Any, *, lr: Any, beta1: Any, beta2: Any,
    weight_decay: Any, eps: Any, found_inf: Any, decoupled: bool = False, **others: Any,
) -> None:  # fmt: skip
    """Kingma & Ba 2015, algorithm 1, in the order of operations of torch's fused kernel."""
    for p, g, m, v, t in zip(parameters, gradients, means, squares, steps, strict=True):
        if decoupled:
            decayed = p - lr * weight_decay * p
        else:
            decayed, g = p, g + weight_decay * p if weight_decay else g
        mean = m + (1 - beta1) * (g - m)
        square = beta2 * v + (1 - beta2) * g * g
        t = t.double()  # like the fused kernel: in float32, β₂^t leaves few digits of 1 - β₂^t
        correction1, correction2 = 1 - beta1**t, 1 - beta2**t
        moved = decayed - lr / correction1 * mean / (square.sqrt() / correction2.sqrt() + eps)
        _update(found_inf, (p, moved), (m, mean), (v, square))


def _adamw(*args: Any, **kwargs: Any) -> None:
    """Loshchilov & Hutter 2019, algorithm 2."""
    _adam(*args, decoupled=True, **kwargs)


def _sgd(
    parameters: Any, gradients: Any, buffers: Any, *, weight_decay: Any, momentum: Any, lr: Any, dampening: Any,
    nesterov: Any, found_inf: Any, **others: Any,
) -> None:  # fmt: skip
    """Heavy ball: m ← momentum · m + (1 - dampening) · g, θ ← θ - lr · m."""
    for i, (p, g) in enumerate(zip(parameters, gradients, strict=True)):
        g = g + weight_decay * p if weight_decay else g
        if momentum:
            buffer = momentum * buffers[i] + (1 - dampening) * g
            change = g + momentum * buffer if nesterov else buffer
            _update(found_inf, (p, p - lr * change), (buffers[i], buffer))
        else:
            _update(found_inf, (p, p - lr * g))
