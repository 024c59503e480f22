/* GRUs over bins and their gradient for CPUs: what models/scan.py says in tensors, fused.
 *
 *   r = sigmoid(a_r + c_r),  z = sigmoid(a_z + c_z),  n = tanh(a_n + r (c_n + b)),  h <- (1 - z) n + z h,
 *   a = W x + b_in,  c = U h
 *
 * One unit (a model, or one direction of its encoder) at a time goes through all its bins: its weights stay in the cache,
 * gates are made while their products are still in registers, and weights' gradients are added up bin by bin, so that no
 * gradient of a gate is ever written to memory. Spike counts are mostly zero: products with x pass over zeros.
 *
 * Shapes: P units, T bins, B trials, D inputs, H units of the GRU. Arrays are contiguous unless strides are given (in floats).
 * Inside, a row of H is padded to S = a multiple of WIDTH, so that vectors fit.
 */
#include <stdlib.h>
#include <string.h>

#ifdef __AVX512F__
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
    x = choose(x > 88.0f, all(88.0f), x);
    x = choose(x < -87.0f, all(-87.0f), x);
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

/* sums[row][v] += over k: left[row, k] * right[k, v], `rows` and `vectors` constants; strides of left and of right's k. */
inlined void multiply(vec sums[][3], const float *left, long row_stride, long k_stride, const float *right,
                      long right_stride, int depth, int rows, int vectors)
{
    for (int k = 0; k < depth; k++, right += right_stride)
        for (int row = 0; row < rows; row++)
            for (int v = 0; v < vectors; v++)
                sums[row][v] += left[row * row_stride + k * k_stride] * load(right + v * WIDTH);
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

/* a [B, 3S] += x [B, D] W [D, 3S], over what is not zero. */
static void add_inputs(float *a, const float *x, long x_trial, const float *weight, int B, int D, int S)
{
    for (int trial = 0; trial < B; trial++, a += 3 * S, x += x_trial)
        for (int d = 0; d < D; d++)
            if (x[d] != 0.0f)
                for (int j = 0; j < 3 * S; j += WIDTH)
                    store(a + j, load(a + j) + x[d] * load(weight + (long)d * 3 * S + j));
}

/* The gradient of W: d_weight [D, 3S] += x^T d_a, likewise. */
static void add_outer(float *d_weight, const float *x, long x_trial, const float *d_a, int B, int D, int S)
{
    for (int trial = 0; trial < B; trial++, d_a += 3 * S, x += x_trial)
        for (int d = 0; d < D; d++)
            if (x[d] != 0.0f)
                for (int j = 0; j < 3 * S; j += WIDTH)
                    store(d_weight + (long)d * 3 * S + j, load(d_weight + (long)d * 3 * S + j) + x[d] * load(d_a + j));
}

/* ---- forward ---- */

/* U [H, 3H] as [block of WIDTH columns][H][r, z, n][WIDTH]. */
static void pack(float *packed, const float *weight, int H)
{
    for (int at = 0; at < H; at += WIDTH)
        for (int k = 0; k < H; k++)
            for (int gate = 0; gate < 3; gate++, packed += WIDTH)
                store(packed, load_part(weight + (k * 3L + gate) * H + at, lanes_at(at, H)));
}

typedef struct {
    const float *a, *bias;       /* [B, 3S] and [S] */
    const float *h;              /* state before the bin [B, H] */
    const unsigned char *unseen; /* [B], or NULL */
    float *gates, *n, *next;     /* r, z, c_n + b [B, 3H]; n [B, H]; state after the bin [B, H] */
} Bin;

inlined void forward_block(const Bin *bin, const float *packed, int H, int at, int lanes, int first, int rows)
{
    int S = padded(H);
    vec sums[ROWS][3] = {{{0}}};
    multiply(sums, bin->h + (long)first * H, H, 1, packed, 3 * WIDTH, H, rows, 3);
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
        store_part(bin->next + trial * H + at, n + z * (h - n), lanes);
    }
}

static void forward_bin(const Bin *bin, const float *packed, int B, int H)
{
    for (int at = 0; at < H; at += WIDTH, packed += 3L * H * WIDTH) {
        int lanes = lanes_at(at, H);
        if (lanes == WIDTH) {
#define BODY(rows, first) forward_block(bin, packed, H, at, WIDTH, first, rows)
            FOR_ROWS(B, BODY);
#undef BODY
        } else {
#define BODY(rows, first) forward_block(bin, packed, H, at, lanes, first, rows)
            FOR_ROWS(B, BODY);
#undef BODY
        }
    }
}

/* x [P / ways, T, B, D] by its strides; with two ways every second unit reads the bins from the last to the first.
 * unseen [T, B] or NULL; W [P, D, 3H], b_in [P, 3H], U [P, H, 3H], bias [P, H]; gates [P, kept, B, 3H] and candidates
 * [P, kept, B, H], kept being T, or 1 without gradient; states [P, T + 1, B, H] in the order of reading, the first of each
 * unit given. Returns 0, or 1 if memory ran out. */
int gru_forward(const float *x, long x_model, long x_bin, long x_trial, const unsigned char *unseen,
                const float *input_weight, const float *input_bias, const float *weight, const float *bias, float *gates,
                float *candidates, float *states, int ways, int P, int T, int B, int D, int H, int keep)
{
    int S = padded(H);
    long size = (long)B * H;
    float *memory = aligned_alloc(4 * WIDTH, (3L * H * S + 3L * D * S + 3L * B * S + 4L * S) * sizeof(float));
    if (!memory)
        return 1;
    float *packed = memory, *w = packed + 3L * H * S, *a = w + 3L * D * S, *b_in = a + 3L * B * S, *b = b_in + 3L * S;
    for (int p = 0; p < P; p++) {
        pack(packed, weight + 3L * p * H * H, H);
        pad(w, input_weight + 3L * p * D * H, D, H);
        pad(b_in, input_bias + 3L * p * H, 1, H);
        memset(b, 0, S * sizeof(float));
        memcpy(b, bias + (long)p * H, H * sizeof(float));
        for (int t = 0; t < T; t++) {
            int bin_read = p % ways ? T - 1 - t : t;
            for (int trial = 0; trial < B; trial++)
                memcpy(a + 3L * trial * S, b_in, 3 * S * sizeof(float));
            add_inputs(a, x + p / ways * x_model + bin_read * x_bin, x_trial, w, B, D, S);
            long at = keep ? (long)p * T + t : p;
            float *h = states + ((long)p * (T + 1) + t) * size;
            Bin bin = {a, b, h, unseen ? unseen + (long)bin_read * B : NULL,
                       gates + at * 3 * size, candidates + at * size, h + size};
            forward_bin(&bin, packed, B, H);
        }
    }
    free(memory);
    return 0;
}

/* ---- backward ---- */

/* The transpose of U [H, 3H] as [block of WIDTH rows of U][3H][WIDTH]. */
static void pack_transposed(float *packed, const float *weight, int H)
{
    for (int at = 0; at < H; at += WIDTH)
        for (int k = 0; k < 3 * H; k++, packed += WIDTH)
            for (int lane = 0; lane < WIDTH; lane++)
                packed[lane] = at + lane < H ? weight[(at + lane) * 3L * H + k] : 0.0f;
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

inlined void through_weight_block(float *d_h, const float *d_c, const float *packed, int H, int at, int first, int rows)
{
    int S = padded(H), lanes = lanes_at(at, H);
    vec sums[ROWS][3] = {{{0}}};
    for (int gate = 0; gate < 3; gate++)
        multiply(sums, d_c + first * 3L * S + gate * S, 3 * S, 1, packed + (long)gate * H * WIDTH, WIDTH, H, rows, 1);
    for (long row = first; row < first + rows; row++)
        store_part(d_h + row * H + at, load_part(d_h + row * H + at, lanes) + sums[row - first][0], lanes);
}

/* d_h [B, H] += d_c U^T. */
static void through_weight(float *d_h, const float *d_c, const float *packed, int B, int H)
{
    for (int at = 0; at < H; at += WIDTH, packed += 3L * H * WIDTH) {
#define BODY(rows, first) through_weight_block(d_h, d_c, packed, H, at, first, rows)
        FOR_ROWS(B, BODY);
#undef BODY
    }
}

inlined void weight_gradient_block(float *d_weight, const float *h, const float *d_c, int B, int H, int at, int first,
                                   int rows, int vectors)
{
    int S = padded(H);
    vec sums[ROWS][3];
    for (int row = 0; row < rows; row++)
        for (int v = 0; v < vectors; v++)
            sums[row][v] = load(d_weight + (first + row) * 3L * S + at + v * WIDTH);
    multiply(sums, h + first, 1, H, d_c + at, 3 * S, B, rows, vectors);
    for (int row = 0; row < rows; row++)
        for (int v = 0; v < vectors; v++)
            store(d_weight + (first + row) * 3L * S + at + v * WIDTH, sums[row][v]);
}

/* d_weight [H, 3S] += h^T d_c. 3S holds a whole number of three vectors. */
static void weight_gradient(float *d_weight, const float *h, const float *d_c, int B, int H)
{
    for (int at = 0; at < 3 * padded(H); at += 3 * WIDTH) {
#define BODY(rows, first) weight_gradient_block(d_weight, h, d_c, B, H, at, first, rows, 3)
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

/* d_x [B, D] += d_a W^T. */
static void through_inputs(float *d_x, const float *d_a, const float *weight, int B, int D, int S)
{
    for (int trial = 0; trial < B; trial++, d_a += 3 * S, d_x += D)
        for (int d = 0; d < D; d++) {
            vec sum = {0};
            for (int j = 0; j < 3 * S; j += WIDTH)
                sum += load(d_a + j) * load(weight + (long)d * 3 * S + j);
            for (int lane = 0; lane < WIDTH; lane++)
                d_x[d] += sum[lane];
        }
}

static void unpad(float *to, const float *from, int rows, int H)
{
    for (long part = 0; part < 3L * rows; part++)
        memcpy(to + part * H, from + part * padded(H), H * sizeof(float));
}

/* As in gru_forward. d_states [P, T, B, H] or NULL; d_h [P, B, H]: in, the gradient at the last state, out, at the first;
 * d_x [P / ways, T, B, D], zeros to add to, or NULL if it is not asked for; the gradients of weights and biases are
 * written. Returns 0, or 1 if memory ran out. */
int gru_backward(const float *x, long x_model, long x_bin, long x_trial, const float *input_weight, const float *weight,
                 const float *gates, const float *candidates, const float *states, const float *d_states, float *d_h,
                 float *d_x, float *d_input_weight, float *d_input_bias, float *d_weight, float *d_bias, int ways, int P,
                 int T, int B, int D, int H)
{
    int S = padded(H);
    long size = (long)B * H;
    float *memory = aligned_alloc(4 * WIDTH, (6L * H * S + 6L * D * S + 6L * B * S + 8L * S) * sizeof(float));
    if (!memory)
        return 1;
    float *packed = memory, *d_u = packed + 3L * H * S, *w = d_u + 3L * H * S, *d_w = w + 3L * D * S;
    float *d_c = d_w + 3L * D * S, *d_a = d_c + 3L * B * S, *sum_a = d_a + 3L * B * S, *sum_c = sum_a + 3L * S;
    for (int p = 0; p < P; p++) {
        pack_transposed(packed, weight + 3L * p * H * H, H);
        pad(w, input_weight + 3L * p * D * H, D, H);
        memset(d_u, 0, 3L * H * S * sizeof(float));
        memset(d_w, 0, 3L * D * S * sizeof(float));
        memset(sum_a, 0, 6L * S * sizeof(float));
        float *d = d_h + p * size;
        for (int t = T - 1; t >= 0; t--) {
            int bin_read = p % ways ? T - 1 - t : t;
            long at = (long)p * T + t;
            const float *h = states + ((long)p * (T + 1) + t) * size;
            const float *read = x + p / ways * x_model + bin_read * x_bin;
            if (d_states)
                for (long i = 0; i < size; i++)
                    d[i] += d_states[at * size + i];
            through_gates(d, gates + at * 3 * size, candidates + at * size, h, d_c, d_a, B, H);
            through_weight(d, d_c, packed, B, H);
            weight_gradient(d_u, h, d_c, B, H);
            add_rows(sum_c, d_c, B, S);
            add_rows(sum_a, d_a, B, S);
            add_outer(d_w, read, x_trial, d_a, B, D, S);
            if (d_x)
                through_inputs(d_x + ((long)(p / ways) * T + bin_read) * B * D, d_a, w, B, D, S);
        }
        unpad(d_weight + 3L * p * H * H, d_u, H, H);
        unpad(d_input_weight + 3L * p * D * H, d_w, D, H);
        unpad(d_input_bias + 3L * p * H, sum_a, 1, H);
        memcpy(d_bias + (long)p * H, sum_c + 2 * S, H * sizeof(float));
    }
    free(memory);
    return 0;
}
