"""Ray Tune on what a job was given: one node or several, CPUs or GPUs; nothing is left behind.

Other modules take Ray's names from here, since Ray reads its environment as it is imported.
"""

import logging
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from equimood import cluster
from equimood.errors import UserError
from equimood.logs import Progress

# Ray reads these as it is imported; a worker, which has imported it, has its cluster's token. The
# token is this job's own: it keeps others out, and nothing is left or looked up in the home folder.
if "ray" not in sys.modules:
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ.pop("RAY_AUTH_TOKEN_PATH", None)
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # else Tune prints a table whatever `verbose` says
os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # five files a trial
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"

import ray
from ray import tune
from ray.tune import TuneConfig
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher

__all__ = ["ASHAScheduler", "ConcurrencyLimiter", "Searcher", "TuneConfig", "tune"]


@contextmanager
def started(nodes: cluster.Nodes, pending: int) -> Iterator[None]:
    """Start a Ray of this size, connect to it, and end it; ``pending`` trials may be ahead."""
    library = {"env_vars": {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}}
    quiet: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "runtime_env": library,
    }
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(max(nodes.n * nodes.cpus, pending))
    with cluster.ray_across(nodes) if nodes.n > 1 else cluster.ray_folder() as place:
        where = {"address": place} if nodes.n > 1 else {
            "num_cpus": nodes.cpus,
            "num_gpus": torch.cuda.device_count(),
            "object_store_memory": cluster.OBJECT_STORE_MB << 20,
            "include_dashboard": False,
            "_memory": nodes.memory_mb << 20,
            "_temp_dir": place,
        }  # fmt: skip
        try:
            ray.init(**where, **quiet)
            yield
        finally:
            ray.shutdown()


def gpus() -> float:
    """GPUs of the Ray that was started, on all its nodes."""
    return float(ray.cluster_resources().get("GPU", 0))


def run(
    trainable: Callable[..., Any],
    parameters: dict[str, Any],
    n_trials: int,
    each: dict[str, float],
    config: TuneConfig,
    folder: Path | None,
    space: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Let Tune run the trials; their choices, in the order they were suggested.

    Parameters
    ----------
    trainable, parameters : function of a trial's choice, and what all trials share.
    each : CPUs and GPUs of one trial.
    folder : where Tune keeps its own files until it ends, one that several nodes share; on one node
        None: not on the disk of the study, since Tune could not write there that it is full.
    space : of the choices, where ``config`` has no search algorithm.

    Raises
    ------
    UserError, OSError : a trial raised it; a RuntimeError says that one failed otherwise.
    """

    class Count(tune.Callback):
        done = 0

        def on_trial_complete(self, *_: Any, **__: Any) -> None:
            self.done += 1
            if progress:
                progress(self.done, n_trials)

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what fails is raised below
    with tempfile.TemporaryDirectory(dir=folder, prefix="tune-") as storage:
        results = tune.Tuner(
            tune.with_resources(tune.with_parameters(trainable, **parameters), each),
            param_space=space,
            tune_config=config,
            run_config=tune.RunConfig(
                storage_path=storage,
                verbose=0,
                callbacks=[Count()],
                failure_config=tune.FailureConfig(fail_fast=True),
            ),
        ).fit()
    for error in results.errors:
        cause = getattr(error, "cause", error)
        told = isinstance(cause, UserError | OSError)
        raise cause if told else RuntimeError("a trial failed") from error
    return [dict(results[i].config or {}) for i in range(len(results))]
