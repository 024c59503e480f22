"""The loop of a GRU over bins, and its gradient, as programs for GPUs in Triton's language.

A program computes all bins of one unit (a model, or one direction of a model's encoder) for some trials. The next bin begins
without a launch, since the state stays in registers. `models.kernels.scans` starts the programs, and `models.scan` has the same
loop in tensors.

Names: p the unit, P units, T bins, B trials, H units of a GRU (HP: the next power of two, at least 16), ROWS trials of a
program. `*_p`, `*_t`, `*_b` are strides.

OPERANDS says what products multiply: 0 float32, 1 bfloat16, 2 and 3 values rounded to bfloat16 but kept as float32. 2 is for
Triton's interpreter, which cuts off where a GPU rounds, and cannot multiply bfloat16. 3 is for GPUs: such products are exact in
TF32, and the largest programs need fewer registers than with 1.

RESIDENT: recurrent weights stay on the chip. Otherwise each bin reads them again, in blocks, and reads the operands from
memory, which the same program has just written.
"""

import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    """Return 1 / (1 + e^-x)."""
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x):
    """Return the hyperbolic tangent; e^(-2x) may be infinite."""
    return 2.0 / (1.0 + tl.exp(-2.0 * x)) - 1.0


@triton.jit
def operand(x, OPERANDS: tl.constexpr):
    """Return an operand of a product in its precision."""
    if OPERANDS == 1:
        x = x.to(tl.bfloat16)
    elif OPERANDS == 3:
        x = x.to(tl.bfloat16).to(tl.float32)
    elif OPERANDS == 2:
        bits = x.to(tl.int32, bitcast=True)
        x = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)
    return x


@triton.jit
def matrix(start, rows, columns, stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr, OPERANDS: tl.constexpr):
    """Read a weight [rows, columns] as an operand [ROWS, COLUMNS], filled up with zeros."""
    i, j = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    return operand(tl.load(start + i * stride + j, (i < rows) & (j < columns), 0.0), OPERANDS)


@triton.jit
def add_product(total, values, weight, OPERANDS: tl.constexpr, PRECISION: tl.constexpr):
    """Return total + values · weight; sums are of float32."""
    PRODUCTS: tl.constexpr = "tf32" if OPERANDS == 3 else PRECISION
    return tl.dot(values, weight, acc=total, input_precision=PRODUCTS)


@triton.jit
def add_blocks(
    total, values, mask, has_mask, inside, weight, stride_k, stride_n, K: tl.constexpr, N: tl.constexpr, NP: tl.constexpr,
    MASKED: tl.constexpr, BLOCK: tl.constexpr, OPERANDS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return total [ROWS, NP] + values [ROWS, K] · weight [K, N], which are read from memory in blocks of K.

    MASKED: values are multiplied by the mask [ROWS, K] in rows where `has_mask` [ROWS, 1] is true.
    """
    n = tl.arange(0, NP)[None, :]
    for first in range(0, K, BLOCK):
        k, k_down = first + tl.arange(0, BLOCK)[None, :], first + tl.arange(0, BLOCK)[:, None]
        given, there = tl.load(values + k, inside & (k < K), 0.0), (k_down < K) & (n < N)
        if MASKED:
            given *= tl.load(mask + k, inside & has_mask & (k < K), 1.0)
        w = operand(tl.load(weight + k_down * stride_k + n * stride_n, there, 0.0), OPERANDS)
        total = add_product(total, operand(given, OPERANDS), w, OPERANDS, PRECISION)
    return total


@triton.jit
def add_gate_blocks(
    r, z, n, values, inside, weight, K: tl.constexpr, H: tl.constexpr, HP: tl.constexpr,
    BLOCK: tl.constexpr, OPERANDS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return r, z and n [ROWS, HP] each, + values [ROWS, K] · the three parts of weight [K, 3H], read in blocks of K."""
    j = tl.arange(0, HP)[None, :]
    for first in range(0, K, BLOCK):
        k, k_down = first + tl.arange(0, BLOCK)[None, :], first + tl.arange(0, BLOCK)[:, None]
        given = operand(tl.load(values + k, inside & (k < K), 0.0), OPERANDS)
        u, there = weight + k_down * 3 * H + j, (k_down < K) & (j < H)
        r = add_product(r, given, operand(tl.load(u, there, 0.0), OPERANDS), OPERANDS, PRECISION)
        z = add_product(z, given, operand(tl.load(u + H, there, 0.0), OPERANDS), OPERANDS, PRECISION)
        n = add_product(n, given, operand(tl.load(u + 2 * H, there, 0.0), OPERANDS), OPERANDS, PRECISION)
    return r, z, n


@triton.jit
def add_gate_gradients(
    total, d_gates, d_n, inside, weight, H: tl.constexpr, N: tl.constexpr, NP: tl.constexpr,
    BLOCK: tl.constexpr, OPERANDS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return total [ROWS, NP] + [d_r, d_z (of d_gates), d_n] · weight [N, 3H] transposed, read in blocks of units."""
    n = tl.arange(0, NP)[None, :]
    for first in range(0, H, BLOCK):
        j, j_down = first + tl.arange(0, BLOCK)[None, :], first + tl.arange(0, BLOCK)[:, None]
        there, u, exists = inside & (j < H), weight + n * 3 * H + j_down, (j_down < H) & (n < N)
        d_r, d_z = tl.load(d_gates + j, there, 0.0), tl.load(d_gates + H + j, there, 0.0)
        d_c = tl.load(d_n + j, there, 0.0)
        total = add_product(
            total, operand(d_r, OPERANDS), operand(tl.load(u, exists, 0.0), OPERANDS), OPERANDS, PRECISION
        )
        total = add_product(
            total, operand(d_z, OPERANDS), operand(tl.load(u + H, exists, 0.0), OPERANDS), OPERANDS, PRECISION
        )
        total = add_product(
            total,
            operand(d_c, OPERANDS),
            operand(tl.load(u + 2 * H, exists, 0.0), OPERANDS),
            OPERANDS,
            PRECISION,
        )
    return total


@triton.jit(do_not_specialize=["P", "T", "B"])
def gru_forward(
    projection, projection_p, projection_t, projection_b, start, weight, bias, unseen, gates, candidates, states,
    P, T, B, H: tl.constexpr, HP: tl.constexpr, ROWS: tl.constexpr, KEEP: tl.constexpr, UNSEEN: tl.constexpr,
    BOTH_WAYS: tl.constexpr, RESIDENT: tl.constexpr, OPERANDS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute states after each bin, and what the gradient needs."""
    p = tl.program_id(0).to(tl.int64)
    b, j = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, HP)[None, :]
    row, there = b[:, None].to(tl.int64), (b[:, None] < B) & (j < H)
    u = weight + p * H * 3 * H
    if RESIDENT:
        u_r, u_z = matrix(u, H, H, 3 * H, HP, HP, OPERANDS), matrix(u + H, H, H, 3 * H, HP, HP, OPERANDS)
        u_n = matrix(u + 2 * H, H, H, 3 * H, HP, HP, OPERANDS)
    b_c = tl.load(bias + p * H + j, j < H, 0.0)
    BLOCK: tl.constexpr = 16 if H <= 16 else 32
    h = tl.load(start + (p * B + row) * H + j, there, 0.0)
    tl.store(states + (p * (T + 1) * B + row) * H + j, h, there)
    for t in range(T):
        a = projection + p * projection_p + t * projection_t + row * projection_b + j
        r, z = tl.load(a, there, 0.0), tl.load(a + H, there, 0.0)
        c_n = tl.full((ROWS, HP), 0.0, tl.float32)
        if RESIDENT:
            before = operand(h, OPERANDS)
            r, z = (
                add_product(r, before, u_r, OPERANDS, PRECISION),
                add_product(z, before, u_z, OPERANDS, PRECISION),
            )
            c_n = add_product(c_n, before, u_n, OPERANDS, PRECISION)
        else:
            tl.debug_barrier()  # all threads have written the last state
            written = states + ((p * (T + 1) + t) * B + row) * H
            r, z, c_n = add_gate_blocks(r, z, c_n, written, row < B, u, H, H, HP, BLOCK, OPERANDS, PRECISION)
        r, z, c_n = sigmoid(r), sigmoid(z), c_n + b_c
        if UNSEEN:
            read = t
            if BOTH_WAYS:
                read = tl.where(p % 2 == 1, T - 1 - t, t)
            stays = tl.load(unseen + read * B + b, b < B, 0)[:, None]
            z = tl.where(stays != 0, 1.0, z)
        n = tanh(tl.load(a + 2 * H, there, 0.0) + r * c_n)
        h = h + (1.0 - z) * (n - h)  # where z is 1, h itself
        if KEEP:
            gate = gates + ((p * T + t) * B + row) * 3 * H + j
            tl.store(gate, r, there)
            tl.store(gate + H, z, there)
            tl.store(gate + 2 * H, c_n, there)
            tl.store(candidates + ((p * T + t) * B + row) * H + j, n, there)
        tl.store(states + ((p * (T + 1) + t + 1) * B + row) * H + j, h, there)


@triton.jit
def gru_step_back(
    gates, candidates, states, d_gates, d_n_all, d_h, p, t, row, there, j, T, B, H: tl.constexpr
):
    """Return gradients at r's, z's and n's argument, at c_n, and z · d_h; and store what weights' gradients need."""
    gate, unit = ((p * T + t) * B + row) * 3 * H + j, ((p * T + t) * B + row) * H + j
    r, z = tl.load(gates + gate, there, 0.0), tl.load(gates + gate + H, there, 0.0)
    c_n, n = tl.load(gates + gate + 2 * H, there, 0.0), tl.load(candidates + unit, there, 0.0)
    before = tl.load(states + ((p * (T + 1) + t) * B + row) * H + j, there, 0.0)
    d_n = d_h * (1.0 - z) * (1.0 - n * n)
    d_r = d_n * c_n * r * (1.0 - r)
    d_z = d_h * (before - n) * z * (1.0 - z)
    d_c = d_n * r
    tl.store(d_gates + gate, d_r, there)
    tl.store(d_gates + gate + H, d_z, there)
    tl.store(d_gates + gate + 2 * H, d_c, there)
    tl.store(d_n_all + unit, d_n, there)
    return d_r, d_z, d_n, d_c, d_h * z


@triton.jit(do_not_specialize=["P", "T", "B"])
def gru_backward(
    gates, candidates, states, weight, d_states, d_states_p, d_states_t, d_states_b, d_start, d_gates, d_n_all,
    P, T, B, H: tl.constexpr, HP: tl.constexpr, ROWS: tl.constexpr, D_STATES: tl.constexpr, RESIDENT: tl.constexpr,
    OPERANDS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute the gradients at gates and start, from those at states and (in `d_start`, where the result goes) the last one."""
    p = tl.program_id(0).to(tl.int64)
    b, j = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, HP)[None, :]
    row, there = b[:, None].to(tl.int64), (b[:, None] < B) & (j < H)
    u = weight + p * H * 3 * H
    if RESIDENT:
        u_r, u_z = matrix(u, H, H, 3 * H, HP, HP, OPERANDS), matrix(u + H, H, H, 3 * H, HP, HP, OPERANDS)
        u_n = matrix(u + 2 * H, H, H, 3 * H, HP, HP, OPERANDS)
    BLOCK: tl.constexpr = 16 if H <= 16 else 32
    d_h = tl.load(d_start + (p * B + row) * H + j, there, 0.0)
    for i in range(T):
        t = T - 1 - i
        if D_STATES:
            d_h += tl.load(d_states + p * d_states_p + t * d_states_t + row * d_states_b + j, there, 0.0)
        d_r, d_z, _, d_c, d_h = gru_step_back(
            gates, candidates, states, d_gates, d_n_all, d_h, p, t, row, there, j, T, B, H
        )
        if RESIDENT:
            d_h = add_product(d_h, operand(d_r, OPERANDS), tl.trans(u_r), OPERANDS, PRECISION)
            d_h = add_product(d_h, operand(d_z, OPERANDS), tl.trans(u_z), OPERANDS, PRECISION)
            d_h = add_product(d_h, operand(d_c, OPERANDS), tl.trans(u_n), OPERANDS, PRECISION)
        else:
            tl.debug_barrier()  # all threads have written the gradients at the gates
            written = d_gates + ((p * T + t) * B + row) * 3 * H
            d_h = add_gate_gradients(
                d_h, written, written + 2 * H, row < B, u, H, H, HP, BLOCK, OPERANDS, PRECISION
            )
    tl.store(d_start + (p * B + row) * H + j, d_h, there)
