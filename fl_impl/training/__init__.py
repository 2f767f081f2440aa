"""A cohort's local training: the tasks, one batched program for all clients, the server's optimizers."""
