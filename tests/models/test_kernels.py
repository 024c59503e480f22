"""The kernels for GPUs: by Triton's interpreter they compute what the form in tensors does, and compilers accept them.

No test needs a GPU. Those that need Triton skip without it: `pip install triton` (Linux).
"""

import dataclasses
import importlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from models import (
    Architecture,
    Hyperparameters,
    Population,
    Session,
    TrainingData,
    TrainingOptions,
    compiled,
    kernels,
)
from models.controlled_scan import ControlledScan
from models.kernels import Gpu, fitting, padded, scans
from models.scan import Scan
from tests.models.pretended_gpu import GpuTensor, pretended_gpu

PROGRAMS = ("models.kernels.gru_programs", "models.kernels.controlled_programs")
HOPPER = Gpu(multiprocessors=132, shared_bytes=227 << 10)


def triton_or_skip():
    return pytest.importorskip("triton", reason="Triton is not installed (Linux: pip install triton)")


@pytest.fixture(scope="module")
def interpreted():
    """Return the programs as Triton's interpreter runs them, on CPUs."""
    triton = triton_or_skip()
    known = {name: sys.modules.pop(name) for name in PROGRAMS if name in sys.modules}
    try:
        with triton.knobs.runtime.scope():
            triton.knobs.runtime.interpret = True
            modules = [importlib.import_module(name) for name in PROGRAMS]
    finally:
        for name in PROGRAMS:
            sys.modules.pop(name, None)
            vars(kernels).pop(name.rpartition(".")[2], None)
        for name, module in known.items():
            sys.modules[name] = module
            setattr(kernels, name.rpartition(".")[2], module)
    return modules


def in_interpreter(of_gpu, *, resident):
    """As `fitting`, for the interpreter: it cannot multiply bfloat16."""

    def chosen(gpu, units, trials, models, *, bfloat16, controlled=False):
        found = fitting(of_gpu, units, trials, models, bfloat16=bfloat16, controlled=controlled)
        return dataclasses.replace(found, operands=2 if bfloat16 else 0, resident=resident and not controlled)

    return chosen


@pytest.fixture
def by_kernels(interpreted, monkeypatch):
    """Let scans on the CPU use kernels; return the list of the kernels that ran."""
    ran = []

    def program(name):
        ran.append(name)
        return getattr(interpreted[not name.startswith("gru")], name)

    monkeypatch.setattr(scans, "program", program)
    monkeypatch.setattr(kernels, "DEVICE_TYPES", {"cpu"})
    monkeypatch.setattr(kernels, "gpu_of", lambda _: HOPPER)
    monkeypatch.setattr(kernels, "_CHECKED", {})
    monkeypatch.setattr(compiled, "usable", lambda _tensors: None)
    return ran


def draw_from(seed):
    random = torch.Generator().manual_seed(seed)
    return lambda *shape, scale=1.0: scale * torch.randn(shape, generator=random)


def assert_near(found, expected, *, bfloat16):
    for mine, of_tensors in zip(found, expected, strict=True):
        error = (mine - of_tensors).norm() / of_tensors.norm().clamp(min=1e-30)
        assert error < (1e-2 if bfloat16 else 1e-5), error


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize(
    ("M", "T", "B", "D", "H", "ways", "gaps", "resident"),
    [
        (1, 3, 5, 3, 16, 2, True, False),
        (2, 2, 17, 0, 37, 1, False, False),
        (1, 2, 33, 2, 64, 2, True, True),
        (1, 2, 1, 4, 100, 1, True, False),
        (1, 2, 19, 2, 128, 2, False, True),
    ],
)
def test_the_kernels_of_the_scan_are_the_form_in_tensors(
    M, T, B, D, H, ways, gaps, resident, bfloat16, by_kernels, monkeypatch
):
    monkeypatch.setattr(kernels, "fitting", in_interpreter(HOPPER, resident=resident))
    monkeypatch.setattr(kernels, "_is_right", lambda *_: True)
    draw, P = draw_from(H), ways * M
    given = [
        draw(M, T, B, D),
        draw(P, B, H),
        draw(P, D, 3 * H),
        draw(P, 3 * H),
        draw(P, H, 3 * H, scale=H**-0.5),
    ]
    given.append(draw(P, H))
    unseen = (draw(T, B) > 0.5) if gaps else None
    arriving = draw(P, B, T, H).transpose(1, 2), draw(B, P, H).transpose(0, 1)

    def outcome():
        inputs = [values.clone().requires_grad_() for values in given]
        with compiled.bfloat16_products(bfloat16):
            states, last = Scan.apply(*inputs, unseen, ways == 2)
            assert torch.equal(
                Scan.apply(*given, unseen, ways == 2)[0], states
            )  # keeping nothing for a gradient
        return [states, last, *torch.autograd.grad((states, last), inputs, arriving)]

    found = outcome()
    assert by_kernels == ["gru_forward", "gru_forward", "gru_backward"]
    with kernels.without_kernels():
        expected = outcome()
    assert len(by_kernels) == 3
    assert_near(found, expected, bfloat16=bfloat16)


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize(
    ("sizes", "masked", "noisy"),
    [
        ((1, 3, 3, 16, 17, 3, 2), True, True),
        ((1, 2, 17, 40, 100, 20, 1), False, True),
        ((2, 2, 3, 9, 5, 2, 3), True, False),
    ],
)
def test_the_kernels_of_controller_and_generator_are_the_form_in_tensors(
    sizes, masked, noisy, bfloat16, by_kernels, monkeypatch
):
    monkeypatch.setattr(kernels, "fitting", in_interpreter(HOPPER, resident=False))
    monkeypatch.setattr(kernels, "_is_right", lambda *_: True)
    P, T, B, C, G, F, U = sizes
    draw = draw_from(G)
    given = [
        draw(P, T, B, 3 * C), draw(P, B, C), draw(P, C, 3 * C, scale=C**-0.5), draw(P, C),
        draw(P, F, 3 * C, scale=F**-0.5), draw(P, C, 2 * U, scale=C**-0.5), draw(P, 2 * U),
        draw(P, T, B, 3 * G), draw(P, B, G), draw(P, G, 3 * G, scale=G**-0.5), draw(P, G),
        draw(P, U, 3 * G), draw(P, F, G, scale=G**-0.5),
    ]  # fmt: skip
    mask = (draw(P, T, B, G) > -0.5) / 0.7 if masked else None
    noise = draw(P, T, B, U) if noisy else None
    arriving = [draw(P, B, T, width).transpose(1, 2) for width in (G, 2 * U, U)]

    def outcome():
        inputs = [values.clone().requires_grad_() for values in given]
        with compiled.bfloat16_products(bfloat16):
            outputs = ControlledScan.apply(*inputs, mask, noise)
        alone = torch.autograd.grad(
            outputs[1].sum(), inputs[2], retain_graph=True
        )  # no gradient at states and inputs
        return [*outputs, *alone, *torch.autograd.grad(outputs, inputs, arriving)]

    found = outcome()
    assert by_kernels == ["controlled_forward", "controlled_backward", "controlled_backward"]
    with kernels.without_kernels():
        expected = outcome()
    assert_near(found, expected, bfloat16=bfloat16)


@pytest.fixture
def gpu_with_kernels(by_kernels, monkeypatch):
    """Yield a pretended GPU whose kernels Triton's interpreter runs on the numbers of the host."""
    launch = scans.launch

    def on_host(chosen, name, sizes, *arguments, **constants):
        given = [value.host if isinstance(value, GpuTensor) else value for value in arguments]
        launch(chosen, name, sizes, *given, **constants)

    monkeypatch.setattr(scans, "launch", on_host)
    monkeypatch.setattr(kernels, "DEVICE_TYPES", {"gpu"})
    monkeypatch.setattr(kernels, "fitting", in_interpreter(HOPPER, resident=False))
    with pretended_gpu() as device:
        yield device


def trained(device):
    """Return the weights of two models with controllers after a step, and its losses, on the CPU."""
    architecture = Architecture(
        neurons=4, encoder_units=3, initial_condition_dim=2, generator_units=5, factors=2, controller_units=4,
        controller_encoder_units=3, inferred_inputs=1,
    )  # fmt: skip
    spikes = np.random.default_rng(0).poisson(0.5, (6, 4, 4))
    data = TrainingData(
        Session(spikes, np.array([4, 3, 4, 2, 4, 4]), np.arange(6) % 3 == 0),
        sv_rate=0.2,
        sv_seed=3,
        device=device,
    )
    population = Population(
        architecture,
        [Hyperparameters(dropout=0.3)] * 2,
        [1, 2],
        data,
        TrainingOptions(batch_size=4),
        order_seed=5,
    )
    trials, *_ = population._training_batches()
    losses = population._train_step(trials, 0, 1)
    return [part.cpu() for part in (population._weights, *losses)]


def test_a_step_by_kernels_is_that_of_the_cpu(gpu_with_kernels, by_kernels):
    found = trained(gpu_with_kernels)
    # Two kinds of loops run twice forward and once back for their first check, then three loops for the step.
    assert len(by_kernels) == 2 * (2 + 1) + 3 * 2
    with kernels.without_kernels():
        expected = trained("cpu")
    assert len(by_kernels) == 12
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("fault", ["wrong numbers", "does not compile", "too large"])
def test_kernels_that_fail_their_first_check_are_passed_over(fault, monkeypatch):
    """The form in tensors computes, and one line of the log says why."""
    warned = []
    monkeypatch.setattr(kernels.logger, "warning", lambda text, *values, **_: warned.append(text % values))
    monkeypatch.setattr(kernels, "DEVICE_TYPES", {"cpu"})
    monkeypatch.setattr(kernels, "gpu_of", lambda _: HOPPER)
    monkeypatch.setattr(kernels, "_CHECKED", {})
    monkeypatch.setattr(compiled, "usable", lambda _tensors: None)

    def launch(*arguments, **_):
        if fault == "does not compile":
            raise RuntimeError("ptxas died")
        for value in arguments:
            if isinstance(value, torch.Tensor):
                value.fill_(0.5)

    monkeypatch.setattr(scans, "launch", launch)
    draw, H = draw_from(0), 200 if fault == "too large" else 4
    given = [
        draw(1, 3, 2, 2),
        draw(1, 2, H),
        draw(1, 2, 3 * H),
        draw(1, 3 * H),
        draw(1, H, 3 * H),
        draw(1, H),
    ]
    found = [Scan.apply(*given, None, False)[0] for _ in range(2)]
    with kernels.without_kernels():
        expected = Scan.apply(*given, None, False)[0]
    assert torch.equal(found[0], expected)
    assert torch.equal(found[1], expected)
    (line,) = warned
    said = {
        "wrong numbers": "differs from them",
        "does not compile": "ptxas died",
        "too large": "at most 128 units",
    }
    assert said[fault] in line


def test_memory_that_runs_out_in_the_check_says_nothing_of_the_kernels(monkeypatch):
    monkeypatch.setattr(kernels, "_CHECKED", {})
    monkeypatch.setattr(kernels, "DEVICE_TYPES", {"cpu"})
    monkeypatch.setattr(kernels, "gpu_of", lambda _: HOPPER)

    def compare(_):
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        kernels.usable([torch.ones(1, 2, 4)], (4,), ("GRU",), bfloat16=False, compare=compare)
    assert not kernels._CHECKED


# Per compute capability: bytes of shared memory that one program may use.
TARGETS = {80: 163 << 10, 90: 227 << 10, 120: 99 << 10}
SHIPPED = [  # program, sizes of GRU (and controller), bfloat16; those at which memory and registers are scarcest
    ("gru_forward", (128,), True),
    ("gru_backward", (128,), True),
    ("gru_forward", (100,), False),
    ("gru_backward", (100,), False),
    ("controlled_forward", (64, 100), True),
    ("controlled_backward", (64, 100), False),
]
MORE_SHIPPED = [
    ("gru_forward", (64,), True),
    ("gru_backward", (64,), True),
    ("gru_forward", (32,), False),
    ("gru_backward", (32,), False),
    ("controlled_forward", (64, 100), False),
    ("controlled_backward", (64, 100), True),
    ("controlled_forward", (128, 128), True),
    ("controlled_backward", (128, 128), True),
    ("controlled_forward", (128, 128), False),
    ("controlled_backward", (128, 128), False),
]


def constants_of(units, chosen):
    """Return the constants of a program in its largest form."""
    made = {"ROWS": chosen.rows, "OPERANDS": chosen.operands, "PRECISION": chosen.precision}
    flags = ("KEEP", "UNSEEN", "BOTH_WAYS", "MASKED", "NOISY", "D_STATES", "D_INPUTS")
    sizes = {"H": units[0]} if len(units) == 1 else {"C": units[0], "G": units[1], "F": 20, "U": 4}
    return (
        made | dict.fromkeys(flags, True) | {"RESIDENT": chosen.resident}
        | sizes | {f"{size}P": padded(units) for size, units in sizes.items()}
    )  # fmt: skip


def compiled_for(capability, name, units, *, bfloat16, rows):
    """Compile a program; return its bytes of shared memory, and of registers that did not fit and went to memory."""
    triton_or_skip()
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    gpu = Gpu(132, TARGETS[capability])
    models = 1 if rows == 16 else 1000
    chosen = fitting(gpu, units, 16, models, bfloat16=bfloat16, controlled=name.startswith("controlled"))
    program = scans.program(name)
    constants = {n: v for n, v in constants_of(units, chosen).items() if n in program.arg_names}
    scalars = {"floor": "fp32", "unseen": "*i1"} | dict.fromkeys("PTB", "i32")

    def kind(argument):
        if argument in constants:
            return "constexpr"
        return scalars.get(argument, "i32" if argument.endswith(("_p", "_t", "_b")) else "*fp32")

    signature = {argument: kind(argument) for argument in program.arg_names}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, one in enumerate(signature.values())
        if one.startswith("*")
    }
    made = compile(
        ASTSource(program, signature, constants, aligned), target=GPUTarget("cuda", capability, 32),
        options={"num_warps": chosen.warps, "num_stages": 1},
    )  # fmt: skip
    return made.metadata.shared, spilled_bytes(made.asm["cubin"])


def spilled_bytes(cubin):
    """Return the bytes of the stack of a kernel: registers that did not fit."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        out = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    return int(re.search(r"STACK:(\d+)", out)[1])


@pytest.mark.parametrize(
    ("capability", "name", "units", "bfloat16", "rows"),
    [
        *[(90, *case, 16) for case in SHIPPED],
        *[
            pytest.param(capability, *case, 16, marks=pytest.mark.slow)
            for capability in (80, 90, 120)
            for case in SHIPPED + MORE_SHIPPED
            if capability != 90 or case not in SHIPPED
        ],
        *[
            pytest.param(capability, *case, 32, marks=pytest.mark.slow)
            for capability in (80, 90, 120)
            for case in [*SHIPPED[:2], *MORE_SHIPPED[:2]]
        ],
    ],
)
def test_kernels_compile_within_the_memory_and_the_registers_of_a_gpu(
    capability, name, units, bfloat16, rows
):
    """No GPU is needed to compile for one. A spill makes a kernel slower, not wrong."""
    shared, spilled = compiled_for(capability, name, units, bfloat16=bfloat16, rows=rows)
    assert shared <= TARGETS[capability]
    assert spilled == 0
