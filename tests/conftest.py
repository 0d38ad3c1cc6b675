"""The last bits of a sum depend on the number of threads: the tests, and all processes that they start, use one."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read by torch when it is imported
