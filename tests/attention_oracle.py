"""Attention as it is defined, pair by pair in long double; gradients by complex steps.

The step's imaginary part carries the derivative through the definition without a difference, so
these gradients share nothing with the formulas under test.
"""

import numpy as np

REAL, COMPLEX = np.longdouble, np.clongdouble
STEP = REAL(1e-40)


def times(a, b):
    """a @ b for long double"""
    return (a[..., :, None, :] * np.swapaxes(b, -1, -2)[..., None, :, :]).sum(-1)


def positive(x):
    return x.real > 0


def log_features(kernel, x, w=None, params=None, scale=1.0, query=True, **_):
    """log phi(x) of exponential maps but elu1, rows of x (n, d)"""
    x = x * REAL(scale)
    d = x.shape[1]
    if kernel == "exp" or (kernel == "efficient" and not query):
        return x
    if kernel in ("softmax_d", "efficient"):
        top = x.real.max(-1, keepdims=True)
        return x - top - np.log(np.exp(x - top).sum(-1, keepdims=True))
    w = w.astype(REAL)
    half = (x * x).sum(-1, keepdims=True) / 2 + np.log(REAL(len(w))) / 2
    if kernel == "favor_positive":
        return times(x, w.T) - half
    if kernel == "favor_hyperbolic":
        u = times(x, w.T)
        return np.concatenate([u - half, -u - half], -1) - np.log(REAL(2)) / 2
    a, rotation = params
    a = np.broadcast_to(np.asarray(a, REAL), (d,))
    turned = x if rotation is None else times(x, np.asarray(rotation, REAL))
    power = times(turned * np.sqrt(1 - 4 * a), w.T) + (a * w * w).sum(-1)
    return power - half + np.log(1 - 4 * a).sum() / 4


LOGARITHMIC = ("exp", "softmax_d", "efficient") + tuple(
    f"favor_{name}" for name in ("positive", "hyperbolic", "plus", "sderf")
)


def features(kernel, x, w=None, params=None, eps=1e-3, scale=1.0, query=True):
    """phi(x) in true units, rows of x (n, d)"""
    if kernel in LOGARITHMIC:
        return np.exp(log_features(kernel, x, w, params, scale, query))
    x = x * REAL(scale)
    n, d = x.shape
    if kernel == "identity":
        return x
    if kernel == "elu1":
        return np.where(positive(x), x + 1, np.exp(np.where(positive(x), 0, x)))
    if kernel == "relu":
        return np.where(positive(x), x, 0) + REAL(eps)
    ones = np.ones((n, 1))
    if kernel == "cosine":
        norm = np.sqrt((x * x).sum(-1, keepdims=True))
        return np.concatenate([ones, np.where(norm == 0, 0, x / np.where(norm == 0, 1, norm))], -1)
    if kernel == "taylor2":
        pairs = [
            x[:, i] * x[:, j] / np.sqrt(REAL(1 + (i == j))) for i in range(d) for j in range(i, d)
        ]
        return np.concatenate([ones, x, np.stack(pairs, -1)], -1)
    w = w.astype(REAL)
    u = times(x, w.T)
    root = np.sqrt(REAL(len(w)))
    if kernel == "favor_trig":
        half = (x * x).sum(-1, keepdims=True) / 2
        return np.exp(half) * np.concatenate([np.cos(u), np.sin(u)], -1) / root
    return (np.where(positive(u), u, 0) + REAL(eps)) / root


def far(q, k, v, *, kernel, causal=False, exclude_self=False, offset=None, **options):
    """`linear` of exponential maps, by logarithms throughout"""
    n, m = len(q), len(k)
    offset = (m - n if causal or exclude_self else 0) if offset is None else offset
    scale = q.shape[1] ** -0.25 if kernel.startswith("favor") else 1.0
    names = {"w": options.get("projection"), "params": options.get("params"), "scale": scale}
    if kernel == "elu1":
        b, a = (np.where(x > 0, np.log1p(np.maximum(x, 0)), x) for x in (q, k))
    else:
        b, a = log_features(kernel, q, **names), log_features(kernel, k, query=False, **names)
    seen = visible(n, m, causal, exclude_self, offset, None)
    out = np.zeros((n, v.shape[1]), REAL)
    for i in range(n):
        if not seen[i].any():
            continue
        keys, values = a[seen[i]], v[seen[i]]
        if kernel == "efficient":
            share = np.exp(keys - keys.max(0))
            out[i] = (np.exp(b[i])[:, None] * times((share / share.sum(0)).T, values)).sum(0)
        else:
            pair = b[i] + keys
            share = np.exp(pair - pair.max()).sum(-1)
            out[i] = (share[:, None] * values).sum(0) / share.sum()
    return out


def visible(n, m, causal, exclude_self, offset, mask):
    position = np.arange(n)[:, None] + offset
    key = np.arange(m)
    seen = key <= position if causal else np.ones((n, m), bool)
    if exclude_self:
        seen = seen & (key != position)
    return seen if mask is None else seen & mask


def linear(
    q, k, v, *, kernel, causal=False, exclude_self=False, offset=None, key_mask=None,
    key_weight=None, log_decay=None, normalize=True, eps=0.0, state=None, projection=None,
    params=None, kernel_eps=1e-3, input_scale=None,
):  # fmt: skip
    """out (n, v) of one head; `state` is (S, z) in true units"""
    n, m = len(q), len(k)
    if offset is None:
        offset = m - n if causal or exclude_self else 0
    scale = input_scale or (q.shape[1] ** -0.25 if kernel.startswith("favor") else 1.0)
    options = {"w": projection, "params": params, "eps": kernel_eps, "scale": scale}
    phi, psi = features(kernel, q, **options), features(kernel, k, query=False, **options)
    weight = np.ones(m) if key_weight is None else key_weight
    seen = visible(n, m, causal, exclude_self, offset, key_mask) & (weight.real > 0)
    place = np.clip(np.arange(n) + offset + 1, 0, m)
    sums = np.concatenate([[0], np.cumsum(np.zeros(m) if log_decay is None else log_decay)])
    decay = np.exp(np.where(seen, sums[place][:, None] - sums[1:], 0)) * weight
    if kernel == "efficient":
        pair = np.where(seen[..., None], psi * decay[..., None], 0)  # (n, m, f)
        mass, total = pair.sum(1), times(np.swapaxes(pair, 1, 2), v)
        if state is not None:
            mass, total = mass + state[1], total + state[0]
        mass = mass[..., None]
        return (phi[..., None] * np.where(mass == 0, 0, total / np.where(mass == 0, 1, mass))).sum(
            1
        )
    pair = np.where(seen, times(phi, psi.T) * decay, 0)
    total, mass = times(pair, v), pair.sum(-1, keepdims=True)
    if state is not None:
        fade = np.exp(sums[place])[:, None]
        total = total + fade * times(phi, state[0])
        mass = mass + fade * times(phi, state[1][:, None])
    if not normalize:
        return total
    mass = mass + REAL(eps)
    dead = mass.real <= 0 if kernel == "cosine" else mass == 0
    return np.where(dead, 0, total / np.where(dead, 1, mass))


def softmax(
    q, k, v, *, scale=None, causal=False, exclude_self=False, offset=None, key_mask=None, bias=None,
):  # fmt: skip
    """out (n, v) and lse (n,) of one head"""
    n, m = len(q), len(k)
    if offset is None:
        offset = m - n if causal or exclude_self else 0
    seen = visible(n, m, causal, exclude_self, offset, key_mask)
    if isinstance(scale, str):
        count = np.maximum(seen.sum(-1), 1).astype(REAL)
        scale = np.log(count) / np.log(REAL(512)) / np.sqrt(REAL(q.shape[1]))
    scale = 1 / np.sqrt(REAL(q.shape[1])) if scale is None else np.asarray(scale, REAL)
    scores = times(q, k.T) * np.broadcast_to(scale, (n,))[:, None]
    if bias is not None:
        scores = scores + bias
    pair = np.where(seen, np.exp(np.where(seen, scores, 0)), 0)
    mass = pair.sum(-1, keepdims=True)
    dead = mass == 0
    out = np.where(dead, 0, times(pair, v) / np.where(dead, 1, mass))
    with np.errstate(divide="ignore"):
        return out, np.log(mass)[..., 0]


def gradients(function, g, arrays, **options):
    """d sum(g function(**arrays)) for each of `arrays`, by name"""
    found = {}
    for name, value in arrays.items():
        slope = np.zeros(value.shape, REAL)
        for place in np.ndindex(value.shape):
            moved = value.astype(COMPLEX)
            moved[place] += 1j * STEP
            out = function(**{**arrays, name: moved}, **options)
            slope[place] = ((out[0] if isinstance(out, tuple) else out).imag * g).sum() / STEP
        found[name] = slope
    return found
