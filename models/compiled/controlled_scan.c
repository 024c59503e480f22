/* models.controlled_scan.ControlledScan for CPUs: controller and generator over bins, and their gradient.
 *
 * For each bin, with f = W_f (g * dropout_mask) of the bin before:
 * c <- GRU(controller projection + W_cf f, c); mean, log-variance = W_u c + b_u; u = mean + sqrt(e^log-variance + floor) noise;
 * g <- GRU(generator projection + W_gu u, g).
 *
 * C units of the controller, U inferred inputs, G units of the generator, F factors.
 */
#include <math.h>

#include "gru.h"

/* One of the two GRUs. Gradients have the prefix d_. They are written, unless the comment says that they change in place. */
typedef struct {
    const float *projection; /* [P, T, B, 3H] by its strides (in floats) */
    long projection_unit, projection_bin, projection_trial;
    const float *weight, *bias;         /* U [P, H, 3H] and the candidate's bias [P, H] */
    const float *input_weight;          /* for the input from the other GRU: W_cf [P, F, 3C], W_gu [P, U, 3G] */
    float *gates, *candidates, *states; /* as in gru_forward; the first state of each unit is given */
    float *d_projection, *d_weight, *d_bias, *d_input_weight;
    float *d_state; /* [P, B, H]: zeros at first; at the end the gradient at the first state */
} Gru;

typedef struct {
    Gru controller, generator;
    const float *moment_weight, *moment_bias; /* W_u [P, C, 2U] and b_u [P, 2U] */
    const float *directions;                  /* W_f [P, F, G] */
    const float *dropout_mask, *noise;            /* [P, T, B, G] and [P, T, B, U], or NULL */
    float *factors, *moments, *inputs;        /* [P, T, B, F], those before each bin; [P, T, B, 2U]; [P, T, B, U] */
    const float *d_states, *d_inputs;         /* that arrive at the generator's states and at u; or NULL */
    float *d_moments;                         /* [P, T, B, 2U]: in, what arrives; changed in place */
    float *d_moment_weight, *d_moment_bias, *d_directions;
    float floor;
    int P, T, B, C, U, G, F, keep;
} Controlled;

/* One GRU's working memory for one unit. */
typedef struct {
    const Gru *of;
    int H, D, S;
    operand *packed, *room;                   /* U packed; room for operands of a bin */
    float *w, *a, *b;                         /* input weight and projection and bias padded */
    float *d_u, *d_w, *d_c, *d_a, *sum_c;     /* gradients */
} Unit;

static float *take(float **memory, long floats)
{
    float *taken = *memory;
    *memory += (floats + WIDTH - 1) / WIDTH * WIDTH;
    return taken;
}

static Unit unit_of(const Gru *gru, int B, int H, int D, float **memory)
{
    long S = padded(H);
    Unit unit = {.of = gru, .H = H, .D = D, .S = S};
    unit.packed = (operand *)take(memory, 3 * (H + 1) * S);
    unit.room = (operand *)take(memory, operands(B, 4 * S));
    unit.w = take(memory, 3 * D * S);
    unit.a = take(memory, 3 * B * S);
    unit.b = take(memory, S);
    unit.d_u = take(memory, 3 * H * S);
    unit.d_w = take(memory, 3 * D * S);
    unit.d_c = take(memory, 3 * B * S);
    unit.d_a = take(memory, 3 * B * S);
    unit.sum_c = take(memory, 3 * S);
    return unit;
}

static long unit_floats(long B, long H, long D)
{
    return (6 * H + 3 + 6 * D + 9 * B + 4) * padded(H) + operands(B, 4L * padded(H)) + 10 * WIDTH;
}

/* Through bin t: projection and `read` [B, D] to the state after it. */
static void unit_forward(Unit *unit, const float *read, int p, int t, int T, int B, int keep)
{
    const Gru *gru = unit->of;
    int H = unit->H, S = unit->S;
    long size = (long)B * H, at = keep ? (long)p * T + t : p;
    for (int trial = 0; trial < B; trial++) {
        const float *projection = gru->projection + p * gru->projection_unit + t * gru->projection_bin + trial * gru->projection_trial;
        for (int gate = 0; gate < 3; gate++)
            memcpy(unit->a + (3L * trial + gate) * S, projection + gate * H, H * sizeof(float));
    }
    add_inputs(unit->a, read, unit->D, unit->w, B, unit->D, 3 * S);
    float *h = gru->states + ((long)p * (T + 1) + t) * size;
    Bin bin = {unit->a, unit->b, h, NULL, gru->gates + at * 3 * size, gru->candidates + at * size, h + size, unit->room};
    forward_bin(&bin, unit->packed, B, H);
}

/* Back through bin t: d [B, H] at the state after it becomes that at the state before it; d_read [B, D] is added to. */
static void unit_backward(Unit *unit, float *d_read, const float *read, int p, int t, int T, int B)
{
    const Gru *gru = unit->of;
    int H = unit->H, S = unit->S;
    long size = (long)B * H, at = (long)p * T + t;
    float *d = gru->d_state + p * size;
    const float *h = gru->states + ((long)p * (T + 1) + t) * size;
    through_gates(d, gru->gates + at * 3 * size, gru->candidates + at * size, h, unit->d_c, unit->d_a, B, H);
    add_product(d, H, unit->d_c, 3 * S, S, 3, unit->packed, unit->room, B, H, H);
    weight_gradient(unit->d_u, h, unit->d_c, unit->room, B, H);
    add_rows(unit->sum_c, unit->d_c, B, S);
    add_outer(unit->d_w, read, unit->D, unit->d_a, B, unit->D, 3 * S);
    through_inputs(d_read, unit->d_a, unit->w, B, unit->D, 3 * S);
    unpad(gru->d_projection + at * 3 * size, unit->d_a, B, H);
}

/* W_f reads [B, G] in padded rows: g, or g * dropout_mask of the bin before. */
static void what_factors_read(float *read, const Controlled *c, int p, int t)
{
    int S = padded(c->G);
    for (long trial = 0; trial < c->B; trial++) {
        const float *g = c->generator.states + (((long)p * (c->T + 1) + t) * c->B + trial) * c->G;
        memcpy(read + trial * S, g, c->G * sizeof(float));
        if (c->dropout_mask && t > 0) {
            const float *dropout_mask = c->dropout_mask + (((long)p * c->T + t - 1) * c->B + trial) * c->G;
            for (int i = 0; i < c->G; i++)
                read[trial * S + i] *= dropout_mask[i];
        }
    }
}

/* u of one bin from its moments [B, 2U]. */
static void draw_inputs(float *u, const float *moment, const float *noise, const Controlled *c)
{
    for (int trial = 0; trial < c->B; trial++)
        for (int i = 0; i < c->U; i++) {
            const float *of = moment + trial * 2 * c->U + i;
            int at = trial * c->U + i;
            u[at] = noise ? of[0] + sqrtf(expf(of[c->U]) + c->floor) * noise[at] : of[0];
        }
}

/* d_u [B, U] goes to the moments: d_moment [B, 2U] is added to. d u / d log-variance = noise e^lv / (2 sqrt(e^lv + floor)). */
static void through_draws(float *d_moment, const float *d_u, const float *moment, const float *noise, const Controlled *c)
{
    for (int trial = 0; trial < c->B; trial++)
        for (int i = 0; i < c->U; i++) {
            int mean = trial * 2 * c->U + i, at = trial * c->U + i;
            d_moment[mean] += d_u[at];
            if (noise) {
                float variance = expf(moment[mean + c->U]);
                d_moment[mean + c->U] += d_u[at] * noise[at] * variance / (2.0f * sqrtf(variance + c->floor));
            }
        }
}

/* For the rows of what the smaller products read. */
static long room_floats(const Controlled *c)
{
    return operands(c->B, c->G) + operands(c->B, c->C) + operands(c->B, c->F) + operands(c->B, 2L * c->U);
}

static long controlled_floats(const Controlled *c)
{
    long moments = padded(2 * c->U);
    return unit_floats(c->B, c->C, c->F) + unit_floats(c->B, c->G, c->U) + (c->G + 1L) * padded(c->F)
           + 2 * (c->F + 1L) * padded(c->G) + (c->C + 1L) * moments + (2L * c->U + 1) * padded(c->C) + room_floats(c)
           + 2L * c->B * padded(c->G) + (long)c->B * (c->F + c->U) + 12 * WIDTH;
}

static void prepare(Unit *unit, int p)
{
    const Gru *gru = unit->of;
    pad(unit->w, gru->input_weight + 3L * p * unit->D * unit->H, unit->D, unit->H);
    memcpy(unit->b, gru->bias + (long)p * unit->H, unit->H * sizeof(float));
}

/* Returns 0, or 1 if memory ran out. */
int controlled_forward(const Controlled *c)
{
    int B = c->B, T = c->T, U = c->U;
    float *memory = calloc(controlled_floats(c), sizeof(float)), *rest = memory;
    if (!memory)
        return 1;
    Unit controller = unit_of(&c->controller, B, c->C, c->F, &rest);
    Unit generator = unit_of(&c->generator, B, c->G, U, &rest);
    operand *to_factors = (operand *)take(&rest, (c->G + 1L) * padded(c->F));
    operand *to_moments = (operand *)take(&rest, (c->C + 1L) * padded(2 * U));
    operand *room = (operand *)take(&rest, room_floats(c));
    float *read = take(&rest, (long)B * padded(c->G));
    for (int p = 0; p < c->P; p++) {
        pack(controller.packed, c->controller.weight + 3L * p * c->C * c->C, c->C);
        pack(generator.packed, c->generator.weight + 3L * p * c->G * c->G, c->G);
        prepare(&controller, p);
        prepare(&generator, p);
        pack_matrix(to_factors, c->directions + (long)p * c->F * c->G, 1, c->G, 1, c->G, c->F);
        pack_matrix(to_moments, c->moment_weight + (long)p * c->C * 2 * U, 2 * U, 1, 1, c->C, 2 * U);
        for (int t = 0; t < T; t++) {
            long at = ((long)p * T + t) * B;
            float *f = c->factors + at * c->F, *moment = c->moments + at * 2 * U, *u = c->inputs + at * U;
            what_factors_read(read, c, p, t);
            memset(f, 0, (long)B * c->F * sizeof(float));
            add_product(f, c->F, read, padded(c->G), 0, 1, to_factors, room, B, c->G, c->F);
            unit_forward(&controller, f, p, t, T, B, c->keep);
            for (int trial = 0; trial < B; trial++)
                memcpy(moment + trial * 2 * U, c->moment_bias + (long)p * 2 * U, 2 * U * sizeof(float));
            const float *state = c->controller.states + ((long)p * (T + 1) + t + 1) * B * c->C;
            add_product(moment, 2 * U, state, c->C, 0, 1, to_moments, room, B, c->C, 2 * U);
            draw_inputs(u, moment, c->noise ? c->noise + at * U : NULL, c);
            unit_forward(&generator, u, p, t, T, B, c->keep);
        }
    }
    free(memory);
    return 0;
}

static void begin_gradients(Unit *unit, int p)
{
    const Gru *gru = unit->of;
    prepare(unit, p);
    pack_matrix(unit->packed, gru->weight + 3L * p * unit->H * unit->H, 1, 3 * unit->H, 3, unit->H, unit->H);
    memset(unit->d_u, 0, 3L * unit->H * unit->S * sizeof(float));
    memset(unit->d_w, 0, 3L * unit->D * unit->S * sizeof(float));
    memset(unit->sum_c, 0, 3L * unit->S * sizeof(float));
}

static void end_gradients(Unit *unit, int p)
{
    const Gru *gru = unit->of;
    unpad(gru->d_weight + 3L * p * unit->H * unit->H, unit->d_u, unit->H, unit->H);
    unpad(gru->d_input_weight + 3L * p * unit->D * unit->H, unit->d_w, unit->D, unit->H);
    memcpy(gru->d_bias + (long)p * unit->H, unit->sum_c + 2 * unit->S, unit->H * sizeof(float));
}

/* Returns 0, or 1 if memory ran out. */
int controlled_backward(const Controlled *c)
{
    int B = c->B, T = c->T, U = c->U, F = c->F, G = c->G, S = padded(c->G);
    float *memory = calloc(controlled_floats(c), sizeof(float)), *rest = memory;
    if (!memory)
        return 1;
    Unit controller = unit_of(&c->controller, B, c->C, F, &rest), generator = unit_of(&c->generator, B, G, U, &rest);
    operand *from_factors = (operand *)take(&rest, (F + 1L) * S);
    operand *from_moments = (operand *)take(&rest, (2L * U + 1) * padded(c->C));
    operand *room = (operand *)take(&rest, room_floats(c));
    float *d_directions = take(&rest, (long)F * S);
    float *read = take(&rest, (long)B * S), *d_read = take(&rest, (long)B * S);
    float *d_f = take(&rest, (long)B * F), *d_u = take(&rest, (long)B * U);
    for (int p = 0; p < c->P; p++) {
        begin_gradients(&controller, p);
        begin_gradients(&generator, p);
        pack_matrix(from_factors, c->directions + (long)p * F * G, G, 1, 1, F, G);
        pack_matrix(from_moments, c->moment_weight + (long)p * c->C * 2 * U, 1, 2 * U, 1, 2 * U, c->C);
        memset(d_directions, 0, (long)F * S * sizeof(float));
        float *d_w = c->d_moment_weight + (long)p * c->C * 2 * U, *d_b = c->d_moment_bias + (long)p * 2 * U;
        memset(d_w, 0, (long)c->C * 2 * U * sizeof(float));
        memset(d_b, 0, 2L * U * sizeof(float));
        float *d_g = c->generator.d_state + (long)p * B * G, *d_state = c->controller.d_state + (long)p * B * c->C;
        for (int t = T - 1; t >= 0; t--) {
            long at = ((long)p * T + t) * B;
            float *moment = c->moments + at * 2 * U, *d_moment = c->d_moments + at * 2 * U;
            if (c->d_states)
                for (long i = 0; i < (long)B * G; i++)
                    d_g[i] += c->d_states[at * G + i];
            if (c->d_inputs)
                memcpy(d_u, c->d_inputs + at * U, (long)B * U * sizeof(float));
            else
                memset(d_u, 0, (long)B * U * sizeof(float));
            unit_backward(&generator, d_u, c->inputs + at * U, p, t, T, B);
            through_draws(d_moment, d_u, moment, c->noise ? c->noise + at * U : NULL, c);
            const float *state = c->controller.states + ((long)p * (T + 1) + t + 1) * B * c->C;
            for (int trial = 0; trial < B; trial++)
                for (int j = 0; j < 2 * U; j++) {
                    d_b[j] += d_moment[trial * 2 * U + j];
                    for (int k = 0; k < c->C; k++)
                        d_w[k * 2 * U + j] += state[(long)trial * c->C + k] * d_moment[trial * 2 * U + j];
                }
            add_product(d_state, c->C, d_moment, 2 * U, 0, 1, from_moments, room, B, 2 * U, c->C);
            memset(d_f, 0, (long)B * F * sizeof(float));
            unit_backward(&controller, d_f, c->factors + at * F, p, t, T, B);
            what_factors_read(read, c, p, t);
            add_outer(d_directions, d_f, F, read, B, F, S);
            memset(d_read, 0, (long)B * S * sizeof(float));
            add_product(d_read, S, d_f, F, 0, 1, from_factors, room, B, F, G);
            for (long trial = 0; trial < B; trial++)
                for (int i = 0; i < G; i++) {
                    float dropout_mask = c->dropout_mask && t > 0 ? c->dropout_mask[(at - B + trial) * G + i] : 1.0f;
                    d_g[trial * G + i] += d_read[trial * S + i] * dropout_mask;
                }
        }
        end_gradients(&controller, p);
        end_gradients(&generator, p);
        for (long k = 0; k < F; k++)
            memcpy(c->d_directions + ((long)p * F + k) * G, d_directions + k * S, G * sizeof(float));
    }
    free(memory);
    return 0;
}
