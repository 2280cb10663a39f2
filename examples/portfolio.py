"""Online portfolio selection by exponentiated gradient, on simulated prices.

    pip install '.[examples]' && python examples/portfolio.py

Stocks whose prices swing about a common trend: none is worth much more than another in the end, and
whoever rebalances gains from every swing. Prints and plots the wealth of exponentiated gradient at
some learning rates, of the uniform portfolio with and without rebalancing, and of the best stock,
which is known only afterwards. ``--data FILE`` takes price relatives of one's own, an .npy file of
shape (days, stocks).
"""

import argparse

import numpy as np
from matplotlib.figure import Figure

import kexue_native as kn

RATES = (0.05, 0.5, 5.0)


def simulated(days, stocks, seed=0):
    """Relatives of prices e^(trend t + swing_t), the swings returning to 0 after some days."""
    rng = np.random.default_rng(seed)
    trends = rng.normal(2e-4, 1e-4, stocks)
    swings = np.zeros((days + 1, stocks))
    for t in range(1, days + 1):
        swings[t] = 0.97 * swings[t - 1] + rng.normal(0, 0.03, stocks)
    return np.exp(trends + np.diff(swings, axis=0))


def wealths(relatives):
    """Logarithms of the wealth at the end of each day, by name."""
    eg = kn.portfolio_eg(relatives, lr=np.array(RATES))
    prices = np.cumsum(np.log(relatives), axis=0)
    return {
        **{f"EG, lr {lr:g}": log for lr, log in zip(RATES, eg.log_wealth, strict=True)},
        "uniform, rebalanced": np.cumsum(np.log(relatives.mean(axis=1))),
        "uniform, held": np.log(np.exp(prices).mean(axis=1)),
        "best stock": prices[:, prices[-1].argmax()],
    }, eg


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--days", type=int, default=2500)
    parser.add_argument("--stocks", type=int, default=12)
    parser.add_argument("--data", help=".npy file of price relatives")
    options = parser.parse_args()
    relatives = np.load(options.data) if options.data else simulated(options.days, options.stocks)

    found, eg = wealths(relatives)
    print(f"{'wealth after':22}{len(relatives):>8} days")
    for name, log in found.items():
        print(f"{name:22}{np.exp(log[-1]):8.2f}")
    x = relatives / relatives.max(axis=1, keepdims=True)
    bound = kn.eg_regret_bound(x.shape[1], len(x), RATES[0], grad_range=1 / float(x.min()))
    print(f"{'regret bound, lr ' + str(RATES[0]):22}{bound:8.2f} of log wealth")

    figure = Figure((10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for name, log in found.items():
        style = {"color": "0.6"} if name == "best stock" else {}
        left.plot(np.exp(log), label=name, lw=1.2, **style)
    left.set(yscale="log", xlabel="day", ylabel="wealth, from 1", title="Wealth")
    left.legend(frameon=False, fontsize=8)
    order = np.argsort(relatives.prod(axis=0))
    for name, stock in (
        ("best", order[-1]),
        ("median", order[len(order) // 2]),
        ("worst", order[0]),
    ):
        right.plot(eg.weights[1][:, stock], lw=0.8, label=f"the {name} stock's")
    right.axhline(1 / relatives.shape[1], color="black", lw=0.8, ls=":", label="uniform")
    right.set(xlabel="day", ylabel="share", title=f"Shares of EG, lr {RATES[1]:g}")
    right.legend(frameon=False, fontsize=8)
    figure.savefig("portfolio.png", dpi=150)


if __name__ == "__main__":
    main()
