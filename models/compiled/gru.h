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
 * add up in float, at twice the speed, on processors that have an instruction for it. Products with inputs are as in float.
 *
 * Shapes: P units, T bins, B trials, D inputs, H units of the GRU. Arrays are contiguous unless strides are given (in floats).
 * Inside, a row of H is padded to S = a multiple of WIDTH, so that vectors fit.
 */
#ifndef LATENTRY_GRU_H
#define LATENTRY_GRU_H
#include <stdlib.h>
#include <string.h>

#ifdef __AVX512F__
#include <immintrin.h>
#define WIDTH 16
#else
#define WIDTH 8
#endif
#define ROWS 8 /* with 3 sums a row: as many as stay in registers */
#define inlined static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * WIDTH)));
typedef int ivec __attribute__((vector_size(4 * WIDTH)));
typedef float loose __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias)); /* anywhere in memory */

inlined vec load(const float *from) { return *(const loose *)from; }
inlined void store(float *to, vec value) { *(loose *)to = value; }
inlined vec all(float value) { return value - (vec){0}; }
inlined vec choose(ivec yes, vec a, vec b) { return (vec)(((ivec)a & yes) | ((ivec)b & ~yes)); }

/* x, but at least low and at most high; what is not a number stays so. */
inlined vec between(vec x, float low, float high)
{
#ifdef __AVX512F__
    return (vec)_mm512_max_ps((__m512)all(low), _mm512_min_ps((__m512)all(high), (__m512)x));
#else
    x = choose(x > high, all(high), x);
    return choose(x < low, all(low), x);
#endif
}

/* The first `lanes` of WIDTH: the last vector of a row may be a part. */
inlined vec load_part(const float *from, int lanes)
{
    vec value = {0};
    if (lanes == WIDTH)
        return load(from);
    memcpy(&value, from, lanes * sizeof(float));
    return value;
}

inlined void store_part(float *to, vec value, int lanes)
{
    if (lanes == WIDTH)
        store(to, value);
    else
        memcpy(to, &value, lanes * sizeof(float));
}

/* e^x to float precision (Cephes' polynomial): x = k ln 2 + f, e^x = 2^k e^f. What is not a number stays so. */
inlined vec exponential(vec x)
{
    const vec to_integer = all(12582912.0f); /* 1.5 * 2^23: adding it rounds to a whole number */
    x = between(x, -87.0f, 88.0f);
    vec shifted = x * 1.44269504f + to_integer, k = shifted - to_integer;
    vec f = x - k * 0.693359375f - k * -2.12194440e-4f;
    vec p = all(1.9875691500e-4f);
    p = p * f + 1.3981999507e-3f;
    p = p * f + 8.3334519073e-3f;
    p = p * f + 4.1665795894e-2f;
    p = p * f + 1.6666665459e-1f;
    p = p * f + 5.0000001201e-1f;
    p = p * f * f + f + 1.0f;
    return p * (vec)(((ivec)shifted - (ivec)to_integer + 127) << 23);
}

inlined vec sigmoid(vec x) { return 1.0f / (1.0f + exponential(-x)); }
inlined vec hyperbolic_tangent(vec x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }

inlined int padded(int columns) { return (columns + WIDTH - 1) / WIDTH * WIDTH; }
inlined int lanes_at(int column, int columns) { return columns - column < WIDTH ? columns - column : WIDTH; }

/* ---- operands of products ----
 *
 * An operand is a float or, in bfloat16, two that follow each other in depth, over which products add up: as many as PAIRED. */

#if defined BFLOAT16 && !defined __AVX512BF16__
#undef BFLOAT16
#endif

#ifdef BFLOAT16
#define PAIRED 2
typedef int operand;

/* Of each lane the two, the first one low. */
inlined ivec paired(vec first, vec second)
{
    const __m512i lanes = _mm512_add_epi32(_mm512_set1_epi32(16 << 16),
                                           _mm512_mullo_epi32(_mm512_set1_epi32(0x00010001), _mm512_set_epi32(
                                               15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)));
    return (ivec)_mm512_permutexvar_epi16(lanes, (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first));
}

inlined void store_operands(operand *to, ivec value) { _mm512_storeu_si512(to, (__m512i)value); }

inlined vec add_scaled(vec sum, operand left, const operand *right)
{
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(left), (__m512bh)_mm512_loadu_si512(right));
}
#else
#define PAIRED 1
typedef float operand;

inlined vec paired(vec first, vec second) { return first; }
inlined void store_operands(operand *to, vec value) { store(to, value); }
inlined vec add_scaled(vec sum, operand left, const operand *right) { return sum + left * load(right); }
#endif

inlined int deep(int depth) { return (depth + PAIRED - 1) / PAIRED; }

/* How many operands `narrowed` and `interleaved` write at most for so many rows. */
inlined long operands(long rows, long columns) { return PAIRED == 1 ? 0 : (rows + 1) / 2 * padded(columns); }

/* The rows of a left operand, deep along columns: `from` itself, or [rows, padded(columns) / 2] in `room`. */
inlined const operand *narrowed(operand *room, const float *from, long stride, int rows, int columns)
{
#ifdef BFLOAT16
    for (int row = 0; row < rows; row++, from += stride)
        for (int at = 0; at < columns; at += WIDTH, room += WIDTH / 2)
            _mm256_storeu_si256((__m256i *)room,
                                (__m256i)_mm512_cvtneps_pbh((__m512)load_part(from + at, lanes_at(at, columns))));
    return room - (long)rows * padded(columns) / 2;
#else
    return from;
#endif
}

/* Of an operand that is deep along rows: `from` itself, or [deep(rows), padded(columns)] in `room`. */
inlined const operand *interleaved(operand *room, const float *from, long stride, int rows, int columns)
{
#ifdef BFLOAT16
    for (int row = 0; row < rows; row += 2, from += 2 * stride)
        for (int at = 0; at < columns; at += WIDTH, room += WIDTH) {
            int lanes = lanes_at(at, columns);
            store_operands(room, paired(load_part(from + at, lanes),
                                        row + 1 < rows ? load_part(from + stride + at, lanes) : all(0.0f)));
        }
    return room - (long)deep(rows) * padded(columns);
#else
    return from;
#endif
}

/* Rows of `narrowed` and of `interleaved` lie so far apart. */
inlined long narrowed_stride(long stride, int columns) { return PAIRED == 1 ? stride : padded(columns) / 2; }
inlined long interleaved_stride(long stride, int columns) { return PAIRED == 1 ? stride : padded(columns); }

inlined void clear(vec sums[][3], int rows, int vectors)
{
    for (int row = 0; row < rows; row++)
        for (int v = 0; v < vectors; v++)
            sums[row][v] = all(0.0f);
}

/* sums[row][v] += over k: left[row, k] * right[k, v], `rows` and `vectors` constants; strides of left and of right's k. */
inlined void multiply(vec sums[][3], const operand *left, long row_stride, long k_stride, const operand *right,
                      long right_stride, int depth, int rows, int vectors)
{
    for (int k = 0; k < depth; k++, right += right_stride)
        for (int row = 0; row < rows; row++)
            for (int v = 0; v < vectors; v++)
                sums[row][v] = add_scaled(sums[row][v], left[row * row_stride + k * k_stride], right + v * WIDTH);
}

/* Calls body(rows, first) for blocks of 8, 4, 2 and 1 of so many rows: `rows` is a constant in each. */
#define FOR_ROWS(count, body)                     \
    do {                                          \
        int first = 0;                            \
        for (; first + 8 <= (count); first += 8)  \
            body(8, first);                       \
        if ((count)-first >= 4) {                 \
            body(4, first);                       \
            first += 4;                           \
        }                                         \
        if ((count)-first >= 2) {                 \
            body(2, first);                       \
            first += 2;                           \
        }                                         \
        if ((count)-first >= 1)                   \
            body(1, first);                       \
    } while (0)

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

/* A matrix [parts x rows, columns], element (k, j) at k * row_stride + j * column_stride, as
 * [block of WIDTH columns][part][deep(rows)][WIDTH]. */
static void pack_matrix(operand *packed, const float *matrix, long row_stride, long column_stride, int parts, int rows,
                        int columns)
{
    for (int at = 0; at < columns; at += WIDTH)
        for (int part = 0; part < parts; part++)
            for (int k = 0; k < rows; k += PAIRED, packed += WIDTH) {
                float pair[2][WIDTH] = {{0}};
                for (int row = 0; row < PAIRED && k + row < rows; row++)
                    for (int lane = 0; lane < lanes_at(at, columns); lane++)
                        pair[row][lane] = matrix[((long)part * rows + k + row) * row_stride + (at + lane) * column_stride];
                store_operands(packed, paired(load(pair[0]), load(pair[1])));
            }
}

inlined void product_block(float *out, long out_stride, const operand *left, long left_stride, long part_stride, int parts,
                           const operand *packed, int K, int lanes, int rows)
{
    vec sums[ROWS][3];
    clear(sums, rows, 1);
    for (int part = 0; part < parts; part++)
        multiply(sums, left + part * part_stride, left_stride, 1, packed + (long)part * deep(K) * WIDTH, WIDTH, deep(K), rows, 1);
    for (int row = 0; row < rows; row++)
        store_part(out + row * out_stride, load_part(out + row * out_stride, lanes) + sums[row][0], lanes);
}

/* out [B, N] += left [B, parts x K] packed [parts x K, N]; the parts of a row of left lie
 * part_stride, a multiple of WIDTH, apart. Room is operands(B, parts x part_stride + K). */
static void add_product(float *out, long out_stride, const float *left, long left_stride, long part_stride, int parts,
                        const operand *packed, operand *room, int B, int K, int N)
{
    int columns = (parts - 1) * part_stride + K;
    const operand *read = narrowed(room, left, left_stride, B, columns);
    long stride = narrowed_stride(left_stride, columns);
    for (int at = 0; at < N; at += WIDTH, packed += (long)parts * deep(K) * WIDTH) {
        int lanes = lanes_at(at, N);
#define BODY(rows, first)                                                                                               \
    product_block(out + first * out_stride + at, out_stride, read + first * stride, stride, part_stride / PAIRED, parts, \
                  packed, K, lanes, rows)
        FOR_ROWS(B, BODY);
#undef BODY
    }
}

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
