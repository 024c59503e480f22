"""Both recurrences: the gradient that is written out is the numerical one, and without gradient nothing changes."""

import shutil

import pytest
import torch

from models import compiled
from models.config import VARIANCE_FLOOR
from models.controlled_scan import ControlledScan
from models.scan import Scan, rounded

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
    dropout_mask = (torch.rand(P, T, B, G, generator=random) < 0.7).double() / 0.7
    return dropout_mask, torch.randn(P, T, B, U, generator=random, dtype=torch.float64)


def scan_inputs(ways, dtype=torch.float64):
    M, D = P, 3
    shapes = (
        (M, T, B, D),
        (ways * M, B, G),
        (ways * M, D, 3 * G),
        (ways * M, 3 * G),
        (ways * M, G, 3 * G),
        (ways * M, G),
    )
    return [values.detach().to(dtype).requires_grad_() for values in tensors(*shapes)]


def gaps(bins, trials):
    return torch.rand(bins, trials, generator=torch.Generator().manual_seed(1)) < 0.4


@pytest.mark.parametrize("ways", [1, 2])
@pytest.mark.parametrize("with_gaps", [False, True])
def test_gradient_of_the_scan(with_gaps, ways):
    unseen = gaps(T, B) if with_gaps else None
    assert torch.autograd.gradcheck(lambda *given: Scan.apply(*given, unseen, ways == 2), scan_inputs(ways))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("ways", [1, 2])
@pytest.mark.parametrize("with_gaps", [False, True])
@pytest.mark.parametrize(
    "sizes", [(1, 1, 1, 1), (2, 5, 0, 3), (1, 13, 4, 37), (3, 16, 2, 16), (2, 9, 3, 100)]
)
def test_the_compiled_scan_is_that_of_tensors(sizes, with_gaps, ways, monkeypatch):
    """In float32, for trials and units that do and do not fill vectors, by strides that are no plain array's."""
    if compiled.library() is None:
        pytest.skip("there is no C compiler here, so there is no compiled library")
    M, trials, D, H = sizes
    random = torch.Generator().manual_seed(2)

    def draw(*shape):
        return torch.randn(shape, generator=random)

    spikes = torch.poisson(torch.full((M, trials, 6, D), 0.5), generator=random).transpose(
        1, 2
    )  # [M, 6, trials, D]
    shapes = (
        (ways * M, trials, H),
        (ways * M, D, 3 * H),
        (ways * M, 3 * H),
        (ways * M, H, 3 * H),
        (ways * M, H),
    )
    given = [spikes, *(draw(*shape) for shape in shapes)]
    given[4] /= H**0.5
    unseen = gaps(6, trials) if with_gaps else None
    d_states = draw(ways * M, trials, 6, H).transpose(1, 2)
    d_last = draw(trials, ways * M, H).transpose(0, 1)

    def outcome():
        inputs = [values.clone().requires_grad_() for values in given]
        states, last = Scan.apply(*inputs, unseen, ways == 2)
        assert torch.equal(Scan.apply(*given, unseen, ways == 2)[0], states)  # keeping nothing for a gradient
        return [states, last, *torch.autograd.grad((states, last), inputs, (d_states, d_last))]

    ours = outcome()
    monkeypatch.setattr(compiled, "library", lambda: None)
    for mine, of_tensors in zip(ours, outcome(), strict=True):
        torch.testing.assert_close(mine, of_tensors, rtol=2e-5, atol=2e-5)


def drawn_for_control(sizes, T=6):
    """What a controlled scan reads, in float32; a mask, noise; gradients that arrive at its outputs, no plain arrays."""
    P, B, C, G, U, F = sizes
    random = torch.Generator().manual_seed(3)

    def draw(*shape, scale=1.0):
        return scale * torch.randn(shape, generator=random)

    given = [
        draw(P, T, B, 3 * C), draw(P, B, C), draw(P, C, 3 * C, scale=C**-0.5), draw(P, C),
        draw(P, F, 3 * C, scale=F**-0.5), draw(P, C, 2 * U, scale=C**-0.5), draw(P, 2 * U),
        draw(P, 1, 1, 3 * G), draw(P, B, G), draw(P, G, 3 * G, scale=G**-0.5), draw(P, G),
        draw(P, U, 3 * G), draw(P, F, G, scale=G**-0.5),
    ]  # fmt: skip
    dropout_mask = (torch.rand(P, T, B, G, generator=random) < 0.7) / 0.7
    noise = draw(P, T, B, U)
    return given, dropout_mask, noise, [draw(P, B, T, width).transpose(1, 2) for width in (G, 2 * U, U)]


def with_expanded_projection(inputs):
    """A projection that is the bias alone takes no memory for bins and trials."""
    bins, trials = inputs[0].shape[1:3]
    return [*inputs[:7], inputs[7].expand(-1, bins, trials, -1), *inputs[8:]]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("used", [(0, 1, 2), (0,), (1, 2)], ids=str)
@pytest.mark.parametrize(("dropout", "drawn"), [(True, True), (False, False), (True, False)])
@pytest.mark.parametrize("sizes", [(2, 3, 2, 3, 2, 2), (1, 13, 37, 20, 1, 5), (3, 16, 16, 100, 4, 20)])
def test_the_compiled_controlled_scan_is_that_of_tensors(sizes, dropout, drawn, used, monkeypatch):
    if compiled.library() is None:
        pytest.skip("there is no C compiler here, so there is no compiled library")
    given, dropout_mask, noise, arrives = drawn_for_control(sizes)
    fixed = (dropout_mask if dropout else None, noise if drawn else None)

    def outcome():
        inputs = [values.clone().requires_grad_() for values in given]
        expanded = with_expanded_projection(inputs)
        outputs = ControlledScan.apply(*expanded, *fixed)
        light = ControlledScan.apply(*(values.detach() for values in expanded), *fixed)
        assert all(torch.equal(a, b) for a, b in zip(outputs, light, strict=True))
        some = [outputs[place] for place in used]
        gradients = torch.autograd.grad(some, inputs, [arrives[place] for place in used])
        return [*(output.detach() for output in outputs), *gradients]

    ours = outcome()
    monkeypatch.setattr(compiled, "library", lambda: None)
    for mine, of_tensors in zip(ours, outcome(), strict=True):
        torch.testing.assert_close(mine, of_tensors, rtol=5e-5, atol=5e-5)


class Narrow(torch.autograd.Function):
    """A product whose operands, and those of its gradients, are rounded to bfloat16; d_right only if it is said."""

    @staticmethod
    def forward(ctx, left, right, all_gradients):
        ctx.save_for_backward(left, right)
        ctx.all_gradients = all_gradients
        return rounded(left) @ rounded(right)

    @staticmethod
    def backward(ctx, gradient):
        left, right = ctx.saved_tensors
        to_right = (
            rounded(left).transpose(-1, -2) @ rounded(gradient)
            if ctx.all_gradients
            else left.transpose(-1, -2) @ gradient
        )
        return rounded(gradient) @ rounded(right).transpose(-1, -2), to_right, None


def narrow_gru(h, a, weight, bias):
    c_r, c_z, c_n = Narrow.apply(h, weight, True).chunk(3, dim=-1)
    a_r, a_z, a_n = a.chunk(3, dim=-1)
    r, z = torch.sigmoid(a_r + c_r), torch.sigmoid(a_z + c_z)
    n = torch.tanh(a_n + r * (c_n + bias[:, None]))
    return (1 - z) * n + z * h


def assert_rounds(scan, expected, given, arrives):
    """A scan is that of rounded operands, but for the few states that sums in another order round the other way."""

    def outcome(run):
        inputs = [values.clone().requires_grad_() for values in given]
        states = run(*inputs)
        return [states.detach(), *torch.autograd.grad(states, inputs, arrives)]

    def error(outputs):
        return max(
            float((one - other).norm() / other.norm()) for one, other in zip(outputs, wanted, strict=True)
        )

    wanted = outcome(expected)
    with compiled.bfloat16_products(True):
        ours = outcome(scan)
    assert error(ours) < 1e-3
    assert error(ours) < error(outcome(scan)) / 3


needs_bfloat16 = pytest.mark.skipif(
    not compiled.has_bfloat16(), reason="no C compiler, or no instructions for products of bfloat16"
)


@pytest.fixture(params=["instruction", "rounding in C", "tensors"])
def rounding(request, monkeypatch):
    """Each way to multiply bfloat16: jobs train on any worker in the precision that their first worker chose."""
    if request.param == "tensors":
        monkeypatch.setattr(compiled, "usable", lambda _tensors: None)
        return
    if request.param == "instruction" and not compiled.has_bfloat16():
        pytest.skip("no C compiler, or no instructions for products of bfloat16")
    if request.param == "rounding in C":
        if compiled.library() is None:
            pytest.skip("no C compiler")
        without = [] if not compiled.has_bfloat16() else ["-mno-avx512bf16"]
        compiler = next(found for name in compiled.COMPILERS if (found := shutil.which(name)))
        made = compiled._find_or_compile(compiler, [*compiled.FLAGS, "-DBFLOAT16", *without])
        assert not made.reads_bfloat16()
        plain = compiled.library()
        monkeypatch.setattr(compiled, "library", lambda *, bfloat16=False: made if bfloat16 else plain)


@pytest.mark.usefixtures("one_thread", "rounding")
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (3, 13, 4, 37), (2, 16, 2, 16), (2, 9, 3, 100)])
def test_in_bfloat16_it_is_the_scan_of_rounded_operands(sizes):
    P, B, D, H = sizes
    T = 6
    random = torch.Generator().manual_seed(4)
    spikes = torch.poisson(torch.full((P, T, B, D), 0.5), generator=random)
    shapes = ((P, B, H), (P, D, 3 * H), (P, 3 * H), (P, H, 3 * H), (P, H))
    given = [torch.randn(shape, generator=random) for shape in shapes]
    given[3] /= H**0.5
    arrives = torch.randn(P, T, B, H, generator=random)

    def plain(h, input_weight, input_bias, weight, bias):
        states = []
        for t in range(T):
            h = narrow_gru(h, spikes[:, t] @ input_weight + input_bias[:, None], weight, bias)
            states.append(h)
        return torch.stack(states, dim=1)

    assert_rounds(lambda *inputs: Scan.apply(spikes, *inputs, None, False)[0], plain, given, arrives)


@pytest.mark.usefixtures("one_thread", "rounding")
@pytest.mark.parametrize("sizes", [(1, 13, 37, 20, 1, 5), (3, 16, 16, 100, 4, 20)])
def test_in_bfloat16_it_is_the_controlled_scan_of_rounded_operands(sizes):
    given, dropout_mask, noise, (arrives, *_) = drawn_for_control(sizes)

    def plain(a_c, c, W_c, b_c, W_cf, W_u, b_u, a_g, g, W_g, b_g, W_gu, W_f):
        states, read = [], g
        for t in range(a_c.shape[1]):
            f = Narrow.apply(read, W_f.transpose(1, 2), False)
            c = narrow_gru(c, a_c[:, t] + f @ W_cf, W_c, b_c)
            mean, log_variance = (Narrow.apply(c, W_u, False) + b_u[:, None]).chunk(2, dim=-1)
            u = mean + torch.sqrt(log_variance.exp() + VARIANCE_FLOOR) * noise[:, t]
            g = narrow_gru(g, a_g[:, t] + u @ W_gu, W_g, b_g)
            states.append(g)
            read = g * dropout_mask[:, t]
        return torch.stack(states, dim=1)

    assert_rounds(
        lambda *inputs: ControlledScan.apply(*with_expanded_projection(inputs), dropout_mask, noise)[0],
        lambda *inputs: plain(*with_expanded_projection(inputs)),
        given,
        arrives,
    )


@needs_bfloat16
@pytest.mark.usefixtures("one_thread")
def test_bfloat16_is_read_within_its_bounds_and_only_if_wanted():
    def reads_bfloat16():
        return bool(compiled.usable([]).reads_bfloat16())

    with compiled.bfloat16_products(True):
        assert reads_bfloat16()
        with compiled.bfloat16_products(False):
            assert not reads_bfloat16()
        assert reads_bfloat16()
    assert not reads_bfloat16()


@pytest.mark.usefixtures("one_thread")
def test_what_is_not_a_number_stays_with_its_own_unit():
    x, start, *weights = [values.detach().float() for values in scan_inputs(1)]
    weights[2][0, 0, 0] = torch.nan
    start[0] = 1.0
    states, _ = Scan.apply(x, start, *weights, None, False)
    assert states[0, :, :, 0].isnan().all()
    assert states[1].isfinite().all()


def fit_for_c():
    """Inputs of both compiled scans, in float32, that fit each other."""
    plain = [*(values.detach().float() for values in scan_inputs(1)), gaps(T, B), False]
    controlled = [
        *(values.detach().float() for values in controlled_inputs()),
        *(v.float() for v in mask_and_noise()),
    ]
    return plain, controlled


@pytest.mark.usefixtures("one_thread")
def test_what_does_not_fit_never_reaches_c():
    if compiled.library() is None:
        pytest.skip("there is no C compiler here, so there is no compiled library")
    plain, controlled = fit_for_c()
    Scan.apply(*plain)
    ControlledScan.apply(*controlled)
    for scan, fitting in ((Scan, plain), (ControlledScan, controlled)):
        for place, values in enumerate(fitting):
            if not isinstance(values, torch.Tensor):
                continue
            for axis in range(values.dim()):
                short = list(fitting)
                short[place] = values.narrow(axis, 0, values.shape[axis] - 1)
                if (scan, place, axis) == (Scan, 0, 1):  # fewer bins: `unseen` has too many
                    short[6] = short[6][:-2]
                with pytest.raises((ValueError, RuntimeError)):
                    scan.apply(*short)


def test_no_gradient_of_the_gradient_is_given_silently():
    inputs = scan_inputs(1)
    states, _ = Scan.apply(*inputs, None, False)
    (gradient,) = torch.autograd.grad(states.sum(), inputs[1], create_graph=True)
    with pytest.raises(RuntimeError, match="grad"):
        gradient.sum().backward()


def test_no_code_is_loaded_from_a_folder_that_others_may_write_to(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "latentry"
    folder.mkdir()
    folder.chmod(0o777)
    assert compiled._cache_folder() is None
    folder.chmod(0o700)
    assert compiled._cache_folder() == folder


@pytest.mark.slow
def test_a_library_that_was_cut_off_is_made_anew(monkeypatch, tmp_path):
    if compiled.library() is None:
        pytest.skip("there is no C compiler here, so there is no compiled library")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compiled.library.__wrapped__() is not None
    (made,) = (tmp_path / "latentry").iterdir()
    made.unlink()  # the process has it loaded: not to be written into
    made.write_bytes(b"cut off")
    assert compiled.library.__wrapped__() is not None
    assert made.stat().st_size > 1000


def test_without_a_compiler_there_is_no_library(monkeypatch):
    monkeypatch.setattr(compiled, "COMPILERS", ("no-such-compiler",))
    assert compiled.library.__wrapped__() is None


def test_a_compiler_that_fails_is_told_and_passed_over(monkeypatch, tmp_path):
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho it is broken >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(compiled, "COMPILERS", (str(broken),))
    warned: list[str] = []  # not from the log: a library that another test imported may have disabled loggers
    monkeypatch.setattr(compiled.logger, "warning", lambda text, *values, **_: warned.append(text % values))
    assert compiled.library.__wrapped__() is None
    assert len(warned) == 1
    assert "it is broken" in warned[0]


def test_the_library_is_compiled_once(monkeypatch, tmp_path):
    if compiled.library() is None:
        pytest.skip("there is no C compiler here, so there is no compiled library")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compiled.library.__wrapped__() is not None
    (made,) = (tmp_path / "latentry").iterdir()
    before = made.stat().st_mtime_ns
    assert compiled.library.__wrapped__() is not None
    assert made.stat().st_mtime_ns == before


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("drawn", [False, True])
def test_gradient_of_the_controlled_scan(dropout, drawn):
    dropout_mask, noise = mask_and_noise()
    fixed = (dropout_mask if dropout else None, noise if drawn else None)
    assert torch.autograd.gradcheck(lambda *given: ControlledScan.apply(*given, *fixed), controlled_inputs())


@pytest.mark.parametrize("output", [0, 1, 2], ids=["states", "moments", "inputs"])
def test_each_output_of_the_controlled_scan_may_be_used_alone(output):
    fixed = mask_and_noise()
    assert torch.autograd.gradcheck(
        lambda *given: ControlledScan.apply(*given, *fixed)[output], controlled_inputs()
    )


def test_without_gradient_both_scans_give_the_same():
    controlled, fixed = controlled_inputs(), mask_and_noise()
    plain = scan_inputs(2)
    kept = [*ControlledScan.apply(*controlled, *fixed), *Scan.apply(*plain, None, True)]
    controlled, plain = ([values.detach() for values in inputs] for inputs in (controlled, plain))
    light = [*ControlledScan.apply(*controlled, *fixed), *Scan.apply(*plain, None, True)]
    assert not any(values.requires_grad for values in light)
    for ours, theirs in zip(light, kept, strict=True):
        assert torch.equal(ours, theirs)
