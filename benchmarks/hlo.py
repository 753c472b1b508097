"""Read the text of a compiled XLA module: its instructions, shapes and fused computations."""

import dataclasses
import re

DTYPE_BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8,
    "s64": 8, "u64": 8,
}  # fmt: skip
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    shape: str
    op: str
    operands: list[str]
    attributes: str
    is_root: bool

    @property
    def op_name(self) -> str:
        """What JAX calls the operation: the path of functions and layers."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Module:
    """The computations of a module by name, and the one that runs."""

    computations: dict[str, Computation]
    entry: Computation

    @classmethod
    def read(cls, text: str) -> "Module":
        """Read the text that `compiled.as_text()` gives."""
        computations: dict[str, Computation] = {}
        entry, current = "", ""
        for line in text.splitlines():
            head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
            if head:
                current = head[2]
                computations[current] = {}
                entry = current if head[1] else entry
            elif current and (instruction := _instruction(line)) is not None:
                computations[current][instruction.name] = instruction
        return cls(computations, computations[entry])

    def called(self, one: Instruction) -> Computation | None:
        """Return the computation of a fusion."""
        found = re.search(r"\bcalls=%?([\w.\-]+)", one.attributes)
        return self.computations.get(found[1]) if found else None


def _instruction(line: str) -> Instruction | None:
    found = re.match(r"\s+(ROOT )?%?([\w.\-]+) = ", line)
    if not found:
        return None
    rest = line[found.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    begin = rest.index("(")
    end = _closing(rest, begin)
    operands = re.findall(r"%([\w.\-]+)", rest[begin:end])
    return Instruction(found[2], shape, rest[:begin], operands, rest[end + 1 :], bool(found[1]))


def _closing(text: str, begin: int) -> int:
    """Return where the parenthesis at `begin` is closed."""
    depth = 0
    for at in range(begin, len(text)):
        depth += (text[at] == "(") - (text[at] == ")")
        if depth == 0:
            return at
    raise ValueError(f"a parenthesis is not closed: {text[begin : begin + 80]}")


def shapes_of(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    """Return type and sizes of an array, or of each array of a tuple."""
    return [
        (kind, tuple(int(size) for size in dims.split(",") if size))
        for kind, dims in _SHAPE.findall(re.sub(r"/\*.*?\*/", "", shape))
    ]


def num_bytes(shape: str) -> int:
    """Return the bytes of an array, or of all arrays of a tuple."""
    total = 0
    for kind, sizes in shapes_of(shape):
        count = DTYPE_BYTES[kind]
        for size in sizes:
            count *= size
        total += count
    return total
