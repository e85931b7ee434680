"""How long the code location takes to load, on top of `import dagster`. Aim: no more than that import itself.

Each is measured in fresh processes, in turns, because a machine is now faster and now slower; the median counts.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 7
RESULT = Path(__file__).parent / "results" / "code_location.json"


def seconds(code):
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
    return time.perf_counter() - begin


def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    codes = {"python": "pass", "dagster": "import dagster", "code_location": "import anony_pipeline.definitions"}
    for code in codes.values():
        seconds(code)  # fills the caches of the disk and of compiled modules
    measured = {name: [] for name in codes}
    for _ in range(ROUNDS):
        for name, code in codes.items():
            measured[name].append(seconds(code))
    medians = {name: round(statistics.median(values), 3) for name, values in measured.items()}
    dagster = medians["dagster"] - medians["python"]
    on_top = medians["code_location"] - medians["dagster"]
    result = {
        "rounds": ROUNDS,
        "median_seconds": medians,
        "dagster_import_seconds": round(dagster, 3),
        "on_top_seconds": round(on_top, 3),
        "on_top_over_dagster": round(on_top / dagster, 3),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
