"""All tests. Their bytecode is kept, also where the environment tells Python to keep none.

PERF: otherwise every process of a run compiles all of them anew, and pytest rewrites their asserts again: 8 s of CPU in
each of its workers.
"""

import os
import sys

sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
