"""Data sets that need no download, and how they are dealt to clients."""

from fl_impl.data.labelled import Dataset, split
from fl_impl.data.partitions import Partition, deal, partition
from fl_impl.data.sources import dataset, load

__all__ = ["Dataset", "Partition", "dataset", "deal", "load", "partition", "split"]
