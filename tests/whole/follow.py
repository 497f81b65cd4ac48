"""Commands given as JSON, run one after the other in this process: `follow.py '[["gemkit", ...]]'`.

For commands on packages that a test has changed (PYTHONPATH says where they are). Trials run in
this process, too, and an encoder is trained for twenty steps.
"""

import json
import runpy
import sys
from concurrent.futures import ThreadPoolExecutor


def run(words: list[str]) -> None:
    if words[0] == "gemkit":
        from gemkit.app import cli
        from gemkit.workers import Workers

        Workers.local = classmethod(lambda cls, count=1: cls(lambda: ThreadPoolExecutor(1), 1))
        cli.main(words[1:])
    assert words[1] == "-m", words
    if words[2] == "gemkit.search.encoder":
        words = [*words, "--steps", "20"]
    sys.argv = words[2:]
    runpy.run_module(words[2], run_name="__main__", alter_sys=True)


for given in json.loads(sys.argv[1]):
    try:
        run(given)
    except SystemExit as ended:
        if ended.code:
            raise
