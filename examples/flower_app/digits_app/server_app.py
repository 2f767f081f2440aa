"""The server's half: FedAvg, or the one line that makes it robust."""

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, Strategy

from digits_app.task import accuracy, digits, first_model
from fl_impl.flower import RobustStrategy

app = ServerApp()


def strategy_of(name: str) -> Strategy:
    """The strategy of a run config."""
    if name == "fedavg":
        return FedAvg(fraction_evaluate=0.0)
    return RobustStrategy("nnm|trimmed_mean", byzantine_fraction=0.2, fraction_evaluate=0.0)


def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    """The accuracy on held-out digits."""
    del server_round
    _, test = digits()
    return MetricRecord({"accuracy": accuracy(arrays.to_numpy_ndarrays(), test)})


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train for `num-server-rounds` rounds, and evaluate after each."""
    strategy = strategy_of(context.run_config["strategy"])
    rounds = context.run_config["num-server-rounds"]
    strategy.start(grid=grid, initial_arrays=ArrayRecord(first_model()), num_rounds=rounds, evaluate_fn=evaluate)
