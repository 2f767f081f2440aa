"""The client's half: train on the partition that the node is told it has."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from digits_app.task import digits, train

app = ClientApp()


@app.train()
def fit(message: Message, context: Context) -> Message:
    """Train, and send the new model."""
    (x, y), _ = digits()
    mine = slice(context.node_config["partition-id"], None, context.node_config["num-partitions"])
    model = message.content["arrays"].to_numpy_ndarrays()
    trained = train(model, (x[mine], y[mine]), context.run_config["learning-rate"])
    metrics = MetricRecord({"num-examples": len(x[mine])})
    return Message(RecordDict({"arrays": ArrayRecord(trained), "metrics": metrics}), reply_to=message)
