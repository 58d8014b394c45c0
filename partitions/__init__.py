"""Partitions of a data set among the clients of a federation: labels in, disjoint index arrays out.

Each strategy is a file of its name (`iid.py` holds `IID`). `contract` defines a strategy, `composition` the sum of
strategies, `split` the content of a manifest and `measures` the measures of skew. `holdout` sets samples aside before
or after the partition.
"""
