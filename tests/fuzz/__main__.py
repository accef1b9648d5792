"""`python -m tests.fuzz --inputs 20000`: a table of the inputs of each class and how they ended."""

import argparse
import time

from .harness import ENDS, explain
from .properties import CLASSES
from .test_fuzz import holds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000, help="of all classes together")
    parser.add_argument("--only", help="one class")
    options = parser.parse_args()
    failed = 0
    print(f"{'class':18} {'inputs':>7} {'seconds':>8}  result", flush=True)
    for name in CLASSES if options.only is None else (options.only,):
        share = CLASSES[name][2] if options.only is None else 1.0
        examples, began = max(int(options.inputs * share), 1), time.monotonic()
        before = sum(ENDS.values())
        try:
            holds(name, examples)
            result = "held"
        except BaseException as error:
            result, failed = f"FAILED\n{explain(error)[-3000:]}", failed + 1
        took, count = time.monotonic() - began, sum(ENDS.values()) - before
        print(f"{name:18} {count:7d} {took:8.0f}  {result}", flush=True)
    for end, count in sorted(ENDS.items()):
        print(f"  {end}: {count}")
    print(f"{sum(ENDS.values())} inputs, {failed} classes with a failure")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
