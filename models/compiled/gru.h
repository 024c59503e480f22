/* A GRU's bin and its gradient for CPUs, fused: what both scans are made of.
 *
 *   r = sigmoid(a_r + c_r),  z = sigmoid(a_z + c_z),  n = tanh(a_n + r (c_n + b)),  h <- (1 - z) n + z h,
 *   a = W x + b_in,  c = U h
 *
 * One unit (a model, or one direction of its encoder) at a time goes through all its bins: its weights stay in the cache,
 * gates are made while their products are still in registers, and weights' gradients are added up bin by bin, so that no
 * gradient of a gate need ever be written to memory. Spike counts are mostly zero: products with inputs pass over zeros.
 *
 * Compiled with -DBFLOAT16, products of states with weights, and those of their gradients, round their operands to bfloat16 and
 * add up in float: with an instruction for it at up to twice the speed. Products with inputs are as in float.
 *
 * Shapes: P units, T bins, B trials, D inputs, H units of the GRU. Arrays are contiguous unless strides are given (in floats).
 * Inside, a row of H is padded to S = a multiple of WIDTH, so that vectors fit.
 */
#ifndef LATENTRY_GRU_H
#define LATENTRY_GRU_H
#include <stdlib.h>

#include "products.h"

/* [rows, 3H] into padded rows of 3S. */
static void pad(float *to, const float *from, int rows, int H)
{
    int S = padded(H);
    memset(to, 0, (size_t)rows * 3 * S * sizeof(float));
    for (long part = 0; part < 3L * rows; part++)
        memcpy(to + part * S, from + part * H, H * sizeof(float));
}

/* a [B, columns] += x [B, D] weight [D, columns], over what is not zero (so a weight that is no number is not met there);
 * columns a multiple of WIDTH, as below. */
static void add_inputs(float *a, const float *x, long x_trial, const float *weight, int B, int D, int columns)
{
    for (int trial = 0; trial < B; trial++, a += columns, x += x_trial)
        for (int d = 0; d < D; d++)
            if (x[d] != 0.0f)
                for (int j = 0; j < columns; j += WIDTH)
                    store(a + j, load(a + j) + x[d] * load(weight + (long)d * columns + j));
}

/* The gradient of its weight: d_weight [D, columns] += x^T d_a, likewise. */
static void add_outer(float *d_weight, const float *x, long x_trial, const float *d_a, int B, int D, int columns)
{
    for (int trial = 0; trial < B; trial++, d_a += columns, x += x_trial)
        for (int d = 0; d < D; d++)
            if (x[d] != 0.0f) {
                float *row = d_weight + (long)d * columns;
                for (int j = 0; j < columns; j += WIDTH)
                    store(row + j, load(row + j) + x[d] * load(d_a + j));
            }
}

/* The gradient at x: d_x [B, D] += d_a weight^T. */
static void through_inputs(float *d_x, const float *d_a, const float *weight, int B, int D, int columns)
{
    for (int trial = 0; trial < B; trial++, d_a += columns, d_x += D)
        for (int d = 0; d < D; d++) {
            vec sum = {0};
            for (int j = 0; j < columns; j += WIDTH)
                sum += load(d_a + j) * load(weight + (long)d * columns + j);
            for (int lane = 0; lane < WIDTH; lane++)
                d_x[d] += sum[lane];
        }
}

/* ---- forward ---- */

/* U [H, 3H] as [block of WIDTH columns][deep(H)][r, z, n][WIDTH]. */
static void pack(operand *packed, const float *weight, int H)
{
    for (int at = 0; at < H; at += WIDTH)
        for (int k = 0; k < H; k += PAIRED)
            for (int gate = 0; gate < 3; gate++, packed += WIDTH) {
                const float *row = weight + (k * 3L + gate) * H + at;
                int lanes = lanes_at(at, H);
                store_operands(packed, paired(load_part(row, lanes),
                                              k + 1 < H ? load_part(row + 3L * H, lanes) : all(0.0f)));
            }
}

typedef struct {
    const float *a, *bias;       /* [B, 3S] and [S] */
    const float *h;              /* state before the bin [B, H] */
    const unsigned char *unseen; /* [B], or NULL */
    float *gates, *n, *next;     /* r, z, c_n + b [B, 3H]; n [B, H]; state after the bin [B, H] */
    operand *room;               /* operands(B, H) */
} Bin;

inlined void forward_block(const Bin *bin, const operand *left, const operand *packed, int H, int at, int lanes, int first,
                           int rows)
{
    int S = padded(H);
    long stride = narrowed_stride(H, H);
    vec sums[ROWS][3];
    clear(sums, rows, 3);
    multiply(sums, left + first * stride, stride, 1, packed, 3 * WIDTH, deep(H), rows, 3);
    for (int row = 0; row < rows; row++) {
        long trial = first + row;
        const float *a = bin->a + trial * 3 * S + at;
        float *gates = bin->gates + trial * 3 * H + at;
        vec r = sigmoid(load(a) + sums[row][0]);
        vec z = sigmoid(load(a + S) + sums[row][1]);
        if (bin->unseen && bin->unseen[trial])
            z = all(1.0f);
        vec c = sums[row][2] + load(bin->bias + at);
        vec n = hyperbolic_tangent(load(a + 2 * S) + r * c);
        vec h = load_part(bin->h + trial * H + at, lanes);
        store_part(gates, r, lanes);
        store_part(gates + H, z, lanes);
        store_part(gates + 2 * H, c, lanes);
        store_part(bin->n + trial * H + at, n, lanes);
        store_part(bin->next + trial * H + at, h + (1.0f - z) * (n - h), lanes); /* z = 1 leaves h as it is */
    }
}

static void forward_bin(const Bin *bin, const operand *packed, int B, int H)
{
    const operand *left = narrowed(bin->room, bin->h, H, B, H);
    for (int at = 0; at < H; at += WIDTH, packed += 3L * deep(H) * WIDTH) {
        int lanes = lanes_at(at, H);
        if (lanes == WIDTH) {
#define BODY(rows, first) forward_block(bin, left, packed, H, at, WIDTH, first, rows)
            FOR_ROWS(B, BODY);
#undef BODY
        } else {
#define BODY(rows, first) forward_block(bin, left, packed, H, at, lanes, first, rows)
            FOR_ROWS(B, BODY);
#undef BODY
        }
    }
}

/* ---- backward ---- */

/* At one bin: d_h [B, H], the gradient at the state after it, becomes its direct part at the state before it.
 * d_c [B, 3S] is the gradient at c, d_a [B, 3S] that at a: the two differ in the candidate. */
static void through_gates(float *d_h, const float *gates, const float *candidates, const float *before, float *d_c,
                          float *d_a, int B, int H)
{
    int S = padded(H);
    for (long trial = 0; trial < B; trial++)
        for (int at = 0; at < H; at += WIDTH) {
            int lanes = lanes_at(at, H);
            const float *gate = gates + trial * 3 * H + at;
            float *d = d_h + trial * H + at, *to_c = d_c + trial * 3 * S + at, *to_a = d_a + trial * 3 * S + at;
            vec r = load_part(gate, lanes), z = load_part(gate + H, lanes), c = load_part(gate + 2 * H, lanes);
            vec n = load_part(candidates + trial * H + at, lanes), h = load_part(before + trial * H + at, lanes);
            vec arrives = load_part(d, lanes);
            vec d_n = arrives * (1.0f - z) * (1.0f - n * n);
            vec d_r = d_n * c * r * (1.0f - r), d_z = arrives * (h - n) * z * (1.0f - z);
            store(to_c, d_r);
            store(to_c + S, d_z);
            store(to_c + 2 * S, d_n * r);
            store(to_a, d_r);
            store(to_a + S, d_z);
            store(to_a + 2 * S, d_n);
            store_part(d, arrives * z, lanes);
        }
}

inlined void weight_gradient_block(float *d_weight, const operand *h, long h_stride, const operand *d_c, int depth, int S,
                                   int at, int first, int rows, int vectors)
{
    vec sums[ROWS][3];
    for (int row = 0; row < rows; row++)
        for (int v = 0; v < vectors; v++)
            sums[row][v] = load(d_weight + (first + row) * 3L * S + at + v * WIDTH);
    multiply(sums, h + first, 1, h_stride, d_c + at, 3 * S, depth, rows, vectors);
    for (int row = 0; row < rows; row++)
        for (int v = 0; v < vectors; v++)
            store(d_weight + (first + row) * 3L * S + at + v * WIDTH, sums[row][v]);
}

/* d_weight [H, 3S] += h^T d_c. 3S holds a whole number of three vectors. Room is operands(B, 4S). */
static void weight_gradient(float *d_weight, const float *h, const float *d_c, operand *room, int B, int H)
{
    int S = padded(H);
    const operand *left = interleaved(room, h, H, B, H);
    const operand *right = interleaved(room + (long)deep(B) * S, d_c, 3 * S, B, 3 * S);
    long stride = interleaved_stride(H, H);
    for (int at = 0; at < 3 * S; at += 3 * WIDTH) {
#define BODY(rows, first) weight_gradient_block(d_weight, left, stride, right, deep(B), S, at, first, rows, 3)
        FOR_ROWS(H, BODY);
#undef BODY
    }
}

/* sum [3S] += over trials of d [B, 3S]. */
static void add_rows(float *sum, const float *d, int B, int S)
{
    for (int trial = 0; trial < B; trial++, d += 3 * S)
        for (int j = 0; j < 3 * S; j += WIDTH)
            store(sum + j, load(sum + j) + load(d + j));
}

static void unpad(float *to, const float *from, int rows, int H)
{
    for (long part = 0; part < 3L * rows; part++)
        memcpy(to + part * H, from + part * padded(H), H * sizeof(float));
}

#endif
