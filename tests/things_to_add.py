"""One thing of each kind, as somebody would add it: text of modules that tests write to a folder and import."""

RULE = '''
from fl_impl.aggregators import aggregator

@aggregator(by="ranks", kappa=lambda n, f: 2 * f / (n - 2 * f), symmetries={"permutation"}, source="a test")
def toy_rule(n, f):
    """In each coordinate the mean of the middle values."""
    return f, n - f
'''
PRE_AGGREGATOR = '''
from fl_impl.aggregators import pre_aggregator

@pre_aggregator(kappa=lambda inner, n, f: inner(n, f), preserves={"permutation"}, source="a test")
def toy_step(x, f):
    """The updates as they are."""
    return x
'''
ATTACK = '''
import numpy as np
from fl_impl.attacks import attack

@attack(source="a test")
def toy_attack(honest, f, rng, *, size=3.0):
    """size times the mean."""
    return np.tile(size * honest.mean(0), (f, 1))
'''
CHECK = '''
from pytest_fl import Bound, check

@check
def toy_check(rule, round_):
    """The first number of the result is below a million, or the updates reach it."""
    return Bound(float(rule(round_.updates, round_.f)[0]), max(1e6, float(abs(round_.updates).max())))
'''
ADAPTER = '''
from pytest_fl import Subject, adapter

class Toy:
    """A rule of a library that calls it `combine`."""
    def combine(self, updates, f):
        return sorted(updates, key=lambda row: row[0])[len(updates) // 2]

@adapter("toy_adapter")
def toy_library(rule):
    """A `Toy`."""
    return Subject(name="toy library", call=rule.combine) if isinstance(rule, Toy) else None
'''
PART_CHECK = '''
from pytest_fl.checks import Bound
from pytest_fl.checks.parts import audited
from pytest_fl.subjects.parts import Compressor

@audited(Compressor)
def toy_part_check(part, rng):
    """A message is never empty."""
    yield Bound(0.0, len(part.send(rng.standard_normal(5, "f4"), None, 0)[0]) - 1)
'''
MECHANISM = '''
from fl_impl.privacy.mechanisms import Gaussian, mechanism

@mechanism("toy_mechanism")
class Toy(Gaussian):
    """The Gaussian by another name."""
'''
CODEC = '''
from fl_impl.compression.codecs import Plain, codec

@codec("toy_codec")
class Toy(Plain):
    """The values as they are, by another name."""
    name = "toy_codec"
'''
LORA_MODE = '''
from fl_impl.lora.modes import Merged, factor_means, mode

@mode(claim="biased", source="a test (arXiv:0000.00000)")
def toy_mode(clients, weights, rank):
    """The means of the factors."""
    return Merged(factor_means(clients, weights))
'''
TASK = '''
from fl_impl.tasks import BenchmarkTask, task

@task
def toy_task():
    """The signs of wine."""
    return BenchmarkTask({"dataset": "wine", "num_rounds": 2, "num_clients": 11}, {"iid": 0.9}, name="toy_task")
'''
PARTITION = '''
import numpy as np
from fl_impl.data import partition

@partition
def toy_partition(data, num_clients, rng, *, turn=0):
    """Row i goes to client i + turn, modulo their number."""
    return [np.flatnonzero((np.arange(len(data)) + turn) % num_clients == client) for client in range(num_clients)]
'''
DATASET = '''
import numpy as np
from fl_impl.data import Dataset, dataset

@dataset
def toy_dataset(*, rows=40):
    """The signs of one number."""
    x = np.linspace(-1, 1, rows, dtype=np.float32)[:, None]
    return Dataset(x, (x[:, 0] > 0).astype(np.int64), 2, name="toy_dataset")
'''
MODEL = '''
from torch import nn
from fl_impl.training.models import model

@model
def toy_model(data, *, width=2):
    """Two layers."""
    return nn.Sequential(nn.Linear(data.x.shape[1], width), nn.Linear(width, data.classes))
'''
SERVER_OPTIMIZER = '''
from fl_impl.training.server_optimizers import server_optimizer

@server_optimizer
def toy_optimizer(aggregate, state, *, half=0.5):
    """half of the aggregate."""
    return half * aggregate, {}
'''
FAULT = '''
from dataclasses import replace
import numpy as np
from fl_impl.faults import fault

@fault("wrong")
def toy_fault(update, moment, *, value=1.0):
    """All numbers are the same."""
    return replace(update, delta=np.full_like(update.delta, value))
'''
SETTING = '''
import fl_impl.config
from pydantic import Field

class FLConfig(fl_impl.config.FLConfig):
    toy_setting: int = Field(3, ge=1)
    """A number that nothing reads."""

fl_impl.config.FLConfig = FLConfig  # in place of one more line in the class
'''
KNOB = """
from importlib import reload
from pytest_fl.plugin import fixtures, knobs

knobs.KNOBS["toy"] = knobs.Knob("toy", 3, knobs.whole(1), "N", "passes over the data", "int", field="local_epochs")
reload(fixtures)  # in place of one more line in the table
"""
