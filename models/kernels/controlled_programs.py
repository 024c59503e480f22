"""The loop of controller and generator over bins, and its gradient, as programs for GPUs in Triton's language.

`models.controlled_scan` has the same loop in tensors; names and conventions as in `models.kernels.gru_programs`. C, G, F and U
are the units of controller and generator, factors, and inferred inputs; CP, … are the next powers of two. All products read their
operands from memory in blocks: the program itself has just written them. The small products of factors and inputs with input
weights are of float32, as in the form in tensors.
"""

import triton
import triton.language as tl

from models.kernels.gru_programs import (
    add_blocks,
    add_gate_blocks,
    add_gate_gradients,
    gru_step_back,
    sigmoid,
    tanh,
)

# Small blocks, and addresses that each bin computes anew (`disable_licm`), so that all values fit in registers.
BLOCK = tl.constexpr(16)


@triton.jit
def gru_step(
    h,
    r,
    z,
    a_n,
    c_n,
    gates,
    candidates,
    states,
    p,
    t,
    row,
    there,
    j,
    T,
    B,
    H: tl.constexpr,
    KEEP: tl.constexpr,
):
    """Finish a step of a GRU from sums for r, z, n and c_n; store it, and return the state."""
    r, z = sigmoid(r), sigmoid(z)
    n = tanh(a_n + r * c_n)
    h = h + (1.0 - z) * (n - h)
    if KEEP:
        gate = gates + ((p * T + t) * B + row) * 3 * H + j
        tl.store(gate, r, there)
        tl.store(gate + H, z, there)
        tl.store(gate + 2 * H, c_n, there)
        tl.store(candidates + ((p * T + t) * B + row) * H + j, n, there)
    tl.store(states + ((p * (T + 1) + t + 1) * B + row) * H + j, h, there)
    return h


@triton.jit(do_not_specialize=["P", "T", "B"])
def controlled_forward(
    c_projection, c_projection_p, c_projection_t, c_projection_b, g_projection, g_projection_p, g_projection_t,
    g_projection_b, c_start, g_start, c_weight, c_bias, factor_weight, moment_weight, moment_bias, g_weight, g_bias,
    input_weight, directions, dropout_mask, noise, c_gates, c_candidates, c_states, g_gates, g_candidates, g_states,
    factors, moments, inputs, floor, P, T, B, C: tl.constexpr, CP: tl.constexpr, G: tl.constexpr, GP: tl.constexpr,
    F: tl.constexpr, FP: tl.constexpr, U: tl.constexpr, UP: tl.constexpr, ROWS: tl.constexpr, MASKED: tl.constexpr,
    NOISY: tl.constexpr, KEEP: tl.constexpr, OPERANDS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute factors, controller, inferred inputs and generator of each bin, and what the gradient needs."""
    p = tl.program_id(0).to(tl.int64)
    row = (tl.program_id(1) * ROWS + tl.arange(0, ROWS))[:, None].to(tl.int64)
    jc, jg = tl.arange(0, CP)[None, :], tl.arange(0, GP)[None, :]
    jf, ju = tl.arange(0, FP)[None, :], tl.arange(0, UP)[None, :]
    inside = row < B
    of_c, of_g, of_f, of_u = inside & (jc < C), inside & (jg < G), inside & (jf < F), inside & (ju < U)
    u_c, u_g = c_weight + p * C * 3 * C, g_weight + p * G * 3 * G
    w_f, w_cf = directions + p * F * G, factor_weight + p * F * 3 * C
    w_u, w_gu = moment_weight + p * C * 2 * U, input_weight + p * U * 3 * G
    b_c, b_g = tl.load(c_bias + p * C + jc, jc < C, 0.0), tl.load(g_bias + p * G + jg, jg < G, 0.0)
    b_mean = tl.load(moment_bias + p * 2 * U + ju, ju < U, 0.0)
    b_log = tl.load(moment_bias + p * 2 * U + U + ju, ju < U, 0.0)
    c = tl.load(c_start + (p * B + row) * C + jc, of_c, 0.0)
    g = tl.load(g_start + (p * B + row) * G + jg, of_g, 0.0)
    tl.store(c_states + (p * (T + 1) * B + row) * C + jc, c, of_c)
    tl.store(g_states + (p * (T + 1) * B + row) * G + jg, g, of_g)
    for t in tl.range(0, T, disable_licm=True):
        here = (p * T + t) * B + row
        c_before, g_before = (
            c_states + ((p * (T + 1) + t) * B + row) * C,
            g_states + ((p * (T + 1) + t) * B + row) * G,
        )
        tl.debug_barrier()  # all threads have written the last states
        f = tl.full((ROWS, FP), 0.0, tl.float32)
        later, mask = (
            t * B + row >= B,
            dropout_mask + (here - B) * G,
        )  # of the bin before; the first state is not dropped
        f = add_blocks(
            f, g_before, mask, later, inside, w_f, 1, G, G, F, FP, MASKED, BLOCK, OPERANDS, PRECISION
        )
        tl.store(factors + here * F + jf, f, of_f)
        tl.debug_barrier()
        a = c_projection + p * c_projection_p + t * c_projection_t + row * c_projection_b + jc
        r, z, a_n = tl.load(a, of_c, 0.0), tl.load(a + C, of_c, 0.0), tl.load(a + 2 * C, of_c, 0.0)
        c_n = tl.full((ROWS, CP), 0.0, tl.float32) + b_c
        r, z, a_n = add_gate_blocks(
            r, z, a_n, factors + here * F, inside, w_cf, F, C, CP, BLOCK, 0, PRECISION
        )
        r, z, c_n = add_gate_blocks(r, z, c_n, c_before, inside, u_c, C, C, CP, BLOCK, OPERANDS, PRECISION)
        c = gru_step(c, r, z, a_n, c_n, c_gates, c_candidates, c_states, p, t, row, of_c, jc, T, B, C, KEEP)
        tl.debug_barrier()
        c_now = c_before + B * C
        mean, log = (
            tl.full((ROWS, UP), 0.0, tl.float32) + b_mean,
            tl.full((ROWS, UP), 0.0, tl.float32) + b_log,
        )
        mean = add_blocks(
            mean, c_now, c_now, inside, inside, w_u, 2 * U, 1, C, U, UP, False, BLOCK, OPERANDS, PRECISION
        )
        log = add_blocks(
            log, c_now, c_now, inside, inside, w_u + U, 2 * U, 1, C, U, UP, False, BLOCK, OPERANDS, PRECISION
        )
        tl.store(moments + here * 2 * U + ju, mean, of_u)
        tl.store(moments + here * 2 * U + U + ju, log, of_u)
        u = mean
        if NOISY:
            u += tl.sqrt(tl.exp(log) + floor) * tl.load(noise + here * U + ju, of_u, 0.0)
        tl.store(inputs + here * U + ju, u, of_u)
        tl.debug_barrier()
        a = g_projection + p * g_projection_p + t * g_projection_t + row * g_projection_b + jg
        r, z, a_n = tl.load(a, of_g, 0.0), tl.load(a + G, of_g, 0.0), tl.load(a + 2 * G, of_g, 0.0)
        c_n = tl.full((ROWS, GP), 0.0, tl.float32) + b_g
        r, z, a_n = add_gate_blocks(r, z, a_n, inputs + here * U, inside, w_gu, U, G, GP, BLOCK, 0, PRECISION)
        r, z, c_n = add_gate_blocks(r, z, c_n, g_before, inside, u_g, G, G, GP, BLOCK, OPERANDS, PRECISION)
        g = gru_step(g, r, z, a_n, c_n, g_gates, g_candidates, g_states, p, t, row, of_g, jg, T, B, G, KEEP)


@triton.jit(do_not_specialize=["P", "T", "B"])
def controlled_backward(
    c_gates, c_candidates, c_states, g_gates, g_candidates, g_states, moments, c_weight, factor_weight, moment_weight,
    g_weight, input_weight, directions, dropout_mask, noise, d_states, d_states_p, d_states_t, d_states_b, d_inputs,
    d_c_gates, d_c_n, d_g_gates, d_g_n, d_moments, d_factors, d_c_start, d_g_start, floor, P, T, B,
    C: tl.constexpr, CP: tl.constexpr, G: tl.constexpr, GP: tl.constexpr, F: tl.constexpr, FP: tl.constexpr,
    U: tl.constexpr, UP: tl.constexpr, ROWS: tl.constexpr, MASKED: tl.constexpr, NOISY: tl.constexpr,
    D_STATES: tl.constexpr, D_INPUTS: tl.constexpr, OPERANDS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute gradients at gates, moments (added to those in `d_moments`), factors and starts, from those at the outputs."""
    p = tl.program_id(0).to(tl.int64)
    row = (tl.program_id(1) * ROWS + tl.arange(0, ROWS))[:, None].to(tl.int64)
    jc, jg = tl.arange(0, CP)[None, :], tl.arange(0, GP)[None, :]
    jf, ju = tl.arange(0, FP)[None, :], tl.arange(0, UP)[None, :]
    inside = row < B
    of_c, of_g, of_f, of_u = inside & (jc < C), inside & (jg < G), inside & (jf < F), inside & (ju < U)
    u_c, u_g = c_weight + p * C * 3 * C, g_weight + p * G * 3 * G
    w_f, w_cf = directions + p * F * G, factor_weight + p * F * 3 * C
    w_u, w_gu = moment_weight + p * C * 2 * U, input_weight + p * U * 3 * G
    d_c, d_g = tl.full((ROWS, CP), 0.0, tl.float32), tl.full((ROWS, GP), 0.0, tl.float32)
    for i in tl.range(0, T, disable_licm=True):
        t = T - 1 - i
        here = (p * T + t) * B + row
        if D_STATES:
            d_g += tl.load(d_states + p * d_states_p + t * d_states_t + row * d_states_b + jg, of_g, 0.0)
        _, _, _, _, d_g = gru_step_back(
            g_gates, g_candidates, g_states, d_g_gates, d_g_n, d_g, p, t, row, of_g, jg, T, B, G
        )
        tl.debug_barrier()  # all threads have written the gradients at the generator's gates
        to_gates = d_g_gates + here * 3 * G
        d_u = tl.full((ROWS, UP), 0.0, tl.float32)
        d_u = add_gate_gradients(d_u, to_gates, d_g_n + here * G, inside, w_gu, G, U, UP, BLOCK, 0, PRECISION)
        d_g = add_gate_gradients(
            d_g, to_gates, to_gates + 2 * G, inside, u_g, G, G, GP, BLOCK, OPERANDS, PRECISION
        )
        if D_INPUTS:
            d_u += tl.load(d_inputs + here * U + ju, of_u, 0.0)
        to_mean = d_moments + here * 2 * U
        tl.store(to_mean + ju, tl.load(to_mean + ju, of_u, 0.0) + d_u, of_u)
        if NOISY:  # d u / d log-variance = noise · e^(log-variance) / (2 · deviation)
            variance = tl.exp(tl.load(moments + here * 2 * U + U + ju, of_u, 0.0))
            d_u *= tl.load(noise + here * U + ju, of_u, 0.0) * variance / (2.0 * tl.sqrt(variance + floor))
            tl.store(to_mean + U + ju, tl.load(to_mean + U + ju, of_u, 0.0) + d_u, of_u)
        tl.debug_barrier()
        d_c = add_blocks(
            d_c,
            to_mean,
            to_mean,
            inside,
            inside,
            w_u,
            1,
            2 * U,
            2 * U,
            C,
            CP,
            False,
            BLOCK,
            OPERANDS,
            PRECISION,
        )
        _, _, _, _, d_c = gru_step_back(
            c_gates, c_candidates, c_states, d_c_gates, d_c_n, d_c, p, t, row, of_c, jc, T, B, C
        )
        tl.debug_barrier()
        to_gates = d_c_gates + here * 3 * C
        d_f = tl.full((ROWS, FP), 0.0, tl.float32)
        d_f = add_gate_gradients(d_f, to_gates, d_c_n + here * C, inside, w_cf, C, F, FP, BLOCK, 0, PRECISION)
        d_c = add_gate_gradients(
            d_c, to_gates, to_gates + 2 * C, inside, u_c, C, C, CP, BLOCK, OPERANDS, PRECISION
        )
        to_f = d_factors + here * F
        tl.store(to_f + jf, d_f, of_f)
        tl.debug_barrier()
        d_read = tl.full((ROWS, GP), 0.0, tl.float32)
        d_read = add_blocks(
            d_read, to_f, to_f, inside, inside, w_f, G, 1, F, G, GP, False, BLOCK, OPERANDS, PRECISION
        )
        if MASKED:
            d_read *= tl.load(dropout_mask + (here - B) * G + jg, of_g & (t * B + row >= B), 1.0)
        d_g += d_read
    tl.store(d_c_start + (p * B + row) * C + jc, d_c, of_c)
    tl.store(d_g_start + (p * B + row) * G + jg, d_g, of_g)
