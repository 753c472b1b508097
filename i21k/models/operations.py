"""Count the multiply-adds of a function from its shapes, whatever device it will run on."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn


def multiply_adds(function: Callable[..., Any], *shapes: Any) -> int:
    """Return the multiply-adds of the function's convolutions and matrix products.

    Multiplications by padding are not counted, and nothing else is: what runs element by element
    is 0.4 % of the full network's operations. Nothing is compiled or computed.

    Args:
        function: that JAX can trace. Loops and branches in it are not supported.
        shapes: its arguments, or `jax.ShapeDtypeStruct`s in their place.
    """
    return _of_jaxpr(jax.make_jaxpr(function)(*shapes).jaxpr)


def _of_jaxpr(jaxpr: Jaxpr) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: JaxprEqn) -> int:
    name = equation.primitive.name
    assert name not in ("scan", "while"), name
    if name == "conv_general_dilated":
        return _of_convolution(equation)
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left, output = _shape(equation.invars[0]), _shape(equation.outvars[0])
        return math.prod(output) * math.prod(left[axis] for axis in contracted)
    return sum(_of_jaxpr(inner) for inner in _inner(equation))


def _of_convolution(equation: JaxprEqn) -> int:
    """Count, along each axis, the pairs of an output and a tap of the kernel inside the image."""
    params = equation.params
    assert {*params["lhs_dilation"], *params["rhs_dilation"]} == {1}, "a dilated convolution"
    images, kernel = map(_shape, equation.invars)
    output = _shape(equation.outvars[0])
    axes = params["dimension_numbers"]
    pairs = 1
    for axis, (stride, (low, _)) in enumerate(
        zip(params["window_strides"], params["padding"], strict=True), start=2
    ):
        size, taps = images[axes.lhs_spec[axis]], kernel[axes.rhs_spec[axis]]
        pairs *= sum(
            0 <= place * stride + tap - low < size
            for place in range(output[axes.out_spec[axis]])
            for tap in range(taps)
        )
    num_images, num_outputs = (output[axis] for axis in axes.out_spec[:2])
    return num_images * num_outputs * kernel[axes.rhs_spec[1]] * pairs


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _inner(equation: JaxprEqn) -> Iterator[Jaxpr]:
    """Yield the functions that an equation calls: of `jit`, `custom_vjp`, `checkpoint`."""
    for value in equation.params.values():
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
        else:  # of several functions not all need to run: those of `cond` do not
            several = any(isinstance(x, (ClosedJaxpr, Jaxpr)) for x in jax.tree.leaves(value))
            assert not several, equation.primitive.name
