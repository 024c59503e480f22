/* Vectors of floats, as wide as the processor has them, and their exponential. */
#ifndef LATENTRY_VECTORS_H
#define LATENTRY_VECTORS_H
#include <string.h>

#ifdef __AVX512F__
#include <immintrin.h>
#define WIDTH 16
#else
#define WIDTH 8
#endif
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

#endif
