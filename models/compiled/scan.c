/* models.scan.Scan for CPUs: GRUs over bins, and their gradient. */
#include "gru.h"

/* Whether products read bfloat16. */
int reads_bfloat16(void) { return PAIRED == 2; }

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
    float *memory = aligned_alloc(4 * WIDTH, (3L * (H + 1) * S + 3L * D * S + 3L * B * S + 4L * S + operands(B, S)) * sizeof(float));
    if (!memory)
        return 1;
    float *w = memory + 3L * (H + 1) * S, *a = w + 3L * D * S, *b_in = a + 3L * B * S, *b = b_in + 3L * S;
    operand *packed = (operand *)memory, *room = (operand *)(b + S);
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
            add_inputs(a, x + p / ways * x_model + bin_read * x_bin, x_trial, w, B, D, 3 * S);
            long at = keep ? (long)p * T + t : p;
            float *h = states + ((long)p * (T + 1) + t) * size;
            Bin bin = {a, b, h, unseen ? unseen + (long)bin_read * B : NULL,
                       gates + at * 3 * size, candidates + at * size, h + size, room};
            forward_bin(&bin, packed, B, H);
        }
    }
    free(memory);
    return 0;
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
    float *memory = aligned_alloc(4 * WIDTH, (6L * (H + 1) * S + 6L * D * S + 6L * B * S + 8L * S + operands(B, 4L * S)) * sizeof(float));
    if (!memory)
        return 1;
    float *d_u = memory + 3L * (H + 1) * S, *w = d_u + 3L * H * S, *d_w = w + 3L * D * S;
    float *d_c = d_w + 3L * D * S, *d_a = d_c + 3L * B * S, *sum_a = d_a + 3L * B * S, *sum_c = sum_a + 3L * S;
    operand *packed = (operand *)memory, *room = (operand *)(sum_c + 3L * S);
    for (int p = 0; p < P; p++) {
        pack_matrix(packed, weight + 3L * p * H * H, 1, 3 * H, 3, H, H);
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
            add_product(d, H, d_c, 3 * S, S, 3, packed, room, B, H, H);
            weight_gradient(d_u, h, d_c, room, B, H);
            add_rows(sum_c, d_c, B, S);
            add_rows(sum_a, d_a, B, S);
            add_outer(d_w, read, x_trial, d_a, B, D, 3 * S);
            if (d_x)
                through_inputs(d_x + ((long)(p / ways) * T + bin_read) * B * D, d_a, w, B, D, 3 * S);
        }
        unpad(d_weight + 3L * p * H * H, d_u, H, H);
        unpad(d_input_weight + 3L * p * D * H, d_w, D, H);
        unpad(d_input_bias + 3L * p * H, sum_a, 1, H);
        memcpy(d_bias + (long)p * H, sum_c + 2 * S, H * sizeof(float));
    }
    free(memory);
    return 0;
}
