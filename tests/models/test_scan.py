"""Both recurrences: the gradient that is written out is the numerical one, and without gradient nothing changes."""

import pytest
import torch

from models.scan import ControlledScan, Scan

P, T, B, C, G, U, F = 2, 4, 3, 2, 3, 2, 2


def tensors(*shapes):
    random = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=random, dtype=torch.float64).requires_grad_() for shape in shapes]


def controlled_inputs():
    return tensors(
        (P, T, B, 3 * C),
        (P, B, C),
        (P, C, 3 * C),
        (P, C),
        (P, F, 3 * C),
        (P, C, 2 * U),
        (P, 2 * U),
        (P, T, B, 3 * G),
        (P, B, G),
        (P, G, 3 * G),
        (P, G),
        (P, U, 3 * G),
        (P, F, G),
    )


def mask_and_noise():
    random = torch.Generator().manual_seed(1)
    survives = (torch.rand(P, T, B, G, generator=random) < 0.7).double() / 0.7
    return survives, torch.randn(P, T, B, U, generator=random, dtype=torch.float64)


@pytest.mark.parametrize("with_gaps", [False, True])
def test_gradient_of_the_scan(with_gaps):
    inputs = tensors((P, T, B, 3 * G), (P, B, G), (P, G, 3 * G), (P, G))
    frozen = torch.rand(P, T, B, 1, generator=torch.Generator().manual_seed(1)) < 0.4 if with_gaps else None
    assert torch.autograd.gradcheck(lambda *given: Scan.apply(*given, frozen), inputs)


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("drawn", [False, True])
def test_gradient_of_the_controlled_scan(dropout, drawn):
    survives, noise = mask_and_noise()
    fixed = (survives if dropout else None, noise if drawn else None)
    assert torch.autograd.gradcheck(lambda *given: ControlledScan.apply(*given, *fixed), controlled_inputs())


@pytest.mark.parametrize("output", [0, 1, 2], ids=["states", "moments", "inputs"])
def test_each_output_of_the_controlled_scan_may_be_used_alone(output):
    fixed = mask_and_noise()
    assert torch.autograd.gradcheck(
        lambda *given: ControlledScan.apply(*given, *fixed)[output], controlled_inputs()
    )


def test_without_gradient_both_scans_give_the_same():
    controlled, fixed = controlled_inputs(), mask_and_noise()
    plain = tensors((P, T, B, 3 * G), (P, B, G), (P, G, 3 * G), (P, G))
    kept = [*ControlledScan.apply(*controlled, *fixed), *Scan.apply(*plain, None)]
    with torch.no_grad():
        light = [*ControlledScan.apply(*controlled, *fixed), *Scan.apply(*plain, None)]
    for ours, theirs in zip(light, kept, strict=True):
        assert torch.equal(ours, theirs)
