"""One model, written a second time from the equations: loops over trials and bins, no packs."""

import torch


def gru_cell(weights, prefix, direction=None):
    """A GRUCell step whose parameters are functions of ours; both order the gates r, z, n."""

    def pick(name):
        values = weights[f"{prefix}.{name}"]
        return values if direction is None else values[direction]

    recurrent, bias, candidate = pick("recurrent_weight"), pick("input_bias"), pick("candidate_bias")
    H = candidate.shape[-1]
    inputs = pick("input_weight").T if f"{prefix}.input_weight" in weights else recurrent.new_zeros(3 * H, 1)
    bias_hh = torch.cat((torch.zeros(2 * H, dtype=bias.dtype), candidate))
    cell = torch.nn.GRUCell(inputs.shape[1], H, dtype=bias.dtype)

    def step(x, h):
        parts = {"weight_ih": inputs, "weight_hh": recurrent.T, "bias_ih": bias, "bias_hh": bias_hh}
        return torch.func.functional_call(cell, parts, (x, h))

    return step, H


def posterior(weights, x):
    """x [T', N], the bins of one trial up to its end → mean and variance [I]."""
    last = []
    for direction, path in enumerate((x, x.flip(0))):
        step, H = gru_cell(weights, "encoder", direction)
        h = x.new_zeros(1, H)
        for row in path:
            h = step(row[None], h)
        last.append(h[0])
    moments = torch.cat(last) @ weights["posterior.weight"] + weights["posterior.bias"]
    mean, log_variance = moments.chunk(2)
    return mean, log_variance.exp() + 1e-4


def log_rates(weights, g0, bins, dropout_mask):
    """g0 [I], scaled dropout_mask [bins, G] → factors [bins, F], log-rates [bins, N], states [bins, G]."""
    step, _ = gru_cell(weights, "generator")
    g = (g0 @ weights["generator.initial_weight"] + weights["generator.initial_bias"]).clamp(-5, 5)[None]
    rows = weights["factors.weight"]
    rows = rows / rows.norm(dim=1, keepdim=True)
    factors, states = [], []
    for t in range(bins):
        g = step(g.new_zeros(1, 1), g).clamp(-5, 5)
        states.append(g[0])
        factors.append(rows @ (g[0] * dropout_mask[t]))
    factors = torch.stack(factors)
    return factors, factors @ weights["rates.weight"] + weights["rates.bias"], torch.stack(states)


def training_loss(weights, hyper, counts, lengths, held_out, uniform, dropout_uniform, normal, sv_rate, ramp):
    """One model, trials first: counts, uniform in [0, 1) [B, T, N], normal [B, I] → (total, nll, kl)."""
    nll_sum, used, kls = 0.0, 0, []
    for b, length in enumerate(lengths):
        kept = uniform[b, :length] >= hyper.cd_rate
        visible = ~held_out[b, :length]
        x = counts[b, :length]
        entered = torch.where(kept & visible, x, 0.0) / (1 - sv_rate) / (1 - hyper.cd_rate)
        mean, variance = posterior(weights, entered)
        g0 = mean + variance.sqrt() * normal[b]
        mask = (dropout_uniform[b] >= hyper.dropout).to(x.dtype) / (1 - hyper.dropout)
        _, logs, _ = log_rates(weights, g0, length, mask)
        target = ~kept
        if hyper.cd_rate == 0:
            target = torch.ones_like(target)
        elif hyper.cd_pass_rate > 0:
            target |= uniform[b, :length] < hyper.cd_rate + (1 - hyper.cd_rate) * hyper.cd_pass_rate
        target &= visible
        nll = -torch.distributions.Poisson(logs.exp()).log_prob(x)
        nll_sum, used = nll_sum + nll[target].sum(), used + int(target.sum())
        q = torch.distributions.Normal(mean, variance.sqrt())
        prior_variance = weights["prior.log_variance"].exp() + 1e-4
        p = torch.distributions.Normal(weights["prior.mean"], prior_variance.sqrt())
        kls.append(torch.distributions.kl_divergence(q, p).sum())
    reconstruction, kl = nll_sum / used, torch.stack(kls).mean()
    l2 = weights["generator.recurrent_weight"].square().mean()
    penalty = hyper.kl_weight_initial_condition * kl + hyper.l2_weight_generator * l2
    return reconstruction + ramp * penalty, reconstruction, kl
