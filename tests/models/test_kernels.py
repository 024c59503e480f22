"""The kernels for GPUs: by Triton's interpreter they compute what the form in tensors does, and compilers accept them.

No test needs a GPU. Those that need Triton skip without it: `pip install triton` (Linux).
"""

import dataclasses
import importlib
import sys

import pytest
import torch

from models import compiled, kernels
from models.controlled_scan import ControlledScan
from models.kernels import Gpu, fitting, scans
from models.scan import Scan

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
        sys.modules |= known
    return modules


def in_interpreter(of_gpu, *, resident):
    """As `fitting`, for the interpreter: it cannot multiply bfloat16."""

    def chosen(gpu, units, trials, models, *, bfloat16, controlled=False):
        found = fitting(of_gpu, units, trials, models, bfloat16=bfloat16, controlled=controlled)
        return dataclasses.replace(found, operands=2 * found.operands, resident=resident and not controlled)

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
