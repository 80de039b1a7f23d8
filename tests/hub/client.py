"""The programs as a user runs them, many times in one process: the Hub's clients read their environment at import.

A line of JSON in (``program``, ``arguments``, ``environment``, ``folder``), a line out (``code``, ``out``, ``err``).
Waits are shortened; everything else is the real client.
"""

import contextlib
import io
import json
import os
import sys
import time

from pfcvr.cli import data_app, model_app, run

APPS = {"pfcvr-data": data_app, "pfcvr": model_app}
LONGEST_WAIT = 0.02
real_sleep = time.sleep


def main() -> None:
    time.sleep = lambda seconds: real_sleep(min(seconds, LONGEST_WAIT))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        before = dict(os.environ)
        os.environ.update(asked["environment"])
        os.chdir(asked["folder"])
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(APPS[asked["program"]], asked["program"], asked["arguments"])
        os.environ.clear()
        os.environ.update(before)
        print(json.dumps({"code": code, "out": out.getvalue(), "err": err.getvalue()}), file=answers, flush=True)


if __name__ == "__main__":
    main()
