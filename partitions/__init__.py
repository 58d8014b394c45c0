"""Labels in, disjoint index arrays out: how a data set is dealt to the clients of a federation.

One small file a strategy, found by its name (`iid.py` holds `IID`); `contract` says what a strategy is,
`manifest` is the file that a partition is kept in, `holdout` sets samples aside before or after the deal.
"""
