"""Runs first in an app: a process of smalti's own runs what it is for, and not the app a second time.

In an app, ``sys.executable`` is the app itself, and not Python.
"""

import runpy
import sys

if sys.argv[1:3] == ["-P", "-m"] and sys.argv[3:4] == ["smalti.loading.trial_child"]:
    module = sys.argv[3]
    del sys.argv[1:4]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit()
