import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from hypothesis import HealthCheck, settings

# tiny networks: a second thread costs more than it brings
torch.set_num_threads(1)

# on CI the same examples at every run: what passes once passes again
settings.register_profile(
    "gantricks",
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("gantricks")
