"""The parts of a day on a GPU, in order of value for the minutes that they need."""

import dataclasses
import sys
from pathlib import Path

from benchmarks.gpu_day_parts.driver import Part

ROOT = Path(__file__).parents[2]
MODERN = "configs/i21k_modern.py"
MODERN_SIZES = (96, 128, 160, 192)
BATCH, BATCH_FLOAT32 = 256, 64
# JAX takes 75 % of the memory at its start. PyTorch needs some of the same card.
SHARED = {"XLA_PYTHON_CLIENT_MEM_FRACTION": ".5"}
DETERMINISTIC = {"XLA_FLAGS": "--xla_gpu_deterministic_ops=true"}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the parts depend on."""

    scratch: Path
    torch_python: str = ""  # empty: there is no PyTorch
    quickstart_data: Path | None = None  # None: the quick start draws it
    images: Path | None = None  # packed images for the loader
    tiny: bool = False


def parts(plan: Plan) -> list[Part]:
    """Return the parts in the order in which they run."""
    own = [sys.executable]
    tiny = ["--tiny"] if plan.tiny else []
    full = ["--batch", str(BATCH), "--dtype", "bfloat16"]
    turns = ["--rounds", "1"] if plan.tiny else ["--rounds", "10", "--steps", "10"]

    def step(*options: str) -> list[str]:
        return [*own, "benchmarks/train_step.py", *options, *turns, *tiny]

    def script(name: str, *options: str) -> list[str]:
        return [*own, f"benchmarks/gpu_day_parts/{name}.py", *options, *tiny]

    def against_torch(name: str, options: list[str], mode: str, limit_s: float) -> Part:
        return Part(
            f"a-torch-{name}", f"the step beside PyTorch's, torch.compile {mode}",
            step(*options, "--torch-python", plan.torch_python, "--torch-compile", mode), limit_s,
            SHARED, skip="" if plan.torch_python else "no PyTorch",
        )  # fmt: skip

    quickstart = ["--scratch", str(plan.scratch)]
    if plan.quickstart_data:
        quickstart += ["--data", str(plan.quickstart_data)]
    found = [
        Part("machine", "the card, versions and rates", script("machine"), 90, essential=True),
        Part("a-bfloat16", "train step, batch 256, bfloat16", step(*full), 150),
        *(
            Part(
                f"a-{remat}", f"train step, batch 256, bfloat16, remat {remat}",
                step(*full, "--remat", remat), 120,
            )
            for remat in ("conv", "block")
        ),
        Part(
            "a-float32", "train step, batch 64, float32 in memory, TF32 products",
            step("--batch", str(BATCH_FLOAT32)), 120,
        ),
        against_torch("eager", full, "none", 120),
        Part(
            "b-quickstart", "the quick start, SIGTERM and bit-exact resume",
            script("quickstart", *quickstart), 200,
        ),
        Part(
            "b-commands", "evaluate, predict, export and fine-tune that run",
            script("commands", *quickstart), 200,
        ),
        Part(
            "c-loader", "packed images through the loader into the step",
            script("end_to_end", *full, "--data", str(plan.images), *_short(plan)), 150,
            skip="" if plan.images else "no packed images: give --bundle or --images",
        ),
        Part("e-profile", "kernels of one step by time", script("step_profile", *full), 120),
        *(
            Part(
                f"f-batch-{batch}", f"inference, batch {batch}, bfloat16, folded or not",
                [
                    *own, "benchmarks/inference.py", "--batch-size", str(batch),
                    "--dtype", "bfloat16", *tiny,
                ], 60,
            )
            for batch in ((4,) if plan.tiny else (256, 32, 1))
        ),
        Part(
            "d-variants", "changes of the step, each alone",
            script("variants", *full, *(_few_variants() if plan.tiny else ())), 300,
        ),
        *(
            Part(
                f"g-modern-{size}", f"the step of i21k_modern at {size} px",
                step("--config", MODERN, "--image-size", str(size)), 90,
                skip="" if (ROOT / MODERN).is_file() else f"no recipe {MODERN}",
            )
            for size in MODERN_SIZES
        ),
        Part(
            "b-deterministic", "bit-exact resume with deterministic kernels",
            script("quickstart", *quickstart, "--epochs", "3"), 100, DETERMINISTIC,
        ),
        # Inductor needs minutes to compile this graph.
        against_torch("compiled", full, "default", 420),
        against_torch("float32", ["--batch", str(BATCH_FLOAT32)], "default", 420),
        against_torch("autotuned", full, "max-autotune-no-cudagraphs", 500),
    ]  # fmt: skip
    return [part for part in found if not (plan.tiny and part.name in _NOT_TINY)]


# What a trial would only repeat. PyTorch compiles nothing on a CPU, and only the part that trains
# the tiny network knows it.
_NOT_TINY = (
    "a-float32", "a-conv", "a-block", "b-commands", "b-deterministic", "g-modern-160",
    "a-torch-compiled", "a-torch-float32", "a-torch-autotuned",
)  # fmt: skip


def _short(plan: Plan) -> list[str]:
    return ["--seconds", "0.3", "--counts", "2"] if plan.tiny else []


def _few_variants() -> list[str]:
    return ["--rounds", "1", "--steps", "1", "--only", "no command buffers"]
