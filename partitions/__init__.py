"""Labels in, disjoint index arrays out: how a data set is dealt to the clients of a federation.

One small file a strategy, found by its name (`iid.py` holds `IID`); `contract` says what a strategy is,
`composition` how strategies add up, `split` the content of a manifest, `measures` tells how skewed it is,
`holdout` sets samples aside before or after the deal.
"""
