"""How long a class table of the `softmax` head stays provisional: exact solutions by size and penalty.

    python benchmarks/softmax_head.py --threads 2

Embeddings are drawn with a decaying spectrum around class means, rectified and centred, as those of E_s are.
C: classes, R: rows of a class, Z: embedding dimension.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from typing import Any

RELATIVE_PENALTIES = (1e-3, 1e-4, 1e-5)
BUDGET_S = 4.0


def exact_times(
    *, classes: int = 50, rows: int = 150, dimension: int = 2048, repeats: int = 3, seed: int = 0
) -> list[dict[str, Any]]:
    """Median seconds to register a class beside others and to remove one, for penalties relative to a row's length."""
    import numpy as np

    from model.softmax import SoftmaxHead, bank_rows

    random = np.random.default_rng(seed)
    spectrum = (np.arange(1, dimension + 1) ** -0.5).astype(np.float32)
    mix = np.linalg.qr(random.normal(size=(dimension, dimension)))[0].astype(np.float32) * spectrum[:, None]
    centres = random.normal(size=(classes + 1, dimension)).astype(np.float32)
    labels = np.repeat(np.arange(classes + 1), rows)
    z = np.maximum((0.7 * centres[labels] + random.normal(size=(len(labels), dimension)).astype(np.float32)) @ mix, 0)
    z -= z[labels < classes].mean(axis=0)
    known, square = labels < classes, float(np.square(z).sum(axis=1).mean())
    new, others = bank_rows(z[~known]), list(range(classes))
    results = []
    for relative in RELATIVE_PENALTIES:
        head, fit_s = timed(lambda r=relative: SoftmaxHead.fit(z[known], labels[known], penalty=r * square))
        head.row(new)  # what it keeps for provisional rows is computed once
        row, row_s = timed(lambda h=head: h.row(new))
        add = [timed(lambda h=head: h.refit(others, {"new": new})) for _ in range(repeats)]
        remove = [timed(lambda h=head: h.refit(others[:-1], {})) for _ in range(repeats)]
        exact = add[0][0]
        provisional = np.append(z @ head.weight.T + head.bias, (z @ row.weight + row.bias)[:, None], axis=1)
        agree = float(np.mean(provisional.argmax(axis=1) == (z @ exact.weight.T + exact.bias).argmax(axis=1)))
        results.append(
            {
                "classes": classes,
                "rows_per_class": rows,
                "dimension": dimension,
                "relative_penalty": relative,
                "fit_from_zeros_s": fit_s,
                "register_s": statistics.median(seconds for _, seconds in add),
                "register_worst_s": max(seconds for _, seconds in add),
                "remove_s": statistics.median(seconds for _, seconds in remove),
                "provisional_row_ms": 1000 * row_s,
                "provisional_agrees": agree,
                "within_budget": max(seconds for _, seconds in add) <= BUDGET_S,
            }
        )
    return results


def timed(work: Any) -> tuple[Any, float]:
    begun = time.perf_counter()
    result = work()
    return result, time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--rows", type=int, default=150)
    parser.add_argument("--dimension", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # read when NumPy is first imported
        os.environ[name] = str(arguments.threads)
    for result in exact_times(
        classes=arguments.classes, rows=arguments.rows, dimension=arguments.dimension, repeats=arguments.repeats
    ):
        print(json.dumps(result))


if __name__ == "__main__":
    main()
