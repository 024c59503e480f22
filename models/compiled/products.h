/* Products of matrices, in blocks whose sums stay in registers.
 *
 * They add up over operands: an operand is a float or, compiled with -DBFLOAT16 for a processor that has an instruction for it,
 * two that follow each other in depth, each rounded to bfloat16. Other processors round floats with -DBFLOAT16, so that they
 * compute the same. Sums are of float either way.
 */
#ifndef LATENTRY_PRODUCTS_H
#define LATENTRY_PRODUCTS_H
#include "vectors.h"

#define ROWS 8 /* with 3 sums a row: as many as stay in registers */

#if defined BFLOAT16 && !defined __AVX512BF16__
#undef BFLOAT16
#define ROUNDED
#endif

#ifdef BFLOAT16
#define PAIRED 2
typedef int operand;

/* Of each lane the two, the first one low. */
inlined ivec paired(vec first, vec second)
{
#define BOTH(lane) ((lane) | (16 + (lane)) << 16)
    const __m512i lanes = _mm512_set_epi32(BOTH(15), BOTH(14), BOTH(13), BOTH(12), BOTH(11), BOTH(10), BOTH(9), BOTH(8), BOTH(7),
                                           BOTH(6), BOTH(5), BOTH(4), BOTH(3), BOTH(2), BOTH(1), BOTH(0));
#undef BOTH
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

#ifdef ROUNDED
/* To the nearest bfloat16, to even in the middle. What is not a number stays so. */
inlined vec rounded(vec value)
{
    ivec bits = (ivec)value, nearest = (bits + 0x7fff + ((bits >> 16) & 1)) & (int)0xffff0000;
    return choose(value == value, (vec)nearest, value);
}
#else
inlined vec rounded(vec value) { return value; }
#endif

inlined vec paired(vec first, vec second) { return rounded(first); }
inlined void store_operands(operand *to, vec value) { store(to, value); }
inlined vec add_scaled(vec sum, operand left, const operand *right) { return sum + left * load(right); }
#endif

#if defined BFLOAT16 || defined ROUNDED
#define COPIED 1 /* operands are not the floats themselves */
#else
#define COPIED 0
#endif

inlined int deep(int depth) { return (depth + PAIRED - 1) / PAIRED; }

/* How many operands `narrowed` and `interleaved` write at most for so many rows. */
inlined long operands(long rows, long columns) 
{
    return COPIED ? (rows + PAIRED - 1) / PAIRED * padded(columns) : 0;
}

/* The rows of a left operand, deep along columns: `from` itself, or [rows, padded(columns) / PAIRED] in `room`. */
inlined const operand *narrowed(operand *room, const float *from, long stride, int rows, int columns)
{
#ifdef BFLOAT16
    for (int row = 0; row < rows; row++, from += stride)
        for (int at = 0; at < columns; at += WIDTH, room += WIDTH / 2)
            _mm256_storeu_si256((__m256i *)room,
                                (__m256i)_mm512_cvtneps_pbh((__m512)load_part(from + at, lanes_at(at, columns))));
    return room - (long)rows * padded(columns) / 2;
#elif defined ROUNDED
    for (int row = 0; row < rows; row++, from += stride)
        for (int at = 0; at < columns; at += WIDTH, room += WIDTH)
            store(room, rounded(load_part(from + at, lanes_at(at, columns))));
    return room - (long)rows * padded(columns);
#else
    return from;
#endif
}

/* Of an operand that is deep along rows: `from` itself, or [deep(rows), padded(columns)] in `room`. */
inlined const operand *interleaved(operand *room, const float *from, long stride, int rows, int columns)
{
#ifdef ROUNDED
    return narrowed(room, from, stride, rows, columns);
#elif defined BFLOAT16
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
inlined long narrowed_stride(long stride, int columns) { return COPIED ? padded(columns) / PAIRED : stride; }
inlined long interleaved_stride(long stride, int columns) { return COPIED ? padded(columns) : stride; }

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

#endif
